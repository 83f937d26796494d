use std::sync::Arc;

use super::Caller;
use super::delete::refuse_reserved;
use crate::change::Step;
use crate::path::split;
use crate::tally::Sum;
use crate::znode::Znode;
use crate::znodes::KeyRef;
use crate::{Detail, ErrorKind, LimitName, OpError, OpResult, Outcome, Perms, Tree};

impl Tree {
    /// Deletes a subtree, children before their parents, in one step. It is allowed to whom ZooKeeper's recursive
    /// delete, which goes znode by znode, would be allowed: `DELETE` is asked of every znode that loses a child.
    ///
    /// What a refusal costs is bounded, too: the counts are looked at before any znode is. (Under rules 1 the ACLs come first.)
    pub(super) fn delete_tree(
        &mut self,
        step: &mut Step,
        caller: Caller<'_>,
        path: &str,
        expected_count: Option<u64>,
    ) -> OpResult {
        refuse_reserved(path)?;
        let no_node = || OpError::no_node(path);
        let (parent_path, name) = split(path).ok_or_else(no_node)?;
        let parent = self.znodes.locate(parent_path).ok_or_else(no_node)?;
        self.permit(parent_path, parent.znode.acl, Perms::DELETE, caller.auth)?;
        let parent_key = parent.key;
        let dir = parent.znode.dir.as_ref().ok_or_else(no_node)?;
        let (top_key, above) = (KeyRef { parent: dir.id, name }, dir.slot);
        let top = self.znodes.get(top_key).ok_or_else(no_node)?;

        let subtree = self.subtree(path, top);
        // Where every ACL is open, no ACL can refuse, and the order does not show. That of the configuration
        // is of a znode that nobody can delete.
        let config = || self.znodes.locate("/zookeeper/config");
        let is_open = || config().is_some_and(|config| self.acls.is_open_beside(config.znode.acl));
        let counts_first = step.rules > 1 || is_open();
        if counts_first {
            expect_size(step, path, subtree, expected_count)?;
        }
        let mut doomed = self.expect_deletable(caller, path, top)?;
        if !counts_first {
            expect_size(step, path, subtree, expected_count)?;
        }

        self.tallies.add(above, subtree.negated());
        self.quotas.record_end(path, subtree.znodes, subtree.bytes);
        // The top comes last and is the only one whose parent stays.
        doomed.pop();
        for Doomed { path, parent, parent_acl } in doomed {
            let name = split(&path).map_or("", |(_, name)| name);
            self.drop_znode(step, path.clone(), KeyRef { parent, name }, parent_acl);
        }
        self.unlink_counted(step, parent_key, path.into(), top_key);
        Ok(Outcome::TreeDeleted(subtree.znodes))
    }

    /// A subtree, children before their parents, if `caller` may delete all of it.
    fn expect_deletable(&self, caller: Caller<'_>, path: &str, top: &Znode) -> Result<Vec<Doomed>, OpError> {
        let mut doomed = Vec::new();
        let mut allowed = Ok(());
        self.descend(path, top, |path, znode, parent| {
            if znode.num_children() > 0 && allowed.is_ok() {
                allowed = self.permit(path, znode.acl, Perms::DELETE, caller.auth);
            }
            let dir = parent.and_then(|parent| parent.dir.as_ref());
            doomed.push(Doomed {
                path: path.into(),
                parent: dir.map_or(0, |dir| dir.id),
                parent_acl: parent.map_or(0, |parent| parent.acl),
            });
        });
        allowed.map(|()| doomed)
    }
}

/// A znode of a subtree that is to go.
struct Doomed {
    path: Arc<str>,
    /// As in [`KeyRef::parent`], and the ACL of that parent; 0 for the top, which is taken out in another
    /// way.
    parent: u64,
    parent_acl: u32,
}

/// Refuses a subtree that has another number of znodes than expected, or costs more than one command may.
fn expect_size(step: &Step, path: &str, subtree: Sum, expected_count: Option<u64>) -> Result<(), OpError> {
    let actual = subtree.znodes;
    if let Some(expected) = expected_count
        && expected != actual
    {
        let detail = Detail::SubtreeCount { actual, expected };
        return Err(OpError::new(ErrorKind::CountMismatch, path, detail));
    }
    let max = u64::from(step.ceilings.tree_znodes);
    if actual > max {
        return Err(OpError::limit(path, LimitName::TreeZnodes, max, actual));
    }
    let (max, bytes) = (u64::from(step.ceilings.removed_event_bytes), subtree.event_bytes());
    if bytes > max {
        return Err(OpError::limit(path, LimitName::RemovedEventBytes, max, bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AclEntry, Create, CreateMode, Write, WriteOp};

    /// A log of rules 1 may hold many refusals by count, each of a large subtree.
    #[test]
    fn a_tree_without_acls_is_open() {
        let mut tree = Tree::new();
        let is_open = |tree: &Tree| {
            let config = tree.znodes.locate("/zookeeper/config").expect("it is always there").znode;
            tree.acls.is_open_beside(config.acl)
        };
        assert!(is_open(&tree));
        let acl = vec![AclEntry::world(Perms::READ)];
        let (path, mode) = ("/a".into(), CreateMode::Persistent);
        let op = Create { path, data: crate::Data::default(), acl, mode, ttl_ms: 0, parents: false };
        let (auth, guards) = (crate::Auth::default(), Vec::new());
        let write = Write { session: 0, seq: 0, acked: 0, auth, guards, op: WriteOp::Create(op) };
        let batch = crate::Batch {
            origin: crate::Origin { node: 1, incarnation: 1 },
            first_seq: 1,
            commands: vec![crate::Command::Write(write)],
        };
        tree.apply(&crate::Entry { batches: vec![batch], ..crate::Entry::default() }, |_, _, _, applied| {
            applied.result.expect("a create");
        });
        assert!(!is_open(&tree));
    }
}
