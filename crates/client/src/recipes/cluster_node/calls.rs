use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What is counted goes back so far.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
const SECONDS: usize = WINDOW.as_secs() as usize;

/// The calls of this node's services.
#[derive(Debug)]
pub(super) struct Calls {
    start: Instant,
    under_way: AtomicUsize,
    answered: Mutex<Answered>,
}

/// What became of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// How many were answered.
    pub(super) requests: u64,
    /// To how many of them the answer was that the service cannot work.
    pub(super) errors: u64,
    /// How long all of them took together, in milliseconds.
    #[serde(rename = "latencyMs")]
    pub(super) latency_ms: f64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.latency_ms += other.latency_ms;
    }
}

/// By the second since the start. Pure: the time is an argument.
#[derive(Debug)]
struct Answered {
    total: u64,
    /// Each with the second that it is of.
    seconds: [(u64, Tally); SECONDS],
}

impl Default for Answered {
    fn default() -> Self {
        Self { total: 0, seconds: [(0, Tally::default()); SECONDS] }
    }
}

impl Answered {
    fn record(&mut self, second: u64, call: &Tally) {
        self.total += call.requests;
        let (of, tally) = &mut self.seconds[second as usize % SECONDS];
        if *of != second {
            (*of, *tally) = (second, Tally::default());
        }
        tally.add(call);
    }

    fn lately(&self, second: u64) -> Tally {
        let mut sum = Tally::default();
        for (_, tally) in self.seconds.iter().filter(|(of, _)| *of + (SECONDS as u64) > second) {
            sum.add(tally);
        }
        sum
    }
}

impl Calls {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), under_way: AtomicUsize::new(0), answered: Mutex::default() })
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How many were answered since the node was started, and what became of those of the last minute.
    pub(super) fn answered(&self) -> (u64, Tally) {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        (answered.total, answered.lately(self.start.elapsed().as_secs()))
    }

    pub(super) fn begin(self: &Arc<Self>) -> Call {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Call { calls: self.clone(), start: Instant::now() }
    }
}

/// A call that is under way. One that is dropped without an answer was given up, and is not counted.
pub(super) struct Call {
    calls: Arc<Calls>,
    start: Instant,
}

impl Call {
    pub(super) fn answered(self, is_error: bool) {
        let latency_ms = self.start.elapsed().as_secs_f64() * 1000.0;
        let call = Tally { requests: 1, errors: u64::from(is_error), latency_ms };
        let second = self.calls.start.elapsed().as_secs();
        self.calls.answered.lock().unwrap_or_else(PoisonError::into_inner).record(second, &call);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_a_minute_is_not_counted_any_more() {
        let call = |errors| Tally { requests: 1, errors, latency_ms: 2.0 };
        let mut answered = Answered::default();
        for second in 0..200 {
            answered.record(second, &call(0));
            answered.record(second, &call(second % 2));
        }
        assert_eq!(answered.lately(199), Tally { requests: 120, errors: 30, latency_ms: 240.0 });
        assert_eq!(answered.lately(229), Tally { requests: 60, errors: 15, latency_ms: 120.0 });
        assert_eq!(answered.lately(259), Tally::default());
        assert_eq!(answered.total, 400);
    }

    #[test]
    fn a_call_that_is_given_up_is_not_counted() {
        let calls = Calls::new();
        let (first, second) = (calls.begin(), calls.begin());
        assert_eq!(calls.under_way(), 2);
        drop(first);
        second.answered(true);
        let (total, lately) = calls.answered();
        assert_eq!((calls.under_way(), total, lately.requests, lately.errors), (0, 1, 1, 1));
    }
}
