use crate::change::Step;
use crate::{OpResult, Outcome, Tree, Zxid};

impl Tree {
    /// Deletes those of the candidates that are due. The leader chose them by an older state, so each is looked at
    /// again: it must be the very znode, still childless, and due by the tree's time.
    pub(crate) fn expire_znodes(&mut self, step: &mut Step, candidates: &[(String, Zxid)]) -> OpResult {
        let mut count = 0;
        for (path, czxid) in candidates {
            let Some(place) = self.znodes.locate(path) else { continue };
            let Some((parent, _)) = place.parent else { continue };
            let is_due = place.znode.due_ms().is_some_and(|due_ms| due_ms <= step.time_ms);
            if is_due && place.znode.czxid == *czxid {
                let key = place.key;
                self.unlink(step, parent, path.as_str().into(), key);
                count += 1;
            }
        }
        Ok(Outcome::ZnodesExpired(count))
    }
}
