use super::Caller;
use crate::change::Step;
use crate::path::{lineage, validate_path};
use crate::quota::Usage;
use crate::{LimitName, OpError, OpResult, Outcome, Perms, Quota, Tree};

/// ZooKeeper keeps quotas in znodes that are open to the world; here they need `ADMIN` on the znode they limit.
impl Tree {
    pub(super) fn set_quota(
        &mut self,
        step: &Step,
        caller: Caller<'_>,
        path: &str,
        quota: &Quota,
    ) -> OpResult {
        let znode = self.find(path)?.znode;
        self.permit(path, znode.acl, Perms::ADMIN, caller.auth)?;
        let (count, bytes) = match self.quotas.report(path) {
            Ok(report) => (report.count, report.bytes),
            Err(_) => {
                let (max, quotas) = (u64::from(step.ceilings.quotas), self.quotas.len() as u64 + 1);
                if quotas > max {
                    return Err(OpError::limit(path, LimitName::Quotas, max, quotas));
                }
                let subtree = self.subtree(path, znode);
                (subtree.znodes, subtree.bytes)
            }
        };
        self.quotas.put(path.into(), Usage { quota: *quota, count, bytes });
        Ok(Outcome::QuotaSet)
    }

    /// Where the znode itself is gone, the lowest one above it decides.
    pub(super) fn delete_quota(&mut self, caller: Caller<'_>, path: &str) -> OpResult {
        validate_path(path)?;
        self.quotas.report(path)?;
        let lowest = lineage(path)
            .map_while(|above| self.znodes.locate(above).map(|place| (above, place.znode.acl)))
            .last();
        if let Some((above, acl)) = lowest {
            self.permit(above, acl, Perms::ADMIN, caller.auth)?;
        }
        self.quotas.remove(path);
        Ok(Outcome::QuotaDeleted)
    }
}
