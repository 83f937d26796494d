//! A node: takes the processors that are assigned to it, and runs them until they are revoked.

use std::error::Error as StdError;
use std::time::Duration;

use coordd_client::recipes::{
    AssignedItem, AssignmentChange, AssignmentWorker, WorkAssignment, WorkerProfile,
};
use coordd_client::{Client, ConnectOptions, Error, ErrorKind, ReadLevel};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::{self, Api};
use crate::{FLOWS, GROUP, open_group};

/// How long a batch takes.
const BATCH: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(crate) struct NodeOptions {
    /// The node's name; another of the same name waits until this one is gone.
    name: String,

    /// How strong it is, relative to the others.
    #[arg(long, default_value = "1", value_parser = weight)]
    weight: f64,

    /// Where it answers by HTTP; with port 0 any port, which it prints.
    #[arg(long, default_value = "127.0.0.1:0")]
    http: String,
}

fn weight(text: &str) -> Result<f64, String> {
    match text.parse() {
        // A weight of 0 is what an unhealthy node has.
        Ok(weight) if weight > 0.0 && weight <= 1e9 => Ok(weight),
        _ => Err("it is a number above 0, and at most 1e9".to_owned()),
    }
}

/// What a node is told: by a person, by HTTP, or by a signal.
#[derive(Debug)]
pub(crate) enum Command {
    Metrics(Metrics),
    Healthy(bool),
    Join,
    Leave,
}

impl Command {
    fn parse(line: &str) -> Option<Self> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["metrics", ref numbers @ ..] => Metrics::parse(numbers).map(Command::Metrics),
            ["healthy"] => Some(Command::Healthy(true)),
            ["unhealthy"] => Some(Command::Healthy(false)),
            ["leave"] => Some(Command::Leave),
            _ => None,
        }
    }
}

/// What a node measures of itself.
#[derive(Debug)]
pub(crate) struct Metrics {
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
        let metrics =
            Self { cpu: cpu.parse().ok()?, memory: memory.parse().ok()?, queued: queued.parse().ok()? };
        (0.0..=1e6).contains(&metrics.load()).then_some(metrics)
    }

    /// In units of a processor: a busy machine is as good as six, and ten flow files that wait as one more.
    fn load(&self) -> f64 {
        6.0 * self.cpu.max(self.memory) + self.queued / 10.0
    }
}

struct Node {
    client: Client,
    name: String,
    weight: f64,
    is_healthy: bool,
}

/// Why a node is no member any more.
#[derive(PartialEq)]
enum End {
    Left,
    Removed,
}

pub(crate) async fn run(endpoints: &[String], options: NodeOptions) -> Result<(), Box<dyn StdError>> {
    let NodeOptions { name, weight, http } = options;
    let connect = ConnectOptions::new().session_timeout(Duration::from_secs(2)).client_name(&name);
    let client = connect.connect(endpoints).await?;
    let (commands_tx, mut commands) = mpsc::unbounded_channel();
    read_commands(commands_tx.clone());
    tokio::spawn(leave_when_ended(commands_tx.clone()));

    let listener = TcpListener::bind(&http).await?;
    println!("  {name} answers at http://{}/api/cluster", listener.local_addr()?);
    let group = open_group(&client).await?;
    let api = api::router(Api { name: name.clone(), client: client.clone(), group, commands_tx });
    tokio::spawn(async move { axum::serve(listener, api).await });

    let mut node = Node { client: client.clone(), name, weight, is_healthy: true };
    while node.work(&mut commands).await? == End::Removed && node.waits_to_join(&mut commands).await {}
    Ok(client.close().await?)
}

impl Node {
    fn weight(&self) -> f64 {
        if self.is_healthy { self.weight } else { 0.0 }
    }

    /// From joining the group to leaving it, or being removed.
    async fn work(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Result<End, Error> {
        // Opened for this membership: a node that was removed does not stand by to lead, either.
        let group = WorkAssignment::open(&self.client, GROUP).await?;
        let mut worker = group.join(&WorkerProfile::new(&self.name).weight(self.weight())).await?;
        println!("  {} has joined", self.name);
        let mut processors = JoinSet::new();
        let mut is_leaving = false;
        let end = loop {
            tokio::select! {
                change = worker.next() => match change {
                    Ok(Some(AssignmentChange::Assigned(item))) => {
                        println!("  {} starts {} in epoch {}", self.name, item.id(), item.epoch());
                        processors.spawn(process(self.client.clone(), self.name.clone(), item));
                    }
                    // The processor hears of it by itself.
                    Ok(Some(AssignmentChange::Revoked(_))) => {}
                    Ok(None) => break End::Left,
                    Err(error) if error.kind == ErrorKind::GrantLost => break End::Removed,
                    Err(error) => return Err(error),
                },
                Some(ended) = processors.join_next() => ended.expect("a processor does not panic")?,
                Some(command) = commands.recv(), if !is_leaving => {
                    is_leaving = matches!(command, Command::Leave);
                    match self.obey(command, &worker).await {
                        // It was removed a moment ago, of which it is told next.
                        Err(error) if error.kind == ErrorKind::GuardFailed => {}
                        obeyed => obeyed?,
                    }
                }
            }
        };
        while let Some(ended) = processors.join_next().await {
            ended.expect("a processor does not panic")?;
        }
        Ok(end)
    }

    async fn obey(&mut self, command: Command, worker: &AssignmentWorker) -> Result<(), Error> {
        match command {
            Command::Metrics(metrics) => worker.set_load(metrics.load()).await,
            Command::Healthy(is_healthy) => {
                self.is_healthy = is_healthy;
                worker.set_weight(self.weight()).await
            }
            // It is a member already.
            Command::Join => Ok(()),
            Command::Leave => worker.leave().await,
        }
    }

    /// Out of the group. Whether it is to join again.
    async fn waits_to_join(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> bool {
        println!("  {} was removed", self.name);
        loop {
            match commands.recv().await {
                Some(Command::Join) => return true,
                Some(Command::Leave) | None => return false,
                Some(Command::Healthy(is_healthy)) => self.is_healthy = is_healthy,
                Some(Command::Metrics(_)) => {}
            }
        }
    }
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

/// The lines of the standard input; its end says to leave.
fn read_commands(commands_tx: mpsc::UnboundedSender<Command>) {
    // A thread, because a read of the standard input cannot be cancelled.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match Command::parse(&line) {
                Some(command) => drop(commands_tx.send(command)),
                None => {
                    eprintln!("{line:?}? There are: metrics CPU MEMORY QUEUED, unhealthy, healthy, leave")
                }
            }
        }
        let _ = commands_tx.send(Command::Leave);
    });
}

async fn leave_when_ended(commands_tx: mpsc::UnboundedSender<Command>) {
    // Where there is no handler the signal ends the program at once.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let _ = commands_tx.send(Command::Leave);
}
