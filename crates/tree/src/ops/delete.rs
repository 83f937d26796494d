use super::Caller;
use crate::change::Step;
use crate::path::{is_reserved, split, validate_path};
use crate::znodes::KeyRef;
use crate::{Detail, ErrorKind, OpError, OpResult, Outcome, Perms, Tree, VersionField};

impl Tree {
    /// As in ZooKeeper the parent's ACL decides, and it does so before the znode is looked for.
    pub(super) fn delete(
        &mut self,
        step: &mut Step,
        caller: Caller<'_>,
        path: &str,
        version: i32,
    ) -> OpResult {
        refuse_reserved(path)?;
        let no_node = || OpError::no_node(path);
        let (parent_path, name) = split(path).ok_or_else(no_node)?;
        let parent = self.znodes.locate(parent_path).ok_or_else(no_node)?;
        self.permit(parent_path, parent.znode.acl, Perms::DELETE, caller.auth)?;
        let key = KeyRef { parent: parent.znode.dir.as_ref().ok_or_else(no_node)?.id, name };
        let znode = self.znodes.get(key).ok_or_else(no_node)?;
        expect_version(path, VersionField::Version, version, znode.version)?;
        if znode.num_children() > 0 {
            return Err(OpError::new(ErrorKind::NotEmpty, path, Detail::Children(znode.num_children())));
        }
        let above = parent.znode.dir.as_ref().map(|dir| dir.slot);
        let parent = parent.key;
        self.unlink(step, parent, above, path.into(), key);
        Ok(Outcome::Deleted)
    }
}

/// Refuses a path that is not valid, and those of the znodes that are always there.
pub(super) fn refuse_reserved(path: &str) -> Result<(), OpError> {
    validate_path(path)?;
    if is_reserved(path) {
        return Err(OpError::new(ErrorKind::BadArguments, path, Detail::Reserved));
    }
    Ok(())
}

/// Refuses with `BadVersion` unless `expected` is -1 or the actual one. `field` is the one of the stat.
pub(super) fn expect_version(
    path: &str,
    field: VersionField,
    expected: i32,
    actual: i32,
) -> Result<(), OpError> {
    if expected == -1 || expected == actual {
        return Ok(());
    }
    Err(OpError::new(ErrorKind::BadVersion, path, Detail::Version { field, actual, expected }))
}
