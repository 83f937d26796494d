//! Nodes die under load (G1, G3, G4).

use std::time::{Duration, Instant};

use coordd_tests::{Ensemble, Load};

const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// G1, G4: every acknowledged write is there, once, whatever happens to the leader; and another takes its place before a
/// second is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_costs_less_than_a_second_and_no_write() {
    let mut ensemble = Ensemble::start(3).await;
    let load = Load::start(&ensemble.endpoints(), 4, SESSION_TIMEOUT).await;
    for round in 1..=3 {
        load.more_successes(500).await;
        let leader = ensemble.leader().await;
        load.take_longest_gap();
        let killed = Instant::now();
        ensemble.kill9(leader);
        load.more_successes(500).await;
        let gap = load.take_longest_gap();
        println!("round {round}: node {leader} killed; longest time without an acknowledged write {gap:?}");
        assert!(gap < Duration::from_secs(1), "round {round}: {gap:?} without an acknowledged write");
        assert_ne!(ensemble.leader().await, leader, "killed {:?} ago", killed.elapsed());
        ensemble.restart(leader);
        ensemble.wait_serving().await;
    }
    let ledger = load.stop().await;
    println!("{} writes acknowledged", ledger.len());
    let client = ensemble.client(SESSION_TIMEOUT).await;
    ledger.verify(&client).await;
    ledger.verify_ephemerals(&client).await;
    ensemble.wait_equal().await;
}

/// G1, G4, G6: a cluster that is killed as a whole forgets nothing, and the sessions whose clients are alive go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_killed_as_a_whole_comes_back_with_every_write_and_session() {
    let mut ensemble = Ensemble::start(3).await;
    let load = Load::start(&ensemble.endpoints(), 4, SESSION_TIMEOUT).await;
    for _ in 0..2 {
        load.more_successes(500).await;
        for id in ensemble.ids() {
            ensemble.kill9(id);
        }
        for id in ensemble.ids() {
            ensemble.restart(id);
        }
        load.more_successes(500).await;
    }
    ensemble.wait_serving().await;
    let ledger = load.stop().await;
    println!("{} writes acknowledged", ledger.len());
    let client = ensemble.client(SESSION_TIMEOUT).await;
    ledger.verify(&client).await;
    ledger.verify_ephemerals(&client).await;
    ensemble.wait_equal().await;
}

/// G1: a follower's death is not noticed by those who write, and it is equal again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_comes_back_equal() {
    let mut ensemble = Ensemble::start(3).await;
    let load = Load::start(&ensemble.endpoints(), 2, SESSION_TIMEOUT).await;
    let follower = ensemble.follower().await;
    ensemble.kill9(follower);
    load.more_successes(500).await;
    ensemble.restart(follower);
    load.more_successes(500).await;
    ensemble.wait_serving().await;
    let ledger = load.stop().await;
    let client = ensemble.client_of(&[follower], SESSION_TIMEOUT).await;
    ledger.verify(&client).await;
    drop(client);
    ensemble.wait_equal().await;
}
