use super::Caller;
use super::delete::expect_version;
use crate::acl::resolve;
use crate::path::validate_path;
use crate::znode::next_version;
use crate::{Acl, OpResult, Outcome, Perms, Stat, Tree};

impl Tree {
    /// No event comes of it: ZooKeeper has none for it either.
    pub(super) fn set_acl(&mut self, caller: Caller<'_>, path: &str, acl: &Acl, version: i32) -> OpResult {
        validate_path(path)?;
        let acl = resolve(acl, caller.auth, path)?;
        let place = self.find(path)?;
        self.permit(path, place.znode.acl, Perms::ADMIN, caller.auth)?;
        expect_version(path, "aversion", version, place.znode.aversion)?;
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
}
