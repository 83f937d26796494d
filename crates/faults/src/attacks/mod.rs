//! Clients that ask for more than is theirs: the attacks of the scenario `greedy-clients`. Each is a process
//! of its own at low priority, so that what it holds goes with it. That it is refused is what it is there
//! for.

mod raw;

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use coordd_client::{
    AclEntry, Admin, Client, ConnectOptions, CreateMode, CreateOptions, Error, Perms, Quota, ReadLevel,
};
use coordd_proto::v1;
use coordd_proto::v1::multi_op::Op as MultiOp;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use raw::{Raw, framed};

/// Below this znode is all that attacks need and make.
const ROOT: &str = "/greedy";
/// A tree that is expensive to look at.
const TREE: &str = "/greedy/tree";
const TREE_ZNODES: usize = 30_000;
/// A directory with long names.
const NAMES: &str = "/greedy/names";
/// A znode with a value of 1 MiB.
const VALUE: &str = "/greedy/value";
/// A znode that is set again and again.
const HISTORY: &str = "/greedy/history";
const PATH_BYTES: usize = 4096;
const MIB: usize = 1 << 20;
/// As nice as a batch job.
const NICE: i32 = 10;
/// For what goes before an attack, and after it.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

type Run = for<'a> fn(&'a Attack) -> BoxFuture<'a, anyhow::Result<u64>>;

/// All attacks, with what each does.
pub(crate) const ALL: [(&str, Run); 13] = [
    ("attacks by deep multis", |attack| Box::pin(deep_multis(attack))),
    ("attacks by unread subscriptions", |attack| Box::pin(unread_subscriptions(attack))),
    ("attacks by unread and half-sent calls", |attack| Box::pin(unread_calls(attack))),
    ("attacks by refused tree deletes", |attack| Box::pin(refused_tree_deletes(attack))),
    ("attacks by quotas on the root", |attack| Box::pin(root_quotas(attack))),
    ("attacks by counts", |attack| Box::pin(counts(attack))),
    ("attacks by silent sockets", |attack| Box::pin(silent_sockets(attack))),
    ("attacks by quotas and ACLs left behind", |attack| Box::pin(left_behind(attack))),
    ("attacks by unread multis", |attack| Box::pin(unread_multis(attack))),
    ("attacks by long sequential names", |attack| Box::pin(long_sequential_names(attack))),
    ("attacks by lists of long names", |attack| Box::pin(long_names(attack))),
    ("attacks by long paths in errors", |attack| Box::pin(long_errors(attack))),
    ("attacks by idle connections", |attack| Box::pin(idle_connections(attack))),
];

/// What is run on the host of the attackers; for `coordfault run`, which starts it.
#[derive(Args, Debug)]
pub(crate) struct AttackOptions {
    /// Where the nodes are.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Which attack, by its number; none prepares for all of them.
    #[arg(long)]
    number: Option<usize>,
    /// How long it goes on.
    #[arg(long, value_parser = humantime::parse_duration)]
    time: Duration,
}

/// An attack under way.
pub(crate) struct Attack {
    endpoints: Vec<String>,
    until: Instant,
}

/// Runs an attack to its end.
pub(crate) async fn run(options: AttackOptions) -> anyhow::Result<()> {
    let attack = Attack { endpoints: options.endpoints, until: Instant::now() + options.time };
    let Some(number) = options.number else { return prepare(&attack).await };
    // Honest clients and nodes come first.
    rustix::process::nice(NICE).context("a lower priority")?;
    let (name, run) = ALL.get(number).context("no attack of this number")?;
    let requests = run(&attack).await.with_context(|| (*name).to_owned())?;
    if requests == 0 {
        bail!("{name}: nothing was sent");
    }
    Ok(())
}

impl Attack {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Holds what the attack has until its end.
    async fn hold<T>(&self, held: T) {
        tokio::time::sleep_until(self.until).await;
        drop(held);
    }

    fn endpoint(&self, number: usize) -> &str {
        &self.endpoints[number % self.endpoints.len()]
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let options = ConnectOptions::new().session_timeout(SESSION_TIMEOUT).client_name("greedy");
        Ok(options.connect(self.endpoints.clone()).await?)
    }

    /// The same call again and again, over one connection to each node, with so many under way on each.
    /// Returns how many there were, answered or not.
    async fn flood(
        &self,
        method: &str,
        message: &impl prost::Message,
        under_way: usize,
    ) -> anyhow::Result<u64> {
        let mut sent = 0;
        let mut connections = Vec::new();
        for endpoint in &self.endpoints {
            connections.push(Raw::connect(endpoint, 65_535).await?);
        }
        while self.goes_on() {
            let mut begun = Vec::new();
            for connection in &mut connections {
                for _ in 0..under_way {
                    let Ok(call) = connection.send(method, message).await else { break };
                    begun.push(call);
                }
            }
            if begun.is_empty() {
                // It was thrown out of all nodes.
                sleep(Duration::from_millis(200)).await;
                for (connection, endpoint) in connections.iter_mut().zip(&self.endpoints) {
                    if let Ok(again) = Raw::connect(endpoint, 65_535).await {
                        *connection = again;
                    }
                }
                continue;
            }
            sent += begun.len() as u64;
            for call in begun {
                // What is not answered in time is given up with the attack.
                match timeout_at(self.until, call.response).await {
                    Ok(_) => {}
                    Err(_) => return Ok(sent),
                }
            }
        }
        Ok(sent)
    }
}

/// A refusal is no failure of an attack.
fn shrug<T>(answer: Result<T, Error>) {
    drop(answer);
}

/// Makes what all attacks need.
async fn prepare(attack: &Attack) -> anyhow::Result<()> {
    let client = attack.client().await?;
    client.create(ROOT, "", CreateMode::Persistent).await?;
    client.create(VALUE, vec![0; MIB], CreateMode::Persistent).await?;
    client.create(HISTORY, "", CreateMode::Persistent).await?;
    for (top, count, name) in [(TREE, TREE_ZNODES, String::new()), (NAMES, 3000, "n".repeat(1000))] {
        client.create(top, "", CreateMode::Persistent).await?;
        for from in (0..count).step_by(1000) {
            let add = |multi: coordd_client::Multi, number| {
                multi.create(format!("{top}/{name}{number:06}"), "", CreateMode::Persistent)
            };
            (from..from + 1000).fold(client.multi(), add).commit().await?;
        }
    }
    client.close().await?;
    Ok(())
}

/// A1: creates with as many missing parents as a path has room for.
async fn deep_multis(attack: &Attack) -> anyhow::Result<u64> {
    let deep = |number: usize| {
        let top = format!("{ROOT}/d{number:04}");
        let path = format!("{top}{}", "/a".repeat((PATH_BYTES - top.len()) / 2));
        let create = v1::CreateRequest { path, parents: true, ..Default::default() };
        v1::MultiOp { op: Some(MultiOp::Create(create)) }
    };
    let request = v1::MultiRequest { ops: (0..400).map(deep).collect(), ..Default::default() };
    attack.flood("Multi", &request, 2).await
}

/// A2: subscriptions to all that was, whose streams nobody reads.
async fn unread_subscriptions(attack: &Attack) -> anyhow::Result<u64> {
    let client = attack.client().await?;
    let from_zxid = client.set(HISTORY, "", None).await?.mzxid;
    for _ in 0..30 {
        let multi = (0..1000).fold(client.multi(), |multi, _| multi.set(HISTORY, "", None));
        multi.commit().await?;
    }
    shrug(client.close().await);
    let paths = vec![v1::SubscribePath { path: "/".into(), ..Default::default() }];
    let request = v1::SubscribeRequest { paths, from_zxid, ..Default::default() };
    let mut held = Vec::new();
    for endpoint in &attack.endpoints {
        let mut connection = Raw::connect(endpoint, 0).await?;
        let mut begun = Vec::new();
        for _ in 0..100 {
            let Ok(call) = connection.send("Subscribe", &request).await else { break };
            begun.push(call);
        }
        held.push((connection, begun));
    }
    let sent = held.iter().map(|(_, begun)| begun.len() as u64).sum();
    attack.hold(held).await;
    Ok(sent)
}

/// A3: replies of 2 MiB that nobody reads, lists, and requests that never end.
async fn unread_calls(attack: &Attack) -> anyhow::Result<u64> {
    let get = v1::GetRequest { path: VALUE.into(), ..Default::default() };
    let get = v1::ReadOp { op: Some(v1::read_op::Op::Get(get)) };
    let reads = v1::MultiReadRequest { ops: vec![get; 2], ..Default::default() };
    let list = v1::ListRequest { path: TREE.into(), with_stat: true, ..Default::default() };
    let (mut held, mut sent) = (Vec::new(), 0);
    for endpoint in &attack.endpoints {
        let mut connection = Raw::connect(endpoint, 0).await?;
        let mut begun = Vec::new();
        for number in 0..500 {
            let call = match number % 5 {
                0 => connection.send("List", &list).await,
                _ => connection.send("MultiRead", &reads).await,
            };
            let Ok(call) = call else { break };
            begun.push(call);
        }
        let mut halves = Raw::connect(endpoint, 65_535).await?;
        for _ in 0..60 {
            let Ok(call) = halves.send_half("Create", 4 * MIB - 1024).await else { break };
            begun.push(call);
        }
        sent += begun.len() as u64;
        held.push((connection, halves, begun));
    }
    attack.hold(held).await;
    Ok(sent)
}

/// A4: deletes of a large tree that expect another number of znodes.
async fn refused_tree_deletes(attack: &Attack) -> anyhow::Result<u64> {
    let request = v1::DeleteTreeRequest { path: TREE.into(), expected_count: Some(1), ..Default::default() };
    attack.flood("DeleteTree", &request, 100).await
}

/// A5: quotas on the root, set and deleted, and the delete of a large tree.
async fn root_quotas(attack: &Attack) -> anyhow::Result<u64> {
    let client = attack.client().await?;
    let quota = Quota { count_soft: Some(1), ..Quota::default() };
    let mut sent = 0;
    while attack.goes_on() {
        let calls = (0..40).map(|_| (client.set_quota("/", quota), client.delete_quota("/")));
        let tree = client.delete_tree(TREE, None);
        for (set, delete) in calls.collect::<Vec<_>>() {
            shrug(set.await);
            shrug(delete.await);
            sent += 2;
        }
        shrug(tree.await);
    }
    shrug(client.close().await);
    Ok(sent)
}

/// A6: counts of everything.
async fn counts(attack: &Attack) -> anyhow::Result<u64> {
    let request = v1::CountDescendantsRequest { path: "/".into(), ..Default::default() };
    attack.flood("CountDescendants", &request, 100).await
}

/// A7 and A8: sockets that say nothing, or half of what a connection begins with.
async fn silent_sockets(attack: &Attack) -> anyhow::Result<u64> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let whole = [PREFACE, SETTINGS].concat();
    let beginnings: [&[u8]; 4] = [b"", &PREFACE[..10], &whole, b"GET / HTTP/1.1\r\nHost: x\r\n"];
    let mut held = Vec::new();
    for number in 0..300 * attack.endpoints.len() {
        let connecting = TcpStream::connect(attack.endpoint(number));
        let Ok(Ok(socket)) = timeout_at(attack.until, connecting).await else { break };
        // The node may have closed it already.
        drop(socket.try_write(beginnings[number % beginnings.len()]));
        held.push(socket);
    }
    let sent = held.len() as u64;
    attack.hold(held).await;
    Ok(sent)
}

/// A8: whole connections that ask nothing.
async fn idle_connections(attack: &Attack) -> anyhow::Result<u64> {
    let mut held = Vec::new();
    for number in 0..300 * attack.endpoints.len() {
        if !attack.goes_on() {
            break;
        }
        let Ok(connection) = Raw::connect(attack.endpoint(number), 65_535).await else { break };
        held.push(connection);
    }
    let sent = held.len() as u64;
    attack.hold(held).await;
    Ok(sent)
}

/// A9: quotas of znodes that are deleted, and ACLs that are all different.
async fn left_behind(attack: &Attack) -> anyhow::Result<u64> {
    let client = attack.client().await?;
    let quota = Quota { count_soft: Some(1), ..Quota::default() };
    let mut sent = 0;
    while attack.goes_on() && sent < 6000 {
        let mut calls = Vec::new();
        for number in sent..sent + 100 {
            let path = format!("{ROOT}/{}{number:06}", "q".repeat(3000));
            let create = client.create(&path, "", CreateMode::Persistent);
            calls.push((create, client.set_quota(&path, quota), client.delete(&path, None)));
        }
        for (create, set, delete) in calls {
            shrug(create.await);
            shrug(set.await);
            shrug(delete.await);
            sent += 1;
        }
    }
    let mut closed = Vec::new();
    for number in 0..100 {
        let id = |place| format!("u{number:03}{place:02}{}:h", "x".repeat(1000));
        let entry = |place: usize| AclEntry::new(Perms::READ, "digest", id(place));
        let acl: Vec<_> = (0..64).map(entry).collect();
        let path = format!("{ROOT}/acl{number}");
        shrug(client.create(&path, "", CreateOptions::new(CreateMode::Persistent).acl(acl)).await);
        closed.push(path);
    }
    for path in closed {
        shrug(client.delete(path, None).await);
    }
    // An operator finds what was left behind, and removes it.
    let admin = Admin::connect_any(attack.endpoints.clone(), SESSION_TIMEOUT).await?;
    let quotas: Vec<_> = admin.quotas(vec![]).try_collect().await?;
    let left = quotas.into_iter().filter(|(path, _)| path.starts_with(ROOT));
    let calls: Vec<_> = left.map(|(path, _)| client.delete_quota(path)).collect();
    for call in calls {
        call.await?;
    }
    shrug(client.close().await);
    Ok(sent)
}

/// A10: multis of 1,000 operations on session streams whose answers nobody reads.
async fn unread_multis(attack: &Attack) -> anyhow::Result<u64> {
    let set = v1::SetRequest { path: HISTORY.into(), ..Default::default() };
    let ops = vec![v1::MultiOp { op: Some(MultiOp::Set(set)) }; 1000];
    let multi = v1::request::Op::Multi(v1::MultiRequest { ops, ..Default::default() });
    let (mut held, mut sent) = (Vec::new(), 0);
    for number in 0..6 {
        let mut connection = Raw::connect(attack.endpoint(number), 0).await?;
        let attach = v1::Attach { timeout_ms: 10_000, client_name: "greedy".into(), ..Default::default() };
        let first = v1::ClientFrame { attach: Some(attach), ..Default::default() };
        let Ok(mut begun) = connection.open("Session", &first).await else { continue };
        for seq in 1..=30 {
            let request = v1::Request { id: seq, write_seq: seq, op: Some(multi.clone()) };
            let frame = v1::ClientFrame { requests: vec![request], ..Default::default() };
            if begun.request.send_data(framed(&frame), false).is_err() {
                break;
            }
            sent += 1;
        }
        held.push((connection, begun));
    }
    attack.hold(held).await;
    Ok(sent)
}

/// A11: sequential creates whose prefix is as long as a path may be.
async fn long_sequential_names(attack: &Attack) -> anyhow::Result<u64> {
    let path = format!("{ROOT}/{}", "s".repeat(PATH_BYTES - ROOT.len() - 1));
    let mode = v1::CreateMode::PersistentSequential as i32;
    let request = v1::CreateRequest { path, mode, ..Default::default() };
    attack.flood("Create", &request, 20).await
}

/// A12: lists of long names with their stats, read to their ends.
async fn long_names(attack: &Attack) -> anyhow::Result<u64> {
    let request = v1::ListRequest { path: NAMES.into(), with_stat: true, ..Default::default() };
    let mut sent = 0;
    let mut connection = Raw::connect(attack.endpoint(0), 65_535).await?;
    while attack.goes_on() {
        if timeout_at(attack.until, connection.call("List", &request)).await.is_ok_and(|call| call.is_err()) {
            connection = Raw::connect(attack.endpoint(sent as usize), 65_535).await?;
        }
        sent += 1;
    }
    let client = attack.client().await?;
    let names = client.children(NAMES, ReadLevel::Local).await?;
    if names.len() != 3000 {
        bail!("{} of 3,000 long names were listed", names.len());
    }
    shrug(client.close().await);
    Ok(sent)
}

/// A13: paths that errors repeat, of characters that grow where they are escaped.
async fn long_errors(attack: &Attack) -> anyhow::Result<u64> {
    let quotes = format!("{ROOT}/{}", "\"".repeat(PATH_BYTES - 100));
    let combining = format!("{ROOT}/{}", "\u{301}".repeat((PATH_BYTES - 100) / 2));
    let mut sent = 0;
    while attack.goes_on() {
        let mut connection = Raw::connect(attack.endpoint(sent as usize), 65_535).await?;
        for path in [&quotes, &combining] {
            for _ in 0..20 {
                let request = v1::GetRequest { path: path.clone(), ..Default::default() };
                drop(timeout_at(attack.until, connection.call("Get", &request)).await);
                sent += 1;
            }
        }
    }
    // A client of one's own is told what is the matter.
    let client = attack.client().await?;
    for path in [quotes, combining] {
        let refused = client.get(&path, ReadLevel::Local).await.err().context("there is no such znode")?;
        if refused.kind != coordd_client::ErrorKind::NoNode {
            bail!("a read of a missing znode ended with {}", refused.kind);
        }
    }
    shrug(client.close().await);
    Ok(sent)
}
