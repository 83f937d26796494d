//! What a client knows of its session's life without asking (`Client::alive_for`): it must never believe in a session that
//! a server has ended, and it should not doubt one without a reason.

use std::time::{Duration, Instant};

use coordd_client::{Client, ConnectOptions, CreateMode, EndReason, ReadLevel, SessionState};
use coordd_tests::{Ensemble, eventually};

const TIMEOUT: Duration = Duration::from_secs(2);

async fn until_sure(client: &Client) {
    eventually(TIMEOUT, "a lease", async || client.alive_for() > TIMEOUT / 2).await;
}

/// Watches a lease for a while; returns the shortest it was.
async fn shortest(client: &Client, time: Duration) -> Duration {
    let (start, mut shortest) = (Instant::now(), Duration::MAX);
    while start.elapsed() < time {
        shortest = shortest.min(client.alive_for());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shortest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_there_at_once_and_stays_also_under_load_and_when_the_leader_is_killed() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    assert!(client.alive_for() > TIMEOUT / 2, "a new session is new");
    client.create("/busy", "", CreateMode::Persistent).await.expect("a create");
    let writer = client.clone();
    let load = tokio::spawn(async move { while writer.set("/busy", "", None).await.is_ok() {} });
    let shortest_lease = shortest(&client, TIMEOUT * 3).await;
    assert!(shortest_lease > TIMEOUT / 4, "{shortest_lease:?}");
    load.abort();

    let leader = ensemble.leader().await;
    ensemble.kill9(leader);
    let shortest_lease = shortest(&client, TIMEOUT * 2).await;
    assert!(shortest_lease > Duration::ZERO, "a dead leader costs less than the timeout");
    until_sure(&client).await;
    client.close().await.expect("the session closes");
    assert_eq!(client.alive_for(), Duration::ZERO, "a closed session is not alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_majority_answers_pings_and_renews_nothing() {
    let mut ensemble = Ensemble::start(3).await;
    let leader = ensemble.leader().await;
    for attached_to in [leader, ensemble.ids_but(leader)[0]] {
        let client = ensemble.client_of(&[attached_to], TIMEOUT).await;
        until_sure(&client).await;
        let others = ensemble.ids_but(attached_to);
        others.iter().for_each(|id| ensemble.pause(*id));
        let gone = eventually(TIMEOUT, "the lease is over", async || client.alive_for().is_zero()).await;
        assert!(gone < TIMEOUT, "the lease of node {attached_to} was over after {gone:?}");
        others.iter().for_each(|id| ensemble.resume(*id));
        ensemble.wait_serving().await;
        // The servers' stall did not count (G6), so the session is there, and is sure of it again.
        eventually(TIMEOUT * 5, "a lease again", async || client.alive_for() > TIMEOUT / 2).await;
        assert!(!client.state().is_terminal());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_ends_before_its_client_has_stopped_believing_in_it() {
    let ensemble = Ensemble::start(3).await;
    let observer = ensemble.client(Duration::from_secs(10)).await;
    // A client whose runtime stands still: it sends no pings, and says afterwards what it believed.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for round in 0..3 {
        let endpoints = ensemble.endpoints();
        let path = format!("/alive-{round}");
        let client = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                runtime.block_on(async {
                    let options = ConnectOptions::new().session_timeout(TIMEOUT);
                    let client = options.connect(endpoints).await.expect("a session");
                    client.create(&path, "", CreateMode::Ephemeral).await.expect("a create");
                    until_sure(&client).await;
                    client
                })
            });
            connecting.join().expect("the thread ends well")
        });
        // From here on nobody drives the session.
        loop {
            let believed = client.alive_for();
            let is_there = observer.exists(&path, ReadLevel::Linearizable).await.expect("a read").is_some();
            assert!(is_there || believed.is_zero(), "ended while the client believed in {believed:?} more");
            if !is_there {
                break;
            }
        }
        let state = std::thread::scope(|scope| {
            scope.spawn(|| runtime.block_on(client.ended())).join().expect("the thread ends well")
        });
        assert!(matches!(state, SessionState::Expired(end) if end.reason == EndReason::Expired));
    }
    // A runtime must not be dropped within another.
    runtime.shutdown_background();
}
