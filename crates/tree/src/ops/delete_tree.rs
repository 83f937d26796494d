use std::sync::Arc;

use super::Caller;
use super::delete::refuse_reserved;
use crate::change::Step;
use crate::path::split;
use crate::znodes::KeyRef;
use crate::{ErrorKind, OpError, OpResult, Outcome, Perms, Tree};

impl Tree {
    /// Deletes a subtree, children before their parents, in one step. It is allowed to whom ZooKeeper's recursive
    /// delete, which goes znode by znode, would be allowed: `DELETE` is asked of every znode that loses a child.
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
        let top_key = KeyRef { parent: parent.znode.dir.as_ref().ok_or_else(no_node)?.id, name };
        let top = self.znodes.get(top_key).ok_or_else(no_node)?;

        let mut doomed: Vec<Arc<str>> = Vec::new();
        let mut allowed = Ok(());
        self.descend(path, top, |path, znode| {
            if znode.num_children() > 0 && allowed.is_ok() {
                allowed = self.permit(path, znode.acl, Perms::DELETE, caller.auth);
            }
            doomed.push(path.into());
        });
        allowed?;
        let count = doomed.len() as u64;
        if let Some(expected) = expected_count
            && expected != count
        {
            let message = format!("the subtree of {path:?} has {count} znodes, expected {expected}");
            return Err(OpError::new(ErrorKind::CountMismatch, path, message));
        }

        // The top comes last and is the only one whose parent stays.
        doomed.pop();
        for path in doomed {
            let Some(place) = self.znodes.locate(&path) else { continue };
            let (key, parent_acl) = (place.key, place.parent_acl());
            self.drop_znode(step, path.clone(), key, parent_acl);
        }
        self.unlink(step, parent_key, path.into(), top_key);
        Ok(Outcome::TreeDeleted(count))
    }
}
