use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::recipes::Strategy;
use crate::{Error, ErrorKind};

/// How a group assigns. It stands in the tree, and whoever leads goes by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AssignmentSettings {
    pub(super) strategy: Strategy,
    pub(super) threshold: f64,
    pub(super) window_ms: u64,
    pub(super) drain_timeout_ms: Option<u64>,
}

impl Default for AssignmentSettings {
    fn default() -> Self {
        Self { strategy: Strategy::LeastLoaded, threshold: 0.2, window_ms: 30_000, drain_timeout_ms: None }
    }
}

impl AssignmentSettings {
    /// Least loaded, rebalanced when the scores differ by more than a fifth of their average but not within 30 s of the last
    /// time, and no drain timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// By what items are given to workers; see [`Planner`](crate::recipes::Planner).
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Items are moved from worker to worker when the highest and the lowest score are farther apart than this part of the
    /// average. 0.2 is a fifth; 0 moves whatever helps.
    #[must_use]
    pub fn threshold(mut self, threshold: f64) -> Self {
        self.threshold = threshold;
        self
    }

    /// The least time from one rebalancing by threshold to the next. Items that nobody has are given out at once, and
    /// [`rebalance`](crate::recipes::WorkAssignment::rebalance) does not wait. Whole milliseconds.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// How long a worker may take to let go of an item that was revoked. Then its grant is deleted, and its guarded writes are
    /// refused from then on. `None`, the default: as long as its session lives. Whole milliseconds.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.drain_timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.threshold.is_finite() && self.threshold >= 0.0 {
            return Ok(());
        }
        let message = format!("a threshold of {}; it is at least 0", self.threshold);
        Err(Error::new(ErrorKind::BadArguments, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        let settings = AssignmentSettings::new()
            .strategy(Strategy::ConsistentHash)
            .threshold(0.5)
            .window(Duration::from_secs(2))
            .drain_timeout(Some(Duration::from_millis(1500)));
        let json = serde_json::to_value(&settings).unwrap();
        let expected = serde_json::json!({
            "strategy": "consistent-hash", "threshold": 0.5, "window_ms": 2000, "drain_timeout_ms": 1500
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<AssignmentSettings>(json).unwrap(), settings);
        assert!(settings.check().is_ok());
        for threshold in [f64::NAN, -0.1, f64::INFINITY] {
            let error = settings.clone().threshold(threshold).check().unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadArguments);
        }
    }
}
