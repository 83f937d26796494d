use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A line that may be due at every message is said once, and then once a minute.
const EVERY: Duration = Duration::from_secs(60);

/// When a line was said last.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Whether to say it now, and then how often it was to be said since it was said last, now included.
    pub(crate) fn is_due(&self) -> Option<u64> {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, times) = &mut *state;
        *times += 1;
        if said.is_some_and(|said| now.saturating_duration_since(said) < EVERY) {
            return None;
        }
        *said = Some(now);
        Some(std::mem::take(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_a_minute() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let said: Vec<u64> =
            (0..150).filter_map(|s| seldom.is_due_at(start + Duration::from_secs(s))).collect();
        assert_eq!(said, [1, 60, 60]);
    }
}
