use std::cmp::Ordering;

use compact_str::CompactString;
use equivalent::{Comparable, Equivalent};

use crate::Zxid;
use crate::digest::Digest;
use crate::leaf_map::LeafMap;
use crate::tally::Slot;
use crate::znode::Znode;

/// The [`crate::znode::Dir::id`] of the root.
pub(crate) const ROOT_ID: u64 = 1;

/// Where a znode stands: under which parent, with which name. The children of one parent are one range of keys, in
/// the order of their names. The root alone has parent 0 and an empty name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) parent: u64,
    pub(crate) name: CompactString,
}

/// A [`Key`] to look up with, which borrows its name from a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    pub(crate) parent: u64,
    pub(crate) name: &'a str,
}

impl KeyRef<'_> {
    pub(crate) const ROOT: KeyRef<'static> = KeyRef { parent: 0, name: "" };

    fn to_key(self) -> Key {
        Key { parent: self.parent, name: self.name.into() }
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.compare(key).is_eq()
    }
}

impl Comparable<Key> for KeyRef<'_> {
    fn compare(&self, key: &Key) -> Ordering {
        self.parent.cmp(&key.parent).then_with(|| self.name.cmp(key.name.as_str()))
    }
}

/// A znode that can get children.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot<'p> {
    pub(crate) key: KeyRef<'p>,
    /// The tally of the directory that it is in; `None` for the root.
    pub(crate) above: Option<Slot>,
}

/// A znode that was found, and what was seen on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'p, 'a> {
    pub(crate) key: KeyRef<'p>,
    pub(crate) znode: &'a Znode,
    /// `None` for the root only.
    pub(crate) parent: Option<(KeyRef<'p>, &'a Znode)>,
}

impl<'p> Place<'p, '_> {
    /// Where the znode stands, for [`crate::Tree::link`] to put children under it.
    pub(crate) fn spot(&self) -> Spot<'p> {
        Spot { key: self.key, above: self.above() }
    }

    /// The tally of the directory that the znode is in; `None` for the root.
    pub(crate) fn above(&self) -> Option<Slot> {
        Some(self.parent?.1.dir.as_ref()?.slot)
    }

    /// The ACL that decides who hears of the znode as a child; the root's own for the root.
    pub(crate) fn parent_acl(&self) -> u32 {
        self.parent.map_or(self.znode.acl, |(_, parent)| parent.acl)
    }
}

/// All znodes, with their number, the size of their data and their digest.
///
/// This is the bare map: it keeps those three and nothing else in step. What else hangs on a znode (the parent's
/// counters, quotas, sessions, ACLs, events) is the business of [`crate::change`].
#[derive(Clone, Debug)]
pub(crate) struct Znodes {
    map: LeafMap<Key, Znode>,
    /// For the next znode that gets its first child.
    next_id: u64,
    data_bytes: u64,
    digest: Digest,
    journal: Option<Box<Journal>>,
}

/// What it takes to go back to where the znodes were when the journal was begun.
///
/// A clone would do as well, but while it exists every first change of a leaf copies the leaf and touches all the
/// znodes in it; the journal touches only what is changed.
#[derive(Clone, Debug)]
struct Journal {
    /// Znodes of this zxid are made since: to go back it is enough to take them out.
    zxid: Zxid,
    /// What each changed key held before, in the order of the changes.
    before: Vec<(Key, Option<Box<Znode>>)>,
    next_id: u64,
    data_bytes: u64,
    digest: Digest,
}

impl Journal {
    /// Notes what a key holds, if there is a journal, before it is changed.
    fn keep(journal: &mut Option<Box<Journal>>, key: KeyRef<'_>, znode: &Znode) {
        if let Some(journal) = journal
            && znode.czxid != journal.zxid
        {
            journal.before.push((key.to_key(), Some(Box::new(znode.clone()))));
        }
    }
}

impl Znodes {
    /// Without a root even.
    pub(crate) fn empty(next_id: u64) -> Znodes {
        let map = LeafMap::new(KeyRef::ROOT.to_key());
        Znodes { map, next_id, data_bytes: 0, digest: Digest::default(), journal: None }
    }

    pub(crate) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        self.iter()
            .flat_map(|(key, znode)| {
                [znode.fields_hash(key.parent, &key.name), znode.data_hash(key.parent, &key.name)]
            })
            .collect()
    }

    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<&Znode> {
        self.map.get(&key)
    }

    /// The znode at `path`. A path that is not valid names no znode.
    pub(crate) fn locate<'p>(&self, path: &'p str) -> Option<Place<'p, '_>> {
        if path == "/" {
            return Some(Place { key: KeyRef::ROOT, znode: self.get(KeyRef::ROOT)?, parent: None });
        }
        let mut names = path.strip_prefix('/')?.split('/');
        // The root's id is known, so it is looked for only where it is the parent.
        let mut key = KeyRef { parent: ROOT_ID, name: names.next()? };
        let mut znode = self.get(key)?;
        let mut parent = None;
        for name in names {
            parent = Some((key, znode));
            key = KeyRef { parent: znode.dir.as_ref()?.id, name };
            znode = self.get(key)?;
        }
        let parent = match parent {
            Some(parent) => parent,
            None => (KeyRef::ROOT, self.get(KeyRef::ROOT)?),
        };
        Some(Place { key, znode, parent: Some(parent) })
    }

    /// The lowest znode on the way to `path` that is there, and how many bytes of `path` are its own. The root for a path
    /// that is not absolute.
    pub(crate) fn locate_lowest<'p>(&self, path: &'p str) -> Option<(Place<'p, '_>, usize)> {
        let mut place = Place { key: KeyRef::ROOT, znode: self.get(KeyRef::ROOT)?, parent: None };
        let mut bytes = 1;
        let mut start = 1;
        while let Some(rest) = path.get(start..).filter(|rest| !rest.is_empty()) {
            let name = rest.split('/').next().unwrap_or(rest);
            let Some(dir) = place.znode.dir.as_ref() else { break };
            let key = KeyRef { parent: dir.id, name };
            let Some(znode) = self.get(key) else { break };
            place = Place { key, znode, parent: Some((place.key, place.znode)) };
            bytes = start + name.len();
            start = bytes + 1;
        }
        Some((place, bytes))
    }

    /// The child `name` of `parent`.
    pub(crate) fn child(&self, parent: &Znode, name: &str) -> Option<&Znode> {
        self.get(KeyRef { parent: parent.dir.as_ref()?.id, name })
    }

    /// The children of `parent` in the order of their names, from after the name `after` on.
    pub(crate) fn children<'a>(
        &'a self,
        parent: &Znode,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a str, &'a Znode)> + use<'a> {
        // No child has an empty name, so "after the empty name" is the first.
        let parent = parent.dir.as_ref().map_or(u64::MAX, |dir| dir.id);
        let start = KeyRef { parent, name: after.unwrap_or("") };
        self.map
            .from(self.map.place_after(&start))
            .take_while(move |(key, _)| key.parent == parent)
            .map(|(key, znode)| (key.name.as_str(), znode))
    }

    /// Everything, parents before their children.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Znode)> {
        self.map.iter()
    }

    pub(crate) fn insert(&mut self, key: KeyRef<'_>, znode: Znode) {
        self.digest.add(znode.fields_hash(key.parent, key.name));
        self.digest.add(znode.data_hash(key.parent, key.name));
        self.data_bytes += znode.data.len() as u64;
        let key = key.to_key();
        if let Some(journal) = &mut self.journal {
            journal.before.push((key.clone(), None));
        }
        let before = self.map.insert(key, znode);
        debug_assert!(before.is_none(), "a znode was replaced, not updated");
    }

    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<Znode> {
        let znode = self.map.remove(&key)?;
        Journal::keep(&mut self.journal, key, &znode);
        self.digest.remove(znode.fields_hash(key.parent, key.name));
        self.digest.remove(znode.data_hash(key.parent, key.name));
        self.data_bytes -= znode.data.len() as u64;
        Some(znode)
    }

    /// Changes anything but the data. Returns what `change` returns, `None` where there is no such znode.
    pub(crate) fn update<T>(&mut self, key: KeyRef<'_>, change: impl FnOnce(&mut Znode) -> T) -> Option<T> {
        let znode = self.map.get_mut(&key)?;
        Journal::keep(&mut self.journal, key, znode);
        self.digest.remove(znode.fields_hash(key.parent, key.name));
        let changed = change(znode);
        self.digest.add(znode.fields_hash(key.parent, key.name));
        Some(changed)
    }

    /// Replaces the data, and `change`s the rest with it, which is told how many bytes there were.
    pub(crate) fn set_data<T>(
        &mut self,
        key: KeyRef<'_>,
        data: &[u8],
        change: impl FnOnce(&mut Znode, usize) -> T,
    ) -> Option<T> {
        let znode = self.map.get_mut(&key)?;
        Journal::keep(&mut self.journal, key, znode);
        self.digest.remove(znode.fields_hash(key.parent, key.name));
        self.digest.remove(znode.data_hash(key.parent, key.name));
        let bytes_before = znode.data.len();
        self.data_bytes = self.data_bytes - bytes_before as u64 + data.len() as u64;
        znode.data = data.into();
        let changed = change(znode, bytes_before);
        self.digest.add(znode.fields_hash(key.parent, key.name));
        self.digest.add(znode.data_hash(key.parent, key.name));
        Some(changed)
    }

    /// From here on, until [`Znodes::commit`] or [`Znodes::roll_back`], changes can be taken back. All of them are the
    /// command `zxid`.
    pub(crate) fn begin(&mut self, zxid: Zxid) {
        let &mut Znodes { next_id, data_bytes, digest, .. } = self;
        self.journal = Some(Box::new(Journal { zxid, before: Vec::new(), next_id, data_bytes, digest }));
    }

    /// Keeps the changes since [`Znodes::begin`].
    pub(crate) fn commit(&mut self) {
        self.journal = None;
    }

    /// Takes the changes since [`Znodes::begin`] back.
    pub(crate) fn roll_back(&mut self) {
        let Some(journal) = self.journal.take() else { return };
        let Journal { before, next_id, data_bytes, digest, .. } = *journal;
        for (key, znode) in before.into_iter().rev() {
            match znode {
                Some(znode) => self.map.insert(key, *znode),
                None => self.map.remove(&key),
            };
        }
        (self.next_id, self.data_bytes, self.digest) = (next_id, data_bytes, digest);
    }

    /// An id for a znode that gets its first child.
    pub(crate) fn draw_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}
