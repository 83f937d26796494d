//! Entries that are not in memory any more.

use coordd_raft::storage::LogOptions;
use openraft::RaftLogReader as _;
use openraft::storage::RaftLogStorage as _;

use crate::memory_wal::MemoryWal;
use crate::support::{append, entries, log_id, open, open_wal, open_with};

const KIB: usize = 1 << 10;

#[tokio::test]
async fn a_log_beyond_the_memory_budget_is_read_back_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { cached_bytes_max: 100 * KIB, ..LogOptions::default() };
    let (lock, mut log) = open_with(dir.path(), options).unwrap();
    for first in (1..1000).step_by(9) {
        append(&mut log, entries(1, first..first + 9, KIB)).await;
    }
    assert!(log.cached_bytes() <= 100 * KIB, "{}", log.cached_bytes());
    assert!(log.log_bytes_since_purge() > 999 * KIB as u64);
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(1, 1..1000, KIB));
    assert_eq!(log.try_get_log_entries(13..=13).await.unwrap(), entries(1, 13..14, KIB));

    // Truncated into what is only on disk, and written anew.
    log.truncate_after(Some(log_id(1, 500))).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 500)));
    append(&mut log, entries(2, 501..700, KIB)).await;
    let expected = [entries(1, 1..501, KIB), entries(2, 501..700, KIB)].concat();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);

    log.purge(log_id(1, 450)).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected[450..]);
    log.close();
    drop(lock);

    let (_lock, mut log) = open_with(dir.path(), options).unwrap();
    assert!(log.cached_bytes() <= 100 * KIB, "{}", log.cached_bytes());
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected[450..]);
    log.close();
}

/// A record that holds an entry, its truncation and the entry in its place.
#[tokio::test]
async fn an_entry_rewritten_within_one_record_is_read_back_as_the_last_one() {
    let wal = MemoryWal::default();
    let options = LogOptions { cached_bytes_max: 0, ..LogOptions::default() };
    let owner = crate::support::owner();
    let mut log = coordd_raft::storage::LogStore::with_wal(Box::new(wal.clone()), owner, options).unwrap();
    let gate = wal.gate();
    let noop = openraft::storage::IOFlushed::noop;
    log.append(entries(1, 1..2, 10), noop()).await.unwrap();
    gate.next();
    log.append(entries(1, 2..6, 10), noop()).await.unwrap();
    log.truncate_after(Some(log_id(1, 3))).await.unwrap();
    log.append(entries(2, 4..8, 10), noop()).await.unwrap();
    drop(gate);
    wal.remove_gate();
    // Entries leave the memory after their callbacks; a second record comes after that.
    log.sync().await.unwrap();
    log.sync().await.unwrap();
    assert_eq!(log.cached_bytes(), 0);
    let expected = [entries(1, 1..4, 10), entries(2, 4..8, 10)].concat();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
    let mut found = open_wal(wal.copy()).unwrap();
    assert_eq!(found.try_get_log_entries(..).await.unwrap(), expected);
}

#[tokio::test]
async fn a_limited_read_is_bounded_in_bytes_and_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (_lock, mut log) = open(dir.path()).unwrap();
    append(&mut log, entries(1, 1..41, 100 * KIB)).await;
    append(&mut log, entries(1, 41..43, 3 << 20)).await;
    assert_eq!(log.limited_get_log_entries(1, 43).await.unwrap().len(), 10);
    assert_eq!(log.limited_get_log_entries(41, 43).await.unwrap().len(), 1);
    assert_eq!(log.limited_get_log_entries(39, 41).await.unwrap().len(), 2);
    assert!(log.limited_get_log_entries(5, 5).await.unwrap().is_empty());
    log.close();
}
