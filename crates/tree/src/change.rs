use std::sync::Arc;

use crate::path::split;
use crate::znode::{Dir, Kind, Znode};
use crate::znodes::KeyRef;
use crate::{Event, EventKind, Tree, Zxid};

/// The command that is being applied.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) zxid: Zxid,
    pub(crate) time_ms: u64,
    /// What it has changed so far.
    pub(crate) events: Vec<Event>,
}

/// The changes that operations are made of. Each keeps everything in step that hangs on a znode: its parent's
/// counters, quotas, its session, references to ACLs, the times it is due at, and the event. They check nothing:
/// an operation has checked all it needs before its first change.
impl Tree {
    /// Puts a new znode under `parent` and returns its key. `znode` brings a reference to its ACL along.
    pub(crate) fn link<'p>(
        &mut self,
        step: &mut Step,
        parent: KeyRef<'_>,
        path: &'p Arc<str>,
        znode: Znode,
    ) -> KeyRef<'p> {
        let (parent_path, name) = split(path).unwrap_or(("/", path));
        let id = match self.znodes.get(parent).and_then(|znode| znode.dir.as_ref()) {
            Some(dir) => dir.id,
            None => self.znodes.draw_id(),
        };
        let parent_acl = self.update(parent_path, parent, |znode| {
            let fresh = || Box::new(Dir { id, creates: 0, children: 0, pzxid: 0 });
            let dir = znode.dir.get_or_insert_with(fresh);
            dir.creates += 1;
            dir.children += 1;
            dir.pzxid = step.zxid;
        });
        self.quotas.record(path, 1, znode.data.len() as i64);
        if let Kind::Ephemeral(session) = znode.kind {
            self.sessions.add_ephemeral(session, path.clone());
        }
        self.due.shift(path, znode.czxid, None, znode.due_ms());
        let acl = znode.acl;
        self.acls.retain(acl);
        self.acls.retain(parent_acl);
        let key = KeyRef { parent: id, name };
        self.znodes.insert(key, znode);
        step.push(EventKind::Created, path.clone(), acl, parent_acl);
        key
    }

    /// Takes a znode out. Its children, if it has any, are taken out in the same step.
    pub(crate) fn unlink(&mut self, step: &mut Step, parent: KeyRef<'_>, path: Arc<str>, key: KeyRef<'_>) {
        let (parent_path, _) = split(&path).unwrap_or(("/", &path));
        let parent_acl = self.update(parent_path, parent, |znode| {
            if let Some(dir) = &mut znode.dir {
                dir.children = dir.children.saturating_sub(1);
                dir.pzxid = step.zxid;
            }
        });
        self.drop_znode(step, path, key, parent_acl);
    }

    /// Takes a znode out whose parent goes as well, so that the parent need not be told.
    pub(crate) fn drop_znode(&mut self, step: &mut Step, path: Arc<str>, key: KeyRef<'_>, parent_acl: u32) {
        let Some(znode) = self.znodes.remove(key) else { return };
        self.quotas.record(&path, -1, -(znode.data.len() as i64));
        if let Kind::Ephemeral(session) = znode.kind {
            self.sessions.remove_ephemeral(session, &path);
        }
        self.due.shift(&path, znode.czxid, znode.due_ms(), None);
        // The event takes over the znode's own reference to its ACL.
        self.acls.retain(parent_acl);
        step.push(EventKind::Deleted, path, znode.acl, parent_acl);
    }

    /// Replaces a znode's data.
    pub(crate) fn replace_data(
        &mut self,
        step: &mut Step,
        path: &str,
        key: KeyRef<'_>,
        parent_acl: u32,
        data: &[u8],
        change: impl FnOnce(&mut Znode),
    ) {
        let replaced = self.znodes.set_data(key, data, |znode, bytes_before| {
            let before = znode.due_ms();
            change(znode);
            (bytes_before, before, znode.due_ms(), znode.czxid, znode.acl)
        });
        let Some((bytes_before, before, after, czxid, acl)) = replaced else { return };
        self.due.shift(path, czxid, before, after);
        self.quotas.record(path, 0, data.len() as i64 - bytes_before as i64);
        self.acls.retain(acl);
        self.acls.retain(parent_acl);
        step.push(EventKind::DataChanged, path.into(), acl, parent_acl);
    }

    /// Changes what is neither data nor a place in the tree. Returns the znode's ACL.
    pub(crate) fn update(&mut self, path: &str, key: KeyRef<'_>, change: impl FnOnce(&mut Znode)) -> u32 {
        let updated = self.znodes.update(key, |znode| {
            let before = znode.due_ms();
            change(znode);
            (before, znode.due_ms(), znode.czxid, znode.acl)
        });
        let Some((before, after, czxid, acl)) = updated else { return crate::acl_table::AclTable::OPEN };
        self.due.shift(path, czxid, before, after);
        acl
    }
}

impl Step {
    /// The caller has taken a reference to each ACL for the event.
    fn push(&mut self, kind: EventKind, path: Arc<str>, acl: u32, parent_acl: u32) {
        self.events.push(Event { zxid: self.zxid, kind, path, acl, parent_acl });
    }
}
