//! The log as every reader sees it: the newest entries in memory, older ones by the record they are in.

use std::collections::VecDeque;
use std::ops::Range;

use super::wal_record::{OP_HEADER_BYTES, RecordOp};
use crate::type_config::types::{Entry, EntryPayload, LogId, Membership, Vote};

/// What an entry is charged for beside its payload: the struct itself, and its part of the record.
const ENTRY_OVERHEAD_BYTES: usize = 64 + OP_HEADER_BYTES;

/// The entries `first..=last` are in the record `seq`, in its last operations on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) seq: u64,
}

/// A change of the spans by a record, in the order of its operations.
#[derive(Clone, Copy, Debug)]
pub(super) enum SpanChange {
    Append {
        first: u64,
        last: u64,
    },
    /// Keep indexes below this one.
    TruncateFrom(u64),
}

/// An operation that would leave a hole in the log, or overwrite a part of it.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} does not follow the log's last, {last:?}")]
pub(super) struct NotNext {
    index: u64,
    last: Option<u64>,
}

/// Two views of one log. What readers see changes with the call of append, truncate and purge. What the disk has trails
/// behind, and is moved on by the WAL thread.
///
/// Invariants: `sizes` has one element per entry of the log, the log is without holes, `cached` is its tail. An entry
/// leaves `cached` only if it is durable, that is below `durable_end`, and then a span of `spans` has it.
#[derive(Debug, Default)]
pub(super) struct LogMemory {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    purged: Option<LogId>,
    /// The last entry; `None` if the log is empty.
    last: Option<LogId>,
    /// Index of the first entry, if there is one.
    first: u64,
    /// Charged bytes of each entry.
    sizes: VecDeque<u32>,
    log_bytes: u64,
    cached: VecDeque<Entry>,
    cached_bytes: usize,
    cached_bytes_max: usize,
    /// Entries below this index are on disk as they are here.
    durable_end: u64,
    /// Counts truncations: an append from before one does not tell what is durable after it.
    truncations: u64,
    /// Ascending, without overlap.
    spans: VecDeque<Span>,
    /// The memberships in the log, ascending. There are few.
    memberships: Vec<(LogId, Membership)>,
}

impl LogMemory {
    pub(super) fn new(cached_bytes_max: usize) -> LogMemory {
        LogMemory { cached_bytes_max, ..LogMemory::default() }
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry, or what was purged last if there is none.
    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.last.or(self.purged)
    }

    /// Charged bytes of the entries that are not purged.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    pub(super) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Of an entry that is in memory.
    pub(super) fn cached_log_id(&self, index: u64) -> Option<LogId> {
        let at = index.checked_sub(self.cached_first())?;
        self.cached.get(usize::try_from(at).ok()?).map(|entry| entry.log_id)
    }

    /// The last one in the log.
    pub(super) fn membership(&self) -> Option<&(LogId, Membership)> {
        self.memberships.last()
    }

    pub(super) fn truncations(&self) -> u64 {
        self.truncations
    }

    /// Indexes of the log's entries.
    pub(super) fn indexes(&self) -> Range<u64> {
        self.first..self.first + self.sizes.len() as u64
    }

    fn cached_first(&self) -> u64 {
        self.indexes().end - self.cached.len() as u64
    }

    /// The index that must come next; any if the log never had an entry.
    fn next_index(&self) -> Option<u64> {
        self.last_log_id().map(|id| id.index + 1)
    }

    /// Adds entries; readers see them at once. Nothing is changed if one does not follow.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), NotNext> {
        let mut next = self.next_index();
        for entry in entries {
            let index = entry.log_id.index;
            if next.is_some_and(|next| next != index) {
                return Err(NotNext { index, last: self.last_log_id().map(|id| id.index) });
            }
            next = Some(index + 1);
        }
        for entry in entries {
            self.push(entry.clone());
        }
        self.evict();
        Ok(())
    }

    fn push(&mut self, entry: Entry) {
        if self.sizes.is_empty() {
            self.first = entry.log_id.index;
        }
        let size = charged_bytes(&entry);
        self.sizes.push_back(u32::try_from(size).expect("entries are bounded far below 4 GiB"));
        self.log_bytes += size as u64;
        self.cached_bytes += size;
        self.last = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.memberships.push((entry.log_id, membership.clone()));
        }
        self.cached.push_back(entry);
    }

    /// Drops what comes after `keep`; everything if that is `None`. Returns whether there was something.
    pub(super) fn truncate_after(&mut self, keep: Option<LogId>) -> bool {
        let end = keep.map_or(0, |id| id.index + 1);
        let indexes = self.indexes();
        if self.sizes.is_empty() || end >= indexes.end {
            return false;
        }
        self.truncations += 1;
        self.durable_end = self.durable_end.min(end);
        while self.memberships.last().is_some_and(|(id, _)| id.index >= end) {
            self.memberships.pop();
        }
        while self.sizes.len() as u64 > end.saturating_sub(indexes.start) {
            let size = self.sizes.pop_back().expect("longer than something");
            self.log_bytes -= u64::from(size);
            if self.cached.pop_back().is_some() {
                self.cached_bytes -= size as usize;
            }
        }
        self.last = match self.sizes.is_empty() {
            true => None,
            // If nothing of what is left is in memory, the caller's word is what we know of the last entry.
            false => self.cached.back().map(|entry| entry.log_id).or(keep),
        };
        true
    }

    /// Drops what is up to `upto`, inclusive. The log may end before it. Returns whether that is news.
    pub(super) fn purge(&mut self, upto: LogId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        self.purged = Some(upto);
        self.memberships.retain(|(id, _)| id.index > upto.index);
        while !self.sizes.is_empty() && self.first <= upto.index {
            if self.cached.len() == self.sizes.len() {
                self.cached.pop_front();
                self.cached_bytes -= self.sizes[0] as usize;
            }
            self.log_bytes -= u64::from(self.sizes.pop_front().expect("not empty"));
            self.first += 1;
        }
        if self.sizes.is_empty() {
            self.last = None;
        }
        true
    }

    /// The WAL thread wrote the record `seq`: its changes and all before them are durable. `appended` is, of the last
    /// entry among them, its index and the count of truncations when it was added to this memory.
    pub(super) fn on_durable(
        &mut self,
        seq: u64,
        changes: &[SpanChange],
        appended: Option<(u64, u64)>,
        purged: Option<LogId>,
    ) {
        for change in changes {
            match *change {
                SpanChange::Append { first, last } => match self.spans.back_mut() {
                    Some(span) if span.seq == seq && span.last + 1 == first => span.last = last,
                    _ => self.spans.push_back(Span { first, last, seq }),
                },
                SpanChange::TruncateFrom(end) => {
                    while self.spans.back().is_some_and(|span| span.first >= end) {
                        self.spans.pop_back();
                    }
                    if let Some(span) = self.spans.back_mut() {
                        span.last = span.last.min(end - 1);
                    }
                }
            }
        }
        while self.spans.front().is_some_and(|span| purged.is_some_and(|id| span.last <= id.index)) {
            self.spans.pop_front();
        }
        if let Some((last, truncations)) = appended
            && truncations == self.truncations
        {
            self.durable_end = self.durable_end.max(last + 1);
        }
        self.evict();
    }

    /// The lowest record that is needed for entries after `purged`, of those on disk.
    pub(super) fn lowest_needed_seq(&self, purged: Option<LogId>) -> Option<u64> {
        let at = purged.map_or(0, |purged| self.spans.partition_point(|span| span.last <= purged.index));
        self.spans.get(at).map(|span| span.seq)
    }

    /// The record that has entry `index`, if the disk has it.
    pub(super) fn span_of(&self, index: u64) -> Option<Span> {
        let at = self.spans.partition_point(|span| span.last < index);
        self.spans.get(at).copied().filter(|span| span.first <= index)
    }

    fn evict(&mut self) {
        while self.cached_bytes > self.cached_bytes_max && self.cached_first() < self.durable_end {
            let at = self.sizes.len() - self.cached.len();
            if self.cached.pop_front().is_none() {
                return;
            }
            self.cached_bytes -= self.sizes[at] as usize;
        }
    }

    /// The part of `range` that the log has, limited to about `max_bytes` but never to nothing. Entries that are in
    /// memory are cloned; `cold` says which come before them and are only on disk.
    pub(super) fn read(&self, range: Range<u64>, max_bytes: usize) -> LogRead {
        let log = self.indexes();
        let range = range.start.max(log.start)..range.end.min(log.end);
        if range.is_empty() {
            return LogRead { cold: 0..0, hot: Vec::new() };
        }
        let mut end = range.start;
        let mut bytes = 0;
        while end < range.end {
            bytes += self.sizes[(end - log.start) as usize] as usize;
            if end > range.start && bytes > max_bytes {
                break;
            }
            end += 1;
        }
        let hot_from = self.cached_first().clamp(range.start, end);
        let hot = match hot_from < end {
            true => {
                let at = (hot_from - self.cached_first()) as usize;
                self.cached.range(at..at + (end - hot_from) as usize).cloned().collect()
            }
            false => Vec::new(),
        };
        LogRead { cold: range.start..hot_from, hot }
    }

    /// Takes a record of the past, in order. For recovery; the log was purged before the first one.
    ///
    /// The records before the first one are gone, so it may begin with entries whose predecessors are not there: they
    /// were replaced later, and a truncation that is still to come removes them.
    pub(super) fn replay(&mut self, seq: u64, ops: Vec<RecordOp>) -> Result<(), NotNext> {
        for op in ops {
            let change = match op {
                RecordOp::Append(entry) => {
                    let index = entry.log_id.index;
                    if self.purged.is_some_and(|purged| index <= purged.index) {
                        continue;
                    }
                    match self.sizes.is_empty() {
                        true => self.push(entry),
                        false => self.append(&[entry])?,
                    }
                    SpanChange::Append { first: index, last: index }
                }
                RecordOp::TruncateAfter(keep) => {
                    self.truncate_after(keep);
                    SpanChange::TruncateFrom(keep.map_or(0, |id| id.index + 1))
                }
            };
            let appended = self.last.map(|id| (id.index, self.truncations));
            self.on_durable(seq, &[change], appended, self.purged);
        }
        Ok(())
    }
}

/// What [`LogMemory::read`] found.
#[derive(Debug)]
pub(super) struct LogRead {
    /// Indexes to be read from disk.
    pub(super) cold: Range<u64>,
    /// The entries that follow them.
    pub(super) hot: Vec<Entry>,
}

pub(super) fn charged_bytes(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Membership(membership) => {
            membership.nodes().map(|(_, n)| 32 + n.peer_address.len() + n.client_address.len()).sum()
        }
    };
    ENTRY_OVERHEAD_BYTES + payload
}
