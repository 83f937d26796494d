//! Whoever waits for long says for what: after three seconds, and again every minute.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::sleep;

const FIRST: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_secs(60);

/// A wait, and when it is to be spoken of next.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    since: Instant,
    next: Duration,
}

impl Waiting {
    /// Begins now.
    pub fn begin() -> Waiting {
        Waiting::since(Instant::now())
    }

    fn since(since: Instant) -> Waiting {
        Waiting { since, next: FIRST }
    }

    /// The seconds it has lasted, when it is time to say so; `None` otherwise.
    pub fn due(&mut self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&mut self, now: Instant) -> Option<u64> {
        let lasted = now.saturating_duration_since(self.since);
        if lasted < self.next {
            return None;
        }
        self.next = lasted + AGAIN;
        Some(lasted.as_secs())
    }
}

/// Waits for `work`, which is `what` to people. Dropping the future drops the work.
pub(crate) async fn told<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let (begun, mut pause) = (Instant::now(), FIRST);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(pause) => {
                tracing::info!(waited_s = begun.elapsed().as_secs(), "still {what}");
                pause = AGAIN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait is spoken of after three seconds, and every minute from then on.
    #[test]
    fn long_wait_is_due() {
        let start = Instant::now();
        let mut waiting = Waiting::since(start);
        let told: Vec<u64> = (0..2000_u32)
            .filter_map(|tick| waiting.due_at(start + Duration::from_millis(100) * tick))
            .collect();
        assert_eq!(told, [3, 63, 123, 183]);
    }
}
