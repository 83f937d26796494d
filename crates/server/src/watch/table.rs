use std::collections::{HashMap, HashSet, VecDeque, hash_map};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use coordd_proto::v1::{self, EventType, WatchKind};
use coordd_tree::{Event, EventKind, Tree};

use crate::convert::bad_arguments;
use crate::service::PATH_BYTES_MAX;
use crate::session::outbox::{Fired, Item, Outbox};

/// What a watch takes in memory beside its path, about.
const WATCH_BYTES: usize = 256;
/// Maps of paths.
const SHARDS: usize = 64;

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

/// The watches on one path, by the stream's id and their kind.
type AtPath = HashMap<(u64, WatchKind), Group>;

/// The watches of one stream, of one kind, on one path. A change fires them together: however many a client has on one
/// path, they are one entry to look at.
#[derive(Default)]
struct Group {
    watch_ids: HashSet<u64>,
    /// How many of them want the value.
    with_value: usize,
}

/// The watches of each path. In several maps, so that none of them has much to move when it grows.
struct ByPath {
    hasher: RandomState,
    shards: Vec<HashMap<Arc<str>, AtPath>>,
}

impl Default for ByPath {
    fn default() -> Self {
        let shards = std::iter::repeat_with(HashMap::new).take(SHARDS).collect();
        ByPath { hasher: RandomState::new(), shards }
    }
}

impl ByPath {
    fn shard(&self, path: &str) -> usize {
        self.hasher.hash_one(path) as usize % SHARDS
    }

    fn at(&self, path: &str) -> impl Iterator<Item = (u64, WatchKind, &Group)> {
        let at_path = self.shards[self.shard(path)].get(path).into_iter().flatten();
        at_path.map(|((stream, kind), group)| (*stream, *kind, group))
    }

    fn insert(&mut self, stream: u64, watch: &Registration) {
        let shard = self.shard(&watch.path);
        let at_path = self.shards[shard].entry(watch.path.clone()).or_default();
        let group = at_path.entry((stream, watch.kind)).or_default();
        group.watch_ids.insert(watch.watch_id);
        group.with_value += usize::from(watch.with_value);
    }

    fn remove(&mut self, stream: u64, watch: &Registration) {
        let shard = self.shard(&watch.path);
        let Some(at_path) = self.shards[shard].get_mut(&watch.path) else { return };
        let Some(group) = at_path.get_mut(&(stream, watch.kind)) else { return };
        if !group.watch_ids.remove(&watch.watch_id) {
            return;
        }
        group.with_value -= usize::from(watch.with_value);
        if group.watch_ids.is_empty() {
            at_path.remove(&(stream, watch.kind));
            if at_path.is_empty() {
                self.shards[shard].remove(&watch.path);
            }
        }
    }
}

/// What one change fires, by stream.
type Firings = HashMap<u64, Firing>;

/// The watches of one stream that one change fires with one type.
struct Firing {
    event_type: EventType,
    watch_ids: Vec<u64>,
    /// Those of them that fire once.
    one_shots: Vec<u64>,
    with_value: bool,
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

    /// Puts a change into the outboxes of the streams that watch for it, and wakes them. Called in the order of the log;
    /// `tree` is just past the change, or, for a change out of the history, some way past it.
    pub(crate) fn fire(&mut self, tree: &Tree, event: &Event) {
        self.fire_telling(tree, event, |_| {});
    }

    /// The same; `spent` is told of each one-shot that has fired and is armed no more.
    pub(crate) fn fire_telling(&mut self, tree: &Tree, event: &Event, mut spent: impl FnMut(Registration)) {
        if self.count > 0 {
            let (own, parents) = self.match_event(event);
            self.deliver(tree, event, &event.path, event.acl, own, &mut spent);
            if let Some(parent) = parent_of(&event.path) {
                self.deliver(tree, event, parent, event.parent_acl, parents, &mut spent);
            }
        }
    }

    /// The names of a stream's watches.
    pub(crate) fn watch_ids(&self, outbox: &Outbox) -> Vec<u64> {
        self.by_stream
            .get(&outbox.id)
            .map_or_else(Vec::new, |stream| stream.watches.keys().copied().collect())
    }

    /// All streams whose watches fire, with the names of their watches.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (&Arc<Outbox>, Vec<u64>)> {
        let live = self.by_stream.values().filter(|stream| !stream.is_held);
        live.map(|stream| (&stream.outbox, stream.watches.keys().copied().collect()))
    }

    /// What fires at the path of the event, and what fires at its parent.
    fn match_event(&self, event: &Event) -> (Firings, Firings) {
        let path: &str = &event.path;
        let structural = event.kind != EventKind::DataChanged;
        let own_type = match event.kind {
            EventKind::Created => EventType::NodeCreated,
            EventKind::Deleted => EventType::NodeDeleted,
            EventKind::DataChanged => EventType::NodeDataChanged,
        };
        let mut own = Firings::new();
        for (stream, kind, group) in self.by_path.at(path) {
            let fires = match kind {
                WatchKind::Data | WatchKind::Persistent | WatchKind::PersistentRecursive => true,
                WatchKind::Children => event.kind == EventKind::Deleted,
                WatchKind::Unspecified => false,
            };
            if fires {
                join(&mut own, stream, kind, group, own_type);
            }
        }
        if self.recursive > 0 {
            for ancestor in ancestors(path) {
                for (stream, kind, group) in self.by_path.at(ancestor) {
                    if kind == WatchKind::PersistentRecursive {
                        join(&mut own, stream, kind, group, own_type);
                    }
                }
            }
        }
        let mut parents = Firings::new();
        if structural && let Some(parent) = parent_of(path) {
            for (stream, kind, group) in self.by_path.at(parent) {
                if matches!(kind, WatchKind::Children | WatchKind::Persistent) {
                    join(&mut parents, stream, kind, group, EventType::NodeChildrenChanged);
                }
            }
        }
        (own, parents)
    }

    fn deliver(
        &mut self,
        tree: &Tree,
        event: &Event,
        path: &str,
        acl: u32,
        firings: Firings,
        told: &mut impl FnMut(Registration),
    ) {
        // Made once, and shared by all streams.
        let (mut plain, mut with_value): (Option<Arc<Fired>>, Option<Arc<Fired>>) = (None, None);
        for (stream_id, firing) in firings {
            let Some(stream) = self.by_stream.get(&stream_id).filter(|stream| !stream.is_held) else {
                continue;
            };
            let auth = stream.outbox.auth();
            // A watch tells nobody of what it may not read (ZooKeeper's CVE-2024-23944). A one-shot stays armed then.
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
                let memory = stream.outbox.memory();
                let valued = || new().with_value(memory, data, crate::convert::stat_to_wire(&stat));
                with_value.get_or_insert_with(|| Arc::new(valued())).clone()
            } else {
                plain.get_or_insert_with(|| Arc::new(new())).clone()
            };
            stream.outbox.push(Item::Event { watch_ids: firing.watch_ids, fired });
            stream.outbox.wake();
            for watch_id in firing.one_shots {
                if let Some(spent) = self.disarm_of(stream_id, watch_id) {
                    told(spent);
                }
            }
        }
    }
}

impl Drop for WatchTable {
    fn drop(&mut self) {
        for stream in self.by_stream.values() {
            stream.outbox.release(stream.bytes);
        }
    }
}

/// One event a stream, whatever number of its watches fire.
fn join(firings: &mut Firings, stream: u64, kind: WatchKind, group: &Group, event_type: EventType) {
    let firing = firings.entry(stream).or_insert_with(|| Firing {
        event_type,
        watch_ids: Vec::new(),
        one_shots: Vec::new(),
        with_value: false,
    });
    firing.watch_ids.extend(&group.watch_ids);
    if is_one_shot(kind) {
        firing.one_shots.extend(&group.watch_ids);
    }
    firing.with_value |= group.with_value > 0;
}

/// The parent of a path; none for the root.
fn parent_of(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        _ if path == "/" => None,
        0 => Some("/"),
        at => Some(&path[..at]),
    }
}

/// From the parent up to the root.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent_of(path), |path| parent_of(path))
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

        /// Fires a change and returns what came: "ids type path".
        fn fire(&mut self, kind: EventKind, path: &str) -> Vec<String> {
            self.zxid += 1;
            // ACL 0 is the one that is open to the world.
            let event = Event { zxid: self.zxid, kind, path: path.into(), acl: 0, parent_acl: 0 };
            self.table.fire(&self.tree, &event);
            let (items, _counted) = self.outbox.take().into_parts();
            items
                .into_iter()
                .map(|item| match item {
                    Item::Event { watch_ids: mut ids, fired } => {
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

    /// G9: what an event costs is a matter of the streams that wait for it, and not of how many watches each of them has.
    #[test]
    fn many_watches_of_one_stream_on_one_path_are_one_entry() {
        let mut bench = bench();
        for watch_id in 1..=1000 {
            bench.arm(watch_id, "/a", WatchKind::Persistent);
        }
        bench.arm(2000, "/a", WatchKind::Data);
        assert_eq!(bench.table.by_path.at("/a").count(), 2, "one for each kind");
        let ids = |told: Vec<String>| told.concat().matches([',', ']']).count();
        assert_eq!(ids(bench.fire(EventKind::DataChanged, "/a")), 1001);
        assert_eq!(ids(bench.fire(EventKind::DataChanged, "/a")), 1000);
        let outbox = bench.outbox.clone();
        for watch_id in 1..=1000 {
            assert!(bench.table.disarm(&outbox, watch_id));
        }
        assert_eq!(bench.table.by_path.at("/a").count(), 0);
        assert_eq!((bench.table.len(), bench.table.bytes()), (0, 0));
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
        assert!(bench.table.by_path.shards.iter().all(HashMap::is_empty) && bench.table.by_stream.is_empty());
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
