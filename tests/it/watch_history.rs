//! A watch under load and faults, compared with the log of what was acknowledged (G5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordd_client::{
    Client, ConnectOptions, CreateMode, ErrorKind, EventType, MultiResult, WatchEvent, WatchMode,
};
use coordd_tests::{Ensemble, attached_to};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const TIMEOUT: Duration = Duration::from_secs(20);
const PATHS: u32 = 12;

/// A change as it was acknowledged, or told.
type Change = (u64, EventType, String);

/// Random creates, sets, deletes and multis until it is stopped; returns the changes that were acknowledged.
async fn write_randomly(client: Client, seed: u64, stop: Arc<AtomicBool>) -> Vec<Change> {
    use EventType::{NodeCreated, NodeDataChanged, NodeDeleted};
    let mut rng = StdRng::seed_from_u64(seed);
    let mut changes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let path = format!("/w/{}", rng.random_range(0..PATHS));
        let refused = match rng.random_range(0..4) {
            0 => {
                let created = client.create(&path, "", CreateMode::Persistent).await;
                created.map(|created| changes.push((created.stat.czxid, NodeCreated, path)))
            }
            1 => client
                .set(&path, "x", None)
                .await
                .map(|stat| changes.push((stat.mzxid, NodeDataChanged, path))),
            2 => client.delete(&path, None).await.map(|zxid| changes.push((zxid, NodeDeleted, path))),
            _ => {
                let other = format!("/w/{}/below", rng.random_range(0..PATHS));
                let multi = client.multi().set(&path, "y", None).create(&other, "", CreateMode::Persistent);
                multi.delete(&other, None).commit().await.map(|results| {
                    let Some(MultiResult::Set(stat)) = results.first() else { panic!("{results:?}") };
                    changes.push((stat.mzxid, NodeDataChanged, path));
                    changes.push((stat.mzxid, NodeCreated, other.clone()));
                    changes.push((stat.mzxid, NodeDeleted, other));
                })
            }
        };
        match refused {
            Ok(()) => {}
            Err(error) if matches!(error.kind, ErrorKind::NoNode | ErrorKind::NodeExists) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    changes
}

/// G5: a recursive watch is told of every change once, in the order of the zxids, while the node it is attached to and the
/// leader are killed under a random load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_every_change_once_in_order_whichever_nodes_die() {
    let seed = coordd_tests::seed();
    let mut ensemble = Ensemble::start(3).await;
    let options = ConnectOptions::new().session_timeout(TIMEOUT).watch_buffer(1 << 20);
    let watching = options.connect(ensemble.endpoints()).await.expect("a session");
    watching.create("/w", "", CreateMode::Persistent).await.expect("a create");
    let mut watcher = watching.watch("/w", WatchMode::PersistentRecursive).await.expect("a watch");

    let stop = Arc::<AtomicBool>::default();
    let mut writers = Vec::new();
    for number in 0..4 {
        let client = ensemble.client(TIMEOUT).await;
        writers.push(tokio::spawn(write_randomly(client, seed ^ number, stop.clone())));
    }
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let victim = match round % 2 {
            0 => attached_to(&watching, TIMEOUT).await,
            _ => ensemble.leader().await,
        };
        ensemble.kill9(victim);
        tokio::time::sleep(Duration::from_millis(700)).await;
        ensemble.restart(victim);
        ensemble.wait_serving().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer"));
    }
    // Stable: the changes of one multi stay in their order.
    acknowledged.sort_by_key(|(zxid, ..)| *zxid);

    // The last change to come.
    let end = watching.create("/w/end", "", CreateMode::Persistent).await.expect("a create").stat.czxid;
    let mut told: Vec<Change> = Vec::new();
    loop {
        let next = tokio::time::timeout(TIMEOUT, watcher.next()).await.expect("the last change is told");
        match next.expect("the watcher goes on") {
            WatchEvent::Event(event) if event.zxid == end => break,
            WatchEvent::Event(event) => told.push((event.zxid, event.event_type, event.path)),
            resync @ WatchEvent::Resync { .. } => panic!("{resync:?}"),
        }
    }
    println!("{} changes", told.len());
    let difference = told.iter().zip(&acknowledged).position(|(told, acknowledged)| told != acknowledged);
    if let Some(at) = difference {
        panic!("seed {seed}: event {at} is {:?}, the log says {:?}", told[at], acknowledged[at]);
    }
    assert_eq!(told.len(), acknowledged.len(), "seed {seed}");
    assert!(told.len() > 100, "too little load to show anything");
    ensemble.wait_equal().await;
}
