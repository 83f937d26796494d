use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many latencies are kept.
const WINDOW: usize = 128;

/// The latencies of the last 128 checks that passed, in half a KiB.
#[derive(Clone, Debug, Default)]
pub struct LatencyWindow {
    /// Microseconds; from the length of the window on the oldest is replaced.
    micros: Vec<u32>,
    next: usize,
}

/// What can be said of some latencies; microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The newest.
    pub last_us: u32,
    /// Their mean.
    pub average_us: u32,
    /// 99 of 100 are no longer than this.
    pub p99_us: u32,
}

impl LatencyWindow {
    /// Takes note of one. What takes longer than 71 minutes counts as that.
    pub fn record(&mut self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        match self.micros.get_mut(self.next) {
            Some(oldest) => *oldest = micros,
            None => self.micros.push(micros),
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// `None` if there is none.
    pub fn summary(&self) -> Option<Latency> {
        let last = (self.next + WINDOW - 1) % WINDOW;
        let last_us = *self.micros.get(last)?;
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let count = sorted.len();
        let sum: u64 = sorted.iter().map(|micros| u64::from(*micros)).sum();
        // The nearest rank: the least value that at least 99 of 100 do not exceed.
        let p99_us = sorted[(count * 99).div_ceil(100) - 1];
        let average_us = u32::try_from(sum / count as u64).unwrap_or(u32::MAX);
        Some(Latency { last_us, average_us, p99_us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_the_newest_only() {
        let mut window = LatencyWindow::default();
        assert_eq!(window.summary(), None);
        window.record(Duration::from_micros(7));
        assert_eq!(window.summary(), Some(Latency { last_us: 7, average_us: 7, p99_us: 7 }));
        (0..1_000).for_each(|_| window.record(Duration::from_secs(9_999)));
        (1..=128).for_each(|micros| window.record(Duration::from_micros(micros)));
        assert_eq!(window.summary(), Some(Latency { last_us: 128, average_us: 64, p99_us: 127 }));
        window.record(Duration::from_micros(500));
        assert_eq!(window.summary().unwrap().last_us, 500);
        assert_eq!(window.micros.len(), WINDOW);
    }
}
