//! The thread that writes the log: all that queued up while the last group was on its way to the disk is the next
//! group. One record, one fdatasync, then the callbacks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::durable_file::is_full_disk;
use super::log_memory::{SpanChange, charged_bytes};
use super::log_store::Shared;
use super::wal::{CommitTimes, WalError};
use super::wal_queue::{Append, Op};
use super::wal_record::{RecordState, RecordWriter};
use crate::convert::{log_id_to_wire, vote_to_wire};
use crate::type_config::TypeConfig;
use crate::type_config::types::LogId;

/// A group is closed at this size...
const GROUP_BYTES_MAX: usize = 2 << 20;
/// ...or this many operations.
const GROUP_OPS_MAX: usize = 4096;
/// Pieces of old records that are removed after a group: more than a group adds, little beside its fdatasync.
const REMOVE_AFTER_GROUP: usize = 16;
/// The same when there is nothing else to do.
const REMOVE_WHEN_IDLE: usize = 64;
/// How soon a full disk is tried again...
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// ...and at every how many of these attempts the node says so.
const WARN_EVERY: u64 = 100;

/// Who waits for a group.
enum Waiter {
    Append(IOFlushed<TypeConfig>),
    Signal(oneshot::Sender<()>),
}

impl Waiter {
    fn complete(self) {
        match self {
            Waiter::Append(callback) => callback.io_completed(Ok(())),
            // Whoever does not wait any more does not need to know.
            Waiter::Signal(done) => drop(done.send(())),
        }
    }
}

pub(super) struct WalThread {
    shared: Arc<Shared>,
    /// Taken from the queue, not yet in a group.
    backlog: VecDeque<Op>,
    writer: RecordWriter,
    /// Of the last record; the next one goes on from here.
    seq: u64,
    state: RecordState,
    purged: Option<LogId>,
    /// Old records are left that may be removed.
    removable: bool,
    group: Group,
}

/// What the group under construction does, apart from its bytes. Kept to be used again.
#[derive(Default)]
struct Group {
    ops: usize,
    entries: usize,
    charged_bytes: usize,
    changes: Vec<SpanChange>,
    /// The last entry's index, and the count of truncations it came with.
    appended: Option<(u64, u64)>,
    purge: bool,
    waiters: Vec<Waiter>,
}

impl WalThread {
    /// `seq` and `state` are those of the last record of the recovered log.
    pub(super) fn new(shared: Arc<Shared>, seq: u64, state: RecordState, purged: Option<LogId>) -> WalThread {
        WalThread {
            shared,
            backlog: VecDeque::new(),
            writer: RecordWriter::default(),
            seq,
            state,
            purged,
            removable: true,
            group: Group::default(),
        }
    }

    /// Runs until the queue is closed and all of it is durable, or there is no room for it.
    pub(super) fn run(mut self) {
        while self.shared.queue.take_all(&mut self.backlog, !self.removable) {
            if self.backlog.is_empty() {
                self.remove_old(REMOVE_WHEN_IDLE);
            } else if self.commit_group() {
                self.remove_old(REMOVE_AFTER_GROUP);
            } else {
                self.shared.queue.abandon();
                tracing::warn!(
                    "the log is closed without what waited for room on the disk; nobody was told of it"
                );
                return;
            }
        }
        or_abort(self.shared.wal.close());
    }

    /// Writes a record of the front of the backlog, which may be empty. False if it was not written before the queue was closed.
    pub(super) fn commit_group(&mut self) -> bool {
        let start = Instant::now();
        self.writer.begin();
        while self.group.ops < GROUP_OPS_MAX && self.writer.bytes() < GROUP_BYTES_MAX {
            match self.backlog.pop_front() {
                Some(op) => self.add(op),
                None => break,
            }
        }
        self.set_state();
        let seq = self.seq + 1;
        let record = self.writer.finish(seq, &self.state);
        let encode = start.elapsed();
        let Some(times) = commit(&self.shared, seq, record) else { return false };
        self.seq = seq;

        let group = &mut self.group;
        self.shared.queue.release(group.charged_bytes);
        self.shared.counters.on_group(group.ops, group.entries, record.len(), encode, times);
        // Newest first: openraft takes a completion as "this and all before it", so the first call moves its watermark
        // to the end and the others find nothing to do. In the other order each would wake the core.
        while let Some(waiter) = group.waiters.pop() {
            waiter.complete();
        }
        or_abort(self.shared.wal.settle(seq, record));
        // From here on the entries can be read from the engine, so they may leave the memory.
        self.shared.lock().on_durable(seq, &group.changes, group.appended, self.purged);
        (group.ops, group.entries, group.charged_bytes) = (0, 0, 0);
        group.changes.clear();
        group.appended = None;
        group.purge = false;
        true
    }

    fn add(&mut self, op: Op) {
        self.group.ops += 1;
        match op {
            Op::Append(append) => self.add_entries(append),
            Op::Vote { vote, durable } => {
                self.state.vote = Some(vote_to_wire(&vote));
                self.group.waiters.push(Waiter::Signal(durable));
            }
            Op::TruncateAfter(after) => {
                self.writer.truncate_after(after.as_ref());
                self.group.changes.push(SpanChange::TruncateFrom(after.map_or(0, |id| id.index + 1)));
            }
            Op::Purge(upto) => {
                self.purged = Some(upto);
                self.group.purge = true;
            }
            Op::Committed(committed) => self.state.committed = committed.as_ref().map(log_id_to_wire),
            Op::Barrier(done) => self.group.waiters.push(Waiter::Signal(done)),
        }
    }

    /// Adds the entries until the group is full. The others go back to the front of the backlog with the callback: the
    /// log may end between any two entries.
    fn add_entries(&mut self, mut append: Append) {
        let first = append.entries.front().map(|entry| entry.log_id.index);
        while self.writer.bytes() < GROUP_BYTES_MAX
            && let Some(entry) = append.entries.pop_front()
        {
            self.writer.append(&entry);
            self.group.entries += 1;
            self.group.charged_bytes += charged_bytes(&entry);
            self.group.appended = Some((entry.log_id.index, append.truncations));
        }
        if let (Some(first), Some((last, _))) = (first, self.group.appended) {
            self.group.changes.push(SpanChange::Append { first, last });
        }
        match append.entries.is_empty() {
            true => self.group.waiters.push(Waiter::Append(append.callback)),
            false => self.backlog.push_front(Op::Append(append)),
        }
    }

    fn set_state(&mut self) {
        self.state.durable_seq = self.seq;
        self.state.purged = self.purged.as_ref().map(log_id_to_wire);
        self.state.cluster_id.clone_from(&self.shared.cluster_id());
        if self.group.purge {
            let log = self.shared.lock();
            // Spans of this group are not in the log's yet; their record is this one, which is never removed.
            let needed = log.lowest_needed_seq(self.purged).unwrap_or(self.seq + 1);
            self.state.removed_through = self.state.removed_through.max(needed - 1);
            self.removable = true;
        }
    }

    /// Removes some of the records that the last durable record says are not needed.
    fn remove_old(&mut self, max: usize) {
        if self.removable {
            self.removable = or_abort(self.shared.wal.remove_prefix(self.state.removed_through, max));
        }
    }
}

/// Makes a record durable; waits for room on a full disk, as long as the log is not closed, and returns `None` then. Nobody is told
/// meanwhile that anything is durable.
fn commit(shared: &Shared, seq: u64, record: &[u8]) -> Option<CommitTimes> {
    let mut attempts = 0_u64;
    loop {
        match shared.wal.commit(seq, record) {
            Err(error) if is_full_disk(&error.source) => {
                if attempts.is_multiple_of(WARN_EVERY) {
                    tracing::error!(%error, "this node waits for room on its disk");
                }
                attempts += 1;
                shared.room.wait_begins();
                if shared.queue.is_closed() {
                    return None;
                }
                std::thread::sleep(ROOM_INTERVAL);
            }
            result => {
                if attempts > 0 {
                    shared.room.wait_ends();
                }
                return Some(or_abort(result));
            }
        }
    }
}

/// An error of the log leaves no state to go on from: a second fsync may succeed although the first one lost data. The
/// process ends; the next one starts from what is on disk.
fn or_abort<T>(result: Result<T, WalError>) -> T {
    result.unwrap_or_else(|error| {
        tracing::error!(%error, "stopping: the log cannot be written");
        std::process::abort()
    })
}
