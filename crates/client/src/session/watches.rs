use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use coordd_proto::v1;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, ErrorKind, Event, WatchEvent, convert};

/// At most so many bytes of values wait in one watcher.
const BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a watch in an attach, beside its path.
const RESUMED_BYTES: usize = 40;

/// Where the events of a watch go.
pub(crate) enum Sink {
    /// Consumed by the first.
    OneShot(oneshot::Sender<Result<WatchEvent, Error>>),
    /// Stays.
    Lasting(LastingSink),
}

/// The sending half of a [`PersistentWatcher`](crate::PersistentWatcher).
pub(crate) struct LastingSink {
    pub(crate) events_tx: mpsc::Sender<WatchEvent>,
    /// Bytes of values in the channel: the receiver subtracts what it takes.
    pub(crate) buffered_bytes: Arc<AtomicUsize>,
    /// Why the channel ended, for the receiver to find after the last event.
    pub(crate) end: Arc<OnceLock<Error>>,
}

struct Watch {
    spec: v1::WatchSpec,
    path: String,
    /// The server has said that it is armed. An unarmed one is not resumed: the request that arms it is sent again.
    armed: bool,
    /// It was armed, and events were missed since: they are told as gone when it is armed again.
    missed: bool,
    sink: Sink,
    position: Position,
}

/// How far the events of one watch have been delivered. After a reconnect the server starts again behind the last
/// change that was *surely* complete, so some events come twice; one change can be several events for one watch.
#[derive(Clone, Copy, Default)]
struct Position {
    zxid: u64,
    /// Events of `zxid` that were delivered.
    delivered: u32,
    /// Events of `zxid` that came on the present stream.
    seen: u32,
}

impl Position {
    /// Whether an event of `zxid` is new.
    fn advance(&mut self, zxid: u64) -> bool {
        if zxid > self.zxid {
            *self = Position { zxid, delivered: 1, seen: 1 };
            return true;
        }
        if zxid < self.zxid || self.seen < self.delivered {
            self.seen += u32::from(zxid == self.zxid);
            return false;
        }
        self.delivered += 1;
        self.seen += 1;
        true
    }
}

/// The live watches of a session, by the client's names for them.
#[derive(Default)]
pub(crate) struct WatchTable {
    watches: HashMap<u64, Watch>,
    last_id: u64,
    /// What the attach under way has not named yet, in the order they were made.
    to_resume: VecDeque<u64>,
    /// The last one that its first frame named.
    first_frame_until: u64,
}

impl WatchTable {
    /// Registers a watch before the request that arms it is sent, so that no event can come too early.
    pub(crate) fn register(
        &mut self,
        kind: v1::WatchKind,
        with_value: bool,
        path: &str,
        sink: Sink,
    ) -> v1::WatchSpec {
        self.last_id += 1;
        let spec = v1::WatchSpec { watch_id: self.last_id, kind: kind as i32, with_value };
        let position = Position::default();
        self.watches.insert(
            self.last_id,
            Watch { spec, path: path.to_owned(), armed: false, missed: false, sink, position },
        );
        spec
    }

    /// The request that arms it was answered at `zxid`. False if the watch had to be ended, because nobody
    /// reads it.
    pub(crate) fn on_armed(&mut self, watch_id: u64, zxid: u64) -> bool {
        let Some(watch) = self.watches.get_mut(&watch_id) else { return true };
        watch.armed = true;
        // What the read showed is not news.
        if zxid > watch.position.zxid {
            watch.position = Position { zxid, delivered: u32::MAX, seen: 0 };
        }
        if !std::mem::take(&mut watch.missed) {
            return true;
        }
        let resync = v1::Resync { watch_ids: vec![watch_id], zxid };
        self.resync(&resync).is_empty()
    }

    /// The server does not arm it.
    pub(crate) fn refuse(&mut self, watch_id: u64, error: &Error) {
        if let Some(watch) = self.watches.remove(&watch_id) {
            watch.end(error);
        }
    }

    /// Forgets a watch; true if it was there.
    pub(crate) fn remove(&mut self, watch_id: u64) -> bool {
        self.watches.remove(&watch_id).is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// An attach begins, which names all watches that are armed. From here on events may come a second time.
    pub(crate) fn begin_resume(&mut self) {
        let mut to_resume = Vec::new();
        for (watch_id, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.armed) {
            watch.position.seen = 0;
            to_resume.push(*watch_id);
        }
        // In the order they were made, for whoever reads a trace.
        to_resume.sort_unstable();
        self.to_resume = to_resume.into();
        self.first_frame_until = 0;
    }

    /// What the next frame of the attach names: as much as fits into `bytes`, and at least one. Says whether
    /// there is more.
    pub(crate) fn next_resumed(&mut self, bytes: usize) -> (Vec<v1::ResumeWatch>, bool) {
        let is_first = self.first_frame_until == 0;
        let (mut resumed, mut size) = (Vec::new(), 0);
        while let Some(watch_id) = self.to_resume.front() {
            // It may have been dropped meanwhile.
            if let Some(watch) = self.watches.get(watch_id).filter(|watch| watch.armed) {
                size += watch.path.len() + RESUMED_BYTES;
                if size > bytes && !resumed.is_empty() {
                    break;
                }
                resumed.push(v1::ResumeWatch { spec: Some(watch.spec), path: watch.path.clone() });
            }
            if is_first {
                self.first_frame_until = *watch_id;
            }
            self.to_resume.pop_front();
        }
        (resumed, !self.to_resume.is_empty())
    }

    /// Returns how many bytes of a frame these watches take.
    pub(crate) fn bytes_of(watches: &[v1::ResumeWatch]) -> usize {
        watches.iter().map(|watch| watch.path.len() + RESUMED_BYTES).sum()
    }

    /// The node has taken no more than the first frame of the attach. What it does not know is to be armed
    /// again, and events of it have been missed. Returns what arms the lasting ones; the others are told at
    /// once, which consumes them.
    pub(crate) fn begin_arming_again(&mut self, zxid: u64) -> Vec<v1::AddWatchRequest> {
        self.to_resume.clear();
        let until = self.first_frame_until;
        let unknown = self.watches.iter_mut().filter(|(id, watch)| watch.armed && **id > until);
        let (mut again, mut one_shot) = (Vec::new(), Vec::new());
        for (watch_id, watch) in unknown {
            match watch.sink {
                Sink::OneShot(_) => one_shot.push(*watch_id),
                Sink::Lasting(_) => {
                    (watch.armed, watch.missed) = (false, true);
                    again.push(v1::AddWatchRequest { path: watch.path.clone(), watch: Some(watch.spec) });
                }
            }
        }
        for watch_id in one_shot {
            self.fire(watch_id, WatchEvent::Resync { zxid });
        }
        again.sort_unstable_by_key(|request| request.watch.map(|spec| spec.watch_id));
        again
    }

    /// Delivers an event. Returns the watches that had to be ended because nobody reads them.
    pub(crate) fn deliver(&mut self, mut event: v1::Event) -> Vec<u64> {
        let watch_ids = std::mem::take(&mut event.watch_ids);
        let Some(event) = convert::event(event) else { return Vec::new() };
        let mut lagging = Vec::new();
        for watch_id in watch_ids {
            // An unknown name is of a watcher that was dropped while the event was on its way.
            let Some(watch) = self.watches.get_mut(&watch_id) else { continue };
            if !watch.position.advance(event.zxid) {
                continue;
            }
            if !self.send(watch_id, event.clone()) {
                lagging.push(watch_id);
            }
        }
        lagging
    }

    /// Whether these are all watches that are armed.
    pub(crate) fn are_all_named(&self, watch_ids: &[u64]) -> bool {
        let mut armed = self.watches.iter().filter(|(_, watch)| watch.armed);
        let named: HashSet<u64> = watch_ids.iter().copied().collect();
        armed.all(|(watch_id, _)| named.contains(watch_id))
    }

    /// Tells watchers that events are missing. Returns the watches that are to be removed at the server: one-shot ones
    /// are consumed by this, but stay armed there.
    pub(crate) fn resync(&mut self, resync: &v1::Resync) -> Vec<u64> {
        let mut to_remove = Vec::new();
        for &watch_id in &resync.watch_ids {
            let event = WatchEvent::Resync { zxid: resync.zxid };
            let Some(watch) = self.watches.get_mut(&watch_id) else { continue };
            if resync.zxid > watch.position.zxid {
                watch.position = Position { zxid: resync.zxid, delivered: u32::MAX, seen: 0 };
            }
            let keep = match &watch.sink {
                Sink::OneShot(_) => {
                    self.fire(watch_id, event);
                    false
                }
                Sink::Lasting(sink) => sink.push(event, 0),
            };
            if !keep {
                self.watches.remove(&watch_id);
                to_remove.push(watch_id);
            }
        }
        to_remove
    }

    /// Ends all watchers: the session has ended.
    pub(crate) fn end(&mut self, error: &Error) {
        self.watches.drain().for_each(|(_, watch)| watch.end(error));
    }

    /// False if the watch had to be ended.
    fn send(&mut self, watch_id: u64, event: Event) -> bool {
        let Some(watch) = self.watches.get(&watch_id) else { return true };
        let bytes = event.value.as_ref().map_or(0, |(data, _)| data.len());
        let event = WatchEvent::Event(event);
        match &watch.sink {
            Sink::OneShot(_) => {
                self.fire(watch_id, event);
                true
            }
            Sink::Lasting(sink) => {
                let kept = sink.push(event, bytes);
                if !kept {
                    self.watches.remove(&watch_id);
                }
                kept
            }
        }
    }

    fn fire(&mut self, watch_id: u64, event: WatchEvent) {
        if let Some(Watch { sink: Sink::OneShot(event_tx), .. }) = self.watches.remove(&watch_id) {
            // A receiver that is gone does not want to know.
            drop(event_tx.send(Ok(event)));
        }
    }
}

impl Watch {
    fn end(self, error: &Error) {
        match self.sink {
            // A receiver that is gone does not want to know.
            Sink::OneShot(event_tx) => drop(event_tx.send(Err(error.clone()))),
            Sink::Lasting(sink) => sink.finish(error.clone()),
        }
    }
}

impl LastingSink {
    /// False if the buffer is full: then the watcher finds the reason after the events that fitted.
    fn push(&self, event: WatchEvent, bytes: usize) -> bool {
        let over = self.buffered_bytes.load(Ordering::Relaxed).saturating_add(bytes) > BUFFER_BYTES_MAX;
        if !over {
            self.buffered_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        if over || self.events_tx.try_send(event).is_err() {
            let message = "events were not read in time; the buffer is full";
            self.finish(Error::new(ErrorKind::WatcherLagged, message));
            return false;
        }
        true
    }

    /// The reason is set before the channel closes, so that the receiver cannot miss it.
    fn finish(&self, error: Error) {
        // The first reason is the true one.
        let _ = self.end.set(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(watch_ids: &[u64], zxid: u64, path: &str) -> v1::Event {
        let r#type = v1::EventType::NodeDataChanged as i32;
        v1::Event { watch_ids: watch_ids.into(), r#type, path: path.into(), zxid, value: None, stat: None }
    }

    struct Lasting {
        watch_id: u64,
        events_rx: mpsc::Receiver<WatchEvent>,
        end: Arc<OnceLock<Error>>,
    }

    impl Lasting {
        fn register(table: &mut WatchTable, capacity: usize) -> Self {
            let (events_tx, events_rx) = mpsc::channel(capacity);
            let end = Arc::new(OnceLock::new());
            let sink = LastingSink { events_tx, buffered_bytes: Arc::default(), end: end.clone() };
            let kind = v1::WatchKind::PersistentRecursive;
            let watch_id = table.register(kind, false, "/", Sink::Lasting(sink)).watch_id;
            table.on_armed(watch_id, 0);
            Self { watch_id, events_rx, end }
        }

        fn zxids(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.events_rx.try_recv().ok()).map(|event| event.zxid()).collect()
        }
    }

    fn resume(table: &mut WatchTable) -> Vec<v1::ResumeWatch> {
        table.begin_resume();
        table.next_resumed(usize::MAX).0
    }

    /// An attach names every armed watch once, in frames that fit.
    #[test]
    fn attach_is_split_into_frames() {
        let mut table = WatchTable::default();
        let mut watchers: Vec<_> = (0..10).map(|_| Lasting::register(&mut table, 16)).collect();
        let dropped = watchers.remove(7).watch_id;
        table.begin_resume();
        let mut ids = Vec::new();
        let mut more = true;
        while more {
            let (resumed, goes_on) = table.next_resumed(3 * (1 + RESUMED_BYTES));
            assert!((1..=3).contains(&resumed.len()), "{resumed:?}");
            ids.extend(resumed.iter().map(|watch| watch.spec.unwrap().watch_id));
            // One that is dropped while the attach is under way is not named any more.
            table.remove(dropped);
            more = goes_on;
        }
        assert_eq!(ids, watchers.iter().map(|watcher| watcher.watch_id).collect::<Vec<_>>());
        table.begin_resume();
        assert_eq!(table.next_resumed(1).0.len(), 1, "one that is larger than a frame is tried nevertheless");
    }

    /// A node that takes only the first frame of an attach does not know the other watches: they are armed
    /// again, and told that events are missing.
    #[test]
    fn unnamed_watches_are_armed_again() {
        let mut table = WatchTable::default();
        let mut first = Lasting::register(&mut table, 16);
        let mut second = Lasting::register(&mut table, 16);
        let (event_tx, mut event_rx) = oneshot::channel();
        let id = table.register(v1::WatchKind::Data, false, "/a", Sink::OneShot(event_tx)).watch_id;
        table.on_armed(id, 1);
        table.begin_resume();
        assert_eq!(table.next_resumed(1).0.len(), 1);
        let again = table.begin_arming_again(8);
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].watch.unwrap().watch_id, second.watch_id);
        assert_eq!(event_rx.try_recv().unwrap(), Ok(WatchEvent::Resync { zxid: 8 }));
        assert_eq!(second.zxids(), [0; 0], "not before it is armed");
        assert!(table.on_armed(second.watch_id, 9));
        assert_eq!(second.events_rx.try_recv().unwrap(), WatchEvent::Resync { zxid: 9 });
        assert_eq!(first.zxids(), [0; 0]);
        // It is resumed as any other from then on.
        table.begin_resume();
        assert_eq!(table.next_resumed(usize::MAX).0.len(), 2);
    }

    #[test]
    fn events_that_come_again_after_a_reconnect_are_delivered_once() {
        let mut table = WatchTable::default();
        let mut watcher = Lasting::register(&mut table, 16);
        let ids = [watcher.watch_id];
        // One change, two events; the stream breaks after the first one of zxid 6.
        for (zxid, path) in [(5, "/a"), (5, "/b"), (6, "/a")] {
            assert!(table.deliver(event(&ids, zxid, path)).is_empty());
        }
        assert_eq!(watcher.zxids(), [5, 5, 6]);
        assert_eq!(resume(&mut table).len(), 1);
        for (zxid, path) in [(5, "/a"), (5, "/b"), (6, "/a"), (6, "/b"), (7, "/a")] {
            assert!(table.deliver(event(&ids, zxid, path)).is_empty());
        }
        assert_eq!(watcher.zxids(), [6, 7]);
    }

    #[test]
    fn what_the_arming_read_showed_is_not_an_event() {
        let mut table = WatchTable::default();
        let mut watcher = Lasting::register(&mut table, 16);
        table.on_armed(watcher.watch_id, 10);
        table.deliver(event(&[watcher.watch_id], 10, "/a"));
        table.deliver(event(&[watcher.watch_id], 11, "/a"));
        assert_eq!(watcher.zxids(), [11]);
    }

    #[test]
    fn a_one_shot_watch_is_gone_once_it_fired() {
        let mut table = WatchTable::default();
        let (event_tx, mut event_rx) = oneshot::channel();
        let id = table.register(v1::WatchKind::Data, false, "/a", Sink::OneShot(event_tx)).watch_id;
        table.on_armed(id, 1);
        table.deliver(event(&[id], 2, "/a"));
        table.deliver(event(&[id], 3, "/a"));
        assert_eq!(event_rx.try_recv().unwrap().unwrap().zxid(), 2);
        assert!(table.is_empty());
        assert!(resume(&mut table).is_empty());
    }

    #[test]
    fn a_watcher_that_does_not_read_is_ended_and_told() {
        let mut table = WatchTable::default();
        let mut slow = Lasting::register(&mut table, 2);
        let mut quick = Lasting::register(&mut table, 16);
        let ids = [slow.watch_id, quick.watch_id];
        let lagging: Vec<u64> = (1..=3).flat_map(|zxid| table.deliver(event(&ids, zxid, "/a"))).collect();
        assert_eq!(lagging, [slow.watch_id]);
        assert_eq!(slow.zxids(), [1, 2], "what fitted is delivered");
        assert_eq!(slow.end.get().unwrap().kind, ErrorKind::WatcherLagged);
        assert_eq!(quick.zxids(), [1, 2, 3], "the others do not suffer");
    }

    #[test]
    fn a_watch_is_resumed_only_after_the_server_armed_it() {
        let mut table = WatchTable::default();
        let (event_tx, _event_rx) = oneshot::channel();
        let id = table.register(v1::WatchKind::Data, false, "/a", Sink::OneShot(event_tx)).watch_id;
        assert!(resume(&mut table).is_empty());
        table.on_armed(id, 1);
        assert_eq!(resume(&mut table)[0].path, "/a");
    }

    #[test]
    fn a_resync_consumes_a_one_shot_watch_and_not_a_lasting_one() {
        let mut table = WatchTable::default();
        let mut lasting = Lasting::register(&mut table, 16);
        let (event_tx, mut event_rx) = oneshot::channel();
        let id = table.register(v1::WatchKind::Data, false, "/a", Sink::OneShot(event_tx)).watch_id;
        let resync = v1::Resync { watch_ids: vec![lasting.watch_id, id], zxid: 9 };
        assert_eq!(table.resync(&resync), [id]);
        assert_eq!(event_rx.try_recv().unwrap(), Ok(WatchEvent::Resync { zxid: 9 }));
        assert_eq!(lasting.events_rx.try_recv().unwrap(), WatchEvent::Resync { zxid: 9 });
        table.deliver(event(&[lasting.watch_id], 10, "/a"));
        assert_eq!(lasting.zxids(), [10]);
    }
}
