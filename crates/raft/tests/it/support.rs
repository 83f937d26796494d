//! Short forms of what every test of the log does.

use std::path::Path;

use coordd_raft::storage::{DataDir, LogOptions, LogOwner, LogStore, OpenError, Wal};
use coordd_raft::types::{Entry, EntryPayload, LeaderId, LogId, Vote};
use coordd_raft::{Payload, TypeConfig};
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

pub(crate) const NODE_ID: u64 = 1;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: NODE_ID }, index }
}

pub(crate) fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: NODE_ID }, committed: true }
}

/// An entry with content that is its own.
pub(crate) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let pattern = format!("{term}.{index}/");
    let data: Vec<u8> = pattern.bytes().cycle().take(bytes).collect();
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Payload(data.into())) }
}

pub(crate) fn entries(term: u64, indexes: std::ops::Range<u64>, bytes: usize) -> Vec<Entry> {
    indexes.map(|index| entry(term, index, bytes)).collect()
}

pub(crate) fn open(dir: &Path) -> Result<(DataDir, LogStore), OpenError> {
    open_with(dir, LogOptions::default())
}

pub(crate) fn open_with(dir: &Path, options: LogOptions) -> Result<(DataDir, LogStore), OpenError> {
    let mut dir = DataDir::open(dir, NODE_ID)?;
    let log = LogStore::open(&mut dir, options)?;
    Ok((dir, log))
}

pub(crate) fn open_wal(wal: impl Wal) -> Result<LogStore, OpenError> {
    LogStore::with_wal(Box::new(wal), owner(), LogOptions::default())
}

pub(crate) fn owner() -> LogOwner {
    LogOwner { node_id: NODE_ID, cluster_id: String::new() }
}

/// Appends, and waits for the callback.
pub(crate) async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    let (durable, wait) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(durable)).await.expect("append");
    wait.await.expect("the callback is called").expect("the entries are durable");
}
