use std::sync::Arc;

use imbl::OrdMap;

use crate::Zxid;
use crate::znode::When;

/// The TTL znodes and empty containers by the time from which on they may go, so that finding those that are due
/// costs nothing while there are none. It follows from the znodes, so it is in neither snapshot nor digest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Due {
    by_time: Times,
    /// Containers that never had a child, by the time they were made at.
    unused: Times,
}

type Times = OrdMap<(u64, Arc<str>), Zxid>;

impl Due {
    /// Moves the znode at `path` from one time to another; `None` is "never".
    pub(crate) fn shift(&mut self, path: &str, czxid: Zxid, before: Option<When>, after: Option<When>) {
        if before == after {
            return;
        }
        let path: Arc<str> = path.into();
        if let Some((times, ms)) = before.map(|when| self.times(when)) {
            times.remove(&(ms, path.clone()));
        }
        if let Some((times, ms)) = after.map(|when| self.times(when)) {
            times.insert((ms, path), czxid);
        }
    }

    fn times(&mut self, when: When) -> (&mut Times, u64) {
        match when {
            When::From(ms) => (&mut self.by_time, ms),
            When::UnusedSince(ms) => (&mut self.unused, ms),
        }
    }

    /// The paths and czxids of those that are due, the longest due first; then those of containers that have been unused
    /// since `unused_since_ms` or longer.
    pub(crate) fn until(
        &self,
        now_ms: u64,
        unused_since_ms: Option<u64>,
    ) -> impl Iterator<Item = (&str, Zxid)> {
        up_to(&self.by_time, Some(now_ms))
            .chain(up_to(&self.unused, unused_since_ms))
            .map(|((_, path), czxid)| (&**path, *czxid))
    }
}

fn up_to(times: &Times, ms: Option<u64>) -> impl Iterator<Item = (&(u64, Arc<str>), &Zxid)> {
    times.iter().take_while(move |((time, _), _)| ms.is_some_and(|ms| *time <= ms))
}
