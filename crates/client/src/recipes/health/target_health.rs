use std::time::{Duration, Instant};

use super::{CheckOutcome, HealthPolicy, HealthStatus, Latency, LatencyWindow};

/// The health of one target as its checks go: from *unknown* by a success to *healthy*, by a failure to *suspect*, by too many in
/// a row into *quarantine*, and back by enough successes in a row once its least time there is over.
///
/// It has no clock: the time is an argument.
#[derive(Clone, Debug)]
pub struct TargetHealth {
    policy: HealthPolicy,
    status: HealthStatus,
    why: String,
    /// Since when it is in quarantine.
    quarantined_at: Option<Instant>,
    failures_in_row: u32,
    successes_in_row: u32,
    checks: u64,
    failures: u64,
    quarantines: u64,
    latencies: LatencyWindow,
}

/// A change of status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub old: HealthStatus,
    /// What it is.
    pub new: HealthStatus,
}

impl TargetHealth {
    /// One of which nothing is known.
    pub fn new(policy: HealthPolicy) -> Self {
        Self {
            policy,
            status: HealthStatus::Unknown,
            why: String::new(),
            quarantined_at: None,
            failures_in_row: 0,
            successes_in_row: 0,
            checks: 0,
            failures: 0,
            quarantines: 0,
            latencies: LatencyWindow::default(),
        }
    }

    /// A check has ended at `now`. Returns the change of status, if it is one.
    pub fn on_outcome(&mut self, outcome: &CheckOutcome, now: Instant) -> Option<Transition> {
        match outcome {
            CheckOutcome::Passed { latency } => self.on_success(*latency, now),
            CheckOutcome::Failed { why } => self.on_failure(why, now),
            CheckOutcome::Inconclusive => None,
        }
    }

    /// It was not checked for so long that nothing is known of it any more. Returns the change of status, if it is one.
    pub fn forget(&mut self) -> Option<Transition> {
        self.quarantined_at = None;
        self.failures_in_row = 0;
        self.successes_in_row = 0;
        self.turn(HealthStatus::Unknown, "it was not checked for a while")
    }

    fn on_success(&mut self, latency: Duration, now: Instant) -> Option<Transition> {
        self.checks += 1;
        self.failures_in_row = 0;
        self.successes_in_row = self.successes_in_row.saturating_add(1);
        self.latencies.record(latency);
        match self.quarantined_at {
            None if self.status == HealthStatus::Unknown => {
                self.turn(HealthStatus::Healthy, "its first check passed")
            }
            None => self.turn(HealthStatus::Healthy, "it passes its checks again"),
            Some(since) => {
                let out_for = now.saturating_duration_since(since);
                let is_back =
                    self.successes_in_row >= self.policy.successes && out_for >= self.policy.quarantine;
                if !is_back {
                    return None;
                }
                self.quarantined_at = None;
                let why = format!("{} checks in a row passed, after {out_for:.1?}", self.successes_in_row);
                self.turn(HealthStatus::Healthy, &why)
            }
        }
    }

    fn on_failure(&mut self, why: &str, now: Instant) -> Option<Transition> {
        self.checks += 1;
        self.failures += 1;
        self.successes_in_row = 0;
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.why = why.to_owned();
        if self.quarantined_at.is_some() {
            return None;
        }
        if self.failures_in_row >= self.policy.failures {
            self.quarantined_at = Some(now);
            self.quarantines += 1;
            return self.turn(HealthStatus::Quarantined, why);
        }
        match self.status {
            HealthStatus::Healthy => self.turn(HealthStatus::Suspect, why),
            _ => None,
        }
    }

    fn turn(&mut self, new: HealthStatus, why: &str) -> Option<Transition> {
        let old = std::mem::replace(&mut self.status, new);
        if old == new {
            return None;
        }
        self.why = why.to_owned();
        Some(Transition { old, new })
    }

    /// How it is.
    pub fn status(&self) -> HealthStatus {
        self.status
    }

    /// Why: the newest failure, or how it came back. Empty before the first check.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// How many of the newest checks failed in a row.
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row
    }

    /// How many of the newest checks passed in a row.
    pub fn successes_in_row(&self) -> u32 {
        self.successes_in_row
    }

    /// How many checks were made. Those that were inconclusive do not count.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// How many of them failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// How often it was put in quarantine.
    pub fn quarantines(&self) -> u64 {
        self.quarantines
    }

    /// Of the newest checks that passed; `None` if none has.
    pub fn latency(&self) -> Option<Latency> {
        self.latencies.summary()
    }
}
