//! Nodes that were away for longer than the log is kept (G1, G8).

use std::time::Duration;

use coordd_client::{Client, CreateMode, ReadLevel, WatchMode};
use coordd_tests::{Ensemble, EnsembleOptions, eventually};

const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const VALUE_BYTES: usize = 64 << 10;

/// A small log, so that a few megabytes of writes drop what a node that is away would need.
async fn small_log() -> Ensemble {
    let options = EnsembleOptions::new(3);
    options.env("COORDD_SNAPSHOT_LOG_BYTES", "1MiB").env("COORDD_KEEP_LOG_BYTES", "256KiB").start().await
}

async fn write_much(client: &Client, writes: usize) {
    for number in 0..writes {
        let value = vec![number as u8; VALUE_BYTES];
        client.set("/big", value, None).await.expect("a set");
        client.create("/many-", "", CreateMode::PersistentSequential).await.expect("a create");
    }
}

/// G8: a node that lags behind the log gets a snapshot, serves, and its tree is the others' tree.
#[tokio::test]
async fn a_follower_that_missed_several_compactions_comes_back_equal_by_a_snapshot() {
    let mut ensemble = small_log().await;
    let leader = ensemble.leader().await;
    let follower = ensemble.follower().await;
    let client = ensemble.client_of(&ensemble.ids_but(follower), SESSION_TIMEOUT).await;
    client.create("/big", "", CreateMode::Persistent).await.expect("a create");
    ensemble.wait_equal().await;
    let had = ensemble.status_of(follower).await.last_log_index;
    ensemble.kill9(follower);

    let mut snapshot = ensemble.status_of(leader).await.snapshot_index;
    for round in 1..=4 {
        write_much(&client, 30).await;
        eventually(Duration::from_secs(20), "another snapshot", async || {
            let status = ensemble.status_of(leader).await;
            let is_another = status.snapshot_index > snapshot;
            snapshot = status.snapshot_index;
            is_another
        })
        .await;
        println!("compaction {round}: a snapshot at {snapshot}; the follower had {had}");
    }
    // openraft puts a purge off while it tries to send the follower what would go.
    eventually(Duration::from_secs(20), "the leader purges what the follower would need", async || {
        ensemble.status_of(leader).await.purged_index > had
    })
    .await;

    ensemble.restart(follower);
    ensemble.wait_serving_on(follower).await;
    ensemble.wait_equal().await;
    let status = ensemble.status_of(follower).await;
    assert!(status.snapshot_index > had, "there was no other way than a snapshot");

    // It takes part again: with another node down the majority needs it.
    ensemble.kill9(ensemble.ids_but(follower)[0]);
    let client = ensemble.client_of(&[follower], SESSION_TIMEOUT).await;
    let stat = client.set("/big", "after", None).await.expect("a set through the node that came back");
    assert_eq!(stat.version, 121);
    let names = client.children("/", ReadLevel::Linearizable).await.expect("a list");
    assert_eq!(names.iter().filter(|name| name.starts_with("many-")).count(), 120);
}

/// G4, G5: a follower that was stopped, not killed, gets a snapshot into a running process: its clients' watches miss
/// nothing, and what they had sent meanwhile takes effect once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_follower_takes_a_snapshot_and_its_clients_miss_nothing() {
    const LONG: Duration = Duration::from_secs(60);
    let mut ensemble = small_log().await;
    let leader = ensemble.leader().await;
    let follower = ensemble.follower().await;
    let writer = ensemble.client_of(&ensemble.ids_but(follower), LONG).await;
    writer.create("/big", "", CreateMode::Persistent).await.expect("a create");
    let away = ensemble.client_of(&[follower], LONG).await;
    let mut watcher = away.watch("/big", WatchMode::Persistent).await.expect("a watch");
    let created = away.create("/of-the-one-away", "", CreateMode::Persistent).await.expect("a create");
    let had = ensemble.status_of(follower).await.last_log_index;

    ensemble.pause(follower);
    let sent: Vec<_> = (0..10).map(|_| away.set(&created.path, "x", None)).collect();
    let mut zxids = Vec::new();
    for _ in 0..2 {
        let before = ensemble.status_of(leader).await.snapshot_index;
        for number in 0..40 {
            let value = vec![number; VALUE_BYTES];
            zxids.push(writer.set("/big", value, None).await.expect("a set").mzxid);
        }
        eventually(Duration::from_secs(20), "another snapshot, and the log is purged", async || {
            let status = ensemble.status_of(leader).await;
            status.snapshot_index > before && status.purged_index > had
        })
        .await;
    }
    ensemble.resume(follower);

    for (index, call) in sent.into_iter().enumerate() {
        assert_eq!(call.await.expect("a set").version, index as i32 + 1);
    }
    for zxid in zxids {
        assert_eq!(watcher.next().await.expect("an event").zxid(), zxid);
    }
    let status = ensemble.status_of(follower).await;
    assert!(status.snapshot_index > had, "there was no other way than a snapshot");
    ensemble.wait_serving().await;
    ensemble.wait_equal().await;
}

/// A snapshot carries sessions, their recorded answers and ephemerals: they survive a restart of everything from it.
#[tokio::test]
async fn a_cluster_restarts_from_snapshots_with_its_sessions() {
    let mut ensemble = small_log().await;
    let client = ensemble.client(SESSION_TIMEOUT).await;
    client.create("/big", "", CreateMode::Persistent).await.expect("a create");
    client.create("/mine", "", CreateMode::Ephemeral).await.expect("an ephemeral");
    write_much(&client, 40).await;
    for id in ensemble.ids() {
        let admin = ensemble.admin(id).await.expect("the node answers");
        eventually(Duration::from_secs(20), "a snapshot on every node", async || {
            admin.status().await.is_ok_and(|status| status.snapshot_index > 0)
        })
        .await;
    }
    for id in ensemble.ids() {
        ensemble.kill9(id);
    }
    for id in ensemble.ids() {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    let stat = client.exists("/mine", ReadLevel::Linearizable).await.expect("the session goes on");
    assert_eq!(stat.map(|stat| stat.ephemeral_owner), Some(client.session_id()));
    let stat = client.set("/big", "after", Some(40)).await.expect("nothing was lost");
    assert_eq!(stat.version, 41);
    ensemble.wait_equal().await;
}

/// G1: a node that has lost its disk could elect a leader that lacks what it had acknowledged. It is refused under its
/// old id, with the reason; also the node that once formed the ensemble.
#[tokio::test]
async fn a_member_that_lost_its_disk_is_refused_under_its_old_id() {
    // The last time another node is down, which has nothing to say about it.
    for (lost, down) in [(1, None), (3, None), (1, Some(2))] {
        let mut ensemble = Ensemble::start(3).await;
        if let Some(down) = down {
            ensemble.kill9(down);
        }
        ensemble.kill9(lost);
        ensemble.wipe(lost);
        ensemble.restart(lost);
        let status = ensemble.wait_exit(lost).await;
        assert_eq!(status.code(), Some(1), "node {lost}");
        let log = ensemble.log(lost);
        assert!(log.contains(&format!("node {lost} has lost its disk")), "node {lost} says why: {log}");
        if let Some(down) = down {
            ensemble.restart(down);
        }
        let client = ensemble.client_of(&ensemble.ids_but(lost), SESSION_TIMEOUT).await;
        client.create("/a", "", CreateMode::Persistent).await.expect("the others go on");
    }
}
