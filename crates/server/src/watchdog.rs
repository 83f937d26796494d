//! Measures how long tasks had to wait for a thread: nothing may occupy the runtime for more than some milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

/// How often the runtime has to show that it runs, and how often that is looked at.
const TICK: Duration = Duration::from_millis(10);
/// A sign of life that is so late is a stall.
const STALL: Duration = Duration::from_millis(50);

/// Times at which the runtime stood still.
pub(crate) struct Stalls {
    start: Instant,
    /// The last sign of life, in milliseconds after `start`.
    last_ms: AtomicU64,
    count: AtomicU64,
    longest_ms: AtomicU64,
}

impl Stalls {
    pub(crate) fn new() -> Arc<Self> {
        let (last_ms, count, longest_ms) = Default::default();
        Arc::new(Stalls { start: Instant::now(), last_ms, count, longest_ms })
    }

    /// How many stalls there were, and how many milliseconds the longest one took.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.longest_ms.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// The looks of a thread at the runtime's signs of life.
#[derive(Default)]
struct Looks {
    last_ms: u64,
    is_stalled: bool,
}

impl Looks {
    /// Counts a look at `now_ms`. Time during which this thread itself did not run says nothing about the runtime.
    fn look(&mut self, stalls: &Stalls, now_ms: u64) {
        let overslept = now_ms.saturating_sub(self.last_ms).saturating_sub(2 * TICK.as_millis() as u64);
        self.last_ms = now_ms;
        let silent = now_ms.saturating_sub(stalls.last_ms.load(Ordering::Relaxed));
        let late = silent.saturating_sub(overslept).saturating_sub(TICK.as_millis() as u64);
        if late < STALL.as_millis() as u64 {
            self.is_stalled = false;
            return;
        }
        stalls.longest_ms.fetch_max(late, Ordering::Relaxed);
        if !std::mem::replace(&mut self.is_stalled, true) {
            stalls.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Starts the thread that looks, and gives signs of life for as long as the runtime lives.
pub(crate) async fn run_watchdog(stalls: Arc<Stalls>) {
    let (weak, mut looks) = (Arc::downgrade(&stalls), Looks::default());
    let looking = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        while let Some(stalls) = weak.upgrade() {
            looks.look(&stalls, stalls.now_ms());
            drop(stalls);
            std::thread::sleep(TICK);
        }
    });
    if let Err(error) = looking {
        tracing::warn!(%error, "there is no thread for the watchdog: stalls are not counted");
        return;
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        stalls.last_ms.store(stalls.now_ms(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runtime that gives no sign of life is one stall, as long as it lasts; a process that did not run at all is none.
    #[test]
    fn stalls_are_counted_once() {
        let stalls = Stalls::new();
        let mut looks = Looks::default();
        for now in (0..1000).step_by(10) {
            stalls.last_ms.store(now, Ordering::Relaxed);
            looks.look(&stalls, now);
        }
        assert_eq!(stalls.so_far(), (0, 0));
        for now in (1000..1300).step_by(10) {
            looks.look(&stalls, now);
        }
        assert_eq!(stalls.so_far(), (1, 290));
        stalls.last_ms.store(1300, Ordering::Relaxed);
        looks.look(&stalls, 1300);
        // Stopped for five seconds, with everything in it.
        looks.look(&stalls, 6300);
        assert_eq!(stalls.so_far(), (1, 290));
        stalls.last_ms.store(6310, Ordering::Relaxed);
        looks.look(&stalls, 6310);
        assert_eq!(stalls.so_far(), (1, 290));
    }
}
