use super::Caller;
use super::delete::expect_version;
use crate::path::validate_path;
use crate::{Check, CheckKind, Detail, ErrorKind, OpError, OpResult, Outcome, Perms, Tree, VersionField};

impl Tree {
    /// A check within a multi. To check a version or an epoch needs `READ`, as in ZooKeeper; that a znode is absent
    /// needs nothing, as `exists` does not.
    pub(super) fn check(&self, caller: Caller<'_>, check: &Check) -> OpResult {
        let path = &*check.path;
        match check.kind {
            CheckKind::Version(version) => {
                let znode = self.find(path)?.znode;
                self.permit(path, znode.acl, Perms::READ, caller.auth)?;
                expect_version(path, VersionField::Version, version, znode.version)?;
            }
            CheckKind::Epoch(epoch) => {
                validate_path(path)?;
                let znode = self.znodes.locate(path).map(|place| place.znode);
                if let Some(znode) = znode {
                    self.permit(path, znode.acl, Perms::READ, caller.auth)?;
                }
                if znode.is_none_or(|znode| znode.czxid != epoch) {
                    return Err(OpError::new(ErrorKind::BadEpoch, path, self.mismatch(check)));
                }
            }
            CheckKind::Absent => {
                validate_path(path)?;
                if self.znodes.locate(path).is_some() {
                    return Err(OpError::new(ErrorKind::NodeExists, path, self.mismatch(check)));
                }
            }
        }
        Ok(Outcome::Checked)
    }

    /// A guard of a write (G7). It tells no more than `exists` does, and so, like it, needs no permission.
    pub(super) fn check_guard(&self, guard: &Check) -> Result<(), OpError> {
        validate_path(&guard.path)?;
        let znode = self.znodes.locate(&guard.path).map(|place| place.znode);
        let holds = match guard.kind {
            CheckKind::Version(version) => znode.is_some_and(|z| version == -1 || z.version == version),
            CheckKind::Epoch(epoch) => znode.is_some_and(|z| z.czxid == epoch),
            CheckKind::Absent => znode.is_none(),
        };
        if holds {
            return Ok(());
        }
        Err(OpError::new(ErrorKind::GuardFailed, &*guard.path, self.mismatch(guard)))
    }

    /// What was expected and what there is instead.
    fn mismatch(&self, check: &Check) -> Detail {
        let found = self.znodes.locate(&check.path).map(|place| (place.znode.czxid, place.znode.version));
        Detail::Check { expected: check.kind, found }
    }
}
