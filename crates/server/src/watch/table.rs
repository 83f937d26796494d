use std::collections::{HashMap, VecDeque, hash_map};
use std::sync::Arc;

use coordd_proto::v1::{self, EventType, WatchKind};
use coordd_tree::{Event, EventKind, Tree};

use super::by_path::{ByPath, Group, parent_of};
use super::{SharedIds, WatchIds};
use crate::convert::bad_arguments;
use crate::service::PATH_BYTES_MAX;
use crate::session::outbox::{Fired, Item, Outbox};

/// What a watch takes in memory beside its path, about.
const WATCH_BYTES: usize = 256;
/// Deliveries to streams in one call of [`WatchTable::fire`]. The call holds the tree, and a delivery takes
/// up to a microsecond. The watches of one stream, of one kind, on one path count as one.
const DELIVERIES_MAX: usize = 20_000;
/// The same for what is looked at, be it delivered or not.
const LOOKED_AT_MAX: usize = 10 * DELIVERIES_MAX;

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// The client's name for it.
    pub(crate) watch_id: u64,
    pub(crate) path: Arc<str>,
    pub(crate) kind: WatchKind,
    pub(crate) with_value: bool,
}

impl Registration {
    /// A watch as a client asks for it, checked as far as it can be by itself.
    pub(crate) fn asked(spec: &v1::WatchSpec, path: &str) -> Result<Registration, v1::Error> {
        let kind = WatchKind::try_from(spec.kind).unwrap_or_default();
        if kind == WatchKind::Unspecified {
            return Err(bad_arguments(format!("watch kind {} is not known", spec.kind)));
        }
        if spec.watch_id == 0 {
            return Err(bad_arguments("watch_id 0 is no name of a watch"));
        }
        if path.len() > PATH_BYTES_MAX {
            let message = format!("path_bytes: {} is above the limit of {PATH_BYTES_MAX}", path.len());
            return Err(bad_arguments(message));
        }
        Ok(Registration { watch_id: spec.watch_id, path: path.into(), kind, with_value: spec.with_value })
    }

    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        WATCH_BYTES + self.path.len()
    }
}

fn is_one_shot(kind: WatchKind) -> bool {
    matches!(kind, WatchKind::Data | WatchKind::Children)
}

/// All watches of all streams of this node, by the path that fires them.
///
/// No call is about all watches of a stream that has many: a stream is *held* while its watches are
/// armed a part at a time, and fires none of them until it is released. When it goes, its watches are
/// out of the table at once, and are cleaned up a part at a time.
///
/// Invariant: a watch is in `by_path` exactly if it is in `by_stream` or in `gone`.
#[derive(Default)]
pub(crate) struct WatchTable {
    by_path: ByPath,
    by_stream: HashMap<u64, Stream>,
    /// Watches of closed streams that are still in `by_path`.
    gone: VecDeque<(u64, hash_map::IntoIter<u64, Registration>)>,
    /// How many watches are recursive: while there are none, no ancestors are looked up.
    recursive: usize,
    count: usize,
    /// What they take in memory, about. It is counted as kept for their streams.
    bytes: usize,
    /// How often [`WatchTable::fire`] has told streams to read again.
    resync_rounds: u64,
}

struct Stream {
    outbox: Arc<Outbox>,
    watches: HashMap<u64, Registration>,
    /// How many of them are recursive, and what all take in memory.
    recursive: usize,
    bytes: usize,
    /// Not all of its watches are armed, or events of the past come first: none of them fires.
    is_held: bool,
}

impl Stream {
    /// Whether its watches fire now. An overflown stream ends, and resumes from what its client has seen.
    fn is_live(&self) -> bool {
        !self.is_held && !self.outbox.is_overflown()
    }
}

/// What one event fires at one path, by stream.
type Firings<'a> = HashMap<u64, Firing<'a>>;

/// The watches of one stream that one event fires with one type.
struct Firing<'a> {
    stream: &'a Stream,
    event_type: EventType,
    watch_ids: WatchIds,
    /// Those of them that fire once.
    one_shots: Vec<Arc<SharedIds>>,
    with_value: bool,
}

/// What a call of [`WatchTable::fire`] has done so far.
#[derive(Default)]
struct Effort {
    delivered: usize,
    looked_at: usize,
}

impl Effort {
    fn is_enough(&self) -> bool {
        self.delivered >= DELIVERIES_MAX || self.looked_at >= LOOKED_AT_MAX
    }
}

impl WatchTable {
    /// Watches armed.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// What the watches take in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Watches of one stream.
    pub(crate) fn len_of(&self, outbox: &Outbox) -> usize {
        self.by_stream.get(&outbox.id).map_or(0, |stream| stream.watches.len())
    }

    /// Arms a watch; one of the same name is replaced.
    pub(crate) fn arm(&mut self, outbox: &Arc<Outbox>, watch: Registration) {
        self.arm_in(outbox, watch, false);
    }

    /// Arms a watch of a stream that is held: if it has no watches so far, it is from now on.
    pub(crate) fn arm_held(&mut self, outbox: &Arc<Outbox>, watch: Registration) {
        self.arm_in(outbox, watch, true);
    }

    /// The watches of a stream that is held fire from now on.
    pub(crate) fn release(&mut self, outbox: &Outbox) {
        if let Some(stream) = self.by_stream.get_mut(&outbox.id) {
            stream.is_held = false;
            if stream.watches.is_empty() {
                self.by_stream.remove(&outbox.id);
            }
        }
    }

    fn arm_in(&mut self, outbox: &Arc<Outbox>, watch: Registration, is_held: bool) {
        self.disarm(outbox, watch.watch_id);
        self.by_path.insert(outbox.id, &watch);
        let recursive = usize::from(watch.kind == WatchKind::PersistentRecursive);
        self.recursive += recursive;
        self.count += 1;
        self.bytes += watch.bytes();
        outbox.keep(watch.bytes());
        let stream = self.by_stream.entry(outbox.id).or_insert_with(|| Stream {
            outbox: outbox.clone(),
            watches: HashMap::new(),
            recursive: 0,
            bytes: 0,
            is_held,
        });
        stream.recursive += recursive;
        stream.bytes += watch.bytes();
        stream.watches.insert(watch.watch_id, watch);
    }

    /// Drops a watch; says whether there was one.
    pub(crate) fn disarm(&mut self, outbox: &Outbox, watch_id: u64) -> bool {
        self.disarm_of(outbox.id, watch_id).is_some()
    }

    fn disarm_of(&mut self, stream_id: u64, watch_id: u64) -> Option<Registration> {
        let stream = self.by_stream.get_mut(&stream_id)?;
        let watch = stream.watches.remove(&watch_id)?;
        stream.outbox.release(watch.bytes());
        let recursive = usize::from(watch.kind == WatchKind::PersistentRecursive);
        stream.bytes -= watch.bytes();
        stream.recursive -= recursive;
        self.bytes -= watch.bytes();
        // One that is held stays so, whatever is armed next.
        if stream.watches.is_empty() && !stream.is_held {
            self.by_stream.remove(&stream_id);
        }
        self.by_path.remove(stream_id, &watch);
        self.recursive -= recursive;
        self.count -= 1;
        Some(watch)
    }

    /// Drops all watches of a stream: none of them fires any more. Returns whether there is something to
    /// clean up.
    pub(crate) fn disarm_all(&mut self, outbox: &Outbox) -> bool {
        let Some(stream) = self.by_stream.remove(&outbox.id) else { return false };
        stream.outbox.release(stream.bytes);
        self.bytes -= stream.bytes;
        self.recursive -= stream.recursive;
        self.count -= stream.watches.len();
        self.gone.push_back((outbox.id, stream.watches.into_iter()));
        true
    }

    /// Cleans up after up to `count` watches of streams that have gone; returns whether there are more.
    pub(crate) fn clean_up(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some((stream, watches)) = self.gone.front_mut() else { return false };
            match watches.next() {
                Some((_, watch)) => self.by_path.remove(*stream, &watch),
                None => drop(self.gone.pop_front()),
            }
        }
        !self.gone.is_empty()
    }

    /// Puts events into the outboxes of the streams that watch for them, and wakes the streams. The caller
    /// holds the tree, which is just past the events: those of one command, or of all that a snapshot has
    /// skipped.
    ///
    /// When that has been work enough, watches that any of the events left over fires get one `Resync`
    /// instead. An event that a single command makes is always told: a `Resync` would cost as much. Returns
    /// how many watches got a `Resync`.
    pub(crate) fn fire<'a>(&mut self, tree: &Tree, events: impl IntoIterator<Item = &'a Event>) -> usize {
        let (mut events, mut effort) = (events.into_iter(), Effort::default());
        while !effort.is_enough() {
            let Some(event) = events.next() else { return 0 };
            self.fire_event(tree, event, &mut effort, |_| {});
        }
        self.resync(tree, events)
    }

    /// Puts one event of the past into the outboxes. `spent` is told of each one-shot that has fired and is
    /// armed no more.
    pub(crate) fn fire_telling(&mut self, tree: &Tree, event: &Event, spent: impl FnMut(Registration)) {
        self.fire_event(tree, event, &mut Effort::default(), spent);
    }

    fn fire_event(
        &mut self,
        tree: &Tree,
        event: &Event,
        effort: &mut Effort,
        mut spent: impl FnMut(Registration),
    ) {
        if self.count == 0 {
            return;
        }
        let own_type = match event.kind {
            EventKind::Created => EventType::NodeCreated,
            EventKind::Deleted => EventType::NodeDeleted,
            EventKind::DataChanged => EventType::NodeDataChanged,
        };
        let (mut own, mut parents) = (Firings::new(), Firings::new());
        self.by_path.for_each_fired(event, self.recursive > 0, |entry, is_of_parent| {
            let (firings, event_type) = match is_of_parent {
                true => (&mut parents, EventType::NodeChildrenChanged),
                false => (&mut own, own_type),
            };
            effort.looked_at += entry.groups.len();
            for (stream, group) in &entry.groups {
                let joined = join(firings, &self.by_stream, *stream, entry.kind, group, event_type);
                effort.delivered += usize::from(joined);
            }
        });
        let mut one_shots = Vec::new();
        deliver(tree, event, &event.path, event.acl, own, &mut one_shots);
        if let Some(parent) = parent_of(&event.path) {
            deliver(tree, event, parent, event.parent_acl, parents, &mut one_shots);
        }
        for (stream, ids) in one_shots {
            for watch_id in ids.iter() {
                self.disarm_of(stream, watch_id).into_iter().for_each(&mut spent);
            }
        }
    }

    /// Tells the watches that any of the events fires to read again: one `Resync` for each stream. Each group
    /// of watches is met once, however many events fire it. Returns how many watches there are.
    ///
    /// Who may read what is not asked: a `Resync` says nothing of what has changed. One-shots stay armed.
    fn resync<'a>(&mut self, tree: &Tree, events: impl Iterator<Item = &'a Event>) -> usize {
        self.resync_rounds += 1;
        let mut resyncs: HashMap<u64, (&Arc<Outbox>, WatchIds)> = HashMap::new();
        for event in events {
            self.by_path.for_each_fired(event, self.recursive > 0, |entry, _| {
                if entry.resync_round.replace(self.resync_rounds) == self.resync_rounds {
                    return;
                }
                for (id, group) in &entry.groups {
                    let Some(stream) = self.by_stream.get(id).filter(|stream| stream.is_live()) else {
                        continue;
                    };
                    let resync = resyncs.entry(*id).or_insert_with(|| (&stream.outbox, WatchIds::default()));
                    resync.1.push(group.ids(stream.outbox.memory()));
                }
            });
        }
        let mut count = 0;
        for (outbox, watch_ids) in resyncs.into_values() {
            count += watch_ids.len();
            outbox.push(Item::Resync { watch_ids, zxid: tree.last_zxid() });
            outbox.wake();
        }
        count
    }

    /// The names of a stream's watches.
    pub(crate) fn watch_ids(&self, outbox: &Outbox) -> Arc<SharedIds> {
        let stream = self.by_stream.get(&outbox.id);
        let ids = stream.into_iter().flat_map(|stream| stream.watches.keys().copied());
        SharedIds::new(ids, outbox.memory())
    }

    /// All streams whose watches fire, with the names of their watches.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (&Arc<Outbox>, Arc<SharedIds>)> {
        let live = self.by_stream.values().filter(|stream| stream.is_live());
        live.map(|stream| (&stream.outbox, self.watch_ids(&stream.outbox)))
    }
}

/// Puts one event into the outboxes of the streams that it fires watches of. Adds to `spent` the one-shots
/// that have fired, with their stream.
fn deliver(
    tree: &Tree,
    event: &Event,
    path: &str,
    acl: u32,
    firings: Firings<'_>,
    spent: &mut Vec<(u64, Arc<SharedIds>)>,
) {
    // Made once, and shared by all streams.
    let (mut plain, mut with_value): (Option<Arc<Fired>>, Option<Arc<Fired>>) = (None, None);
    for firing in firings.into_values() {
        let outbox = &firing.stream.outbox;
        let auth = outbox.auth();
        // A watch tells nobody of what it may not read (ZooKeeper's CVE-2024-23944). A one-shot stays armed
        // then.
        if !tree.may_read(acl, &auth) {
            continue;
        }
        let event_type = firing.event_type;
        let new = || Fired::new(event_type, event.zxid, &event.path, path);
        let changes_data = matches!(event_type, EventType::NodeCreated | EventType::NodeDataChanged);
        let fired = if firing.with_value
            && changes_data
            && let Ok((data, stat)) = tree.get(path, &auth)
            && stat.mzxid == event.zxid
        {
            let memory = outbox.memory();
            let valued = || new().with_value(memory, data, crate::convert::stat_to_wire(&stat));
            with_value.get_or_insert_with(|| Arc::new(valued())).clone()
        } else {
            plain.get_or_insert_with(|| Arc::new(new())).clone()
        };
        outbox.push(Item::Event { watch_ids: firing.watch_ids, fired });
        outbox.wake();
        spent.extend(firing.one_shots.into_iter().map(|ids| (outbox.id, ids)));
    }
}

impl Drop for WatchTable {
    fn drop(&mut self) {
        for stream in self.by_stream.values() {
            stream.outbox.release(stream.bytes);
        }
    }
}

/// One event a stream, whatever number of its watches fire. Returns whether the stream is live.
fn join<'a>(
    firings: &mut Firings<'a>,
    by_stream: &'a HashMap<u64, Stream>,
    stream: u64,
    kind: WatchKind,
    group: &Group,
    event_type: EventType,
) -> bool {
    let firing = match firings.entry(stream) {
        hash_map::Entry::Occupied(firing) => firing.into_mut(),
        hash_map::Entry::Vacant(free) => {
            let Some(stream) = by_stream.get(&stream).filter(|stream| stream.is_live()) else { return false };
            let (watch_ids, one_shots) = Default::default();
            free.insert(Firing { stream, event_type, watch_ids, one_shots, with_value: false })
        }
    };
    let ids = group.ids(firing.stream.outbox.memory());
    if is_one_shot(kind) {
        firing.one_shots.push(ids.clone());
    }
    firing.watch_ids.push(ids);
    firing.with_value |= group.with_value > 0;
    true
}

#[cfg(test)]
mod tests {
    use coordd_tree::Auth;

    use super::*;
    use crate::client_memory::ClientMemory;

    struct Bench {
        table: WatchTable,
        tree: Tree,
        outbox: Arc<Outbox>,
        zxid: u64,
    }

    fn bench() -> Bench {
        let outbox = Outbox::new(1, 1, 1, 1 << 20, Auth::default(), ClientMemory::unlimited());
        Bench { table: WatchTable::default(), tree: Tree::new(), outbox, zxid: 0 }
    }

    impl Bench {
        fn arm(&mut self, watch_id: u64, path: &str, kind: WatchKind) {
            let watch = Registration { watch_id, path: path.into(), kind, with_value: false };
            self.table.arm(&self.outbox, watch);
        }

        fn groups_at(&self, path: &str) -> usize {
            use WatchKind::{Children, Data, Persistent, PersistentRecursive};
            let (by_path, hash) = (&self.table.by_path, self.table.by_path.hash(path));
            let kinds = [Children, Data, Persistent, PersistentRecursive].into_iter();
            kinds.filter_map(|kind| by_path.find(path, hash, kind)).map(|entry| entry.groups.len()).sum()
        }

        /// Fires a change and returns what came: "ids type path".
        fn fire(&mut self, kind: EventKind, path: &str) -> Vec<String> {
            self.zxid += 1;
            // ACL 0 is the one that is open to the world.
            let event = Event { zxid: self.zxid, kind, path: path.into(), acl: 0, parent_acl: 0 };
            self.table.fire(&self.tree, [&event]);
            let (items, _counted) = self.outbox.take().into_parts();
            items
                .into_iter()
                .map(|item| match item {
                    Item::Event { watch_ids, fired } => {
                        let mut ids = watch_ids.to_vec();
                        ids.sort_unstable();
                        format!("{ids:?} {} {}", fired.event_type.as_str_name(), fired.path())
                    }
                    other => panic!("{other:?}"),
                })
                .collect()
        }
    }

    #[test]
    fn a_one_shot_data_watch_fires_once() {
        let mut bench = bench();
        bench.arm(7, "/a", WatchKind::Data);
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), ["[7] EVENT_TYPE_NODE_DATA_CHANGED /a"]);
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), Vec::<String>::new());
        assert_eq!(bench.table.len(), 0);
    }

    #[test]
    fn a_children_watch_fires_for_children_and_for_the_end_of_the_znode() {
        let mut bench = bench();
        bench.arm(1, "/a", WatchKind::Children);
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), Vec::<String>::new());
        assert_eq!(bench.fire(EventKind::DataChanged, "/a/b"), Vec::<String>::new());
        assert_eq!(bench.fire(EventKind::Created, "/a/b"), ["[1] EVENT_TYPE_NODE_CHILDREN_CHANGED /a"]);
        bench.arm(2, "/a", WatchKind::Children);
        assert_eq!(bench.fire(EventKind::Deleted, "/a"), ["[2] EVENT_TYPE_NODE_DELETED /a"]);
    }

    #[test]
    fn a_persistent_watch_sees_the_znode_and_its_children_and_stays() {
        let mut bench = bench();
        bench.arm(1, "/a", WatchKind::Persistent);
        for _ in 0..2 {
            assert_eq!(bench.fire(EventKind::DataChanged, "/a"), ["[1] EVENT_TYPE_NODE_DATA_CHANGED /a"]);
            assert_eq!(bench.fire(EventKind::Deleted, "/a/b"), ["[1] EVENT_TYPE_NODE_CHILDREN_CHANGED /a"]);
        }
        assert_eq!(bench.fire(EventKind::DataChanged, "/a/b"), Vec::<String>::new());
    }

    #[test]
    fn a_recursive_watch_sees_everything_below_and_no_children_events() {
        let mut bench = bench();
        bench.arm(1, "/a", WatchKind::PersistentRecursive);
        assert_eq!(bench.fire(EventKind::Created, "/a/b/c"), ["[1] EVENT_TYPE_NODE_CREATED /a/b/c"]);
        assert_eq!(bench.fire(EventKind::Created, "/ab"), Vec::<String>::new());
        bench.arm(2, "/", WatchKind::PersistentRecursive);
        assert_eq!(bench.fire(EventKind::Deleted, "/a"), ["[1, 2] EVENT_TYPE_NODE_DELETED /a"]);
    }

    /// G9: what an event costs is a matter of the streams that wait for it, and not of how many watches each
    /// of them has.
    #[test]
    fn watches_on_one_path_are_one_entry() {
        let mut bench = bench();
        for watch_id in 1..=1000 {
            bench.arm(watch_id, "/a", WatchKind::Persistent);
        }
        bench.arm(2000, "/a", WatchKind::Data);
        assert_eq!(bench.groups_at("/a"), 2, "one for each kind");
        let ids = |told: Vec<String>| told.concat().matches([',', ']']).count();
        assert_eq!(ids(bench.fire(EventKind::DataChanged, "/a")), 1001);
        assert_eq!(ids(bench.fire(EventKind::DataChanged, "/a")), 1000);
        let outbox = bench.outbox.clone();
        for watch_id in 1..=1000 {
            assert!(bench.table.disarm(&outbox, watch_id));
        }
        assert_eq!(bench.groups_at("/a"), 0);
        assert_eq!((bench.table.len(), bench.table.bytes()), (0, 0));
    }

    fn outbox(id: u64, limit_bytes: usize) -> Arc<Outbox> {
        Outbox::new(id, id, 1, limit_bytes, Auth::default(), ClientMemory::unlimited())
    }

    fn watch(watch_id: u64, path: &str, kind: WatchKind) -> Registration {
        Registration { watch_id, path: path.into(), kind, with_value: false }
    }

    /// The events of a command that sets one znode so many times.
    fn sets(path: &str, count: usize) -> Vec<Event> {
        let event = Event { zxid: 9, kind: EventKind::DataChanged, path: path.into(), acl: 0, parent_acl: 0 };
        vec![event; count]
    }

    /// G9: a thousand events for a hundred thousand watches of one stream name them by one list.
    #[test]
    fn events_share_their_watch_ids() {
        let mut bench = bench();
        bench.outbox = outbox(1, usize::MAX >> 1);
        (1..=100_000).for_each(|watch_id| bench.arm(watch_id, "/a", WatchKind::Persistent));
        assert_eq!(bench.table.fire(&bench.tree, &sets("/a", 1000)), 0);
        let lists: Vec<Arc<SharedIds>> = Vec::from(bench.outbox.take().items)
            .iter()
            .map(|item| match item {
                Item::Event { watch_ids, .. } => watch_ids.lists()[0].clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((lists.len(), lists[0].iter().count()), (1000, 100_000));
        assert!(lists.iter().all(|list| Arc::ptr_eq(list, &lists[0])));
        // The next event names what there is by then.
        bench.table.disarm(&bench.outbox.clone(), 1);
        assert_eq!(bench.table.fire(&bench.tree, &sets("/a", 1)), 0);
        let items = Vec::from(bench.outbox.take().items);
        assert!(matches!(&items[..], [Item::Event { watch_ids, .. }] if watch_ids.len() == 99_999));
    }

    /// G9, G5: a command whose events would be too many deliveries tells each stream that misses some to read
    /// again, once, and leaves its one-shots armed. Streams that miss none get no `Resync`.
    #[test]
    fn command_over_its_budget_is_a_resync() {
        let mut bench = bench();
        let streams: Vec<_> = (10..60).map(|id| outbox(id, 1 << 20)).collect();
        for stream in &streams {
            bench.table.arm(stream, watch(1, "/a", WatchKind::Persistent));
            bench.table.arm(stream, watch(2, "/b", WatchKind::Data));
            bench.table.arm(stream, watch(3, "/c", WatchKind::Data));
        }
        bench.arm(1, "/first", WatchKind::Persistent);
        let mut events = sets("/first", 1);
        events.extend(sets("/a", 1000));
        events.extend(sets("/b", 2));
        assert_eq!(bench.table.fire(&bench.tree, &events), 50 * 2);
        let mut delivered = 0;
        for stream in &streams {
            let mut items = Vec::from(stream.take().items);
            match items.pop() {
                Some(Item::Resync { watch_ids, .. }) => {
                    let mut ids = watch_ids.to_vec();
                    ids.sort_unstable();
                    assert_eq!(ids, [1, 2]);
                }
                other => panic!("{other:?}"),
            }
            assert!(items.iter().all(|item| matches!(item, Item::Event { .. })));
            delivered += items.len();
        }
        assert!((DELIVERIES_MAX - 1..DELIVERIES_MAX + 50).contains(&delivered), "{delivered}");
        assert!(matches!(Vec::from(bench.outbox.take().items)[..], [Item::Event { .. }]));
        assert_eq!(bench.table.len(), 50 * 3 + 1);
        // The next command has a budget of its own.
        assert_eq!(bench.table.fire(&bench.tree, &sets("/a", 1)), 0);
        assert!(streams.iter().all(|stream| matches!(stream.take().items[0], Item::Event { .. })));
    }

    /// The only event of a command reaches every stream, however many there are.
    #[test]
    fn lone_event_reaches_all_streams() {
        let mut table = WatchTable::default();
        let streams: Vec<_> = (1..=DELIVERIES_MAX as u64 + 10).map(|id| outbox(id, 1 << 20)).collect();
        streams.iter().for_each(|stream| table.arm(stream, watch(1, "/a", WatchKind::Persistent)));
        assert_eq!(table.fire(&Tree::new(), &sets("/a", 1)), 0);
        assert!(streams.iter().all(|stream| matches!(stream.take().items[0], Item::Event { .. })));
    }

    /// Nothing is made for streams that have overflown.
    #[test]
    fn overflown_streams_are_skipped() {
        let mut bench = bench();
        bench.outbox = outbox(1, 2000);
        bench.arm(1, "/a", WatchKind::Persistent);
        bench.table.fire(&bench.tree, &sets("/a", 100));
        assert!(bench.outbox.is_overflown());
        bench.arm(2, "/a", WatchKind::Persistent);
        bench.table.fire(&bench.tree, &sets("/a", 100));
        let by_path = &bench.table.by_path;
        let entry = by_path.find("/a", by_path.hash("/a"), WatchKind::Persistent).expect("it is armed");
        assert!(entry.groups[&1].shared.get().is_none(), "its ids were listed for nobody");
    }

    /// The path is hashed once for all of its prefixes, and they have the hashes that they have as paths.
    #[test]
    fn prefixes_have_the_hashes_of_paths() {
        let by_path = ByPath::default();
        let prefixes: Vec<_> = by_path.prefixes("/a/bc/d").collect();
        let paths: Vec<_> = prefixes.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, ["/", "/a", "/a/bc", "/a/bc/d"]);
        for (path, hash) in prefixes {
            assert_eq!(by_path.hash(path), hash, "{path}");
        }
        // What a client names may be no path at all.
        for (path, count) in [("/", 1), ("", 1), ("é", 2), ("a/é", 3), ("/a/", 3), ("//", 3)] {
            assert_eq!(by_path.prefixes(path).count(), count, "{path}");
        }
    }

    /// A watch on each of the 128 prefixes of a path is found.
    #[test]
    fn watches_of_all_ancestors_fire() {
        let mut bench = bench();
        let path = "/0123456789abcdef0123456789abcde".repeat(128);
        let ancestors: Vec<_> = std::iter::successors(Some(&path[..]), |path| parent_of(path)).collect();
        assert_eq!(ancestors.len(), 129);
        for (index, ancestor) in ancestors.iter().enumerate() {
            bench.arm(index as u64 + 1, ancestor, WatchKind::PersistentRecursive);
        }
        bench.table.fire(&bench.tree, &sets(&path, 1));
        let items = Vec::from(bench.outbox.take().items);
        assert!(matches!(&items[..], [Item::Event { watch_ids, .. }] if watch_ids.len() == 129));
    }

    #[test]
    fn several_watches_of_one_change_are_one_event() {
        let mut bench = bench();
        bench.arm(1, "/a", WatchKind::Data);
        bench.arm(2, "/a", WatchKind::Persistent);
        assert_eq!(bench.fire(EventKind::Created, "/a"), ["[1, 2] EVENT_TYPE_NODE_CREATED /a"]);
        assert_eq!(bench.table.len(), 1, "the persistent one stays");
    }

    #[test]
    fn a_stream_that_goes_takes_its_watches_with_it() {
        let mut bench = bench();
        bench.arm(1, "/a", WatchKind::Persistent);
        bench.arm(2, "/b", WatchKind::PersistentRecursive);
        let outbox = bench.outbox.clone();
        assert!(bench.table.disarm_all(&outbox));
        assert_eq!((bench.table.len(), bench.table.recursive), (0, 0));
        assert_eq!(bench.table.bytes(), 0);
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), Vec::<String>::new());
        assert!(bench.table.clean_up(1) && bench.table.clean_up(1));
        assert!(!bench.table.clean_up(1));
        assert!(bench.table.by_path.is_empty() && bench.table.by_stream.is_empty());
    }

    /// A stream that is held fires none of its watches until it is released, and then all that are left.
    #[test]
    fn held_streams_fire_nothing() {
        let mut bench = bench();
        let outbox = bench.outbox.clone();
        let one_shot =
            |watch_id| Registration { watch_id, path: "/a".into(), kind: WatchKind::Data, with_value: false };
        bench.table.arm_held(&outbox, one_shot(1));
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), Vec::<String>::new());
        // The last one goes, and the stream is still held.
        assert!(bench.table.disarm(&outbox, 1));
        bench.table.arm_held(&outbox, one_shot(2));
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), Vec::<String>::new());
        assert_eq!(bench.table.streams().count(), 0);
        bench.table.release(&outbox);
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), ["[2] EVENT_TYPE_NODE_DATA_CHANGED /a"]);
        assert_eq!(bench.table.len(), 0);
    }

    #[test]
    fn arming_again_under_the_same_name_replaces() {
        let mut bench = bench();
        bench.arm(1, "/a", WatchKind::Persistent);
        bench.arm(1, "/b", WatchKind::Persistent);
        assert_eq!(bench.fire(EventKind::DataChanged, "/a"), Vec::<String>::new());
        assert_eq!(bench.table.len(), 1);
    }
}
