//! Where what the log says meets what clients wait for: results go to the streams and calls that asked, events to the
//! watches they fire, ends of sessions to the streams attached to them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use coordd_proto::v1;
use coordd_raft::{NodeId, Observer, SignOfLife};
use coordd_tree::planted::Bug;
use coordd_tree::{Applied, Auth, EndReason, OpResult, Outcome, SessionId, Tree, WriteSeq, Zxid};
use tokio::sync::{Notify, oneshot, watch};

use crate::client_memory::ClientMemory;
use crate::convert;
use crate::counters::Counters;
use crate::session::outbox::{Item, Outbox};
use crate::session::tracker::{Hearing, SessionTracker};
use crate::watch::{Registration, WatchIds, WatchTable};

/// The answer to a command, or that it will not come: a snapshot took the place of the log in which it was.
pub(crate) type Answer = Option<(Zxid, OpResult)>;

/// What waits for a command's result.
pub(crate) enum Waiter {
    /// A request of a session stream.
    Stream { outbox: Arc<Outbox>, request_id: u64, seq: WriteSeq },
    /// A call. With `session` and `seq` if the command is a numbered write.
    Call { answer: oneshot::Sender<Answer>, session: SessionId, seq: WriteSeq },
    /// Nobody.
    Nobody,
}

/// What one step of catching up looks at, and what it puts into an outbox, about: the tree is held meanwhile.
const STEP_EVENTS: usize = 2000;
/// What looking at an event costs is a matter of its path.
const STEP_PATH_BYTES: usize = 1 << 20;
const STEP_BYTES: usize = 32 << 10;

/// Watches that one step arms, or cleans up.
pub(crate) const STEP_WATCHES: usize = 1000;

/// Watches that go on from a zxid, and how far they have come. Nothing of the history is kept for them: each step reads on
/// from where the last one ended, when the client has taken that.
///
/// They are armed in two tables, a part at a time and without the tree. One is their own, in which events
/// of the history fire: the watches of all others need not be looked through for them. The other is the
/// node's, where the stream is held until there are no more such events. Releasing it takes no time, so
/// no event falls between.
pub(crate) struct Missed {
    table: WatchTable,
    unarmed: std::vec::IntoIter<Registration>,
    /// One-shots that have fired in the present step.
    spent: Vec<Registration>,
    /// All events up to this have been looked at.
    position: Zxid,
    /// The command after `position` whose events are being looked at, and how many of them have been.
    under_way: Zxid,
    ahead: usize,
}

impl Missed {
    /// Of watches that have seen everything up to `last_zxid`.
    pub(crate) fn new(watches: Vec<Registration>, last_zxid: Zxid) -> Self {
        let (table, unarmed) = (WatchTable::default(), watches.into_iter());
        Missed { table, unarmed, spent: Vec::new(), position: last_zxid, under_way: last_zxid, ahead: 0 }
    }

    /// Everything up to this has been put into the outbox.
    pub(crate) fn position(&self) -> Zxid {
        self.position
    }

    /// How many watches are not armed so far.
    pub(crate) fn unarmed(&self) -> usize {
        self.unarmed.len()
    }
}

impl Drop for Missed {
    /// Freeing many watches takes long.
    fn drop(&mut self) {
        if self.table.len() + self.unarmed.len() <= STEP_WATCHES {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let freed = (std::mem::take(&mut self.table), std::mem::take(&mut self.unarmed));
            runtime.spawn_blocking(move || drop(freed));
        }
    }
}

/// See the module. Locks are taken in the order of the fields, after the tree's, and never held across an await.
pub(crate) struct Hub {
    attached: Mutex<HashMap<SessionId, Arc<Outbox>>>,
    watches: Mutex<WatchTable>,
    /// Streams have gone and left watches behind.
    cleaning: Notify,
    /// Streams that got something and are not woken yet.
    to_wake: Mutex<Vec<Arc<Outbox>>>,
    tracker: Mutex<Tracking>,
    /// Streams that pinged since the leader was last asked, and the ping.
    renewals: Mutex<HashMap<SessionId, (Arc<Outbox>, u64)>>,
    /// What is applied, and all of whose events are in the outboxes.
    zxid: watch::Sender<Zxid>,
    /// Where the attached streams come from.
    client_addresses: Mutex<HashMap<SessionId, SocketAddr>>,
    next_outbox_id: AtomicU64,
    start: Instant,
    counters: Counters,
    memory: Arc<ClientMemory>,
}

/// The leader's tracker, and what it must look up in the tree.
#[derive(Default)]
pub(crate) struct Tracking {
    pub(crate) tracker: SessionTracker,
    /// In which term it counts.
    pub(crate) term: u64,
    /// Sessions that were heard from and that the tracker does not know.
    pub(crate) unknown: Vec<(SignOfLife, NodeId)>,
}

impl Tracking {
    fn hear(&mut self, now: Duration, via: NodeId, sign: SignOfLife) -> bool {
        let hearing = self.tracker.touch(now, sign, via);
        if hearing == Hearing::Unknown {
            self.unknown.push((sign, via));
        }
        hearing == Hearing::Counts
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process, so nobody meets what it left behind.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Hub {
    /// `memory` is the budget of what waits for clients.
    pub(crate) fn new(memory: Arc<ClientMemory>) -> Self {
        Hub {
            memory,
            attached: Mutex::default(),
            watches: Mutex::default(),
            cleaning: Notify::new(),
            to_wake: Mutex::default(),
            tracker: Mutex::default(),
            renewals: Mutex::default(),
            zxid: watch::Sender::new(0),
            client_addresses: Mutex::default(),
            next_outbox_id: AtomicU64::new(1),
            start: Instant::now(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The budget of what waits for clients.
    pub(crate) fn memory(&self) -> &Arc<ClientMemory> {
        &self.memory
    }

    pub(crate) fn new_outbox(
        &self,
        session: SessionId,
        generation: Zxid,
        limit_bytes: usize,
        auth: Auth,
    ) -> Arc<Outbox> {
        let id = self.next_outbox_id.fetch_add(1, Ordering::Relaxed);
        Outbox::new(id, session, generation, limit_bytes, auth, self.memory.clone())
    }

    /// What is applied.
    pub(crate) fn zxid(&self) -> watch::Receiver<Zxid> {
        self.zxid.subscribe()
    }

    pub(crate) fn watches(&self) -> MutexGuard<'_, WatchTable> {
        lock(&self.watches)
    }

    pub(crate) fn tracking(&self) -> MutexGuard<'_, Tracking> {
        lock(&self.tracker)
    }

    /// The clock of the tracker.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A stream wants to know when the leader has heard its ping.
    pub(crate) fn wants_renewal(&self, outbox: &Arc<Outbox>, nonce: u64) {
        lock(&self.renewals).insert(outbox.session, (outbox.clone(), nonce));
    }

    /// The pings since the last time.
    pub(crate) fn take_renewals(&self) -> HashMap<SessionId, (Arc<Outbox>, u64)> {
        std::mem::take(&mut *lock(&self.renewals))
    }

    /// These pings were not heard: they are asked about again, where no newer one is there and the stream still is.
    pub(crate) fn return_renewals(&self, pings: impl Iterator<Item = (SessionId, (Arc<Outbox>, u64))>) {
        let attached = lock(&self.attached);
        let mut renewals = lock(&self.renewals);
        for (session, (outbox, nonce)) in pings {
            if attached.get(&session).is_some_and(|present| present.id == outbox.id) {
                renewals.entry(session).or_insert((outbox, nonce));
            }
        }
    }

    /// Makes `outbox` the stream of its session; the stream before it is told. The caller holds the tree.
    /// `from`: where the stream comes from, if that is known.
    pub(crate) fn attach(&self, outbox: &Arc<Outbox>, from: Option<SocketAddr>) {
        let before = {
            let mut attached = lock(&self.attached);
            let mut addresses = lock(&self.client_addresses);
            match from {
                Some(from) => drop(addresses.insert(outbox.session, from)),
                None => drop(addresses.remove(&outbox.session)),
            }
            attached.insert(outbox.session, outbox.clone())
        };
        if let Some(before) = before {
            self.disarm_all(&before);
            before.push(Item::Moved);
            before.wake();
        }
    }

    /// The stream has gone. The session lives on.
    pub(crate) fn detach(&self, outbox: &Outbox) {
        let mut attached = lock(&self.attached);
        if attached.get(&outbox.session).is_some_and(|current| current.id == outbox.id) {
            attached.remove(&outbox.session);
            lock(&self.client_addresses).remove(&outbox.session);
        }
        drop(attached);
        self.disarm_all(outbox);
    }

    fn disarm_all(&self, outbox: &Outbox) {
        if self.watches().disarm_all(outbox) {
            self.cleaning.notify_one();
        }
    }

    /// Cleans up after streams that have gone, for ever.
    pub(crate) async fn run_cleaning(&self) {
        loop {
            self.cleaning.notified().await;
            while self.watches().clean_up(STEP_WATCHES) {
                tokio::task::yield_now().await;
            }
        }
    }

    pub(crate) fn attached_count(&self) -> usize {
        lock(&self.attached).len()
    }

    pub(crate) fn is_attached(&self, session: SessionId) -> bool {
        lock(&self.attached).contains_key(&session)
    }

    /// Where the stream of a session comes from that is attached to this node.
    pub(crate) fn client_address(&self, session: SessionId) -> Option<String> {
        lock(&self.client_addresses).get(&session).map(ToString::to_string)
    }

    /// Arms the next of the watches that go on. Returns whether there are more; until there are none, no step
    /// of catching up may be taken.
    pub(crate) fn arm_step(&self, outbox: &Arc<Outbox>, missed: &mut Missed) -> bool {
        let mut table = self.watches();
        for watch in missed.unarmed.by_ref().take(STEP_WATCHES) {
            missed.table.arm(outbox, watch.clone());
            table.arm_held(outbox, watch);
        }
        missed.unarmed.len() > 0
    }

    /// Puts the next of the events that watches have missed into their outbox, and arms the watches when there are no more: in
    /// the same step, so that none falls between. What is no longer known, or does not fit, is a `Resync`. Returns whether the
    /// watches are armed. The caller holds the tree, for some milliseconds at most; nothing else is pushed meanwhile that the
    /// client must see after these events.
    pub(crate) fn catch_up_step(&self, tree: &Tree, outbox: &Arc<Outbox>, missed: &mut Missed) -> bool {
        debug_assert_eq!(missed.unarmed(), 0, "all are armed by now");
        let before = outbox.len();
        // The events that fired these one-shots were told in an earlier step.
        missed.spent.clear();
        let Some(events) = tree.history_since(missed.position) else {
            return self.resync(tree, outbox, missed);
        };
        let (mut looked_at, mut path_bytes) = (0, 0);
        for event in events.skip(missed.ahead) {
            if event.zxid != missed.under_way {
                (missed.position, missed.under_way, missed.ahead) = (missed.under_way, event.zxid, 0);
            }
            let is_enough = looked_at >= STEP_EVENTS
                || path_bytes >= STEP_PATH_BYTES
                || outbox.queued_bytes() >= STEP_BYTES;
            if is_enough {
                self.counters.missed_events_sent.add(outbox.len().saturating_sub(before) as u64);
                return false;
            }
            let (table, spent) = (&mut missed.table, &mut missed.spent);
            table.fire_telling(tree, event, |watch| {
                self.watches().disarm(outbox, watch.watch_id);
                spent.push(watch);
            });
            missed.ahead += 1;
            looked_at += 1;
            path_bytes += event.path.len();
            if outbox.is_overflown() {
                return self.resync(tree, outbox, missed);
            }
        }
        if Bug::WatchResumesOneLate.is_planted() {
            let (items, _counted) = outbox.take().into_parts();
            items.into_iter().skip(1).for_each(|item| outbox.push(item));
        }
        self.counters.watches_resumed.add(missed.table.len() as u64);
        self.counters.missed_events_sent.add(outbox.len().saturating_sub(before) as u64);
        self.watches().release(outbox);
        true
    }

    /// The watches start over from here; the client is told.
    fn resync(&self, tree: &Tree, outbox: &Arc<Outbox>, missed: &mut Missed) -> bool {
        outbox.start_over();
        let mut table = self.watches();
        // The events that fired a one-shot in this step may have been dropped with the rest.
        for watch in missed.spent.drain(..) {
            table.arm_held(outbox, watch);
        }
        let watch_ids: WatchIds = table.watch_ids(outbox).into();
        table.release(outbox);
        drop(table);
        self.counters.watches_resynced.add(watch_ids.len() as u64);
        outbox.push(Item::Resync { watch_ids, zxid: tree.last_zxid() });
        true
    }

    fn wake_later(&self, outbox: &Arc<Outbox>) {
        let mut to_wake = lock(&self.to_wake);
        // Results come in runs of one session: most repeats are next to each other.
        if to_wake.last().is_none_or(|last| last.id != outbox.id) {
            to_wake.push(outbox.clone());
        }
    }

    /// Another stream has drawn a later generation of the session: the stream that is attached here is told, and its watches
    /// go.
    fn tell_moved(&self, session: SessionId, generation: Zxid) {
        let mut attached = lock(&self.attached);
        if attached.get(&session).is_none_or(|present| present.generation >= generation) {
            return;
        }
        let Some(outbox) = attached.remove(&session) else { return };
        lock(&self.client_addresses).remove(&session);
        self.disarm_all(&outbox);
        outbox.push(Item::Moved);
        outbox.wake();
    }

    fn tell_end(&self, tree: &Tree, session: SessionId) {
        let Some(outbox) = lock(&self.attached).remove(&session) else { return };
        lock(&self.client_addresses).remove(&session);
        self.disarm_all(&outbox);
        let end = match tree.ended_session(session) {
            Some(ended) => convert::end_to_wire(ended),
            None => v1::SessionEnd { session_id: session, ..v1::SessionEnd::default() },
        };
        outbox.push(Item::Ended(end));
        outbox.wake();
    }
}

impl Observer for Hub {
    type Waiter = Waiter;

    fn applied(&self, tree: &Tree, applied: Applied, waiter: Option<Waiter>) {
        if !applied.events.is_empty() {
            let resynced = self.watches().fire(tree, &applied.events);
            self.counters.watches_resynced.add(resynced as u64);
        }
        if applied.events_dropped {
            resync_all(tree, &self.watches());
        }
        let Applied { zxid, result, ended, attached, .. } = applied;
        // Of commands of this node; the others count theirs.
        if waiter.is_some() {
            self.counters.writes_answered_from_record.add(u64::from(zxid < tree.last_zxid()));
            let has_expired = |session| {
                let ended = tree.ended_session(session);
                ended.is_some_and(|ended| matches!(ended.reason, EndReason::Expired { .. }))
            };
            self.counters.sessions_expired.add(u64::from(ended.is_some_and(has_expired)));
        }
        match waiter {
            Some(Waiter::Stream { outbox, request_id, .. }) => {
                outbox.push(Item::Written { request_id, zxid, result });
                self.wake_later(&outbox);
            }
            // The caller may have given up.
            Some(Waiter::Call { answer, .. }) => drop(answer.send(Some((zxid, result)))),
            Some(Waiter::Nobody) | None => {}
        }
        if let Some(session) = attached {
            self.tell_moved(session, zxid);
            self.tracking().tracker.attached(session, zxid);
        }
        // After the answer of the close itself, which must not be lost.
        if let Some(session) = ended {
            self.tell_end(tree, session);
        }
    }

    fn tells_few(&self) -> bool {
        self.watches().len() <= STEP_WATCHES
    }

    fn settled(&self, tree: &Tree) {
        self.zxid.send_replace(tree.last_zxid());
        for outbox in lock(&self.to_wake).drain(..) {
            outbox.wake();
        }
    }

    fn installed(&self, tree: &Tree, skipped: Vec<Waiter>) {
        self.counters.snapshots_installed.add(1);
        let before = *self.zxid.borrow();
        self.catch_up(tree, before);
        let is_old = |outbox: &Outbox| {
            tree.session(outbox.session).is_some_and(|live| live.generation() > outbox.generation)
        };
        let moved: Vec<Arc<Outbox>> =
            lock(&self.attached).values().filter(|outbox| is_old(outbox)).cloned().collect();
        for outbox in moved {
            self.tell_moved(outbox.session, tree.last_zxid());
        }
        for waiter in skipped {
            match waiter {
                // What is recorded for its number may be the answer to the later stream's write.
                Waiter::Stream { outbox, .. } if is_old(&outbox) => {}
                Waiter::Stream { outbox, request_id, seq } => {
                    let item = match tree.recorded(outbox.session, seq) {
                        Some((zxid, result)) => Item::Written { request_id, zxid, result },
                        None => Item::WriteLost { request_id },
                    };
                    outbox.push(item);
                    outbox.wake();
                }
                Waiter::Call { answer, session, seq } => {
                    let found = match seq {
                        0 if tree.session(session).is_some() => {
                            Some((tree.last_zxid(), Ok(Outcome::SessionOpened)))
                        }
                        0 => None,
                        _ => tree.recorded(session, seq),
                    };
                    drop(answer.send(found));
                }
                Waiter::Nobody => {}
            }
        }
        let ended: Vec<SessionId> =
            lock(&self.attached).keys().copied().filter(|session| tree.session(*session).is_none()).collect();
        for session in ended {
            self.tell_end(tree, session);
        }
        self.settled(tree);
    }

    fn touched(&self, via: NodeId, signs: &[SignOfLife]) {
        let (now, mut tracking) = (self.now(), self.tracking());
        for sign in signs {
            tracking.hear(now, via, *sign);
        }
    }

    fn renewed(&self, term: u64, via: NodeId, signs: &[SignOfLife]) -> Vec<SessionId> {
        let (now, mut tracking) = (self.now(), self.tracking());
        let counts = tracking.term == term;
        let heard = signs.iter().filter(|sign| tracking.hear(now, via, **sign) && counts);
        heard.map(|sign| sign.session).collect()
    }
}

impl Hub {
    /// All streams get the events after `before` out of the tree's history, or are told that it is gone.
    fn catch_up(&self, tree: &Tree, before: Zxid) {
        let mut watches = self.watches();
        match tree.history_since(before) {
            Some(events) => {
                let resynced = watches.fire(tree, events);
                self.counters.watches_resynced.add(resynced as u64);
            }
            None => resync_all(tree, &watches),
        }
    }
}

/// Tells all streams that have watches to read again.
fn resync_all(tree: &Tree, watches: &WatchTable) {
    for (outbox, watch_ids) in watches.streams() {
        outbox.push(Item::Resync { watch_ids: watch_ids.into(), zxid: tree.last_zxid() });
        outbox.wake();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coordd_proto::v1::WatchKind;
    use coordd_tree::{Batch, Command, Create, CreateMode, Entry, MultiOp, Origin, Write, WriteOp};

    use super::*;

    const VALUE: usize = 1000;

    /// A tree with so many znodes of a thousand bytes, and the zxid before them.
    fn grown(znodes: u64) -> (Tree, Zxid) {
        grown_by(znodes, VALUE)
    }

    fn grown_by(znodes: u64, value_bytes: usize) -> (Tree, Zxid) {
        let mut tree = Tree::new();
        let before = tree.last_zxid();
        let create = |number| {
            let data = Bytes::from(vec![0; value_bytes]).into();
            let path = format!("/n{number}").into();
            let mode = CreateMode::Persistent;
            WriteOp::Create(Create { path, data, acl: vec![], mode, ttl_ms: 0, parents: false })
        };
        apply(&mut tree, (0..znodes).map(create).collect());
        (tree, before)
    }

    /// Applies each of these as a command of its own.
    fn apply(tree: &mut Tree, ops: Vec<WriteOp<'static>>) {
        let write = |op| {
            Command::Write(Write { session: 0, seq: 0, acked: 0, auth: Auth::default(), guards: vec![], op })
        };
        let origin = Origin { node: 1, incarnation: 1 };
        let batch = Batch { origin, first_seq: 1, commands: ops.into_iter().map(write).collect() };
        tree.apply(&Entry { time_ms: 1, batches: vec![batch], ..Entry::default() }, |_, _, _, applied| {
            assert!(applied.result.is_ok(), "{:?}", applied.result);
        });
    }

    fn recursive_watch() -> Registration {
        let kind = WatchKind::PersistentRecursive;
        Registration { watch_id: 5, path: "/".into(), kind, with_value: true }
    }

    /// What comes of a watch that goes on, and in how many steps if somebody reads between them.
    fn resumed(znodes: u64, limit_bytes: usize) -> (Vec<Item>, usize) {
        let (tree, before) = grown(znodes);
        let hub = Hub::new(ClientMemory::unlimited());
        let outbox = hub.new_outbox(1, 1, limit_bytes, Auth::default());
        let mut missed = Missed::new(vec![recursive_watch()], before);
        assert!(!hub.arm_step(&outbox, &mut missed));
        let (mut all, mut steps) = (Vec::new(), 1);
        while !hub.catch_up_step(&tree, &outbox, &mut missed) {
            assert_eq!(hub.watches().streams().count(), 0, "it is not live yet");
            all.extend(outbox.take().items);
            steps += 1;
        }
        assert_eq!(hub.watches().streams().count(), 1, "the watch goes on");
        assert!(!outbox.is_overflown());
        all.extend(outbox.take().items);
        (all, steps)
    }

    #[test]
    fn a_watch_that_goes_on_gets_what_it_missed() {
        let (items, steps) = resumed(10, 1 << 20);
        assert_eq!((items.len(), steps), (10, 1));
        assert!(items.iter().all(|item| {
            matches!(item, Item::Event { fired, .. } if fired.to_wire(vec![]).value.is_some())
        }));
    }

    /// What was missed comes a part at a time, as the client reads it: nothing of it waits in memory.
    #[test]
    fn missed_events_come_in_parts() {
        let (items, steps) = resumed(5000, 1 << 20);
        assert!(steps > 5, "{steps} steps");
        let zxids: Vec<u64> = items
            .iter()
            .map(|item| match item {
                Item::Event { fired, .. } => fired.zxid,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(zxids.len(), 5000);
        assert!(zxids.is_sorted());
    }

    /// G9: a command with many events is told in steps, too. Until its last event is told, a client that goes
    /// on elsewhere starts before it.
    #[test]
    fn one_command_is_told_in_steps() {
        let create = |number: u64| {
            let (path, data, mode) =
                (format!("/n{number}").into(), Bytes::new().into(), CreateMode::Persistent);
            MultiOp::Create(Create { path, data, acl: vec![], mode, ttl_ms: 0, parents: false })
        };
        let op = WriteOp::Multi((0..5000).map(create).collect());
        let mut tree = Tree::new();
        let before = tree.last_zxid();
        apply(&mut tree, vec![op]);
        let hub = Hub::new(ClientMemory::unlimited());
        let outbox = hub.new_outbox(1, 1, 1 << 20, Auth::default());
        let mut missed = Missed::new(vec![recursive_watch()], before);
        assert!(!hub.arm_step(&outbox, &mut missed));
        let (mut told, mut steps) = (0, 1);
        while !hub.catch_up_step(&tree, &outbox, &mut missed) {
            assert_eq!(missed.position(), before);
            let items = outbox.take().items;
            assert!(items.len() <= STEP_EVENTS, "{}", items.len());
            told += items.len();
            steps += 1;
        }
        let items = outbox.take().items;
        assert_eq!(told + items.len(), 5000);
        assert!(items.iter().all(|item| matches!(item, Item::Event { .. })));
        assert!(steps > 5, "{steps} steps");
    }

    /// G9: events with long paths are fewer a step, also where nothing watches for them.
    #[test]
    fn long_paths_make_shorter_steps() {
        let mut tree = Tree::new();
        let before = tree.last_zxid();
        let parent = "/0123456789abcdef0123456789abcde".repeat(120);
        let create = |path: String| {
            let (path, data, mode) = (path.into(), Bytes::new().into(), CreateMode::Persistent);
            WriteOp::Create(Create { path, data, acl: vec![], mode, ttl_ms: 0, parents: true })
        };
        apply(&mut tree, (0..1000).map(|number| create(format!("{parent}/{number}"))).collect());
        let bytes: usize =
            tree.history_since(before).expect("it is short").map(|event| event.path.len()).sum();
        let hub = Hub::new(ClientMemory::unlimited());
        let outbox = hub.new_outbox(1, 1, 1 << 20, Auth::default());
        let other = Registration { path: "/other".into(), ..recursive_watch() };
        let mut missed = Missed::new(vec![other], before);
        assert!(!hub.arm_step(&outbox, &mut missed));
        let mut steps = 1;
        while !hub.catch_up_step(&tree, &outbox, &mut missed) {
            steps += 1;
        }
        assert!(outbox.take().items.is_empty());
        assert!(steps >= bytes / STEP_PATH_BYTES, "{steps} steps for {bytes} bytes");
    }

    /// G5: a stream that lost its session while it resumed is told so, also where its history is gone.
    #[test]
    fn resync_keeps_last_words() {
        let (tree, before) = grown_by(130_000, 0);
        assert!(tree.history_start() > before);
        let hub = Hub::new(ClientMemory::unlimited());
        let outbox = hub.new_outbox(1, 1, 1 << 20, Auth::default());
        hub.attach(&outbox, None);
        let mut missed = Missed::new(vec![recursive_watch()], before);
        assert!(!hub.arm_step(&outbox, &mut missed));
        hub.tell_moved(1, 2);
        assert!(hub.catch_up_step(&tree, &outbox, &mut missed));
        let items = Vec::from(outbox.take().items);
        assert!(matches!(items[..], [Item::Moved, Item::Resync { .. }]), "{items:?}");
    }

    /// A command with more events than the outbox takes is a resync, and not a stream that ends again and again.
    #[test]
    fn what_was_missed_and_does_not_fit_is_a_resync_and_not_a_stream_that_ends() {
        let (items, _) = resumed(100, VALUE);
        assert!(
            matches!(&items[..], [Item::Resync { watch_ids, .. }] if watch_ids.to_vec() == [5]),
            "{items:?}"
        );
    }

    /// History that is lost while a slow client reads on is a resync of all of its watches.
    #[test]
    fn history_lost_midway_is_a_resync() {
        let hub = Hub::new(ClientMemory::unlimited());
        let outbox = hub.new_outbox(1, 1, 1 << 20, Auth::default());
        let (tree, before) = grown(3000);
        let mut missed = Missed::new(vec![recursive_watch()], before);
        assert!(!hub.arm_step(&outbox, &mut missed));
        assert!(!hub.catch_up_step(&tree, &outbox, &mut missed));
        assert!(!outbox.take().items.is_empty());
        let (tree, _) = grown_by(130_000, 0);
        assert!(tree.history_start() > missed.position());
        assert!(hub.catch_up_step(&tree, &outbox, &mut missed));
        let items = Vec::from(outbox.take().items);
        assert!(
            matches!(&items[..], [Item::Resync { watch_ids, .. }] if watch_ids.to_vec() == [5]),
            "{items:?}"
        );
    }

    fn one_shot(number: u64) -> Registration {
        let path = format!("/n{number}").into();
        Registration { watch_id: number + 1, path, kind: WatchKind::Data, with_value: false }
    }

    /// G9, G5: many watches are armed, go live, and go, in steps of which none takes long. What happens after
    /// the last step but one is told, once.
    #[test]
    fn many_watches_are_armed_in_steps() {
        const WATCHES: u64 = 100_000;
        let (tree, before) = grown_by(5, 0);
        let hub = Hub::new(ClientMemory::unlimited());
        let outbox = hub.new_outbox(1, 1, 64 << 20, Auth::default());
        let mut missed = Missed::new((0..WATCHES).map(one_shot).collect(), before);
        let (mut longest, mut steps) = (Duration::ZERO, 0);
        let mut timed = |step: &mut dyn FnMut() -> bool| {
            let start = Instant::now();
            let more = step();
            longest = longest.max(start.elapsed());
            more
        };
        while timed(&mut || hub.arm_step(&outbox, &mut missed)) {
            steps += 1;
            // It happens while they are armed, and is in the history by then.
            hub.watches().fire(&tree, tree.history_since(before).expect("it is short"));
        }
        assert!(steps >= 99, "{steps} steps");
        assert!(outbox.take().items.is_empty(), "nothing fires before the past is told");
        assert!(timed(&mut || hub.catch_up_step(&tree, &outbox, &mut missed)));
        assert_eq!(outbox.take().items.len(), 5);
        hub.watches().fire(&tree, tree.history_since(before).expect("it is short"));
        assert!(outbox.take().items.is_empty(), "what fired in the past is spent");
        assert_eq!(hub.watches().len() as u64, WATCHES - 5);
        timed(&mut || {
            hub.detach(&outbox);
            false
        });
        assert_eq!(hub.watches().len(), 0);
        assert_eq!(hub.watches().bytes(), 0);
        while timed(&mut || hub.watches().clean_up(STEP_WATCHES)) {
            steps += 1;
        }
        assert!(steps >= 198, "{steps} steps");
        // Room for a machine that is busy.
        assert!(longest < Duration::from_millis(200), "{longest:?}");
    }

    /// A one-shot that fired in the step whose events were dropped is armed again, and told to read again.
    #[test]
    fn resync_rearms_spent_watches() {
        let (tree, before) = grown(100);
        let hub = Hub::new(ClientMemory::unlimited());
        let outbox = hub.new_outbox(1, 1, VALUE, Auth::default());
        let mut missed = Missed::new((0..100).map(one_shot).collect(), before);
        assert!(!hub.arm_step(&outbox, &mut missed));
        assert!(hub.catch_up_step(&tree, &outbox, &mut missed));
        let items = Vec::from(outbox.take().items);
        assert!(
            matches!(&items[..], [Item::Resync { watch_ids, .. }] if watch_ids.len() == 100),
            "{items:?}"
        );
        assert_eq!(hub.watches().len(), 100);
        assert_eq!(hub.watches().streams().count(), 1);
    }
}
