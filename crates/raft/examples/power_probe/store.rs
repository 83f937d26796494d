//! What a node opens at its start, and what stands in it.

use std::fmt::Write as _;

use coordd_raft::storage::{DataDir, LogOptions, LogStore, SnapshotStore, WalSizes};
use coordd_raft::types::{Entry, EntryPayload, LeaderId, LogId, SnapshotMeta, StoredMembership, Vote};
use coordd_raft::{Payload, TypeConfig};
use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

use super::Result;

pub(crate) const NODE_ID: u64 = 1;
/// Few, so that most of what is read comes from the disk.
const CACHED_BYTES_MAX: usize = 64 << 10;

pub(crate) struct Store {
    pub(crate) dir: DataDir,
    pub(crate) log: LogStore,
    pub(crate) snapshots: SnapshotStore,
}

/// Opens a directory in a node's order.
pub(crate) fn open(dir: &str, sizes: WalSizes) -> Result<Store> {
    let mut dir = DataDir::open(dir, NODE_ID)?;
    let log = LogStore::open(&mut dir, LogOptions { cached_bytes_max: CACHED_BYTES_MAX, sizes })?;
    let snapshots = SnapshotStore::open(&dir.snapshot_dir())?;
    Ok(Store { dir, log, snapshots })
}

impl Store {
    /// All of it in one line. Fails if an entry or the snapshot has other bytes than it was written with.
    pub(crate) async fn describe(&mut self) -> Result<String> {
        let mut line = format!("incarnation={}", self.dir.incarnation());
        write!(line, " cluster={}", self.dir.cluster_id().unwrap_or("-"))?;
        write!(line, " vote={}", self.log.read_vote().await?.map_or(0, |vote| vote.leader_id.term))?;
        let state = self.log.get_log_state().await?;
        write!(line, " purged={}", format_log_id(state.last_purged_log_id))?;
        write!(line, " last={}", format_log_id(state.last_log_id))?;
        write!(line, " committed={}", format_log_id(self.log.read_committed().await?))?;
        let latest = self.snapshots.latest();
        write!(line, " snapshot={}", format_log_id(latest.as_ref().and_then(|file| file.meta.last_log_id)))?;
        if let Some(file) = latest {
            let id = file.meta.last_log_id.ok_or("a snapshot of nothing")?;
            let mut count = 0;
            for (number, chunk) in file.chunks()?.enumerate() {
                let chunk = chunk?;
                if *chunk != snapshot_chunk(id, number as u64) {
                    return Err(
                        format!("chunk {number} of snapshot {id} has other bytes than were written").into()
                    );
                }
                count += 1;
            }
            if count != snapshot_chunks(id) {
                return Err(format!("snapshot {id} has {count} chunks").into());
            }
        }
        write!(line, " entries=")?;
        for entry in self.log.try_get_log_entries(..).await? {
            let EntryPayload::Normal(data) = &entry.payload else {
                return Err(format!("entry {} was not written", entry.log_id).into());
            };
            let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
            if *data.0 != payload(term, index, data.0.len()) {
                return Err(format!("entry {} has other bytes than were written", entry.log_id).into());
            }
            write!(line, "{index}.{term}.{},", data.0.len())?;
        }
        Ok(line)
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: NODE_ID }, index }
}

pub(crate) fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: NODE_ID }, committed: true }
}

pub(crate) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload = EntryPayload::Normal(Payload(payload(term, index, bytes).into()));
    Entry { log_id: log_id(term, index), payload }
}

/// Letters that can be told from those of any other entry. Letters, because strace writes them as they are.
pub(crate) fn payload(term: u64, index: u64, bytes: usize) -> Vec<u8> {
    // Not a divisor of a sector's size, so no two sectors of an entry are equal.
    const PERIOD: usize = 401;
    let mut seed = term.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index;
    let letter = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + ((seed >> 33) % 26) as u8
    };
    let mut payload: Vec<u8> = std::iter::repeat_with(letter).take(bytes.min(PERIOD)).collect();
    while payload.len() < bytes {
        payload.extend_from_within(..PERIOD.min(bytes - payload.len()));
    }
    payload
}

pub(crate) fn meta(id: LogId) -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(id), last_membership: StoredMembership::default() }
}

pub(crate) fn snapshot_chunks(id: LogId) -> u64 {
    1 + id.index % 5
}

pub(crate) fn snapshot_chunk(id: LogId, number: u64) -> Vec<u8> {
    let bytes = 1 + (id.index * 7919 + number * 104_729) % 90_000;
    payload(id.leader_id.term ^ 0x5a5a, id.index * 16 + number, bytes as usize)
}

/// Appends, and waits for the callback.
pub(crate) async fn append(log: &mut LogStore, entries: Vec<Entry>) -> Result<()> {
    let (durable, wait) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(durable)).await?;
    Ok(wait.await??)
}

/// `TERM.INDEX`, or `-`.
pub(crate) fn format_log_id(id: Option<LogId>) -> String {
    id.map_or("-".into(), |id| format!("{}.{}", id.leader_id.term, id.index))
}
