use std::sync::Arc;

use imbl::OrdMap;

use crate::Zxid;

/// The TTL znodes and empty containers by the time from which on they may go, so that finding those that are due
/// costs nothing while there are none. It follows from the znodes, so it is in neither snapshot nor digest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Due {
    by_time: OrdMap<(u64, Arc<str>), Zxid>,
}

impl Due {
    /// Moves the znode at `path` from one time to another; `None` is "never".
    pub(crate) fn shift(&mut self, path: &str, czxid: Zxid, before_ms: Option<u64>, after_ms: Option<u64>) {
        if before_ms == after_ms {
            return;
        }
        let path: Arc<str> = path.into();
        if let Some(due_ms) = before_ms {
            self.by_time.remove(&(due_ms, path.clone()));
        }
        if let Some(due_ms) = after_ms {
            self.by_time.insert((due_ms, path), czxid);
        }
    }

    /// The paths and czxids of those that are due, the longest due first.
    pub(crate) fn until(&self, now_ms: u64) -> impl Iterator<Item = (&str, Zxid)> {
        self.by_time
            .iter()
            .take_while(move |((due_ms, _), _)| *due_ms <= now_ms)
            .map(|((_, path), czxid)| (&**path, *czxid))
    }
}
