//! openraft's storage traits for [`LogStore`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use coordd_tree::planted::Bug;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::log_memory::{LogRead, charged_bytes};
use super::log_store::{LogStore, Shared, closed};
use super::wal_queue::{Append, Op};
use super::wal_record::{RecordOp, decode_record};
use crate::type_config::TypeConfig;
use crate::type_config::types::{Entry, LogId, Vote};

/// An entry of this size would not fit into one message to a follower either; whoever proposes has a lower limit.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;
/// What one message to a follower carries.
const LIMITED_READ_BYTES: usize = 1 << 20;

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.shared.lock();
        Ok(LogState { last_purged_log_id: memory.purged(), last_log_id: memory.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (durable, wait) = oneshot::channel();
        {
            let mut memory = self.shared.lock();
            self.push(Op::Vote { vote: *vote, durable })?;
            memory.vote = Some(*vote);
        }
        wait.await.map_err(|_| closed())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut memory = self.shared.lock();
        self.push(Op::Committed(committed))?;
        memory.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if let Some(entry) = entries.iter().find(|entry| charged_bytes(entry) > ENTRY_BYTES_MAX) {
            let message = format!("entry {} is larger than {ENTRY_BYTES_MAX} bytes", entry.log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.shared.queue.wait_for_room().await;
        let mut memory = self.shared.lock();
        memory.append(&entries).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let truncations = memory.truncations();
        let callback = match Bug::AcknowledgedBeforeTheDisk.is_planted() {
            true => {
                callback.io_completed(Ok(()));
                IOFlushed::noop()
            }
            false => callback,
        };
        self.push(Op::Append(Append { entries: entries.into(), truncations, callback }))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let mut memory = self.shared.lock();
        match memory.truncate_after(last_log_id) {
            true => self.push(Op::TruncateAfter(last_log_id)),
            false => Ok(()),
        }
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut memory = self.shared.lock();
        match memory.purge(log_id) {
            true => self.push(Op::Purge(log_id)),
            false => Ok(()),
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start..end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, LIMITED_READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.lock().vote)
    }
}

impl LogStore {
    async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        loop {
            let LogRead { cold, hot } = self.shared.lock().read(range.clone(), max_bytes);
            if cold.is_empty() {
                return Ok(hot);
            }
            let shared = Arc::clone(&self.shared);
            let read = tokio::task::spawn_blocking(move || read_cold(&shared, cold));
            // `None`: purged or truncated meanwhile, which the next look at the memory tells.
            if let Some(mut entries) = read.await.map_err(io::Error::other)?? {
                entries.extend(hot);
                return Ok(entries);
            }
        }
    }
}

/// Reads `indexes` from the records that have them. `None` if the log changed there during the read.
fn read_cold(shared: &Shared, indexes: Range<u64>) -> io::Result<Option<Vec<Entry>>> {
    let truncations = shared.lock().truncations();
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = indexes.start;
    while next < indexes.end {
        let span = shared.lock().span_of(next);
        let Some(span) = span else {
            return unless_changed(shared, &indexes, truncations, "no record has it");
        };
        let bytes = shared.wal.read(span.seq).map_err(io::Error::other)?;
        let Some(bytes) = bytes else {
            return unless_changed(shared, &indexes, truncations, "its record is gone");
        };
        let record = decode_record(span.seq, bytes).map_err(io::Error::other)?;
        let wanted = next..indexes.end.min(span.last + 1);
        let from = entries.len();
        for op in record.ops {
            match op {
                RecordOp::Append(entry) if wanted.contains(&entry.log_id.index) => {
                    // A record can hold an entry, its truncation, and the entry that took its place: the last one counts.
                    entries.truncate(from + (entry.log_id.index - wanted.start) as usize);
                    entries.push(entry);
                }
                RecordOp::Append(_) | RecordOp::TruncateAfter(_) => {}
            }
        }
        if (entries.len() - from) as u64 != wanted.end - wanted.start {
            return unless_changed(shared, &indexes, truncations, "its record does not have it");
        }
        next = wanted.end;
    }
    let memory = shared.lock();
    let unchanged = memory.truncations() == truncations && memory.indexes().start <= indexes.start;
    Ok(unchanged.then_some(entries))
}

/// What was not found is a defect, unless the log changed while it was looked for.
fn unless_changed<T>(
    shared: &Shared,
    indexes: &Range<u64>,
    truncations: u64,
    cause: &str,
) -> io::Result<Option<T>> {
    let memory = shared.lock();
    if memory.truncations() != truncations || memory.indexes().start > indexes.start {
        return Ok(None);
    }
    Err(io::Error::other(format!("entries {indexes:?} of the log cannot be read back: {cause}")))
}
