//! What waits to be sent on one stream, in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use bytes::Bytes;
use coordd_proto::v1::{self, ErrorCode, EventType};
use coordd_raft::SignOfLife;
use coordd_tree::{Auth, OpResult, Outcome, SessionId, Zxid};
use tokio::sync::Notify;

use crate::client_memory::{Charge, ClientMemory, Holder, Registered};
use crate::convert::error;
use crate::watch::WatchIds;

/// What a stream takes in memory while nothing waits for it: tasks, buffers, tables. About.
const STREAM_BYTES: usize = 4 << 10;
/// What an item takes beside its variable parts.
const ITEM_BYTES: usize = 128;

/// One thing that waits.
#[derive(Debug)]
pub(crate) enum Item {
    /// A write of this stream was answered.
    Written { request_id: u64, zxid: Zxid, result: OpResult },
    /// The fate of a write of this stream is not known here.
    WriteLost { request_id: u64 },
    /// Watches fired.
    Event { watch_ids: WatchIds, fired: Arc<Fired> },
    /// Watches whose events up to `zxid` are lost.
    Resync { watch_ids: WatchIds, zxid: Zxid },
    /// The leader has heard a ping of this stream.
    Renewed { nonce: u64 },
    /// The session has ended.
    Ended(v1::SessionEnd),
    /// Another stream has attached to the session.
    Moved,
}

/// An event as all streams share it that it is delivered to.
pub(crate) struct Fired {
    pub(crate) event_type: EventType,
    pub(crate) zxid: Zxid,
    /// The path of the znode that changed, shared with the history.
    changed: Arc<str>,
    /// How much of it is the path of the event: all of it, or that of the parent.
    path_bytes: usize,
    /// The new value and its stat, and what they count for while somebody is to be sent them.
    value: Option<(Bytes, v1::Stat, Charge)>,
}

impl std::fmt::Debug for Fired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fired").field("type", &self.event_type).field("path", &self.path()).finish()
    }
}

impl Fired {
    /// An event for `path`, which is `changed` or begins it.
    pub(crate) fn new(event_type: EventType, zxid: Zxid, changed: &Arc<str>, path: &str) -> Self {
        debug_assert!(changed.starts_with(path));
        Fired { event_type, zxid, changed: changed.clone(), path_bytes: path.len(), value: None }
    }

    /// The same with the new value.
    pub(crate) fn with_value(mut self, memory: &Arc<ClientMemory>, value: Bytes, stat: v1::Stat) -> Self {
        let charge = memory.charge(value.len());
        self.value = Some((value, stat, charge));
        self
    }

    pub(crate) fn path(&self) -> &str {
        &self.changed[..self.path_bytes]
    }

    fn value_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, |(value, ..)| value.len())
    }

    /// As it is said.
    pub(crate) fn to_wire(&self, watch_ids: Vec<u64>) -> v1::Event {
        v1::Event {
            watch_ids,
            r#type: self.event_type as i32,
            path: self.path().to_owned(),
            zxid: self.zxid,
            value: self.value.as_ref().map(|(value, ..)| value.clone()),
            stat: self.value.as_ref().map(|(_, stat, _)| *stat),
        }
    }
}

/// About what an answer takes in memory; more than its message has bytes.
fn result_bytes(result: &OpResult) -> usize {
    fn outcome_bytes(outcome: &Outcome) -> usize {
        let more = match outcome {
            Outcome::Created { path, .. } => path.len(),
            Outcome::Multi(outcomes) => outcomes.iter().map(outcome_bytes).sum(),
            _ => 0,
        };
        size_of::<Outcome>() + more
    }
    match result {
        Ok(outcome) => outcome_bytes(outcome),
        Err(refused) => 256 + 2 * refused.path.len(),
    }
}

impl Item {
    /// About what it takes in memory, beside what is shared; and with what is shared.
    fn bytes(&self) -> (usize, usize) {
        let own = match self {
            Item::Event { watch_ids, fired } => {
                let own = ITEM_BYTES + watch_ids.lists().len() * 8 + fired.changed.len();
                return (own, own + watch_ids.len() * 8 + fired.value_bytes());
            }
            Item::Resync { watch_ids, .. } => {
                let own = ITEM_BYTES + watch_ids.lists().len() * 8;
                return (own, own + watch_ids.len() * 8);
            }
            Item::Written { result, .. } => ITEM_BYTES + result_bytes(result),
            _ => ITEM_BYTES,
        };
        (own, own)
    }

    /// Whether it tells of watches.
    fn is_of_watches(&self) -> bool {
        matches!(self, Item::Event { .. } | Item::Resync { .. })
    }

    /// Whether it says why the stream ends. Nothing drops such an item: it takes little, and is said once.
    fn is_last_word(&self) -> bool {
        matches!(self, Item::Ended(_) | Item::Moved)
    }
}

/// The queue between what applies the log and the task that serves one stream.
///
/// Pushing never waits: it happens under the tree's lock. A queue that grows beyond its limit, or is the longest when the
/// node has no memory left for its clients, is *overflown*: it is emptied and takes nothing any more, and the task ends the
/// stream. The client resumes from what it has seen. `Ended` and `Moved` are kept and taken all the same.
pub(crate) struct Outbox {
    /// Unique in this process.
    pub(crate) id: u64,
    /// The session of the stream; 0 for a subscription.
    pub(crate) session: SessionId,
    /// The zxid by which the stream took the session; see [`coordd_tree::Session::generation`]. 0 for a subscription.
    pub(crate) generation: Zxid,
    queue: Mutex<Queue>,
    limit_bytes: usize,
    /// Bytes that left the queue and are not sent yet.
    unsent: AtomicUsize,
    /// Bytes of what else is kept for the stream: requests that wait, watches, itself.
    kept: AtomicUsize,
    memory: Arc<ClientMemory>,
    wake: Notify,
    overflown: AtomicU8,
    auth: RwLock<Arc<Auth>>,
    _registered: Registered,
}

/// Why an outbox takes nothing any more.
const BY_ITSELF: u8 = 1;
const FOR_THE_NODE: u8 = 2;

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Beside what is shared: what the node's budget has of it.
    own_bytes: usize,
    /// With what is shared: what the stream's limit is about.
    bytes: usize,
}

impl Queue {
    /// Adds an item; returns its own bytes.
    fn add(&mut self, item: Item) -> usize {
        let (own_bytes, bytes) = item.bytes();
        self.own_bytes += own_bytes;
        self.bytes += bytes;
        self.items.push_back(item);
        own_bytes
    }
}

impl Outbox {
    pub(crate) fn new(
        id: u64,
        session: SessionId,
        generation: Zxid,
        limit_bytes: usize,
        auth: Auth,
        memory: Arc<ClientMemory>,
    ) -> Arc<Self> {
        memory.add(STREAM_BYTES);
        Arc::new_cyclic(|outbox: &Weak<Outbox>| Outbox {
            id,
            session,
            generation,
            queue: Mutex::default(),
            limit_bytes,
            unsent: AtomicUsize::new(0),
            kept: AtomicUsize::new(STREAM_BYTES),
            wake: Notify::new(),
            overflown: AtomicU8::new(0),
            auth: RwLock::new(Arc::new(auth)),
            _registered: memory.register(outbox.clone()),
            memory,
        })
    }

    /// The client was heard on this stream.
    pub(crate) fn sign_of_life(&self) -> SignOfLife {
        SignOfLife { session: self.session, generation: self.generation }
    }

    pub(crate) fn memory(&self) -> &Arc<ClientMemory> {
        &self.memory
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn retain(&self, queue: &mut Queue, keep: impl Fn(&Item) -> bool) {
        let before = std::mem::take(queue);
        for item in before.items.into_iter().filter(keep) {
            queue.add(item);
        }
        self.memory.remove(before.own_bytes - queue.own_bytes);
    }

    /// Drops what the queue says of watches, so that something shorter can be said. If it has overflown by
    /// itself, it takes items again.
    pub(crate) fn start_over(&self) {
        self.retain(&mut self.lock(), |item| !item.is_of_watches());
        let _ = self.overflown.compare_exchange(BY_ITSELF, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Adds an item without waking the reader; see [`Outbox::wake`].
    pub(crate) fn push(&self, item: Item) {
        let mut queue = self.lock();
        if self.is_overflown() && !item.is_last_word() {
            return;
        }
        let own_bytes = queue.add(item);
        self.memory.add(own_bytes);
        if queue.bytes + self.unsent.load(Ordering::Relaxed) > self.limit_bytes {
            self.overflow(queue, BY_ITSELF);
        }
    }

    fn overflow(&self, mut queue: MutexGuard<'_, Queue>, why: u8) {
        self.retain(&mut queue, Item::is_last_word);
        // Under the lock of the queue: no event comes after this.
        let _ = self.overflown.compare_exchange(0, why, Ordering::Relaxed, Ordering::Relaxed);
        drop(queue);
        self.wake();
    }

    /// Wakes the reader.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until there may be something to take.
    pub(crate) async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Takes all that waits. It counts as waiting until the guard is dropped.
    pub(crate) fn take(self: &Arc<Self>) -> Taken {
        let queue = std::mem::take(&mut *self.lock());
        if queue.items.is_empty() {
            return Taken { items: VecDeque::new(), counted: None };
        }
        self.unsent.fetch_add(queue.bytes, Ordering::Relaxed);
        let counted = Unsent { outbox: self.clone(), own_bytes: queue.own_bytes, bytes: queue.bytes };
        Taken { items: queue.items, counted: Some(counted) }
    }

    /// Counts bytes that are on their way to the client, until the guard is dropped.
    pub(crate) fn sending(self: &Arc<Self>, bytes: usize) -> Unsent {
        self.memory.add(bytes);
        self.unsent.fetch_add(bytes, Ordering::Relaxed);
        Unsent { outbox: self.clone(), own_bytes: bytes, bytes }
    }

    /// Counts what is kept for the stream beside what is to be sent.
    pub(crate) fn keep(&self, bytes: usize) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        self.memory.add(bytes);
    }

    /// It is kept no more.
    pub(crate) fn release(&self, bytes: usize) {
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.remove(bytes);
    }

    /// Bytes that wait in the queue.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Items that nobody has taken.
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub(crate) fn is_overflown(&self) -> bool {
        self.overflown.load(Ordering::Relaxed) != 0
    }

    /// Why the stream has to end, if it has to.
    pub(crate) fn overflow_error(&self) -> Option<v1::Error> {
        let message = match self.overflown.load(Ordering::Relaxed) {
            0 => return None,
            FOR_THE_NODE => {
                "this node has no memory left for its clients (--client-memory-max), and this stream holds \
                             most of it: read faster, or watch less"
                    .to_owned()
            }
            _ => format!(
                "the client reads too slowly: over {} bytes wait for it (--outbox-bytes-max)",
                self.limit_bytes
            ),
        };
        Some(v1::Error { retry_after_ms: 100, ..error(ErrorCode::Throttled, message) })
    }

    pub(crate) fn auth(&self) -> Arc<Auth> {
        self.auth.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(crate) fn set_auth(&self, auth: Auth) {
        *self.auth.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(auth);
    }
}

impl Holder for Outbox {
    fn held(&self) -> usize {
        if self.is_overflown() {
            return 0;
        }
        let queued = self.queued_bytes();
        queued + self.unsent.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.overflow(self.lock(), FOR_THE_NODE);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let queued = self.lock().own_bytes;
        self.memory.remove(queued + self.kept.load(Ordering::Relaxed));
    }
}

/// Items that were taken and are not handled yet.
pub(crate) struct Taken {
    pub(crate) items: VecDeque<Item>,
    counted: Option<Unsent>,
}

impl Taken {
    /// The items, and the guard by which they count.
    pub(crate) fn into_parts(self) -> (VecDeque<Item>, Option<Unsent>) {
        (self.items, self.counted)
    }
}

/// Bytes on their way from an outbox to the client.
pub(crate) struct Unsent {
    outbox: Arc<Outbox>,
    own_bytes: usize,
    bytes: usize,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.outbox.unsent.fetch_sub(self.bytes, Ordering::Relaxed);
        self.outbox.memory.remove(self.own_bytes);
    }
}

#[cfg(test)]
mod tests {
    use coordd_tree::Stat;

    use super::*;
    use crate::watch::SharedIds;

    fn outbox(limit_bytes: usize, memory: &Arc<ClientMemory>) -> Arc<Outbox> {
        Outbox::new(1, 1, 1, limit_bytes, Auth::default(), memory.clone())
    }

    fn event(bytes: usize) -> Item {
        let path: Arc<str> = "/".repeat(bytes).into();
        let fired = Fired::new(EventType::NodeCreated, 1, &path, &path);
        Item::Event { watch_ids: ids([1]), fired: Arc::new(fired) }
    }

    fn ids<const COUNT: usize>(ids: [u64; COUNT]) -> WatchIds {
        SharedIds::new(ids.into_iter(), &ClientMemory::unlimited()).into()
    }

    fn written(result: OpResult) -> Item {
        Item::Written { request_id: 1, zxid: 1, result }
    }

    #[test]
    fn items_come_out_in_the_order_they_went_in() {
        let outbox = outbox(10_000, &ClientMemory::unlimited());
        outbox.push(event(1));
        outbox.push(Item::Moved);
        let (items, _counted) = outbox.take().into_parts();
        let items = Vec::from(items);
        assert!(matches!(items[..], [Item::Event { .. }, Item::Moved]), "{items:?}");
        assert!(outbox.take().items.is_empty());
    }

    #[test]
    fn a_queue_over_its_limit_is_emptied_and_takes_nothing_more() {
        let outbox = outbox(1000, &ClientMemory::unlimited());
        outbox.push(event(800));
        assert!(!outbox.is_overflown());
        outbox.push(event(800));
        assert!(outbox.is_overflown());
        outbox.push(event(1));
        assert!(outbox.take().items.is_empty(), "a part of the events would be a gap");
        let error = outbox.overflow_error().expect("it has overflown");
        assert!(error.message.contains("1000 bytes"), "{}", error.message);
    }

    /// G5: whatever is dropped of the events, the stream is told that it has lost its session, or that the
    /// session has ended.
    #[test]
    fn last_words_are_never_dropped() {
        let memory = ClientMemory::unlimited();
        let outbox = outbox(1000, &memory);
        outbox.push(event(100));
        outbox.push(Item::Moved);
        outbox.push(Item::Resync { watch_ids: ids([1]), zxid: 1 });
        outbox.start_over();
        outbox.push(event(2000));
        assert!(outbox.is_overflown());
        outbox.push(Item::Ended(v1::SessionEnd::default()));
        assert_eq!(memory.used(), STREAM_BYTES + 2 * ITEM_BYTES);
        outbox.start_over();
        assert!(!outbox.is_overflown());
        outbox.push(Item::Resync { watch_ids: ids([1]), zxid: 2 });
        let items = Vec::from(outbox.take().items);
        assert!(matches!(items[..], [Item::Moved, Item::Ended(_), Item::Resync { .. }]), "{items:?}");
        assert_eq!(memory.used(), STREAM_BYTES);
    }

    /// Watch ids that several items share count once against the budget, and in each item against its limit.
    #[test]
    fn shared_ids_count_once() {
        let memory = ClientMemory::unlimited();
        let outbox = outbox(1 << 30, &memory);
        let shared = SharedIds::new(0..10_000, &memory);
        for zxid in 1..=10 {
            outbox.push(Item::Resync { watch_ids: shared.clone().into(), zxid });
        }
        drop(shared);
        assert!(outbox.queued_bytes() > 800_000, "{}", outbox.queued_bytes());
        assert!((80_000..90_000).contains(&memory.used()), "{}", memory.used());
        drop(outbox.take());
        assert_eq!(memory.used(), STREAM_BYTES);
    }

    /// An answer to a multi counts with all of its parts, and against the limit until it is sent.
    #[test]
    fn multi_answers_count_by_size() {
        let outbox = outbox(1 << 20, &ClientMemory::unlimited());
        let stat = Stat::default();
        let multi = || written(Ok(Outcome::Multi(vec![Outcome::DataSet(stat); 1000])));
        outbox.push(multi());
        assert!(outbox.queued_bytes() > 50_000, "{} bytes", outbox.queued_bytes());
        let first = outbox.take();
        let mut count = 1;
        while !outbox.is_overflown() {
            outbox.push(multi());
            count += 1;
        }
        assert!(count < 20, "{count} answers of a thousand parts each fit into 1 MiB");
        drop(first);
    }

    /// All that an outbox counted is taken off the node's budget in the end, whichever way it goes.
    #[test]
    fn nothing_stays_counted() {
        let memory = ClientMemory::unlimited();
        let first = outbox(10_000, &memory);
        first.push(event(100));
        first.keep(500);
        let taken = first.take();
        let frame = first.sending(300);
        first.push(event(100));
        assert!(memory.used() > STREAM_BYTES + 1000, "{}", memory.used());
        drop((taken, frame));
        first.release(500);
        first.push(event(20_000));
        assert!(first.is_overflown());
        assert_eq!(memory.used(), STREAM_BYTES);
        drop(first);
        assert_eq!(memory.used(), 0);
    }

    /// The value of an event counts once, for however many streams it is meant.
    #[test]
    fn shared_values_count_once() {
        let memory = ClientMemory::unlimited();
        let outboxes: Vec<_> = (0..10).map(|_| outbox(1 << 20, &memory)).collect();
        let before = memory.used();
        let path: Arc<str> = "/a".into();
        let fired = Fired::new(EventType::NodeDataChanged, 1, &path, &path);
        let value = Bytes::from(vec![0; 100_000]);
        let fired = Arc::new(fired.with_value(&memory, value, v1::Stat::default()));
        for outbox in &outboxes {
            outbox.push(Item::Event { watch_ids: ids([1]), fired: fired.clone() });
        }
        drop(fired);
        let counted = memory.used() - before;
        assert!((100_000..110_000).contains(&counted), "{counted} bytes");
        outboxes.iter().for_each(|outbox| drop(outbox.take()));
        assert_eq!(memory.used(), before);
    }

    #[test]
    fn an_outbox_ends_for_the_node() {
        let memory = ClientMemory::unlimited();
        let outbox = outbox(10_000, &memory);
        outbox.push(event(1000));
        assert!(outbox.held() > 1000);
        outbox.end();
        assert_eq!((outbox.held(), memory.used()), (0, STREAM_BYTES));
        let error = outbox.overflow_error().expect("it has ended");
        assert_eq!(error.code(), ErrorCode::Throttled);
        assert!(error.message.contains("--client-memory-max"), "{}", error.message);
    }
}
