//! The commands of this node on their way into the log.
//!
//! Commands are numbered at submission and stay here, in order, until this node has applied them. They are sent in
//! batches to whoever leads; after any failure everything that is not applied is sent again from the oldest on. That is
//! safe because the tree takes each number once and in order (see [`coordd_tree::Batch`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coordd_tree::{Batch, Command, Origin};
use tokio::sync::Notify;

/// A batch is closed when it has so many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// ... or so many commands.
const BATCH_COMMANDS: usize = 2048;
/// So many batches may be under way. While they are, commands gather for the next one: that is all the batching there
/// is, and it needs no timer.
const BATCHES_IN_FLIGHT: usize = 3;
/// The submission of commands is refused when so many bytes wait.
const PENDING_BYTES: usize = 64 << 20;

/// Too much waits to be proposed; nothing was submitted.
#[derive(Debug, thiserror::Error)]
#[error("over {} MiB of writes wait to be replicated", PENDING_BYTES >> 20)]
pub struct Overloaded;

/// See the module.
pub(crate) struct Proposer<W> {
    origin: Origin,
    state: Mutex<State<W>>,
    /// There may be something to send.
    pub(crate) wake: Notify,
    /// A life of this node was met that its directory does not know of.
    has_other_life: AtomicBool,
}

struct State<W> {
    /// The number of the next command.
    next_seq: u64,
    /// Not applied here yet, ascending and without gaps up to `next_seq`.
    pending: VecDeque<Pending<W>>,
    pending_bytes: usize,
    /// How many of `pending`, from the front, are under way.
    sent: usize,
    /// The last number of each batch under way.
    in_flight: VecDeque<u64>,
    /// When something last moved: a batch left, or a command was applied.
    progress: Instant,
}

struct Pending<W> {
    seq: u64,
    command: Bytes,
    waiter: W,
}

impl<W> Proposer<W> {
    pub(crate) fn new(origin: Origin) -> Self {
        let state = State {
            next_seq: 1,
            pending: VecDeque::new(),
            pending_bytes: 0,
            sent: 0,
            in_flight: VecDeque::new(),
            progress: Instant::now(),
        };
        Proposer {
            origin,
            state: Mutex::new(state),
            wake: Notify::new(),
            has_other_life: AtomicBool::new(false),
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        // A panic aborts the process, so the lock is never poisoned.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts commands into the stream, in order.
    pub(crate) fn submit<'a>(
        &self,
        commands: impl IntoIterator<Item = (Command<'a>, W)>,
    ) -> Result<(), Overloaded> {
        let mut state = self.lock();
        if state.pending_bytes > PENDING_BYTES {
            return Err(Overloaded);
        }
        for (command, waiter) in commands {
            let command = command.encode();
            let seq = state.next_seq;
            state.next_seq += 1;
            state.pending_bytes += command.len();
            state.pending.push_back(Pending { seq, command, waiter });
        }
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// The next batch to send, encoded; `None` if nothing waits or enough is under way.
    pub(crate) fn next_batch(&self) -> Option<Bytes> {
        let mut state = self.lock();
        if state.in_flight.len() >= BATCHES_IN_FLIGHT || state.sent == state.pending.len() {
            return None;
        }
        let first_seq = state.pending[state.sent].seq;
        let mut bytes = 0;
        let mut commands = Vec::new();
        for pending in state.pending.range(state.sent..).take(BATCH_COMMANDS) {
            if bytes > 0 && bytes + pending.command.len() > BATCH_BYTES {
                break;
            }
            bytes += pending.command.len();
            commands.push(pending.command.clone());
        }
        state.sent += commands.len();
        state.in_flight.push_back(first_seq + commands.len() as u64 - 1);
        state.progress = Instant::now();
        drop(state);
        Some(Batch::encode_from_parts(self.origin, first_seq, &commands))
    }

    /// Everything not applied must be sent again: the way it went is gone.
    pub(crate) fn rewind(&self) {
        let mut state = self.lock();
        state.sent = 0;
        state.in_flight.clear();
        state.progress = Instant::now();
    }

    /// Batches are under way, and nothing has moved for so long.
    pub(crate) fn is_stuck(&self, patience: Duration) -> bool {
        let state = self.lock();
        !state.in_flight.is_empty() && state.progress.elapsed() > patience
    }

    /// This node has applied its command `seq` of `origin`: who waited for it.
    pub(crate) fn applied(&self, origin: Origin, seq: u64) -> Option<W> {
        if origin != self.origin {
            self.look_for_another_life(origin, seq);
            return None;
        }
        let mut state = self.lock();
        if state.pending.front().map(|p| p.seq) != Some(seq) {
            drop(state);
            self.look_for_another_life(origin, seq);
            return None;
        }
        let waiter = state.pop();
        state.progress = Instant::now();
        let freed = state.land(seq);
        drop(state);
        if freed {
            self.wake.notify_one();
        }
        waiter
    }

    /// A snapshot covers this node's commands up to `seq`: who waited for them.
    pub(crate) fn skipped(&self, origin: Origin, seq: u64) -> Vec<W> {
        self.look_for_another_life(origin, seq);
        if origin != self.origin {
            return Vec::new();
        }
        let mut state = self.lock();
        let mut waiters = Vec::new();
        while state.pending.front().is_some_and(|pending| pending.seq <= seq) {
            waiters.extend(state.pop());
        }
        state.land(seq);
        drop(state);
        self.wake.notify_one();
        waiters
    }

    /// Every process of a node counts as one life, and its directory knows how many there were. Commands of this life that this
    /// process has not submitted, or of a later one, are of a life that the directory has forgotten.
    fn look_for_another_life(&self, origin: Origin, seq: u64) {
        let is_same = origin == self.origin;
        if origin.node != self.origin.node || origin.incarnation < self.origin.incarnation {
            return;
        }
        if (!is_same || seq >= self.lock().next_seq) && !self.has_other_life.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "node {}'s directory is an old copy, or another process has its id: by the directory it was started {} times, \
                 and the log has command {seq} of start {}, which this process has not made. Stop it, and replace it",
                origin.node,
                self.origin.incarnation,
                origin.incarnation
            );
        }
    }

    /// Commands and bytes that wait to be applied.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let state = self.lock();
        (state.pending.len(), state.pending_bytes)
    }
}

impl<W> State<W> {
    fn pop(&mut self) -> Option<W> {
        let pending = self.pending.pop_front()?;
        self.pending_bytes -= pending.command.len();
        self.sent = self.sent.saturating_sub(1);
        Some(pending.waiter)
    }

    /// Takes the batches that end at or before `seq` off the list; says whether there were any.
    fn land(&mut self, seq: u64) -> bool {
        let before = self.in_flight.len();
        while self.in_flight.front().is_some_and(|last| *last <= seq) {
            self.in_flight.pop_front();
        }
        self.in_flight.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_life_is_noticed() {
        let met = |incarnation, seq| {
            let proposer = Proposer::<()>::new(Origin { node: 2, incarnation: 5 });
            let end = Command::EndSession { session: 1, reason: coordd_tree::EndReason::Closed };
            proposer.submit([(end, ())]).unwrap();
            let waiter = proposer.applied(Origin { node: 2, incarnation }, seq);
            assert_eq!(waiter.is_some(), (incarnation, seq) == (5, 1));
            proposer.has_other_life.load(Ordering::Relaxed)
        };
        assert!(!met(5, 1) && !met(4, 900));
        assert!(met(5, 2) && met(6, 1));
    }

    const ORIGIN: Origin = Origin { node: 1, incarnation: 7 };

    fn command(n: u64) -> Command<'static> {
        Command::ExpireZnodes(vec![("/".into(), n)])
    }

    fn submit(proposer: &Proposer<u64>, numbers: std::ops::RangeInclusive<u64>) {
        proposer.submit(numbers.map(|n| (command(n), n))).unwrap();
    }

    fn seqs(batch: &Bytes) -> (u64, usize) {
        let batch = Batch::decode(batch).unwrap();
        assert_eq!(batch.origin, ORIGIN);
        (batch.first_seq, batch.commands.len())
    }

    #[test]
    fn what_gathers_while_batches_are_under_way_is_the_next_batch() {
        let proposer = Proposer::new(ORIGIN);
        for n in 1..=3 {
            submit(&proposer, n..=n);
            assert_eq!(seqs(&proposer.next_batch().unwrap()), (n, 1));
        }
        submit(&proposer, 4..=9);
        assert!(proposer.next_batch().is_none(), "enough is under way");
        assert_eq!(proposer.applied(ORIGIN, 1), Some(1));
        assert_eq!(seqs(&proposer.next_batch().unwrap()), (4, 6));
        assert!(proposer.next_batch().is_none());
    }

    #[test]
    fn after_a_rewind_everything_not_applied_is_sent_again_in_order() {
        let proposer = Proposer::new(ORIGIN);
        submit(&proposer, 1..=5);
        proposer.next_batch().unwrap();
        assert_eq!(proposer.applied(ORIGIN, 1), Some(1));
        assert_eq!(proposer.applied(ORIGIN, 2), Some(2));
        proposer.rewind();
        assert_eq!(seqs(&proposer.next_batch().unwrap()), (3, 3));
    }

    #[test]
    fn commands_of_another_life_wake_nobody() {
        let proposer = Proposer::new(ORIGIN);
        submit(&proposer, 1..=1);
        assert_eq!(proposer.applied(Origin { node: 1, incarnation: 6 }, 1), None);
        assert_eq!(proposer.applied(Origin { node: 2, incarnation: 7 }, 1), None);
        assert_eq!(proposer.applied(ORIGIN, 1), Some(1));
    }

    #[test]
    fn waiters_that_a_snapshot_skips_are_handed_back() {
        let proposer = Proposer::new(ORIGIN);
        submit(&proposer, 1..=5);
        proposer.next_batch().unwrap();
        assert_eq!(proposer.skipped(ORIGIN, 3), vec![1, 2, 3]);
        assert_eq!(proposer.applied(ORIGIN, 4), Some(4));
        assert_eq!(proposer.backlog().0, 1);
    }

    #[test]
    fn a_full_queue_refuses_instead_of_growing() {
        let proposer = Proposer::new(ORIGIN);
        let big = |n: u64| Command::ExpireZnodes(vec![("x".repeat(33 << 20), n)]);
        proposer.submit([(big(1), 1), (big(2), 2)]).unwrap();
        assert!(proposer.submit([(command(3), 3)]).is_err());
    }
}
