//! Times that somebody has asked for, however far away they are.

use std::time::Duration;

use tokio::time::Instant;

/// Nobody waits for longer. An [`Instant`] that is much later cannot be represented, and adding to one panics.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The time after `wait` from now; the end of all waiting if that is too far away.
pub(crate) fn after(wait: Duration) -> Instant {
    Instant::now() + bounded(wait)
}

/// The same time, if it can be added to any other, or the longest that can.
pub(crate) fn bounded(wait: Duration) -> Duration {
    wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest time that there is can be asked for.
    #[test]
    fn longest_wait_is_a_time() {
        let now = Instant::now();
        assert!(after(Duration::MAX) > now + Duration::from_secs(3_000_000_000));
        assert!(after(Duration::from_secs(1)) < now + Duration::from_secs(5));
        assert_eq!(bounded(Duration::from_secs(7)), Duration::from_secs(7));
    }
}
