use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The machine's monotonic clock, which is the same for all of its processes: what a `contender` reports with each line.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from the start of the machine and is never negative.
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
