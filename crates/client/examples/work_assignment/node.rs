//! A node: takes the processors that are assigned to it, and runs them until they are revoked.

use std::time::Duration;

use coordd_client::recipes::{AssignedItem, AssignmentChange, WorkAssignment, WorkerProfile};
use coordd_client::{Client, ConnectOptions, Error, ErrorKind, ReadLevel};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{FLOWS, GROUP};

/// How long a batch takes.
const BATCH: Duration = Duration::from_millis(50);

/// What a node measures of itself.
struct Metrics {
    /// 0 to 1.
    cpu: f64,
    /// 0 to 1.
    memory: f64,
    /// Flow files that wait.
    queued: f64,
}

impl Metrics {
    fn parse(words: &[&str]) -> Option<Self> {
        let [cpu, memory, queued] = words else { return None };
        Some(Self { cpu: cpu.parse().ok()?, memory: memory.parse().ok()?, queued: queued.parse().ok()? })
    }

    /// In units of a processor: a busy machine is as good as six, and ten flow files that wait as one more.
    fn load(&self) -> f64 {
        6.0 * self.cpu.max(self.memory) + self.queued / 10.0
    }
}

pub(crate) async fn run(endpoints: &str, name: &str, weight: f64) -> Result<(), Error> {
    let options = ConnectOptions::new().session_timeout(Duration::from_secs(2)).client_name(name);
    let client = options.connect(endpoints.split(',')).await?;
    let group = WorkAssignment::open(&client, GROUP).await?;
    let mut worker = group.join(&WorkerProfile::new(name).weight(weight)).await?;
    let mut commands = commands();
    let mut processors = JoinSet::new();
    let mut is_leaving = false;
    loop {
        tokio::select! {
            change = worker.next() => match change? {
                Some(AssignmentChange::Assigned(item)) => {
                    println!("  {name} starts {} in epoch {}", item.id(), item.epoch());
                    processors.spawn(process(client.clone(), name.to_owned(), item));
                }
                // The processor hears of it by itself.
                Some(AssignmentChange::Revoked(_)) => {}
                None => break,
            },
            Some(ended) = processors.join_next() => ended.expect("a processor does not panic")?,
            command = commands.recv(), if !is_leaving => {
                let command = command.unwrap_or_else(|| "leave".to_owned());
                match command.split_whitespace().collect::<Vec<_>>()[..] {
                    ["leave"] => {
                        is_leaving = true;
                        worker.leave().await?;
                    }
                    ["metrics", ref numbers @ ..] => match Metrics::parse(numbers) {
                        Some(metrics) => worker.set_load(metrics.load()).await?,
                        None => eprintln!("metrics CPU MEMORY QUEUED"),
                    },
                    _ => eprintln!("{command:?}? There are: metrics CPU MEMORY QUEUED, leave"),
                }
            }
        }
    }
    while let Some(ended) = processors.join_next().await {
        ended.expect("a processor does not panic")?;
    }
    client.close().await
}

/// One batch after the other, from where the last owner has stopped. A batch counts if its write is accepted: under the epoch of
/// the grant, and on top of the batch before.
async fn process(client: Client, name: String, item: AssignedItem) -> Result<(), Error> {
    let path = format!("{FLOWS}/{}", item.id());
    let (data, stat) = client.get(&path, ReadLevel::Linearizable).await?;
    let done: Value = serde_json::from_slice(&data).unwrap_or_default();
    let (mut batches, mut version) = (done["batches"].as_u64().unwrap_or(0), stat.version);
    let owners = done["owners"].as_u64().unwrap_or(0) + 1;
    loop {
        tokio::select! {
            biased;
            loss = item.lost() => {
                println!("  {name} has lost {}: {loss}", item.id());
                return Ok(());
            }
            () = item.revoked() => break,
            () = tokio::time::sleep(BATCH) => {}
        }
        batches += 1;
        let data = json!({ "batches": batches, "owners": owners, "node": name, "epoch": item.epoch() });
        match item.write(|client| client.set(&path, data.to_string(), Some(version))).await {
            Ok(stat) => version = stat.version,
            Err(error) if matches!(error.kind, ErrorKind::GrantLost | ErrorKind::GuardFailed) => {
                return Ok(());
            }
            // Also a version that is not the last one: then somebody else has written.
            Err(error) => return Err(error),
        }
    }
    println!("  {name} stops {}", item.id());
    item.done().await
}

/// The lines of the standard input.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (lines_tx, lines_rx) = mpsc::unbounded_channel();
    // A thread, because a read of the standard input cannot be cancelled.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines_tx.send(line).is_err() {
                return;
            }
        }
    });
    lines_rx
}
