use crate::change::Step;
use crate::znode::When;
use crate::{OpResult, Outcome, Tree, Zxid};

impl Tree {
    /// Deletes those of the candidates that are due. The leader chose them by an older state, so each is looked at
    /// again: it must be the very znode, still childless, and due by the tree's time. A container that never had a child is
    /// due when it is older than `unused_ms`.
    pub(crate) fn expire_znodes(
        &mut self,
        step: &mut Step,
        candidates: &[(String, Zxid)],
        unused_ms: Option<u64>,
    ) -> OpResult {
        let mut count = 0;
        for (path, czxid) in candidates {
            let Some(place) = self.znodes.locate(path) else { continue };
            let Some((parent, _)) = place.parent else { continue };
            let due_ms = match place.znode.due() {
                Some(When::From(ms)) => Some(ms),
                Some(When::UnusedSince(ms)) => unused_ms.map(|unused_ms| ms.saturating_add(unused_ms)),
                None => None,
            };
            let is_due = due_ms.is_some_and(|due_ms| due_ms <= step.time_ms);
            if is_due && place.znode.czxid == *czxid {
                let (key, above) = (place.key, place.above());
                self.unlink(step, parent, above, path.as_str().into(), key);
                count += 1;
            }
        }
        Ok(Outcome::ZnodesExpired(count))
    }
}
