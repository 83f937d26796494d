use std::time::Duration;

use super::spec::HealerSpec;

/// How often and how a copy has ended on this agent, and when it is started again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Restarts {
    pub(super) count: u64,
    pub(super) last_exit: Option<String>,
    /// Ends in a row.
    failures: u32,
}

impl Restarts {
    /// The copy has ended after so long. Returns the pause until it is started again.
    pub(super) fn on_exit(&mut self, spec: &HealerSpec, ran_for: Duration, how: String) -> Duration {
        self.count += 1;
        self.last_exit = Some(how);
        if ran_for >= Duration::from_millis(spec.stable_ms) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let pause_ms =
            1u64.checked_shl(self.failures - 1).and_then(|factor| spec.pause_ms.checked_mul(factor));
        Duration::from_millis(pause_ms.unwrap_or(u64::MAX).min(spec.pause_max_ms))
    }

    pub(super) fn is_failing(&self, spec: &HealerSpec) -> bool {
        self.failures >= spec.failures_max.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_good_run() {
        let spec = HealerSpec {
            pause_ms: 100,
            pause_max_ms: 1_000,
            stable_ms: 5_000,
            failures_max: 3,
            ..HealerSpec::new(1, ["x"])
        };
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut restarts = Restarts::default();
        let pauses: Vec<_> =
            (0..100).map(|_| restarts.on_exit(&spec, short, String::new()).as_millis()).collect();
        assert_eq!(pauses[..6], [100, 200, 400, 800, 1_000, 1_000]);
        assert!(pauses[6..].iter().all(|pause| *pause == 1_000));
        assert!(restarts.is_failing(&spec));
        assert_eq!(restarts.on_exit(&spec, long, String::new()).as_millis(), 100);
        assert!(!restarts.is_failing(&spec));
        restarts.on_exit(&spec, short, "exit code 1".into());
        assert!(!restarts.is_failing(&spec));
        restarts.on_exit(&spec, short, "exit code 1".into());
        assert!(restarts.is_failing(&spec));
        assert_eq!((restarts.count, restarts.last_exit.as_deref()), (103, Some("exit code 1")));
    }
}
