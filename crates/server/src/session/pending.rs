//! The requests of a stream that are not answered yet.

use std::collections::VecDeque;

use coordd_proto::v1;

use crate::reads::Read;

/// What a request takes in memory beside its bytes, about.
const ENTRY_BYTES: usize = 128;

/// A request that is not answered yet.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) state: State,
    /// What it takes in memory, about.
    bytes: usize,
}

pub(super) enum State {
    /// A write that is on its way.
    Submitted,
    /// A read that has not had its turn.
    Read(Read),
    /// A watch to drop, which a read before it may be about to arm.
    RemoveWatch(v1::RemoveWatchRequest),
    /// Answered, but an earlier request is not.
    Done(v1::Reply),
}

impl State {
    /// What it takes in memory beside itself, about.
    fn bytes(&self) -> usize {
        match self {
            State::Submitted | State::RemoveWatch(_) => 0,
            State::Read(read) => read.bytes(),
            State::Done(reply) => prost::Message::encoded_len(reply),
        }
    }
}

impl Pending {
    fn new(id: u64, state: State) -> Self {
        let bytes = ENTRY_BYTES + state.bytes();
        Pending { id, state, bytes }
    }
}

/// The requests that are not answered yet, in the order in which they came.
#[derive(Default)]
pub(super) struct PendingQueue {
    queue: VecDeque<Pending>,
    /// What they take in memory, about.
    bytes: usize,
    /// Number of requests at the front none of which is `Submitted`.
    without_write: usize,
}

impl PendingQueue {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What they take in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, id: u64, state: State) {
        let pending = Pending::new(id, state);
        self.bytes += pending.bytes;
        self.queue.push_back(pending);
    }

    pub(super) fn front(&self) -> Option<&Pending> {
        self.queue.front()
    }

    /// The request at the front has its reply.
    pub(super) fn answer_front(&mut self, reply: v1::Reply) {
        self.answer(0, reply);
    }

    /// The first write has its reply. Writes are answered in the order in which they were sent, so each call
    /// looks on from where the last one ended.
    pub(super) fn answer_write(&mut self, reply: v1::Reply) {
        let is_write = |pending: &Pending| matches!(pending.state, State::Submitted);
        while self.queue.get(self.without_write).is_some_and(|pending| !is_write(pending)) {
            self.without_write += 1;
        }
        if let Some(pending) = self.queue.get(self.without_write) {
            debug_assert_eq!(pending.id, reply.id, "answers come in order");
            self.answer(self.without_write, reply);
            self.without_write += 1;
        }
    }

    fn answer(&mut self, index: usize, reply: v1::Reply) {
        if let Some(pending) = self.queue.get_mut(index) {
            let before = pending.bytes;
            *pending = Pending::new(pending.id, State::Done(reply));
            self.bytes = self.bytes + pending.bytes - before;
        }
    }

    /// Takes the reply at the front, if it is there, and what it takes in memory.
    pub(super) fn pop_done(&mut self) -> Option<(v1::Reply, usize)> {
        let done = self.queue.pop_front_if(|pending| matches!(pending.state, State::Done(_)))?;
        self.without_write = self.without_write.saturating_sub(1);
        self.bytes -= done.bytes;
        match done.state {
            State::Done(reply) => Some((reply, done.bytes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: u64) -> v1::Reply {
        v1::Reply { id, zxid: id, result: None }
    }

    fn read() -> State {
        State::Read(Read::Sync(v1::SyncRequest::default()))
    }

    fn popped(queue: &mut PendingQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop_done()).map(|(reply, _)| reply.id).collect()
    }

    /// G9: the writes behind a read that takes long are each looked at once.
    #[test]
    fn writes_behind_reads_are_found_at_once() {
        const WRITES: u64 = 9_999;
        let mut queue = PendingQueue::default();
        queue.push(0, read());
        (1..=WRITES).for_each(|id| queue.push(id, State::Submitted));
        for id in 1..=WRITES {
            queue.answer_write(reply(id));
            assert_eq!(queue.without_write as u64, id + 1);
            assert_eq!(popped(&mut queue), [0_u64; 0]);
        }
        queue.answer_front(reply(0));
        assert_eq!(popped(&mut queue), (0..=WRITES).collect::<Vec<_>>());
        assert_eq!((queue.bytes(), queue.without_write), (0, 0));
    }

    #[test]
    fn replies_leave_in_the_order_of_requests() {
        let mut queue = PendingQueue::default();
        for (id, state) in
            [State::Submitted, read(), State::Submitted, State::Done(reply(3))].into_iter().enumerate()
        {
            queue.push(id as u64, state);
        }
        queue.answer_write(reply(0));
        assert_eq!(popped(&mut queue), [0]);
        queue.answer_write(reply(2));
        queue.push(4, State::Submitted);
        queue.answer_front(reply(1));
        assert_eq!(popped(&mut queue), [1, 2, 3]);
        queue.answer_write(reply(4));
        assert_eq!(popped(&mut queue), [4]);
        // There is no write left.
        queue.answer_write(reply(5));
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }
}
