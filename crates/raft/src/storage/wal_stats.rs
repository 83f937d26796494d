//! What the WAL thread did, readable at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::wal::CommitTimes;

/// Counters since the log was opened. Rates and means are differences of two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Group commits, that is records, that is fdatasyncs.
    pub groups: u64,
    /// Calls of the log storage that were in them.
    pub ops: u64,
    /// Entries that were in them.
    pub entries: u64,
    /// Bytes of the records.
    pub bytes: u64,
    /// Time of building the records.
    pub encode_us: u64,
    /// Time of handing the records to the engine and the kernel.
    pub write_us: u64,
    /// Time of waiting for fdatasync.
    pub sync_us: u64,
    /// The longest time from the begin of a group to its end, ever.
    pub commit_us_max: u64,
    /// The same, of the last group.
    pub commit_us_last: u64,
}

#[derive(Debug, Default)]
pub(super) struct WalCounters {
    groups: AtomicU64,
    ops: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    encode_us: AtomicU64,
    write_us: AtomicU64,
    sync_us: AtomicU64,
    commit_us_max: AtomicU64,
    commit_us_last: AtomicU64,
}

impl WalCounters {
    pub(super) fn on_group(
        &self,
        ops: usize,
        entries: usize,
        bytes: usize,
        encode: Duration,
        times: CommitTimes,
    ) {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.ops.fetch_add(ops as u64, Relaxed);
        self.entries.fetch_add(entries as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.encode_us.fetch_add(us(encode), Relaxed);
        self.write_us.fetch_add(us(times.write), Relaxed);
        self.sync_us.fetch_add(us(times.sync), Relaxed);
        let commit = us(encode + times.write + times.sync);
        self.commit_us_max.fetch_max(commit, Relaxed);
        self.commit_us_last.store(commit, Relaxed);
        self.groups.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> WalStats {
        WalStats {
            groups: self.groups.load(Relaxed),
            ops: self.ops.load(Relaxed),
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            encode_us: self.encode_us.load(Relaxed),
            write_us: self.write_us.load(Relaxed),
            sync_us: self.sync_us.load(Relaxed),
            commit_us_max: self.commit_us_max.load(Relaxed),
            commit_us_last: self.commit_us_last.load(Relaxed),
        }
    }
}
