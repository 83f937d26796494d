//! When a callback comes, and in which order.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordd_raft::TypeConfig;
use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

use crate::memory_wal::MemoryWal;
use crate::probe::probe_path;
use crate::support::{append, entries, entry, open_wal, vote};

/// G1: a write is acknowledged only after it is on disk.
#[tokio::test]
async fn no_callback_comes_before_its_record_is_durable() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    let gate = wal.gate();
    let (durable, mut wait) = TypeConfig::oneshot();
    log.append([entry(1, 1, 10)], IOFlushed::signal(durable)).await.unwrap();

    // The record is at the disk's door: readable, not acknowledged.
    let seq = gate.next();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(1, 1..2, 10));
    assert!(wait.try_recv().is_err(), "acknowledged before it was durable");
    assert!(!wal.disk().records.contains_key(&seq));

    gate.let_go();
    wait.await.unwrap().unwrap();
    assert!(wal.disk().records.contains_key(&seq));
    wal.remove_gate();
    log.close();
}

#[tokio::test]
async fn a_vote_is_durable_when_save_vote_returns() {
    let wal = MemoryWal::default();
    let log = open_wal(wal.clone()).unwrap();
    let gate = wal.gate();
    let mut voting = log.clone();
    let saving = tokio::spawn(async move { voting.save_vote(&vote(7)).await });
    let seq = tokio::task::spawn_blocking(move || (gate.next(), gate)).await.unwrap();
    assert!(!saving.is_finished(), "returned before it was durable");
    seq.1.let_go();
    saving.await.unwrap().unwrap();
    assert!(wal.disk().records.contains_key(&seq.0));

    let mut found = open_wal(wal.copy()).unwrap();
    assert_eq!(found.read_vote().await.unwrap(), Some(vote(7)));
}

/// Everything that queues while a record is on its way is the next record, and openraft, which takes a completion as
/// "this and all before it", hears of the newest first.
#[tokio::test]
async fn what_queued_is_one_record_and_completes_newest_first() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    let gate = wal.gate();
    let (first, first_done) = TypeConfig::oneshot();
    log.append([entry(1, 1, 10)], IOFlushed::signal(first)).await.unwrap();
    let first_seq = gate.next();

    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waits = Vec::new();
    for index in 2..50 {
        let (durable, wait) = TypeConfig::oneshot();
        log.append([entry(1, index, 10)], IOFlushed::signal(durable)).await.unwrap();
        let order = Arc::clone(&order);
        // The tasks of a single-threaded runtime run in the order in which they are woken.
        waits.push(tokio::spawn(async move {
            wait.await.unwrap().unwrap();
            order.lock().unwrap().push(index);
        }));
    }
    // Each task must have begun to wait, or it would not be woken but find its answer.
    tokio::task::yield_now().await;
    gate.let_go();
    first_done.await.unwrap().unwrap();
    assert_eq!(gate.next(), first_seq + 1);
    gate.let_go();
    for wait in waits {
        wait.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert_eq!(*order, (2..50).rev().collect::<Vec<_>>(), "each once, newest first");
    assert_eq!(wal.disk().records.last_key_value().unwrap().0, &(first_seq + 1), "one record");
    assert_eq!(log.stats().groups, first_seq + 1);
    wal.remove_gate();
    log.close();
}

#[tokio::test]
async fn an_append_larger_than_a_group_is_acknowledged_when_its_last_record_is_durable() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    let before = wal.disk().acknowledged;
    let large = entries(1, 1..11, 1 << 20);
    append(&mut log, large.clone()).await;
    let records = wal.disk().acknowledged - before;
    assert_eq!(records, 5, "records of two MiB");
    let mut found = open_wal(wal.copy()).unwrap();
    assert_eq!(found.try_get_log_entries(..).await.unwrap(), large);
    log.close();
}

#[tokio::test]
async fn close_makes_durable_what_was_called_before_it() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    let gate = wal.gate();
    let mut waits = Vec::new();
    for index in 1..20 {
        let (durable, wait) = TypeConfig::oneshot();
        log.append([entry(1, index, 10)], IOFlushed::signal(durable)).await.unwrap();
        waits.push(wait);
    }
    drop(gate);
    let mut late = log.clone();
    tokio::task::spawn_blocking(|| log.close()).await.unwrap();
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
    let (durable, _wait) = TypeConfig::oneshot();
    let refused = late.append([entry(1, 20, 10)], IOFlushed::signal(durable)).await.unwrap_err();
    assert_eq!(refused.to_string(), "the log is closed");
    let mut found = open_wal(wal.copy()).unwrap();
    assert_eq!(found.try_get_log_entries(..).await.unwrap(), entries(1, 1..20, 10));
}

#[test]
fn a_disk_error_ends_the_process_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wal_dir = dir.path().join("wal");
    // The record 1 starts the log, so the third append meets the error.
    let output = Command::new(probe_path()).arg("fail-at").arg(&wal_dir).arg("4").output().unwrap();
    assert!(!output.status.success());
    assert_eq!(output.status.code(), None, "aborted, not returned: {:?}", output.status);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "durable 0\ndurable 1\n");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("the log cannot be written"), "{message}");
    assert!(message.contains("write-ahead log: fdatasync"), "{message}");
}

/// G9: a full disk is waited for, and nobody is told meanwhile that anything is durable.
#[tokio::test]
async fn a_full_disk_keeps_writes_waiting_and_loses_none() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    append(&mut log, entries(1, 1..3, 10)).await;
    wal.disk().is_full = true;
    let (durable, mut wait) = TypeConfig::oneshot();
    log.append([entry(1, 3, 10)], IOFlushed::signal(durable)).await.unwrap();
    while wal.disk().refused < 3 {
        tokio::task::yield_now().await;
    }
    assert!(wait.try_recv().is_err(), "acknowledged without room for it");
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(1, 1..4, 10), "readable all the same");

    wal.disk().is_full = false;
    wait.await.unwrap().unwrap();
    append(&mut log, entries(1, 4..5, 10)).await;
    let mut found = open_wal(wal.copy()).unwrap();
    assert_eq!(found.try_get_log_entries(..).await.unwrap(), entries(1, 1..5, 10));
    log.close();
}

/// A node can be stopped while its disk is full: what waits is given up, and was told to nobody.
#[tokio::test]
async fn a_log_that_waits_for_room_can_be_closed() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    append(&mut log, entries(1, 1..3, 10)).await;
    assert_eq!(log.waits_for_room(), None);
    wal.disk().is_full = true;
    let (durable, wait) = TypeConfig::oneshot();
    log.append([entry(1, 3, 10)], IOFlushed::signal(durable)).await.unwrap();
    while log.waits_for_room().is_none() {
        tokio::task::yield_now().await;
    }
    let voting = tokio::spawn({
        let mut log = log.clone();
        async move { log.save_vote(&vote(7)).await }
    });
    // More than may wait: one of the appends does, too.
    let appending = tokio::spawn({
        let mut log = log.clone();
        async move {
            for index in 4.. {
                if log.append([entry(1, index, 8 << 20)], IOFlushed::noop()).await.is_err() {
                    return;
                }
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!voting.is_finished(), "a vote without room for it");
    assert!(!appending.is_finished());

    tokio::task::spawn_blocking(move || log.close()).await.unwrap();
    appending.await.unwrap();
    voting.await.unwrap().unwrap_err();
    assert!(wait.await.is_err(), "nobody was told");
    let mut found = open_wal(wal.copy()).unwrap();
    assert_eq!(found.try_get_log_entries(..).await.unwrap(), entries(1, 1..3, 10));
}
