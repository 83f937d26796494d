//! Containers and TTL znodes go by themselves.

use std::time::{Duration, Instant};

use coordd_client::{Client, CreateMode, ReadLevel, WatchMode};
use coordd_tests::{Ensemble, EnsembleOptions, eventually};

const TIMEOUT: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(3);
const SWEEP: Duration = Duration::from_millis(200);
/// A container that never had a child goes after so long.
const UNUSED: Duration = Duration::from_secs(2);

async fn fast_sweeps(nodes: u64) -> Ensemble {
    EnsembleOptions::new(nodes).env("COORDD_SWEEP_INTERVAL", "200ms").start().await
}

async fn is_there(client: &Client, path: &str) -> bool {
    client.exists(path, ReadLevel::Linearizable).await.expect("a read").is_some()
}

/// A container goes when its last child has gone.
#[tokio::test]
async fn a_container_goes_with_its_last_child() {
    let ensemble = fast_sweeps(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/c", "", CreateMode::Container).await.expect("a container");
    client.create("/c/child", "", CreateMode::Ephemeral).await.expect("a child");
    let mut watcher = client.watch("/c", WatchMode::Persistent).await.expect("a watch");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(is_there(&client, "/c").await);
    client.delete("/c/child", None).await.expect("a delete");
    eventually(TIMEOUT, "the container goes", async || !is_there(&client, "/c").await).await;
    watcher.next().await.expect("the child's end");
    let end = watcher.next().await.expect("the container's end");
    let end = end.event().map(|event| event.event_type);
    assert_eq!(end, Some(coordd_client::EventType::NodeDeleted), "a sweep fires watches as any delete does");
}

/// A container that never has a child goes after ten sweep intervals; one that has a child stays.
#[tokio::test]
async fn unused_container_goes() {
    let ensemble = fast_sweeps(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let created = Instant::now();
    for path in ["/unused", "/used"] {
        client.create(path, "", CreateMode::Container).await.expect("a container");
    }
    client.create("/used/child", "", CreateMode::Persistent).await.expect("a child");
    while is_there(&client, "/unused").await {
        assert!(created.elapsed() < TIMEOUT, "still there after {:?}", created.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(created.elapsed() >= UNUSED - SWEEP, "gone after {:?}", created.elapsed());
    assert!(is_there(&client, "/used").await, "it has a child");
}

/// A TTL znode goes when it was childless and unmodified for its time, also when the leader changes meanwhile.
#[tokio::test]
async fn a_ttl_znode_goes_when_it_was_left_alone_for_its_time() {
    let mut ensemble = fast_sweeps(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let created = Instant::now();
    for path in ["/left-alone", "/touched", "/parent"] {
        client.create(path, "", CreateMode::PersistentWithTtl(TTL)).await.expect("a TTL znode");
    }
    client.create("/parent/child", "", CreateMode::Persistent).await.expect("a child");
    ensemble.kill9(ensemble.leader().await);
    while created.elapsed() < TTL + Duration::from_millis(700) {
        assert!(is_there(&client, "/touched").await && is_there(&client, "/parent").await);
        client.set("/touched", "x", None).await.expect("a set");
        if created.elapsed() < TTL - Duration::from_millis(200) {
            assert!(is_there(&client, "/left-alone").await, "gone after {:?}", created.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!is_there(&client, "/left-alone").await, "still there after {:?}", created.elapsed());
    client.delete("/parent/child", None).await.expect("a delete");
    for path in ["/touched", "/parent"] {
        eventually(TIMEOUT, "it goes", async || !is_there(&client, path).await).await;
    }
}
