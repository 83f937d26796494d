//! The queue from openraft's core to the WAL thread: one FIFO, so that all writes take effect in the order of their
//! calls.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use openraft::storage::IOFlushed;
use tokio::sync::{Notify, oneshot};

use super::log_memory::charged_bytes;
use crate::type_config::TypeConfig;
use crate::type_config::types::{Entry, LogId, Vote};

/// What may wait for the disk. More than a healthy disk lets gather; a core that is made to wait here is one whose disk
/// has stalled.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// One call of the log storage.
pub(super) enum Op {
    Append(Append),
    Vote {
        vote: Vote,
        durable: oneshot::Sender<()>,
    },
    TruncateAfter(Option<LogId>),
    Purge(LogId),
    /// Goes with the next record, but is no reason to write one. In the queue, so that it never precedes its entry.
    Committed(Option<LogId>),
    /// Completes when all before it is durable.
    Barrier(oneshot::Sender<()>),
}

pub(super) struct Append {
    pub(super) entries: VecDeque<Entry>,
    /// The memory's count of truncations when they were added to it.
    pub(super) truncations: u64,
    pub(super) callback: IOFlushed<TypeConfig>,
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Op::Append(append) => append.entries.iter().map(charged_bytes).sum(),
            Op::Vote { .. } | Op::TruncateAfter(_) | Op::Purge(_) | Op::Committed(_) | Op::Barrier(_) => 0,
        }
    }

    fn is_lazy(&self) -> bool {
        matches!(self, Op::Committed(_))
    }
}

/// The log was closed.
#[derive(Debug, thiserror::Error)]
#[error("the log is closed")]
pub(super) struct Closed;

#[derive(Default)]
struct State {
    ops: VecDeque<Op>,
    /// Some operation of `ops` is a reason to write a record.
    urgent: bool,
    /// Of the operations that were put in and are not durable yet.
    bytes: usize,
    closed: bool,
    /// The WAL thread waits: only then it needs a wake-up.
    waiting: bool,
}

#[derive(Default)]
pub(super) struct WalQueue {
    /// Held for the time of a push or a swap, never over I/O or an await.
    state: Mutex<State>,
    filled: Condvar,
    drained: Notify,
}

impl WalQueue {
    /// Waits while too much is queued, and it is not closed. Cancellation safe.
    pub(super) async fn wait_for_room(&self) {
        loop {
            // Made before the check: a wake-up between the check and the await is not lost.
            let drained = self.drained.notified();
            let goes_on = {
                let state = self.lock();
                state.bytes < QUEUED_BYTES_MAX || state.closed
            };
            if goes_on {
                return;
            }
            drained.await;
        }
    }

    /// Adds an operation at the end.
    pub(super) fn push(&self, op: Op) -> Result<(), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        if op.is_lazy() {
            // Only the newest counts; without this an idle disk would let them gather.
            match state.ops.back_mut() {
                Some(last) if last.is_lazy() => *last = op,
                _ => state.ops.push_back(op),
            }
            return Ok(());
        }
        state.urgent = true;
        state.bytes += op.bytes();
        state.ops.push_back(op);
        if std::mem::take(&mut state.waiting) {
            drop(state);
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Moves all that is queued behind `backlog`, if there is a reason to write. Blocks until there is one if `block`.
    /// Returns false when the queue is closed and all of it was taken.
    pub(super) fn take_all(&self, backlog: &mut VecDeque<Op>, block: bool) -> bool {
        let mut state = self.lock();
        while backlog.is_empty() && !state.urgent && !state.closed {
            if !block {
                return true;
            }
            state.waiting = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.urgent = false;
        match backlog.is_empty() {
            true => std::mem::swap(backlog, &mut state.ops),
            false => backlog.append(&mut state.ops),
        }
        !(state.closed && backlog.is_empty())
    }

    /// `bytes` of what was put in are durable.
    pub(super) fn release(&self, bytes: usize) {
        let mut state = self.lock();
        let was_full = state.bytes >= QUEUED_BYTES_MAX;
        state.bytes -= bytes;
        if was_full && state.bytes < QUEUED_BYTES_MAX {
            drop(state);
            self.drained.notify_waiters();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Nothing can be added from here on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting = false;
        drop(state);
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// Drops what is queued, which tells those who wait for it that it will never be durable. For a queue that is closed.
    pub(super) fn abandon(&self) {
        let ops = std::mem::take(&mut self.lock().ops);
        drop(ops);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: every change of it is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
