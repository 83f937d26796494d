//! Directories that are older than what their nodes have acknowledged (G1): what can be seen is said, by all who see it.

use std::time::Duration;

use coordd_client::{CreateMode, ReadLevel};
use coordd_tests::{Ensemble, eventually};

const TIMEOUT: Duration = Duration::from_secs(20);
/// How a node ends that lacks what it had acknowledged.
const OUTDATED: Option<i32> = Some(3);

async fn stop(ensemble: &mut Ensemble, ids: &[u64]) {
    for id in ids {
        assert_eq!(ensemble.terminate(*id).await.code(), Some(0));
    }
}

fn start(ensemble: &mut Ensemble, ids: &[u64]) {
    for id in ids {
        ensemble.restart(*id);
    }
}

/// The leader that counted on it says so, the node says so and ends with a code of its own, each time. It is no part of a
/// majority: without the other one, nothing is acknowledged and nobody serves.
#[tokio::test]
async fn an_old_copy_is_noticed_by_the_leader_that_counted_it() {
    let mut ensemble = Ensemble::start(3).await;
    let leader = ensemble.leader().await;
    let [old, other] = ensemble.ids_but(leader)[..] else { panic!("three nodes") };
    let client = ensemble.client_of(&[leader, other], TIMEOUT).await;
    client.create("/x", "", CreateMode::Persistent).await.expect("a create");
    stop(&mut ensemble, &[old]).await;
    ensemble.keep_copy(old, "copy");
    start(&mut ensemble, &[old]);
    ensemble.wait_serving().await;
    for number in 0..10 {
        client.set("/x", number.to_string(), None).await.expect("a set");
    }
    ensemble.wait_equal().await;
    stop(&mut ensemble, &[old]).await;
    assert_eq!(ensemble.leader().await, leader, "the test needs the same leader");

    ensemble.put_copy(old, "copy");
    // Not even for a moment a majority with the leader.
    ensemble.pause(other);
    ensemble.restart(old);
    assert_eq!(ensemble.wait_exit(old).await.code(), OUTDATED);
    assert!(ensemble.log(old).contains("lacks what it had acknowledged"), "{}", ensemble.log(old));
    let says = format!("node {old} has lost what it had acknowledged");
    assert!(ensemble.log(leader).contains(&says), "{}", ensemble.log(leader));
    eventually(TIMEOUT, "the leader alone does not serve", async || {
        ensemble.status(leader).await.is_some_and(|status| status.not_serving.is_some())
    })
    .await;
    ensemble.resume(other);
    client.set("/x", "last", None).await.expect("two of three go on");

    // And again, whoever leads.
    ensemble.restart(old);
    assert_eq!(ensemble.wait_exit(old).await.code(), OUTDATED);
    assert!(ensemble.log(old).contains("cannot take part"), "{}", ensemble.log(old));
}

/// Three nodes that are stopped. Nodes 2 and 3 are old copies: all three have acknowledged `/lost-0`, and
/// only node 1 has it. Returns the term that they have forgotten, too.
async fn two_old_copies() -> (Ensemble, u64) {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/x", "", CreateMode::Persistent).await.expect("a create");
    ensemble.wait_equal().await;
    // Nobody hands the leadership over: the copies have the term of the others.
    for id in ensemble.ids() {
        ensemble.kill9(id);
    }
    for id in [2, 3] {
        ensemble.keep_copy(id, "copy");
    }
    start(&mut ensemble, &[1, 2, 3]);
    ensemble.wait_serving().await;
    let client = ensemble.client(TIMEOUT).await;
    for number in 0..20 {
        client.create(format!("/lost-{number}"), "", CreateMode::Persistent).await.expect("a create");
    }
    ensemble.wait_equal().await;
    let term = ensemble.status_of(1).await.term;
    for id in ensemble.ids() {
        ensemble.kill9(id);
    }
    for id in [2, 3] {
        ensemble.put_copy(id, "copy");
    }
    (ensemble, term)
}

/// The way out of docs/operations.md: the node with the newest directory is started with one of the old
/// copies. It is elected, and nothing is lost.
#[tokio::test]
async fn the_newest_directory_leads() {
    let (mut ensemble, _) = two_old_copies().await;
    start(&mut ensemble, &[1, 2]);
    ensemble.wait_serving().await;
    assert_eq!(ensemble.leader().await, 1);
    start(&mut ensemble, &[3]);
    ensemble.wait_serving().await;
    ensemble.wait_equal().await;
    let client = ensemble.client(TIMEOUT).await;
    for number in 0..20 {
        let path = format!("/lost-{number}");
        assert!(client.exists(&path, ReadLevel::Linearizable).await.expect("a read").is_some(), "{path}");
    }
}

/// Two of three are old copies, and elect each other. The third has what was acknowledged: it does not follow
/// them, and does not leave as one that differs. Their leader leaves, and without it nobody serves.
#[tokio::test]
async fn the_node_that_lost_nothing_stays() {
    let (mut ensemble, term) = two_old_copies().await;
    start(&mut ensemble, &[2, 3]);
    ensemble.wait_serving().await;
    // They have forgotten a term, and must be past it: what has the same term, leader and index looks the same.
    while ensemble.status_of(2).await.term <= term {
        let leader = ensemble.leader().await;
        ensemble.kill9(leader);
        ensemble.restart(leader);
        ensemble.wait_serving().await;
    }
    let copies = ensemble.client_of(&[2, 3], TIMEOUT).await;
    let lost = copies.exists("/lost-0", ReadLevel::Linearizable).await.expect("a read");
    assert!(lost.is_none(), "the test needs copies that are old");
    copies.create("/other", "", CreateMode::Persistent).await.expect("a create");

    let leader = ensemble.leader().await;
    ensemble.restart(1);
    assert_eq!(ensemble.wait_exit(leader).await.code(), OUTDATED, "{}", ensemble.log(leader));
    assert!(ensemble.log(leader).contains("has lost what was committed"), "{}", ensemble.log(leader));
    for id in [1, 5 - leader] {
        eventually(TIMEOUT, "the others do not serve", async || {
            ensemble.status(id).await.is_some_and(|status| status.not_serving.is_some())
        })
        .await;
    }
    assert!(
        !ensemble.data_dir(1).join("DIVERGED").exists() && !ensemble.data_dir(1).join("OUTDATED").exists()
    );
    assert!(ensemble.log(1).contains("This node does not follow it"), "{}", ensemble.log(1));
}
