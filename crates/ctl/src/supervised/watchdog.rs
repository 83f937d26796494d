use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Until when the command may run, on the boot clock, and how long before that it is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) deadline: Duration,
    pub(super) grace: Duration,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// SIGTERM, once.
    Terminate,
    /// SIGKILL, again and again until nothing is left.
    Kill,
}

/// Decides when the command is asked to end, and when it is killed. All times are of the boot clock.
#[derive(Debug)]
pub(super) struct Watchdog {
    lease: Lease,
    /// Once it is to end: when it is killed at the latest.
    kill_at: Option<Duration>,
    ran_out: bool,
    has_terminated: bool,
}

impl Watchdog {
    pub(super) fn new(lease: Lease) -> Self {
        Self { lease, kill_at: None, ran_out: false, has_terminated: false }
    }

    /// The lease was renewed. A stop that has begun goes on, with more time if it had been given more.
    pub(super) fn on_lease(&mut self, lease: Lease) {
        self.lease = lease;
    }

    /// The command is to end, within that time. The shortest time that was given counts.
    pub(super) fn on_stop(&mut self, now: Duration, within: Duration) {
        let kill_at = now.saturating_add(within);
        self.kill_at = Some(self.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.kill_at.is_some()
    }

    /// The lease ran out before anybody said that the command is to end. It stays so if the lease was renewed since.
    pub(super) fn has_run_out(&self) -> bool {
        self.ran_out
    }

    pub(super) fn step(&mut self, now: Duration) -> Step {
        let Lease { deadline, grace } = self.lease;
        if self.kill_at.is_none() && now.saturating_add(grace) >= deadline {
            self.kill_at = Some(deadline);
            self.ran_out = true;
        }
        match self.kill_at {
            None => Step::Wait,
            Some(kill_at) if now >= kill_at.min(deadline) => Step::Kill,
            Some(_) if self.has_terminated => Step::Wait,
            Some(_) => {
                self.has_terminated = true;
                Step::Terminate
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(deadline: u64) -> Lease {
        Lease { deadline: at(deadline), grace: seconds(2) }
    }

    #[test]
    fn a_lease_that_is_renewed_lets_the_command_run() {
        let mut watchdog = Watchdog::new(lease(10));
        for second in 0..100 {
            watchdog.on_lease(lease(second + 10));
            assert_eq!(watchdog.step(at(second)), Step::Wait);
        }
        assert!(!watchdog.is_stopping());
    }

    #[test]
    fn a_lease_that_runs_out_ends_it_a_grace_before_and_kills_at_the_deadline() {
        let mut watchdog = Watchdog::new(lease(10));
        assert_eq!(watchdog.step(at(7)), Step::Wait);
        assert_eq!(watchdog.step(at(8)), Step::Terminate);
        assert_eq!(watchdog.step(at(9)), Step::Wait, "it is asked once");
        // Heard again, too late: it was told to end.
        watchdog.on_lease(lease(30));
        assert_eq!(watchdog.step(at(9)), Step::Wait);
        assert!(watchdog.has_run_out());
        assert_eq!(watchdog.step(at(10)), Step::Kill);
        assert_eq!(watchdog.step(at(11)), Step::Kill);
    }

    #[test]
    fn a_stop_has_its_time_but_never_more_than_the_lease() {
        let mut watchdog = Watchdog::new(lease(100));
        watchdog.on_stop(at(0), seconds(50));
        assert_eq!(watchdog.step(at(0)), Step::Terminate);
        assert_eq!(watchdog.step(at(49)), Step::Wait);
        assert_eq!(watchdog.step(at(50)), Step::Kill);
        assert!(!watchdog.has_run_out());

        let mut watchdog = Watchdog::new(lease(10));
        watchdog.on_stop(at(0), seconds(50));
        assert_eq!(watchdog.step(at(0)), Step::Terminate);
        watchdog.on_lease(lease(20));
        assert_eq!(watchdog.step(at(10)), Step::Wait, "the lease was renewed");
        assert_eq!(watchdog.step(at(20)), Step::Kill);
    }

    #[test]
    fn of_two_stops_the_shorter_counts() {
        let mut watchdog = Watchdog::new(lease(100));
        watchdog.on_stop(at(0), seconds(50));
        watchdog.on_stop(at(1), seconds(0));
        watchdog.on_stop(at(2), seconds(50));
        assert_eq!(watchdog.step(at(2)), Step::Kill);
    }

    #[test]
    fn a_machine_that_slept_past_the_deadline_kills_at_once() {
        let mut watchdog = Watchdog::new(lease(10));
        assert_eq!(watchdog.step(at(5000)), Step::Kill);
    }
}
