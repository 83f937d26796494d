//! What is taken from a disk after a crash, and what is refused.

use std::fs;

use coordd_raft::storage::{DataDir, LogOptions, LogStore, OpenError, SledWal, Wal as _, WalSizes};
use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _};

use crate::memory_wal::MemoryWal;
use crate::support::{NODE_ID, append, entries, log_id, open, open_wal, owner, vote};

/// A log of one record per entry, closed. Record 1 starts the log, record `i + 1` has entry `i`.
async fn closed_log(entry_count: u64) -> MemoryWal {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    for index in 1..=entry_count {
        append(&mut log, entries(1, index..index + 1, 100)).await;
    }
    log.close();
    wal
}

async fn found(wal: MemoryWal) -> Result<usize, OpenError> {
    let mut log = open_wal(wal)?;
    let entries = log.try_get_log_entries(..).await.unwrap().len();
    log.close();
    Ok(entries)
}

fn is_lost(result: Result<usize, OpenError>) -> bool {
    matches!(result, Err(OpenError::AcknowledgedDataLost { .. }))
}

#[tokio::test]
async fn a_last_record_that_was_not_finished_is_cut_off() {
    let wal = closed_log(5).await;
    let whole = wal.disk().records[&6].clone();
    for cut in [0, 1, 30, whole.len() - 1] {
        let crashed = wal.copy();
        {
            let mut disk = crashed.disk();
            disk.records.insert(6, whole[..cut].to_vec());
            disk.acknowledged = 5;
        }
        assert_eq!(found(crashed.clone()).await.unwrap(), 4, "cut to {cut} bytes");
        // The number is used again, for a record of the next life.
        assert!(crashed.disk().records[&6].len() > 30);
        assert_eq!(found(crashed).await.unwrap(), 4);
    }
}

#[tokio::test]
async fn a_last_record_that_was_finished_but_not_acknowledged_is_taken() {
    let wal = closed_log(5).await;
    wal.disk().acknowledged = 5;
    assert_eq!(found(wal).await.unwrap(), 5);
}

#[tokio::test]
async fn a_log_that_lost_an_acknowledged_record_is_refused() {
    let wal = closed_log(5).await;
    for seq in 1..=6 {
        let missing = wal.copy();
        missing.disk().records.remove(&seq);
        let damaged = wal.copy();
        damaged.disk().records.get_mut(&seq).unwrap()[29] ^= 1;
        // Without a watermark, what is found later proves it. The last record has nothing after it.
        if seq < 6 {
            for wal in [missing.copy(), damaged.copy()] {
                wal.disk().acknowledged = 0;
                let refused = found(wal).await;
                let start_is_unneeded = seq == 1;
                assert!(is_lost(refused) || start_is_unneeded, "record {seq}");
            }
        }
        assert!(is_lost(found(damaged).await), "record {seq} damaged");
        assert!(is_lost(found(missing).await), "record {seq} missing");
    }
    let empty = wal.copy();
    empty.disk().records.clear();
    assert!(is_lost(found(empty).await), "nothing left");
}

/// G1. The only record that is left is not taken for the first one, which may have been unfinished.
#[tokio::test]
async fn a_log_of_which_only_a_damaged_record_is_left_is_refused() {
    let wal = closed_log(5).await;
    for acknowledged in [0, 3, 5] {
        let left = wal.copy();
        {
            let mut disk = left.disk();
            disk.records.retain(|seq, _| *seq == 6);
            disk.records.get_mut(&6).unwrap()[29] ^= 1;
            disk.acknowledged = acknowledged;
        }
        assert!(is_lost(found(left.copy()).await), "acknowledged: {acknowledged}");
        assert_eq!(left.disk().records.len(), 1, "what a refused log is made of stays as it is");
    }
    // The first record of a log that never started.
    let begun = closed_log(0).await;
    begun.disk().records.get_mut(&1).unwrap()[29] ^= 1;
    begun.disk().acknowledged = 0;
    assert_eq!(found(begun).await.unwrap(), 0);
}

/// G1. A directory remembers that its log has started, so its first record is not an unfinished one.
#[tokio::test]
async fn a_started_log_of_which_only_a_damaged_first_record_is_left_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, log) = open(dir.path()).unwrap();
    log.close();
    drop(data_dir);
    let wal_dir = dir.path().join("wal");
    {
        let wal = SledWal::open(&wal_dir, WalSizes::default()).unwrap();
        wal.remove_suffix(1).unwrap();
        wal.commit(1, b"half a record").unwrap();
        wal.settle(1, b"half a record").unwrap();
        wal.close().unwrap();
    }
    let refused = open(dir.path()).map(|_| 0);
    assert!(is_lost(refused));
}

#[tokio::test]
async fn the_refusal_says_what_to_do() {
    let wal = closed_log(3).await;
    wal.disk().records.remove(&3);
    let message = found(wal).await.unwrap_err().to_string();
    assert!(message.contains("record 3 of the log is lost (it is missing)"), "{message}");
    assert!(message.contains("do not start this node again"), "{message}");
}

#[tokio::test]
async fn a_record_of_another_format_is_not_taken_for_a_damaged_one() {
    let wal = closed_log(3).await;
    {
        let mut disk = wal.disk();
        let record = disk.records.get_mut(&4).unwrap();
        record[4] = 9;
        // The format is outside of the checksum's range, so that any version can find it.
    }
    let message = found(wal).await.unwrap_err().to_string();
    assert!(message.contains("record format 9 is not known"), "{message}");
}

#[tokio::test]
async fn another_nodes_log_is_refused() {
    let wal = closed_log(1).await;
    let mut other = owner();
    other.node_id = NODE_ID + 1;
    let refused = LogStore::with_wal(Box::new(wal.clone()), other, LogOptions::default()).unwrap_err();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");

    let log = open_wal(wal.clone()).unwrap();
    log.set_cluster_id("prod");
    log.clone().save_vote(&vote(1)).await.unwrap();
    log.close();
    let mut other = owner();
    other.cluster_id = "test".into();
    let refused = LogStore::with_wal(Box::new(wal), other, LogOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("\"prod\""), "{refused}");
}

/// Between truncate, append and save_committed the disk may stop anywhere; never may an entry look committed that was
/// written before the one that was.
#[tokio::test]
async fn committed_never_covers_an_entry_that_was_not_committed() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    append(&mut log, entries(1, 1..11, 10)).await;
    log.save_committed(Some(log_id(1, 4))).await.unwrap();
    let gate = wal.gate();
    log.append(entries(1, 11..12, 10), IOFlushed::noop()).await.unwrap();
    gate.next();
    // All of this waits behind the record at the gate.
    log.truncate_after(Some(log_id(1, 4))).await.unwrap();
    log.append(entries(2, 5..9, 10), IOFlushed::noop()).await.unwrap();
    log.save_committed(Some(log_id(2, 8))).await.unwrap();

    let mut before = open_wal(wal.copy()).unwrap();
    assert!(before.read_committed().await.unwrap() <= Some(log_id(1, 4)));
    drop(gate);
    wal.remove_gate();
    log.sync().await.unwrap();
    let mut after = open_wal(wal.copy()).unwrap();
    assert_eq!(after.read_committed().await.unwrap(), Some(log_id(2, 8)));
    assert_eq!(after.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 8)));
    log.close();
}

#[tokio::test]
async fn committed_is_saved_by_an_orderly_end() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, mut log) = open(dir.path()).unwrap();
    append(&mut log, entries(1, 1..4, 10)).await;
    let groups = log.stats().groups;
    log.save_committed(Some(log_id(1, 3))).await.unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 3)));
    assert_eq!(log.stats().groups, groups, "no record for it alone");
    log.close();
    drop(lock);
    let (_lock, mut log) = open(dir.path()).unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 3)));
    log.close();
}

#[tokio::test]
async fn purged_records_are_removed_from_disk_and_the_log_goes_on() {
    let wal = closed_log(500).await;
    let mut log = open_wal(wal.clone()).unwrap();
    log.purge(log_id(1, 490)).await.unwrap();
    append(&mut log, entries(1, 501..502, 10)).await;
    // Some are removed after each record.
    for _ in 0..40 {
        log.sync().await.unwrap();
    }
    log.close();
    assert_eq!(wal.disk().records.first_key_value().unwrap().0, &492, "the record of entry 491");
    let mut log = open_wal(wal.clone()).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 490)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 11);

    // Purged beyond its end, as after a snapshot from the leader.
    log.purge(log_id(3, 900)).await.unwrap();
    assert_eq!(log.log_bytes_since_purge(), 0);
    log.close();
    let mut log = open_wal(wal).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(3, 900)));
    append(&mut log, entries(3, 901..903, 10)).await;
    let hole = log.append(entries(3, 905..906, 10), IOFlushed::noop()).await.unwrap_err();
    assert!(hole.to_string().contains("entry 905 does not follow"), "{hole}");
    log.close();
}

#[tokio::test]
async fn a_log_directory_that_was_emptied_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, mut log) = open(dir.path()).unwrap();
    append(&mut log, entries(1, 1..3, 10)).await;
    log.close();
    drop(lock);
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    let mut dir = DataDir::open(dir.path(), NODE_ID).unwrap();
    let refused = LogStore::open(&mut dir, LogOptions::default()).unwrap_err();
    assert!(matches!(refused, OpenError::AcknowledgedDataLost { .. }), "{refused}");
}

/// Values of more than a quarter of sled's segment become files of their own, one for each leaf of them.
#[tokio::test]
async fn large_records_make_no_blobs() {
    // More by COORDD_BLOB_MIB.
    let mib = std::env::var("COORDD_BLOB_MIB").map_or(128, |mib| mib.parse::<u64>().expect("a number"));
    let dir = tempfile::tempdir().unwrap();
    let (lock, mut log) = open(dir.path()).unwrap();
    let count = mib / 2;
    for index in 0..count {
        append(&mut log, entries(1, index..index + 1, 2 << 20)).await;
        log.purge(log_id(1, index.saturating_sub(8))).await.unwrap();
    }
    // The largest entry that is taken, and one that is not.
    let largest = entries(1, count..count + 1, coordd_raft::storage::ENTRY_BYTES_MAX - 1000);
    append(&mut log, largest.clone()).await;
    let too_large = entries(1, count + 1..count + 2, coordd_raft::storage::ENTRY_BYTES_MAX);
    assert!(log.append(too_large, IOFlushed::noop()).await.is_err());
    let names = fs::read_dir(dir.path().join("wal")).unwrap().map(|file| file.unwrap().path());
    let databases: Vec<_> = names.filter(|path| path.is_dir()).collect();
    assert_eq!(databases.len(), 1, "{databases:?}");
    assert_eq!(fs::read_dir(databases[0].join("blobs")).unwrap().count(), 0);
    log.close();
    drop(lock);
    let (_lock, mut log) = open(dir.path()).unwrap();
    assert_eq!(log.try_get_log_entries(count..).await.unwrap(), largest);
    log.close();
}

/// The oldest record that is kept can begin in the middle: what came before was purged, but only later.
#[tokio::test]
async fn a_record_that_is_older_than_the_purge_is_replayed_after_it() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    append(&mut log, entries(1, 1..4, 10)).await;
    log.purge(log_id(1, 1)).await.unwrap();
    append(&mut log, entries(1, 4..11, 10)).await;
    append(&mut log, entries(1, 11..14, 10)).await;
    log.purge(log_id(1, 11)).await.unwrap();
    log.sync().await.unwrap();
    log.close();
    let mut log = open_wal(wal).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(1, 12..14, 10));
    log.close();
}

/// The same, where it begins with entries that were replaced: their predecessors are gone with an older record.
#[tokio::test]
async fn a_record_that_begins_with_replaced_entries_is_replayed() {
    let wal = MemoryWal::default();
    let mut log = open_wal(wal.clone()).unwrap();
    append(&mut log, entries(1, 1..16, 10)).await;
    let gate = wal.gate();
    log.save_committed(Some(log_id(1, 3))).await.unwrap();
    log.append(entries(1, 16..18, 10), IOFlushed::noop()).await.unwrap();
    gate.next();
    // One record: entries that follow the old ones, and the new leader's in the place of all of them.
    log.append(entries(1, 18..21, 10), IOFlushed::noop()).await.unwrap();
    log.truncate_after(Some(log_id(1, 3))).await.unwrap();
    log.append(entries(2, 4..31, 10), IOFlushed::noop()).await.unwrap();
    drop(gate);
    wal.remove_gate();
    log.sync().await.unwrap();
    log.purge(log_id(2, 15)).await.unwrap();
    for _ in 0..4 {
        log.sync().await.unwrap();
    }
    log.close();
    assert_eq!(wal.disk().records.first_key_value().unwrap().0, &4, "it begins with entry 18 of term 1");
    let mut log = open_wal(wal).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(2, 16..31, 10));
    log.close();
}
