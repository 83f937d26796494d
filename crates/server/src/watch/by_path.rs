//! Which watches an event fires: by kind and path.

use std::cell::{Cell, OnceCell};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState};
use std::sync::Arc;

use coordd_proto::v1::WatchKind;
use coordd_tree::{Event, EventKind};
use hashbrown::HashTable;

use super::{Registration, SharedIds};
use crate::client_memory::ClientMemory;

/// Maps of paths.
const SHARDS: usize = 64;

/// The watches of one kind on one path.
pub(super) struct Entry {
    /// See [`ByPath::find`].
    hash: u64,
    path: Arc<str>,
    pub(super) kind: WatchKind,
    /// By the stream's id.
    pub(super) groups: HashMap<u64, Group>,
    /// The latest round of resyncs that has met this.
    pub(super) resync_round: Cell<u64>,
}

/// The watches of one stream, of one kind, on one path. A change fires them together: however many a client
/// has on one path, they are one entry to look at.
#[derive(Default)]
pub(super) struct Group {
    pub(super) watch_ids: HashSet<u64>,
    /// How many of them want the value.
    pub(super) with_value: usize,
    /// All ids, for the items that name them. Made by the first event, and dropped when the group changes.
    pub(super) shared: OnceCell<Arc<SharedIds>>,
}

impl Group {
    pub(super) fn ids(&self, memory: &Arc<ClientMemory>) -> Arc<SharedIds> {
        self.shared.get_or_init(|| SharedIds::new(self.watch_ids.iter().copied(), memory)).clone()
    }
}

/// The watches by kind and path. In several maps, so that none of them has much to move when it grows.
pub(super) struct ByPath {
    hasher: RandomState,
    shards: Vec<HashTable<Entry>>,
}

impl Default for ByPath {
    fn default() -> Self {
        let shards = std::iter::repeat_with(HashTable::new).take(SHARDS).collect();
        ByPath { hasher: RandomState::new(), shards }
    }
}

/// The prefixes of a path that are paths, from the root to the path itself, each with its hash. The path is
/// hashed once, however many prefixes it has.
pub(super) struct Prefixes<'a> {
    path: &'a str,
    hasher: DefaultHasher,
    /// The end of the latest prefix.
    end: usize,
    is_past_root: bool,
}

impl<'a> Iterator for Prefixes<'a> {
    type Item = (&'a str, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.is_past_root {
            self.is_past_root = true;
            self.end = usize::from(self.path == "/");
            return Some(("/", self.hasher.finish()));
        }
        let rest = self.path.as_bytes().get(self.end + 1..)?;
        let component = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let begin = self.end;
        self.end += 1 + component;
        self.hasher.write(&self.path.as_bytes()[begin..self.end]);
        Some((&self.path[..self.end], self.hasher.finish()))
    }
}

/// The hash of the watches of one kind on a path that has this hash.
fn hash_of(path_hash: u64, kind: WatchKind) -> u64 {
    path_hash ^ (kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Not by the bits by which the map in a shard places its entries.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl ByPath {
    pub(super) fn prefixes<'a>(&self, path: &'a str) -> Prefixes<'a> {
        Prefixes { path, hasher: self.hasher.build_hasher(), end: 0, is_past_root: false }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(HashTable::is_empty)
    }

    /// The hash of a path, as [`ByPath::prefixes`] has it.
    pub(super) fn hash(&self, path: &str) -> u64 {
        self.prefixes(path).last().map_or(0, |(_, hash)| hash)
    }

    pub(super) fn find(&self, path: &str, path_hash: u64, kind: WatchKind) -> Option<&Entry> {
        let hash = hash_of(path_hash, kind);
        self.shards[shard_of(hash)].find(hash, |entry| entry.is(hash, path, kind))
    }

    pub(super) fn insert(&mut self, stream: u64, watch: &Registration) {
        let (path, kind) = (&watch.path, watch.kind);
        let hash = hash_of(self.hash(path), kind);
        let shard = &mut self.shards[shard_of(hash)];
        let entry = shard.entry(hash, |entry| entry.is(hash, path, kind), |entry| entry.hash);
        let new = || {
            let (groups, resync_round) = (HashMap::new(), Cell::new(0));
            Entry { hash, path: path.clone(), kind, groups, resync_round }
        };
        let group = entry.or_insert_with(new).into_mut().groups.entry(stream).or_default();
        group.watch_ids.insert(watch.watch_id);
        group.with_value += usize::from(watch.with_value);
        group.shared.take();
    }

    pub(super) fn remove(&mut self, stream: u64, watch: &Registration) {
        let hash = hash_of(self.hash(&watch.path), watch.kind);
        let shard = &mut self.shards[shard_of(hash)];
        let found = shard.find_entry(hash, |entry| entry.is(hash, &watch.path, watch.kind));
        let Ok(mut entry) = found else { return };
        let groups = &mut entry.get_mut().groups;
        let Some(group) = groups.get_mut(&stream) else { return };
        if !group.watch_ids.remove(&watch.watch_id) {
            return;
        }
        group.with_value -= usize::from(watch.with_value);
        group.shared.take();
        if group.watch_ids.is_empty() {
            groups.remove(&stream);
            if groups.is_empty() {
                entry.remove();
            }
        }
    }

    /// Calls `found` with all watches that an event fires, and whether they are told of the parent.
    /// `with_ancestors`: there may be recursive watches.
    pub(super) fn for_each_fired<'a>(
        &'a self,
        event: &Event,
        with_ancestors: bool,
        mut found: impl FnMut(&'a Entry, bool),
    ) {
        use WatchKind::{Children, Data, Persistent, PersistentRecursive};
        let path: &str = &event.path;
        let parent = parent_of(path).filter(|_| event.kind != EventKind::DataChanged);
        let mut find = |prefix, hash, kinds: &[WatchKind], is_of_parent| {
            let entries = kinds.iter().filter_map(|kind| self.find(prefix, hash, *kind));
            entries.for_each(|entry| found(entry, is_of_parent));
        };
        for (prefix, hash) in self.prefixes(path) {
            if prefix.len() == path.len() {
                find(prefix, hash, &[Data, Persistent, PersistentRecursive], false);
                if event.kind == EventKind::Deleted {
                    find(prefix, hash, &[Children], false);
                }
                continue;
            }
            if with_ancestors {
                find(prefix, hash, &[PersistentRecursive], false);
            }
            if parent == Some(prefix) {
                find(prefix, hash, &[Children, Persistent], true);
            }
        }
    }
}

impl Entry {
    fn is(&self, hash: u64, path: &str, kind: WatchKind) -> bool {
        self.hash == hash && self.kind == kind && *self.path == *path
    }
}

/// The parent of a path; none for the root.
pub(super) fn parent_of(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        _ if path == "/" => None,
        0 => Some("/"),
        at => Some(&path[..at]),
    }
}
