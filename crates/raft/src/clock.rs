use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The leader's clock for stamping entries: milliseconds since the Unix epoch that never go back, and that go at the
/// speed of the monotonic clock while this node leads, whatever is done to the wall clock meanwhile.
pub(crate) struct StampClock {
    base: Mutex<Base>,
}

#[derive(Clone, Copy)]
struct Base {
    term: u64,
    at: Instant,
    time_ms: u64,
}

impl StampClock {
    pub(crate) fn new() -> Self {
        StampClock { base: Mutex::new(Base { term: 0, at: Instant::now(), time_ms: 0 }) }
    }

    /// This node leads in `term`: if that is news, starts anew at the later of the wall clock and `floor_ms`, the tree's
    /// time.
    pub(crate) fn lead(&self, term: u64, floor_ms: u64) {
        let mut current = self.base.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if current.term == term {
            return;
        }
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        *current = Base { term, at: Instant::now(), time_ms: wall_ms.max(floor_ms) };
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let base = *self.base.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        base.time_ms.saturating_add(base.at.elapsed().as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_starts_at_the_trees_when_the_wall_clock_is_behind_it() {
        let clock = StampClock::new();
        let far_future = u64::MAX / 2;
        clock.lead(1, far_future);
        assert!(clock.now_ms() >= far_future);
    }

    /// The end of all time is reached, not passed.
    #[test]
    fn last_time_stays() {
        let clock = StampClock::new();
        clock.lead(1, u64::MAX);
        std::thread::yield_now();
        assert_eq!(clock.now_ms(), u64::MAX);
    }

    #[test]
    fn within_a_term_the_clock_goes_on_as_it_was() {
        let clock = StampClock::new();
        clock.lead(1, u64::MAX / 2);
        clock.lead(1, u64::MAX / 2 + 1_000_000_000);
        assert!(clock.now_ms() < u64::MAX / 2 + 1_000_000_000);
    }
}
