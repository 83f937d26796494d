use std::collections::VecDeque;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment on a clock that goes on while the machine sleeps, which `std`'s and tokio's clocks on Linux do not: a laptop or
/// a virtual machine that was suspended must not believe that no time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        #[cfg(target_os = "linux")]
        const CLOCK: ClockId = ClockId::Boottime;
        // Elsewhere the monotonic clock is the one that goes on.
        #[cfg(not(target_os = "linux"))]
        const CLOCK: ClockId = ClockId::Monotonic;
        let now = clock_gettime(CLOCK);
        // Both parts are positive: the clock counts from the start of the machine.
        Self(Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
    }

    fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

/// Pings without a confirmation that are remembered. One goes out every quarter of the timeout.
const UNCONFIRMED_MAX: usize = 64;

/// Until when no server can have expired the session: its timeout from the moment in which the newest ping was *sent* that
/// the leader is known to have heard.
#[derive(Debug, Default)]
pub(super) struct Lease {
    unconfirmed: VecDeque<(u64, Moment)>,
    next_nonce: u64,
    from: Option<Moment>,
    last_ping: Option<Moment>,
}

impl Lease {
    /// A ping is sent; returns its nonce.
    pub(super) fn on_ping(&mut self, now: Moment) -> u64 {
        self.next_nonce += 1;
        self.last_ping = Some(now);
        self.unconfirmed.push_back((self.next_nonce, now));
        if self.unconfirmed.len() > UNCONFIRMED_MAX {
            self.unconfirmed.pop_front();
        }
        self.next_nonce
    }

    /// The session was opened by a request that was sent at this moment.
    pub(super) fn on_opened(&mut self, sent: Moment) {
        self.from = self.from.max(Some(sent));
    }

    /// The leader has heard a ping, and so all before it.
    pub(super) fn on_renewed(&mut self, nonce: u64) {
        while let Some((sent_nonce, sent)) = self.unconfirmed.front().copied()
            && sent_nonce <= nonce
        {
            self.from = self.from.max(Some(sent));
            self.unconfirmed.pop_front();
        }
    }

    /// The next ping is to go out at once.
    pub(super) fn ping_soon(&mut self) {
        self.last_ping = None;
    }

    /// A quarter of the timeout has passed since the last ping.
    pub(super) fn is_ping_due(&self, now: Moment, timeout: Duration) -> bool {
        self.last_ping.is_none_or(|last| now >= last.plus(timeout / 4))
    }

    /// How long the session is alive for sure; zero if that is not known.
    pub(super) fn remaining(&self, now: Moment, timeout: Duration) -> Duration {
        // Clocks differ in rate by less than a hundredth; the rest is for who reads this to act.
        let sure = timeout - timeout / 10;
        self.from.map_or(Duration::ZERO, |from| from.plus(sure).0.saturating_sub(now.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const SURE: Duration = Duration::from_secs(9);

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(1000 + seconds))
    }

    #[test]
    fn a_lease_counts_from_when_the_ping_was_sent() {
        let mut lease = Lease::default();
        assert_eq!(lease.remaining(at(0), TIMEOUT), Duration::ZERO);
        let nonce = lease.on_ping(at(0));
        assert_eq!(lease.remaining(at(4), TIMEOUT), Duration::ZERO, "not confirmed");
        lease.on_renewed(nonce);
        assert_eq!(lease.remaining(at(4), TIMEOUT), SURE - Duration::from_secs(4));
        assert_eq!(lease.remaining(at(60), TIMEOUT), Duration::ZERO);
    }

    #[test]
    fn a_late_confirmation_of_an_old_ping_does_not_shorten_the_lease() {
        let mut lease = Lease::default();
        let (old, new) = (lease.on_ping(at(0)), lease.on_ping(at(3)));
        lease.on_renewed(new);
        lease.on_renewed(old);
        assert_eq!(lease.remaining(at(3), TIMEOUT), SURE);
        lease.on_opened(at(1));
        assert_eq!(lease.remaining(at(3), TIMEOUT), SURE);
    }

    #[test]
    fn a_confirmation_that_belongs_to_no_ping_is_nothing() {
        let mut lease = Lease::default();
        lease.on_renewed(7);
        assert_eq!(lease.remaining(at(0), TIMEOUT), Duration::ZERO);
    }

    #[test]
    fn pings_are_due_every_quarter_of_the_timeout_and_after_a_reconnect() {
        let mut lease = Lease::default();
        assert!(lease.is_ping_due(at(0), TIMEOUT));
        lease.on_ping(at(0));
        assert!(!lease.is_ping_due(at(2), TIMEOUT));
        assert!(lease.is_ping_due(at(3), TIMEOUT));
        lease.on_ping(at(3));
        lease.ping_soon();
        assert!(lease.is_ping_due(at(3), TIMEOUT));
    }

    #[test]
    fn pings_that_are_never_confirmed_do_not_pile_up() {
        let mut lease = Lease::default();
        for second in 0..10_000 {
            lease.on_ping(at(second));
        }
        assert_eq!(lease.unconfirmed.len(), UNCONFIRMED_MAX);
    }
}
