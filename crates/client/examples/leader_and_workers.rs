//! A cluster that elects a leader and knows its workers: the leader hands out work to those that are registered, and is not
//! registered itself; a worker waits behind the candidate before it. Together they count primes, round by round. Kill,
//! stop and start nodes meanwhile: no round is missing or counted twice. Each says what becomes of its connection, too: kill the
//! node of the ensemble that it is connected to.
//!
//! In several terminals, each with a name and an address of its own, and a session timeout in seconds:
//!
//! `cargo run -p coordd-client --example leader_and_workers -- host-1 127.0.0.1:9001 5`
//!
//! `COORDD_ENDPOINTS` says where the ensemble is.

mod common;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use coordd_client::recipes::{Candidate, Grant, Master, MasterWorker, Sessions, Worker, WorkerChange};
use coordd_client::{ConnectOptions, CreateMode, CreateOptions, ErrorKind, ReadLevel};
use futures::StreamExt as _;
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

const PATH: &str = "/leader_and_workers";
const PROGRESS: &str = "/leader_and_workers/progress";
/// So many numbers are looked at in a round.
const SPAN: u64 = 10_000;
const PAUSE: Duration = Duration::from_millis(250);
/// A worker that has not answered by then is asked again in the next round, if it is still there.
const ANSWER: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(address)) = (args.next(), args.next()) else {
        return Err("usage: leader_and_workers NAME HOST:PORT [SESSION_TIMEOUT_SECONDS]".into());
    };
    let seconds = args.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let endpoints = std::env::var("COORDD_ENDPOINTS")
        .unwrap_or_else(|_| "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".into());
    let mut terminate = signal(SignalKind::terminate())?;

    let listener = TcpListener::bind(&address).await?;
    let options = ConnectOptions::new().session_timeout(Duration::from_secs(seconds)).client_name(&name);
    let sessions = Sessions::connect(endpoints.split(','), options).await?;
    let node = MasterWorker::new(&sessions, PATH, Candidate::new(&name).address(&address))?;
    tokio::select! {
        ended = node.run(
            |registration| work(&name, &listener, registration),
            |master| lead(&name, master),
        ) => ended?,
        () = common::tell_connection(&name, &sessions) => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    sessions.close().await?;
    println!("[{name}] left the cluster");
    Ok(())
}

/// Says that duties have ended, however they did.
struct Duties<'a>(&'a str, &'static str);

impl Drop for Duties<'_> {
    fn drop(&mut self) {
        println!("[{}] {}: stopped", self.0, self.1);
    }
}

/// A worker's duties: answers the leader, one request at a time.
async fn work(name: &str, listener: &TcpListener, registration: Arc<Grant>) {
    println!("[{name}] worker: registered, epoch {}", registration.epoch());
    let _duties = Duties(name, "worker");
    let mut leader_epoch = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        match timeout(ANSWER, answer(stream, &mut leader_epoch)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => println!("[{name}] worker: refused a request: {error}"),
            Err(_) => println!("[{name}] worker: a leader has nothing to say"),
        }
    }
}

/// A line with the leader's epoch and a range; the answer is how many primes there are. A leader that was replaced, and does
/// not know yet, is recognized by its lower epoch.
async fn answer(mut stream: TcpStream, leader_epoch: &mut u64) -> Result<(), Box<dyn Error>> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [epoch, from, to] = numbers[..] else { return Err("it is not an epoch and a range".into()) };
    if epoch < *leader_epoch {
        return Err(format!("epoch {epoch} is over, the leader's is {leader_epoch}").into());
    }
    *leader_epoch = epoch;
    let primes = (from..to).filter(|number| is_prime(*number)).count();
    write.write_all(format!("{primes}\n").as_bytes()).await?;
    Ok(())
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// The leader's duties.
async fn lead(name: &str, master: Arc<Master>) {
    println!("[{name}] leader: elected, epoch {}; no longer a worker", master.epoch());
    let _duties = Duties(name, "leader");
    tokio::join!(tell_changes(name, &master), count(name, &master));
}

async fn tell_changes(name: &str, master: &Master) {
    let mut changes = master.changes();
    while let Some(change) = changes.next().await {
        let what = match &change {
            WorkerChange::Joined(worker) => format!("{} joined at {}", worker.id, worker.address),
            WorkerChange::Updated(worker) => format!("{} is now at {}", worker.id, worker.address),
            WorkerChange::Left(worker) => format!("{} left", worker.id),
        };
        let ids: Vec<_> = master.workers().into_iter().map(|worker| worker.id).collect();
        println!("[{name}] leader: {what}; workers: {}", ids.join(" "));
    }
}

/// One round after the other.
async fn count(name: &str, master: &Master) {
    loop {
        match round(master).await {
            Ok(Some(progress)) => println!("[{name}] leader: {progress}"),
            Ok(None) => {}
            Err(error) => println!("[{name}] leader: the round is made again: {error}"),
        }
        sleep(PAUSE).await;
    }
}

/// Splits the next range among the workers and adds up what they find. `None`: there is no worker.
async fn round(master: &Master) -> Result<Option<Value>, Box<dyn Error>> {
    let (client, workers) = (master.client()?, master.workers());
    if workers.is_empty() {
        return Ok(None);
    }
    let (data, stat) = match client.get(PROGRESS, ReadLevel::Linearizable).await {
        Err(error) if error.kind == ErrorKind::NoNode => {
            let options = CreateOptions::new(CreateMode::Persistent).parents(true);
            let first = json!({ "round": 0, "primes": 0 }).to_string();
            (first.clone().into(), client.create(PROGRESS, first, options).await?.stat)
        }
        progress => progress?,
    };
    let progress: Value = serde_json::from_slice(&data)?;
    let (Some(round), Some(primes)) = (progress["round"].as_u64(), progress["primes"].as_u64()) else {
        return Err(format!("{PROGRESS} holds {progress}").into());
    };
    let share = SPAN.div_ceil(workers.len() as u64);
    let asked = workers.iter().zip(0..).map(|(worker, index)| {
        let from = round * SPAN + (index * share).min(SPAN);
        let to = round * SPAN + ((index + 1) * share).min(SPAN);
        ask(worker, master.epoch(), from, to)
    });
    let found: u64 = try_join_all(asked).await?.into_iter().sum();
    let ids: Vec<_> = workers.iter().map(|worker| worker.id.as_str()).collect();
    let progress = json!({ "round": round + 1, "primes": primes + found, "by": ids.join(" ") });
    // Guarded by the epoch, and only if nobody has counted this round: it counts once.
    master.write(|client| client.set(PROGRESS, progress.to_string(), Some(stat.version))).await?;
    Ok(Some(progress))
}

async fn ask(worker: &Worker, epoch: u64, from: u64, to: u64) -> Result<u64, Box<dyn Error>> {
    let asking = async {
        let mut stream = TcpStream::connect(&worker.address).await?;
        stream.write_all(format!("{epoch} {from} {to}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok::<_, Box<dyn Error>>(line.trim().parse()?)
    };
    match timeout(ANSWER, asking).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("{} failed: {error}", worker.id).into()),
        Err(_) => Err(format!("{} does not answer", worker.id).into()),
    }
}
