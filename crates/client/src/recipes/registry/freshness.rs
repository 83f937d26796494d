use std::time::{Duration, Instant};

/// Tells how old a znode's data are, without comparing the clocks of two machines.
///
/// The leader stamps each write with its clock (`Stat::mtime`). A stamp that is seen here says that the servers' time is at
/// least that; from then on it has moved on by what has passed here. So the newest stamp seen, plus the time since, is a
/// lower bound of the servers' time, and the age of a record that follows from it is a lower bound too: who is judged
/// stale is stale. A bound counts for some minutes only, because clocks do not tick quite alike, and a leader's may begin
/// behind the last one's: over weeks the time that has passed here would be more than has passed there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerTime {
    /// What counts.
    bound: Option<Bound>,
    /// The best of the stamps that were seen since `bound` began to count, whatever that says.
    next: Option<Bound>,
    /// When `bound` began to count.
    since: Option<Instant>,
}

/// How long a bound counts, once others have been seen.
const KEPT: Duration = Duration::from_secs(120);

/// This stamp, in milliseconds, was seen at this moment.
#[derive(Clone, Copy, Debug)]
struct Bound {
    stamp: u64,
    at: Instant,
}

impl Bound {
    fn at_least(self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        self.stamp + u64::try_from(passed).unwrap_or(u64::MAX / 2)
    }

    fn better(self, other: Option<Bound>) -> Bound {
        other.filter(|other| other.at_least(self.at) >= self.stamp).unwrap_or(self)
    }
}

impl ServerTime {
    /// A stamp was seen.
    pub(crate) fn observe(&mut self, mtime: u64, now: Instant) {
        let seen = Bound { stamp: mtime, at: now };
        let next = seen.better(self.next);
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > KEPT) {
            *self = Self { bound: Some(next), next: None, since: Some(now) };
        } else {
            self.bound = Some(seen.better(self.bound));
            self.next = Some(next);
        }
    }

    /// The servers' time is at least this; milliseconds since the Unix epoch.
    pub(crate) fn at_least(&self, now: Instant) -> Option<u64> {
        Some(self.bound?.at_least(now))
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

    #[test]
    fn a_clock_that_ticks_faster_here_is_set_right() {
        let start = Instant::now();
        let mut time = ServerTime::default();
        // An hour in which the servers' clock loses a tenth of a second in each second, and its stamps come at once.
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            let stamp = 1_000_000 + second * 900;
            time.observe(stamp, now);
            let ahead = time.at_least(now).unwrap() - stamp;
            assert!(ahead <= 2 * 121 * 100, "{ahead} ms ahead after {second} s");
        }
        // Without any stamp the last ones go on to count.
        let now = start + Duration::from_secs(4000);
        assert!(time.at_least(now).unwrap() >= 1_000_000 + 3599 * 900 + 400_000);
    }
}
