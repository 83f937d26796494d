use std::time::Duration;

use super::check::bad;
use crate::Error;

/// When a target is out, and when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// So many failures in a row put it in quarantine; at least 1. Default 3.
    pub failures: u32,
    /// It is out for at least so long. Default 30 s.
    pub quarantine: Duration,
    /// So many successes in a row bring it back then; at least 1. Default 2.
    pub successes: u32,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self { failures: 3, quarantine: Duration::from_secs(30), successes: 2 }
    }
}

/// How a [`HealthMonitor`](super::HealthMonitor) works.
#[derive(Clone, Debug)]
pub struct HealthOptions {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) policy: HealthPolicy,
    pub(super) stale_after: Duration,
    pub(super) report_every: u32,
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            policy: HealthPolicy::default(),
            stale_after: Duration::from_secs(30),
            report_every: 6,
        }
    }
}

impl HealthOptions {
    /// A check every 10 s that may take 3 s; heartbeats are stale after 30 s; a report at least every 6 checks.
    pub fn new() -> Self {
        Self::default()
    }

    /// From the beginning of a check to that of the next, less up to a tenth of it at random. A check that takes longer is
    /// followed by the next at once.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// What takes longer has failed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// When a target is out, and when it is back.
    #[must_use]
    pub fn policy(mut self, policy: HealthPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// A target that has a heartbeat fails its checks while that is older.
    #[must_use]
    pub fn stale_after(mut self, limit: Duration) -> Self {
        self.stale_after = limit;
        self
    }

    /// A report is written when the status changes, and after so many checks without a change.
    #[must_use]
    pub fn report_every(mut self, checks: u32) -> Self {
        self.report_every = checks;
        self
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let HealthPolicy { failures, successes, .. } = self.policy;
        let least = [
            ("the interval of checks", self.interval.is_zero()),
            ("the timeout of checks", self.timeout.is_zero()),
            ("the time after which heartbeats are stale", self.stale_after.is_zero()),
            ("the number of failures that put a target in quarantine", failures == 0),
            ("the number of successes that end a quarantine", successes == 0),
            ("the number of checks between reports", self.report_every == 0),
        ];
        match least.iter().find(|(_, is_zero)| *is_zero) {
            Some((what, _)) => Err(bad(format!("{what} is 0"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(HealthOptions::new().validate(), Ok(()));
        let error = HealthOptions::new().interval(Duration::ZERO).validate().unwrap_err();
        assert!(error.message.contains("interval"), "{error}");
        let policy = HealthPolicy { failures: 0, ..HealthPolicy::default() };
        let error = HealthOptions::new().policy(policy).validate().unwrap_err();
        assert!(error.message.contains("failures"), "{error}");
    }
}
