use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::far::bounded;

/// When the circuit breaker of an instance opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerOptions {
    /// So many failures in a row open it. Default 5.
    pub consecutive_failures: u32,
    /// So many percent of failures among the last [`window`](Self::window) calls open it too. Default 50.
    pub failure_percent: u32,
    /// How many calls the percentage is taken of; fewer do not open it. Default 20.
    pub window: usize,
    /// How long it stays open the first time; doubles each time a trial fails. Default 1 s.
    pub open_for: Duration,
    /// The most that doubling leads to. Default 30 s.
    pub open_for_max: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_percent: 50,
            window: 20,
            open_for: Duration::from_secs(1),
            open_for_max: Duration::from_secs(30),
        }
    }
}

/// What a breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// They pass.
    Closed,
    /// They do not.
    Open,
    /// One at a time passes, as a trial.
    HalfOpen,
}

/// Keeps a caller away from an instance that fails: after too many failures it is *open*, and no call passes; after a
/// while it is *half-open* and lets one call through, whose outcome closes it or opens it for twice as long.
///
/// It has no clock: the time is an argument.
#[derive(Debug)]
pub struct CircuitBreaker {
    options: BreakerOptions,
    state: State,
    open_for: Duration,
}

#[derive(Debug)]
enum State {
    Closed { consecutive: u32, window: VecDeque<bool> },
    Open { until: Instant },
    HalfOpen { trial_under_way: bool },
}

impl CircuitBreaker {
    /// A closed one.
    pub fn new(options: BreakerOptions) -> Self {
        Self { options, state: closed(), open_for: options.open_for }
    }

    /// What it does with a call at `now`.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a call would pass at `now`.
    pub fn would_admit(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } => now >= until,
            State::HalfOpen { trial_under_way } => !trial_under_way,
        }
    }

    /// Lets a call pass, or does not. One that passed must be followed by [`on_success`](Self::on_success),
    /// [`on_failure`](Self::on_failure) or [`on_abandoned`](Self::on_abandoned).
    pub fn try_admit(&mut self, now: Instant) -> bool {
        let admits = self.would_admit(now);
        if admits && !matches!(self.state, State::Closed { .. }) {
            self.state = State::HalfOpen { trial_under_way: true };
        }
        admits
    }

    /// A call was answered.
    pub fn on_success(&mut self) {
        match &mut self.state {
            State::Closed { consecutive, window } => {
                *consecutive = 0;
                push(window, self.options.window, false);
            }
            State::HalfOpen { .. } => {
                self.open_for = self.options.open_for;
                self.state = closed();
            }
            // Sent before it opened; the failures since count for more.
            State::Open { .. } => {}
        }
    }

    /// A call failed in a way for which the instance is to blame.
    pub fn on_failure(&mut self, now: Instant) {
        match &mut self.state {
            State::Closed { consecutive, window } => {
                *consecutive += 1;
                push(window, self.options.window, true);
                let failed = window.iter().filter(|failed| **failed).count();
                let too_many = window.len() >= self.options.window.max(1)
                    && failed * 100 >= window.len() * self.options.failure_percent as usize;
                if *consecutive >= self.options.consecutive_failures || too_many {
                    self.state = State::Open { until: now + bounded(self.open_for) };
                }
            }
            State::HalfOpen { .. } => {
                self.open_for = self.open_for.saturating_mul(2).min(self.options.open_for_max);
                self.state = State::Open { until: now + bounded(self.open_for) };
            }
            State::Open { .. } => {}
        }
    }

    /// A call was given up by its caller, and says nothing about the instance.
    pub fn on_abandoned(&mut self) {
        if let State::HalfOpen { trial_under_way } = &mut self.state {
            *trial_under_way = false;
        }
    }
}

fn closed() -> State {
    State::Closed { consecutive: 0, window: VecDeque::new() }
}

fn push(window: &mut VecDeque<bool>, size: usize, failed: bool) {
    window.push_back(failed);
    while window.len() > size {
        window.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::new(BreakerOptions::default());
        for _ in 0..5 {
            assert!(breaker.try_admit(now));
            breaker.on_failure(now);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(BreakerOptions { failure_percent: 101, ..Default::default() });
        for call in 0..100 {
            assert!(breaker.try_admit(now));
            if call % 5 == 4 { breaker.on_success() } else { breaker.on_failure(now) }
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
        breaker.on_failure(now);
        (0..4).for_each(|_| breaker.on_failure(now));
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert!(!breaker.try_admit(now));
    }

    #[test]
    fn an_instance_that_fails_every_other_call_goes_out_too() {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(BreakerOptions::default());
        for call in 0..20 {
            assert_eq!(breaker.state(now), BreakerState::Closed, "call {call}");
            if call % 2 == 0 { breaker.on_success() } else { breaker.on_failure(now) }
        }
        assert_eq!(breaker.state(now), BreakerState::Open);
    }

    #[test]
    fn one_trial_passes_after_a_while_and_its_success_closes_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(!breaker.would_admit(now + SECOND / 2));
        let later = now + SECOND;
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert!(breaker.try_admit(later));
        assert!(!breaker.try_admit(later), "a second trial");
        breaker.on_success();
        assert_eq!(breaker.state(later), BreakerState::Closed);
        // Old failures are forgotten.
        breaker.on_failure(later);
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }

    #[test]
    fn each_trial_that_fails_doubles_the_time_up_to_the_limit() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!breaker.would_admit(now + SECOND * seconds - SECOND / 10), "{seconds}");
            now += SECOND * seconds;
            assert!(breaker.try_admit(now), "{seconds}");
            breaker.on_failure(now);
        }
    }

    /// A breaker may stay open for ever.
    #[test]
    fn endless_breaks_are_times() {
        let now = Instant::now();
        let options =
            BreakerOptions { open_for: Duration::MAX, open_for_max: Duration::MAX, ..Default::default() };
        let mut breaker = CircuitBreaker::new(options);
        for _ in 0..100 {
            breaker.on_failure(now);
        }
        assert_eq!(breaker.state(now + SECOND), BreakerState::Open);
        let (far, then) = (bounded(Duration::MAX), now + bounded(Duration::MAX));
        assert!(breaker.try_admit(then));
        breaker.on_failure(then);
        assert_eq!(breaker.state(then + far / 2), BreakerState::Open);
    }

    #[test]
    fn a_trial_that_was_given_up_makes_room_for_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + SECOND;
        assert!(breaker.try_admit(later));
        breaker.on_abandoned();
        assert!(breaker.try_admit(later));
    }

    #[test]
    fn a_late_answer_does_not_close_what_has_opened() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.on_success();
        assert_eq!(breaker.state(now), BreakerState::Open);
    }
}
