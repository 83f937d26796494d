use super::Caller;
use super::delete::expect_version;
use crate::change::Step;
use crate::planted::{Bug, own_time_ms};
use crate::znode::next_version;
use crate::{OpResult, Outcome, Perms, Stat, Tree, VersionField};

impl Tree {
    pub(super) fn set_data(
        &mut self,
        step: &mut Step,
        caller: Caller<'_>,
        path: &str,
        data: &[u8],
        version: i32,
    ) -> OpResult {
        let place = self.find(path)?;
        self.permit(path, place.znode.acl, Perms::WRITE, caller.auth)?;
        // The quota comes before the version, as in ZooKeeper.
        self.quotas.check(path, 0, data.len() as i64 - place.znode.data.len() as i64)?;
        expect_version(path, VersionField::Version, version, place.znode.version)?;
        let place = (place.key, place.above(), place.parent_acl());
        let mzxid = step.zxid;
        let mtime = if Bug::OwnTimeInTheTree.is_planted() { own_time_ms() } else { step.time_ms };
        let mut stat = Stat::default();
        self.replace_data(step, path, place, data, |znode| {
            znode.version = next_version(znode.version);
            znode.mzxid = mzxid;
            znode.mtime = mtime;
            stat = znode.stat();
        });
        Ok(Outcome::DataSet(stat))
    }
}
