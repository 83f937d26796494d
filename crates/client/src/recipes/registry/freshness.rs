use std::time::{Duration, Instant};

/// Tells how old a znode's data are, without comparing the clocks of two machines.
///
/// The leader stamps each write with its clock (`Stat::mtime`). A stamp that is seen here says that the servers' time is at
/// least that; from then on it has moved on by what has passed here. So the newest stamp seen, plus the time since, is a
/// lower bound of the servers' time, and the age of a record that follows from it is a lower bound too: who is judged
/// stale is stale.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerTime {
    /// The bound: this stamp, in milliseconds, was seen at this moment.
    seen: Option<(u64, Instant)>,
}

impl ServerTime {
    /// A stamp was seen.
    pub(crate) fn observe(&mut self, mtime: u64, now: Instant) {
        if self.at_least(now).is_none_or(|bound| mtime > bound) {
            self.seen = Some((mtime, now));
        }
    }

    /// The servers' time is at least this; milliseconds since the Unix epoch.
    pub(crate) fn at_least(&self, now: Instant) -> Option<u64> {
        let (stamp, at) = self.seen?;
        Some(stamp + u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX / 2))
    }

    /// A record that was written at `mtime` is at least so old.
    pub(crate) fn age(&self, mtime: u64, now: Instant) -> Duration {
        Duration::from_millis(self.at_least(now).map_or(0, |bound| bound.saturating_sub(mtime)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_never_more_than_it_is() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut time = ServerTime::default();
        assert_eq!(time.age(1_000, start), Duration::ZERO);
        time.observe(1_000, start);
        assert_eq!(time.age(1_000, at(500)), Duration::from_millis(500));
        // A stamp that was long under way says less than is known.
        time.observe(1_200, at(500));
        assert_eq!(time.age(1_000, at(500)), Duration::from_millis(500));
        // One that was shorter under way says more.
        time.observe(1_700, at(500));
        assert_eq!(time.age(1_000, at(500)), Duration::from_millis(700));
        assert_eq!(time.age(1_700, at(800)), Duration::from_millis(300));
        assert_eq!(time.age(9_000, at(800)), Duration::ZERO);
    }
}
