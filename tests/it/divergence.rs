//! G8: nodes compare their trees, and one that differs stops.

use std::time::{Duration, Instant};

use coordd_client::CreateMode;
use coordd_tests::Ensemble;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Nodes compare several times a second.
const COMPARED: Duration = Duration::from_secs(3);

/// With a bug in the tree they do not: with the planted bug `own-time-in-the-tree` this fails by what a node says.
#[tokio::test(flavor = "multi_thread")]
async fn equal_nodes_go_on() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let writing = tokio::spawn(async move {
        loop {
            client.set("/a", "b", None).await.expect("a set");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let start = Instant::now();
    while start.elapsed() < COMPARED {
        for id in ensemble.ids() {
            let log = ensemble.log(id);
            let found = log.lines().find(|line| line.contains("the tree differs"));
            assert_eq!(found, None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!writing.is_finished(), "a write has failed");
    writing.abort();
}

/// Not before somebody has looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_found_to_differ_does_not_start_again() {
    let mut ensemble = Ensemble::start(3).await;
    let follower = ensemble.ids_but(ensemble.leader().await)[0];
    ensemble.kill9(follower);
    let mark = ensemble.data_dir(follower).join("DIVERGED");
    std::fs::write(&mark, "digest 1, the leader's 2").expect("written");
    ensemble.restart(follower);
    assert!(!ensemble.wait_exit(follower).await.success());
    let log = ensemble.log(follower);
    assert!(log.contains("digest 1, the leader's 2"), "{log}");
    std::fs::remove_file(&mark).expect("removed");
    ensemble.restart(follower);
    ensemble.wait_serving_on(follower).await;
}
