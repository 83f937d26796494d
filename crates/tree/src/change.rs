use std::collections::BTreeMap;
use std::sync::Arc;

use crate::path::split;
use crate::tally::{Slot, Sum};
use crate::znode::{Dir, Kind, Znode};
use crate::znodes::{KeyRef, Spot};
use crate::{Ceilings, Event, EventKind, Tree, Zxid};

/// Bytes of events that one command keeps at most, counted as the history does. No command of rules 2 gets there.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// The command that is being applied.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) zxid: Zxid,
    pub(crate) time_ms: u64,
    /// The rules of its entry.
    pub(crate) rules: u32,
    pub(crate) ceilings: Ceilings,
    /// What it has changed so far.
    pub(crate) events: Vec<Event>,
    event_bytes: usize,
    /// Where its events are too many to be kept: the references to ACLs that they would hold.
    pub(crate) dropped: Option<BTreeMap<u32, u64>>,
}

/// The changes that operations are made of. Each keeps everything in step that hangs on a znode: its parent's
/// counters, the tallies above it, quotas, its session, references to ACLs, the times it is due at, and the event. They
/// check nothing: an operation has checked all it needs before its first change.
impl Tree {
    /// Puts a new znode under `parent` and returns where it stands. `znode` brings a reference to its ACL along. `number` is
    /// that of a sequential name, 0 for others: later ones are above it. The caller counts it in the tallies.
    pub(crate) fn link<'p>(
        &mut self,
        step: &mut Step,
        parent: Spot<'_>,
        path: &'p Arc<str>,
        number: u64,
        znode: Znode,
    ) -> Spot<'p> {
        let (parent_path, name) = split(path).unwrap_or(("/", path));
        let dir = self.znodes.get(parent.key).and_then(|znode| znode.dir.as_ref());
        let (id, slot) = match dir.map(|dir| (dir.id, dir.slot)) {
            Some(known) => known,
            None => (self.znodes.draw_id(), self.tallies.open(parent.above)),
        };
        let parent_acl = self.update(parent_path, parent.key, |znode| {
            let fresh = || Box::new(Dir { id, creates: 0, children: 0, slot, pzxid: 0 });
            let dir = znode.dir.get_or_insert_with(fresh);
            dir.creates = dir.creates.max(number) + 1;
            dir.children += 1;
            dir.pzxid = step.zxid;
        });
        self.quotas.record(path, 1, znode.data.len() as i64);
        if let Kind::Ephemeral(session) = znode.kind {
            self.sessions.add_ephemeral(session, path.clone());
        }
        self.due.shift(path, znode.czxid, None, znode.due());
        let acl = znode.acl;
        self.acls.retain(acl);
        self.acls.retain(parent_acl);
        let key = KeyRef { parent: id, name };
        self.znodes.insert(key, znode);
        step.push(EventKind::Created, path.clone(), acl, parent_acl);
        Spot { key, above: Some(slot) }
    }

    /// Takes a znode out that has no children; `above` is the tally of its directory.
    pub(crate) fn unlink(
        &mut self,
        step: &mut Step,
        parent: KeyRef<'_>,
        above: Option<Slot>,
        path: Arc<str>,
        key: KeyRef<'_>,
    ) {
        if let Some((above, znode)) = above.zip(self.znodes.get(key)) {
            let sum = Sum::of(znode.data.len(), path.len());
            self.tallies.add(above, sum.negated());
            self.quotas.record(&path, -1, -(znode.data.len() as i64));
        }
        self.unlink_counted(step, parent, path, key);
    }

    /// The same for what no longer counts in tallies and quotas. If it has children, they are taken out in
    /// the same step.
    pub(crate) fn unlink_counted(
        &mut self,
        step: &mut Step,
        parent: KeyRef<'_>,
        path: Arc<str>,
        key: KeyRef<'_>,
    ) {
        let (parent_path, _) = split(&path).unwrap_or(("/", &path));
        let parent_acl = self.update(parent_path, parent, |znode| {
            if let Some(dir) = &mut znode.dir {
                dir.children = dir.children.saturating_sub(1);
                dir.pzxid = step.zxid;
            }
        });
        self.drop_znode(step, path, key, parent_acl);
    }

    /// Takes a znode out that no longer counts, and whose parent knows, or goes as well.
    pub(crate) fn drop_znode(&mut self, step: &mut Step, path: Arc<str>, key: KeyRef<'_>, parent_acl: u32) {
        let Some(znode) = self.znodes.remove(key) else { return };
        if let Some(dir) = &znode.dir {
            self.tallies.close(dir.slot);
        }
        if let Kind::Ephemeral(session) = znode.kind {
            self.sessions.remove_ephemeral(session, &path);
        }
        self.due.shift(&path, znode.czxid, znode.due(), None);
        // The event takes over the znode's own reference to its ACL.
        self.acls.retain(parent_acl);
        step.push(EventKind::Deleted, path, znode.acl, parent_acl);
    }

    /// Replaces a znode's data; `above` is the tally of its directory.
    pub(crate) fn replace_data(
        &mut self,
        step: &mut Step,
        path: &str,
        place: (KeyRef<'_>, Option<Slot>, u32),
        data: &[u8],
        change: impl FnOnce(&mut Znode),
    ) {
        let (key, above, parent_acl) = place;
        let replaced = self.znodes.set_data(key, data, |znode, bytes_before| {
            let before = znode.due();
            change(znode);
            (bytes_before, before, znode.due(), znode.czxid, znode.acl)
        });
        let Some((bytes_before, before, after, czxid, acl)) = replaced else { return };
        if let Some(above) = above.filter(|_| data.len() != bytes_before) {
            let bytes = (data.len() as u64).wrapping_sub(bytes_before as u64);
            self.tallies.add(above, Sum { bytes, ..Sum::default() });
        }
        self.due.shift(path, czxid, before, after);
        self.quotas.record(path, 0, data.len() as i64 - bytes_before as i64);
        self.acls.retain(acl);
        self.acls.retain(parent_acl);
        step.push(EventKind::DataChanged, path.into(), acl, parent_acl);
    }

    /// Changes what is neither data nor a place in the tree. Returns the znode's ACL.
    pub(crate) fn update(&mut self, path: &str, key: KeyRef<'_>, change: impl FnOnce(&mut Znode)) -> u32 {
        let updated = self.znodes.update(key, |znode| {
            let before = znode.due();
            change(znode);
            (before, znode.due(), znode.czxid, znode.acl)
        });
        let Some((before, after, czxid, acl)) = updated else { return crate::acl_table::AclTable::OPEN };
        self.due.shift(path, czxid, before, after);
        acl
    }

    /// What is below a znode, itself not counted.
    pub(crate) fn below(&self, znode: &Znode) -> Sum {
        znode.dir.as_ref().map_or_else(Sum::default, |dir| self.tallies.below(dir.slot))
    }

    /// A subtree, its top at `path` included.
    pub(crate) fn subtree(&self, path: &str, top: &Znode) -> Sum {
        self.below(top).plus(Sum::of(top.data.len(), path.len()))
    }
}

impl Step {
    pub(crate) fn new(zxid: Zxid, time_ms: u64, rules: u32, ceilings: Ceilings) -> Step {
        Step { zxid, time_ms, rules, ceilings, events: Vec::new(), event_bytes: 0, dropped: None }
    }

    /// Forgets the events of operations that are taken back.
    pub(crate) fn take_back(&mut self) {
        self.events.clear();
        self.event_bytes = 0;
        self.dropped = None;
    }

    /// The caller has taken a reference to each ACL for the event.
    fn push(&mut self, kind: EventKind, path: Arc<str>, acl: u32, parent_acl: u32) {
        self.event_bytes += Event::cost(&path);
        if self.event_bytes > EVENT_BYTES_MAX {
            let dropped = self.dropped.get_or_insert_default();
            let events = std::mem::take(&mut self.events);
            let references = events.iter().flat_map(|event| [event.acl, event.parent_acl]);
            for acl in references.chain([acl, parent_acl]) {
                *dropped.entry(acl).or_default() += 1;
            }
            return;
        }
        self.events.push(Event { zxid: self.zxid, kind, path, acl, parent_acl });
    }
}
