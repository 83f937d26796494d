use super::Caller;
use super::delete::expect_version;
use crate::acl::resolve;
use crate::change::Step;
use crate::path::validate_path;
use crate::znode::next_version;
use crate::{Acl, LimitName, OpError, OpResult, Outcome, Perms, Stat, Tree, VersionField};

impl Tree {
    /// No event comes of it: ZooKeeper has none for it either.
    pub(super) fn set_acl(
        &mut self,
        step: &Step,
        caller: Caller<'_>,
        path: &str,
        acl: &Acl,
        version: i32,
    ) -> OpResult {
        validate_path(path)?;
        let acl = resolve(acl, caller.auth, path)?;
        let place = self.find(path)?;
        self.permit(path, place.znode.acl, Perms::ADMIN, caller.auth)?;
        expect_version(path, VersionField::Aversion, version, place.znode.aversion)?;
        self.expect_acl_room(step, path, &acl)?;
        let key = place.key;
        let before = place.znode.acl;
        let acl = self.acls.acquire(acl);
        let mut stat = Stat::default();
        self.update(path, key, |znode| {
            znode.acl = acl;
            znode.aversion = next_version(znode.aversion);
            stat = znode.stat();
        });
        self.acls.release(before);
        Ok(Outcome::AclSet(stat))
    }
    /// Refuses an ACL for which the table has no room.
    pub(super) fn expect_acl_room(&self, step: &Step, path: &str, acl: &Acl) -> Result<(), OpError> {
        let (max, added) = (u64::from(step.ceilings.acl_bytes), self.acls.bytes_added_by(acl));
        let bytes = self.acls.bytes() + added;
        match added > 0 && bytes > max && step.rules > 1 {
            true => Err(OpError::limit(path, LimitName::AclTableBytes, max, bytes)),
            false => Ok(()),
        }
    }
}
