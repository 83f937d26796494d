//! Histories of clients under random faults, checked (G1, G2, G3, G4).
//!
//! Every znode counts its writes, so the order in which they took effect is known from the answers, and a history is
//! linearizable exactly if nobody contradicts that order: no version is given to two writes, a read shows the value of the
//! write of its version, and an operation that began after another had ended shows at least its version.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coordd_client::{Client, CreateMode, ErrorKind, ReadLevel};
use coordd_tests::Ensemble;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

const TIMEOUT: Duration = Duration::from_secs(20);
const ZNODES: usize = 3;
const FAULTS: usize = 8;

/// One answered operation.
#[derive(Clone)]
struct Op {
    client: u64,
    is_write: bool,
    /// What was written, or read.
    value: String,
    version: i32,
    began: Instant,
    ended: Instant,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Op { client, value, version, .. } = self;
        let did = if self.is_write { "wrote" } else { "read" };
        write!(f, "client {client} {did} {value:?} as version {version} in {:?}", self.ended - self.began)
    }
}

/// Random linearizable reads, sets and versioned sets until it is stopped; returns the answers for each znode.
async fn operate(client: Client, number: u64, seed: u64, stop: Arc<AtomicBool>) -> Vec<(usize, Op)> {
    let mut rng = StdRng::seed_from_u64(seed ^ number);
    let mut ops = Vec::new();
    let mut known = [0; ZNODES];
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let znode = rng.random_range(0..ZNODES);
        let path = format!("/r{znode}");
        let value = format!("{number}-{count}");
        let began = Instant::now();
        let (is_write, answer) = match rng.random_range(0..4) {
            0 | 1 => {
                let read = client.get(&path, ReadLevel::Linearizable).await;
                (false, read.map(|(data, stat)| (String::from_utf8_lossy(&data).into_owned(), stat.version)))
            }
            2 => (true, client.set(&path, value.clone(), None).await.map(|stat| (value, stat.version))),
            _ => {
                let expected = Some(known[znode]);
                (true, client.set(&path, value.clone(), expected).await.map(|stat| (value, stat.version)))
            }
        };
        match answer {
            Ok((value, version)) => {
                known[znode] = version;
                let ended = Instant::now();
                ops.push((znode, Op { client: number, is_write, value, version, began, ended }));
            }
            Err(error) if error.kind == ErrorKind::BadVersion => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    ops
}

/// The first contradiction in the history of one znode.
fn contradiction(history: &[Op]) -> Option<String> {
    let mut writes: HashMap<i32, &Op> = HashMap::new();
    for op in history.iter().filter(|op| op.is_write) {
        if let Some(other) = writes.insert(op.version, op) {
            return Some(format!("one version for two writes: {other}; {op}"));
        }
    }
    for read in history.iter().filter(|op| !op.is_write) {
        let written = writes.get(&read.version).map_or("", |write| write.value.as_str());
        if written != read.value {
            return Some(format!("version {} was written as {written:?}, but {read}", read.version));
        }
    }
    let mut by_begin: Vec<&Op> = history.iter().collect();
    by_begin.sort_by_key(|op| op.began);
    let mut by_end = by_begin.clone();
    by_end.sort_by_key(|op| op.ended);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Op> = None;
    for op in by_begin {
        while let Some(before) = ended.next_if(|before| before.ended < op.began) {
            newest = newest.filter(|newest| newest.version >= before.version).or(Some(before));
        }
        if let Some(newest) = newest
            && (op.version < newest.version || op.is_write && op.version == newest.version)
        {
            return Some(format!("the past: {op}, and began after {newest}"));
        }
    }
    None
}

/// Breaks one node, or all, and mends it.
async fn break_something(ensemble: &mut Ensemble, rng: &mut StdRng) -> String {
    let victim = match rng.random_bool(0.6) {
        true => ensemble.leader().await,
        false => *ensemble.ids().choose(rng).expect("there are nodes"),
    };
    let time = Duration::from_millis(rng.random_range(100..2000));
    let what = match rng.random_range(0..4) {
        0 => {
            ensemble.kill9(victim);
            tokio::time::sleep(time).await;
            ensemble.restart(victim);
            format!("node {victim} killed for {time:?}")
        }
        1 => {
            ensemble.pause(victim);
            tokio::time::sleep(time).await;
            ensemble.resume(victim);
            format!("node {victim} stopped for {time:?}")
        }
        2 => {
            let exit = ensemble.terminate(victim).await;
            assert_eq!(exit.code(), Some(0));
            ensemble.restart(victim);
            format!("node {victim} restarted")
        }
        _ => {
            for id in ensemble.ids() {
                ensemble.kill9(id);
            }
            for id in ensemble.ids() {
                ensemble.restart(id);
            }
            "all killed".to_owned()
        }
    };
    ensemble.wait_serving().await;
    what
}

/// G2: under kills, stops and restarts of the leader, of followers and of all, no client sees what contradicts one order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_random_faults_are_linearizable() {
    let seed = coordd_tests::seed();
    let mut ensemble = Ensemble::start(3).await;
    let first = ensemble.client(TIMEOUT).await;
    for znode in 0..ZNODES {
        first.create(format!("/r{znode}"), "", CreateMode::Persistent).await.expect("a create");
    }
    let stop = Arc::<AtomicBool>::default();
    let mut clients = Vec::new();
    for number in 0..6 {
        let client = ensemble.client(TIMEOUT).await;
        clients.push(tokio::spawn(operate(client, number, seed, stop.clone())));
    }
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..FAULTS {
        tokio::time::sleep(Duration::from_millis(300)).await;
        println!("{}", break_something(&mut ensemble, &mut rng).await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut histories = vec![Vec::new(); ZNODES];
    for client in clients {
        for (znode, op) in client.await.expect("a client") {
            histories[znode].push(op);
        }
    }
    for (znode, history) in histories.iter().enumerate() {
        println!("/r{znode}: {} operations", history.len());
        assert_eq!(contradiction(history), None, "seed {seed}, /r{znode}");
        // Every write that took effect was acknowledged: no version is missing.
        let acknowledged = history.iter().filter(|op| op.is_write).count() as i32;
        let stat = first.exists(format!("/r{znode}"), ReadLevel::Linearizable).await.expect("a read");
        assert_eq!(stat.map(|stat| stat.version), Some(acknowledged), "seed {seed}, /r{znode}");
    }
    ensemble.wait_equal().await;
}

/// The check itself finds what it is there to find.
#[test]
fn contradictions_are_found() {
    let start = Instant::now();
    let op = |is_write, value: &str, version, from: u64, to: u64| Op {
        client: 1,
        is_write,
        value: value.to_owned(),
        version,
        began: start + Duration::from_millis(from),
        ended: start + Duration::from_millis(to),
    };
    let good =
        [op(true, "a", 1, 0, 10), op(false, "a", 1, 5, 12), op(false, "", 0, 3, 8), op(true, "b", 2, 11, 20)];
    assert_eq!(contradiction(&good), None);
    let with = |bad: Op| contradiction(&[&good[..], &[bad]].concat()).unwrap_or_default();
    assert!(with(op(true, "c", 2, 30, 31)).contains("two writes"));
    assert!(with(op(false, "b", 1, 5, 12)).contains("was written as"));
    assert!(with(op(false, "a", 1, 21, 22)).contains("the past"));
    assert!(with(op(false, "c", 3, 21, 22)).contains("was written as"));
}
