//! When a failure that lasts is logged.

use std::time::{Duration, Instant};

/// How long a failure lasts before it is logged.
const AFTER: Duration = Duration::from_secs(3);
/// How long it is not logged again.
const AGAIN: Duration = Duration::from_secs(60);

/// Decides which failures in a row are logged: the first one after 3 s, and then one every minute.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Complaint {
    /// A complaint about something that is tried from now on.
    pub(crate) fn begin() -> Self {
        Self { since: Some(Instant::now()), last: None }
    }

    /// Notes a failure. Returns for how long it has not worked, if that is to be logged now.
    pub(crate) fn on_failure(&mut self) -> Option<Duration> {
        self.on_failure_at(Instant::now())
    }

    fn on_failure_at(&mut self, now: Instant) -> Option<Duration> {
        let waiting = now.saturating_duration_since(*self.since.get_or_insert(now));
        let is_repeated = self.last.is_some_and(|last| now.saturating_duration_since(last) < AGAIN);
        if waiting < AFTER || is_repeated {
            return None;
        }
        self.last = Some(now);
        Some(waiting)
    }

    /// It works again.
    pub(crate) fn on_success(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failure in every second is logged after 3 s and then every minute. A success begins anew.
    #[test]
    fn repeated_failures_are_logged_each_minute() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut complaint = Complaint::default();
        for begin in [0, 1000] {
            let logged: Vec<u64> =
                (0..200).filter(|second| complaint.on_failure_at(at(begin + second)).is_some()).collect();
            assert_eq!(logged, [3, 63, 123, 183]);
            complaint.on_success();
        }
        let mut complaint = Complaint { since: Some(start), last: None };
        assert_eq!(complaint.on_failure_at(at(15)), Some(Duration::from_secs(15)), "the first failure");
    }
}
