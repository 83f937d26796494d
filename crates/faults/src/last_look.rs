//! What is there before the clients begin, and what is there when they have had their last answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use coordd_client::{
    Admin, Bytes, Client, ConnectOptions, CreateMode, CreateOptions, ErrorKind, ListOptions, Outcome,
    ReadLevel, SessionToken,
};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::coverage::Coverage;
use crate::ensemble::Ensemble;
use crate::history::{Answer, Done, History, What, Writer};
use crate::workloads;

const TIMEOUT: Duration = Duration::from_secs(20);
/// Sessions of clients that were killed end by then.
const EXPIRED: Duration = Duration::from_secs(30);
/// What stands for the client in the lines of the last look.
const FINAL: &str = "final";
const ASK: Duration = Duration::from_secs(5);

async fn client(endpoints: &[String]) -> anyhow::Result<Client> {
    Ok(ConnectOptions::new().session_timeout(TIMEOUT).connect(endpoints.to_vec()).await?)
}

/// Makes the znodes that workloads share.
pub(crate) async fn prepare(endpoints: &[String]) -> anyhow::Result<()> {
    let client = client(endpoints).await?;
    let roots = workloads::ROOTS.iter().chain([&workloads::GRANTS]);
    let roots = roots.map(|root| ((*root).to_owned(), String::new()));
    let mut multi = client.multi();
    for (path, value) in roots.chain(workloads::prepared()) {
        multi = multi.create(path, value, CreateOptions::new(CreateMode::Persistent));
    }
    multi.commit().await?;
    workloads::prepare_assignment(&client).await?;
    client.close().await?;
    Ok(())
}

/// Writes down what became of the writes that were not answered, and all that is there.
pub(crate) async fn write(
    ensemble: &Ensemble,
    known: &History,
    writer: &Writer,
    coverage: &Coverage,
) -> anyhow::Result<()> {
    let endpoints = ensemble.endpoints();
    let client = client(&endpoints).await?;
    resolve(&client, known, writer, coverage).await?;
    for task in workloads::remaining_tasks(&client).await.context("the tasks that are not completed")? {
        writer.write(FINAL, What::Remaining { task });
    }
    // A node that is behind would list what is over. Sessions come before the znodes: a session that ends between the two takes
    // its ephemerals with it, and must not seem to be gone before them.
    ensemble.wait_equal().await.context("G8")?;
    for session in live_sessions(&endpoints).await? {
        writer.write(FINAL, What::Live { session });
    }
    for root in workloads::ROOTS {
        write_children(&client, root, writer).await.with_context(|| format!("what is below {root}"))?;
    }
    client.close().await?;
    writer.write(FINAL, What::LookedAtAll);
    Ok(())
}

async fn write_children(client: &Client, root: &str, writer: &Writer) -> anyhow::Result<()> {
    let mut pages = client.list_pages(
        root,
        ReadLevel::Linearizable,
        ListOptions { with_stat: true, ..Default::default() },
    );
    while let Some(page) = pages.try_next().await? {
        let reads: Vec<_> = page
            .children
            .iter()
            .map(|child| client.get(format!("{root}/{}", child.name), ReadLevel::Linearizable))
            .collect();
        for (child, read) in page.children.iter().zip(reads) {
            let (data, stat) = match read.await {
                Ok(read) => read,
                // An ephemeral may go between the two.
                Err(error) if error.kind == ErrorKind::NoNode => continue,
                Err(error) => return Err(error.into()),
            };
            writer.write(
                FINAL,
                What::Znode {
                    path: format!("{root}/{}", child.name),
                    value: String::from_utf8_lossy(&data).into_owned(),
                    version: stat.version,
                    czxid: stat.czxid,
                    mzxid: stat.mzxid,
                    owner: stat.ephemeral_owner,
                },
            );
        }
    }
    Ok(())
}

async fn live_sessions(endpoints: &[String]) -> anyhow::Result<Vec<u64>> {
    for endpoint in endpoints {
        if let Ok(admin) = Admin::connect(endpoint.clone(), ASK).await {
            let sessions: Result<Vec<_>, _> =
                admin.sessions().map(|info| info.map(|info| info.session_id)).try_collect().await;
            if let Ok(sessions) = sessions {
                return Ok(sessions);
            }
        }
    }
    bail!("no node lists the sessions")
}

/// Asks for the fate of each write that was not answered. That is certain only when its session has ended, which those of killed
/// clients do.
async fn resolve(
    client: &Client,
    known: &History,
    writer: &Writer,
    coverage: &Coverage,
) -> anyhow::Result<()> {
    let tokens = tokens(known)?;
    let start = Instant::now();
    for done in known.ops.iter().filter(|done| done.op.is_write() && done.answer == Answer::Unanswered) {
        let (Some(token), Some(seq)) = (tokens.get(&done.session), known.numbers.get(&done.id)) else {
            continue;
        };
        let (applied, never) = loop {
            match client.outcome(token, *seq).await.with_context(|| name_of(done))? {
                Outcome::Applied { zxid, result } => {
                    break (Some((zxid, result.err().map(|error| error.kind.name().to_owned()))), false);
                }
                Outcome::Never => break (None, true),
                // Its answer had come, and the client was killed before it could write that down.
                Outcome::Acknowledged => break (None, false),
                Outcome::Unknown => bail!("the ensemble knows nothing of the session of {}", name_of(done)),
                Outcome::NotYet => {
                    ensure!(start.elapsed() < EXPIRED, "the session of {} does not end", name_of(done));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
        let is_decided = applied.is_some() || never;
        coverage.add("writes resolved by their outcome", u64::from(is_decided));
        writer.write(&done.client, What::Outcome { process: done.id.0, op: done.id.1, applied, never });
    }
    Ok(())
}

fn name_of(done: &Done) -> String {
    format!("operation {} of {}", done.id.1, done.client)
}

fn tokens(known: &History) -> anyhow::Result<BTreeMap<u64, SessionToken>> {
    let mut tokens = BTreeMap::new();
    for (_, what) in known.clients.values().flat_map(|client| &client.lines) {
        if let What::Opened { session, password, .. } = what {
            let digits = password.as_bytes().chunks(2).map(|pair| {
                u8::from_str_radix(std::str::from_utf8(pair).unwrap_or_default(), 16).context("a password")
            });
            let password = Bytes::from(digits.collect::<anyhow::Result<Vec<u8>>>()?);
            tokens.insert(*session, SessionToken { session_id: *session, password });
        }
    }
    Ok(tokens)
}
