//! What waits to be sent on one stream, in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use coordd_proto::v1;
use coordd_raft::SignOfLife;
use coordd_tree::{Auth, OpResult, SessionId, Zxid};
use tokio::sync::Notify;

/// One thing that waits.
#[derive(Debug)]
pub(crate) enum Item {
    /// A write of this stream was answered.
    Written { request_id: u64, zxid: Zxid, result: OpResult },
    /// The fate of a write of this stream is not known here.
    WriteLost { request_id: u64 },
    /// A watch fired.
    Event(v1::Event),
    /// Watches that lost their history.
    Resync(v1::Resync),
    /// The leader has heard a ping of this stream.
    Renewed { nonce: u64 },
    /// The session has ended.
    Ended(v1::SessionEnd),
    /// Another stream has attached to the session.
    Moved,
}

impl Item {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        const FIXED: usize = 128;
        match self {
            Item::Event(event) => {
                let value = event.value.as_ref().map_or(0, |value| value.len());
                FIXED + event.watch_ids.len() * 8 + event.path.len() + value
            }
            Item::Resync(resync) => FIXED + resync.watch_ids.len() * 8,
            _ => FIXED,
        }
    }
}

/// The queue between what applies the log and the task that serves one stream.
///
/// Pushing never waits: it happens under the tree's lock. A queue that grows beyond its limit is *overflown*: it is
/// emptied and takes nothing any more, and the task ends the stream. The client resumes from what it has seen.
pub(crate) struct Outbox {
    /// Unique in this process.
    pub(crate) id: u64,
    /// The session of the stream; 0 for a subscription.
    pub(crate) session: SessionId,
    /// The zxid by which the stream took the session; see [`coordd_tree::Session::generation`]. 0 for a subscription.
    pub(crate) generation: Zxid,
    queue: Mutex<Queue>,
    limit_bytes: usize,
    wake: Notify,
    overflown: AtomicBool,
    auth: RwLock<Arc<Auth>>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn new(
        id: u64,
        session: SessionId,
        generation: Zxid,
        limit_bytes: usize,
        auth: Auth,
    ) -> Arc<Self> {
        Arc::new(Outbox {
            id,
            session,
            generation,
            queue: Mutex::default(),
            limit_bytes,
            wake: Notify::new(),
            overflown: AtomicBool::new(false),
            auth: RwLock::new(Arc::new(auth)),
        })
    }

    /// The client was heard on this stream.
    pub(crate) fn sign_of_life(&self) -> SignOfLife {
        SignOfLife { session: self.session, generation: self.generation }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Empties a queue that has overflown before anybody read it, to say something shorter.
    pub(crate) fn start_over(&self) {
        *self.lock() = Queue::default();
        self.overflown.store(false, Ordering::Relaxed);
    }

    /// Adds an item without waking the reader; see [`Outbox::wake`].
    pub(crate) fn push(&self, item: Item) {
        if self.overflown.load(Ordering::Relaxed) {
            return;
        }
        let mut queue = self.lock();
        queue.bytes += item.bytes();
        queue.items.push_back(item);
        if queue.bytes > self.limit_bytes {
            *queue = Queue::default();
            self.overflown.store(true, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Wakes the reader.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until there may be something to take.
    pub(crate) async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> VecDeque<Item> {
        let mut queue = self.lock();
        queue.bytes = 0;
        std::mem::take(&mut queue.items)
    }

    /// Items that nobody has taken.
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub(crate) fn is_overflown(&self) -> bool {
        self.overflown.load(Ordering::Relaxed)
    }

    pub(crate) fn auth(&self) -> Arc<Auth> {
        self.auth.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(crate) fn set_auth(&self, auth: Auth) {
        *self.auth.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(auth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> Item {
        Item::Event(v1::Event { path: "/".repeat(bytes), ..v1::Event::default() })
    }

    #[test]
    fn items_come_out_in_the_order_they_went_in() {
        let outbox = Outbox::new(1, 1, 1, 10_000, Auth::default());
        outbox.push(event(1));
        outbox.push(Item::Moved);
        let items: Vec<_> = outbox.take().into();
        assert!(matches!(items[..], [Item::Event(_), Item::Moved]), "{items:?}");
        assert!(outbox.take().is_empty());
    }

    #[test]
    fn a_queue_over_its_limit_is_emptied_and_takes_nothing_more() {
        let outbox = Outbox::new(1, 1, 1, 1000, Auth::default());
        outbox.push(event(800));
        assert!(!outbox.is_overflown());
        outbox.push(event(800));
        assert!(outbox.is_overflown());
        outbox.push(event(1));
        assert!(outbox.take().is_empty(), "a part of the events would be a gap");
    }
}
