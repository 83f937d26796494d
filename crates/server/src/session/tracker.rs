//! The leader's record of which sessions were heard from, and which are due to expire (G6). Pure: time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use coordd_raft::SignOfLife;
use coordd_tree::planted::Bug;
use coordd_tree::{SessionId, Zxid};

/// A session that was silent for its timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) session: SessionId,
    pub(crate) silent_ms: u64,
    /// The node it was last heard through; 0: none since this node leads.
    pub(crate) last_node: u64,
}

/// Counts silence in the leader's *waking* time: [`SessionTracker::tick`] must be called every `TICK`, and a call that
/// comes late counts as no more than `TICK_MAX`. So the time in which the leader was stopped, starved or waiting for its
/// disk does not count, and neither does time in which `tick` is not called because the leader had no majority.
///
/// A session is due only when it was due at the tick before, too: what had arrived while the leader slept is heard first.
#[derive(Debug, Default)]
pub(crate) struct SessionTracker {
    awake: Duration,
    last_tick: Option<Duration>,
    sessions: HashMap<SessionId, Heard>,
    by_deadline: BTreeSet<(Duration, SessionId)>,
    suspects: BTreeSet<SessionId>,
    /// Their expiry is decided, and on its way through the log: nothing that is heard from them counts any more.
    expiring: BTreeSet<SessionId>,
}

/// What the leader knows of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracked {
    pub(crate) session: SessionId,
    pub(crate) timeout: Duration,
    /// Of the stream that has it.
    pub(crate) generation: Zxid,
}

/// What becomes of a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// The session's silence counts from now.
    Counts,
    /// The session is not known, which does not make it known.
    Unknown,
    /// A later stream has the session: what an older one says keeps nothing alive.
    Old,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    timeout: Duration,
    generation: Zxid,
    at: Duration,
    via: u64,
}

/// How often `tick` is to be called.
pub(crate) const TICK: Duration = Duration::from_millis(100);
const TICK_MAX: Duration = Duration::from_millis(200);

impl SessionTracker {
    /// This node leads from now on: every session gets its full timeout.
    pub(crate) fn restart(&mut self, sessions: impl Iterator<Item = Tracked>) {
        *self = SessionTracker::default();
        for Tracked { session, timeout, generation } in sessions {
            self.insert(session, Heard { timeout, generation, at: self.awake, via: 0 });
        }
    }

    fn insert(&mut self, session: SessionId, heard: Heard) {
        if let Some(old) = self.sessions.insert(session, heard) {
            self.by_deadline.remove(&(old.at + old.timeout, session));
        }
        self.by_deadline.insert((heard.at + heard.timeout, session));
    }

    /// What the waking time will be at the next tick if nothing stalls: what is heard between two ticks is not counted
    /// from the tick before.
    fn awake_at(&self, now: Duration) -> Duration {
        self.awake + self.last_tick.map_or(Duration::ZERO, |last| now.saturating_sub(last).min(TICK_MAX))
    }

    pub(crate) fn is_known(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// A session that has been opened since. One whose expiry is decided is not taken up again.
    pub(crate) fn opened(&mut self, Tracked { session, timeout, generation }: Tracked, via: u64) {
        if !self.expiring.contains(&session) {
            self.insert(session, Heard { timeout, generation, at: self.awake, via });
        }
    }

    /// Another stream has the session now. This alone is no sign of life: the attach may have been under way for long.
    pub(crate) fn attached(&mut self, session: SessionId, generation: Zxid) {
        if let Some(heard) = self.sessions.get_mut(&session) {
            heard.generation = generation;
        }
    }

    /// A sign of life.
    pub(crate) fn touch(&mut self, now: Duration, sign: SignOfLife, via: u64) -> Hearing {
        let SignOfLife { session, generation } = sign;
        let Some(heard) = self.sessions.get(&session).copied() else { return Hearing::Unknown };
        if generation != 0 && generation < heard.generation {
            return Hearing::Old;
        }
        self.suspects.remove(&session);
        self.insert(session, Heard { at: self.awake_at(now), via, ..heard });
        Hearing::Counts
    }

    fn forget(&mut self, session: SessionId) {
        if let Some(heard) = self.sessions.remove(&session) {
            self.by_deadline.remove(&(heard.at + heard.timeout, session));
            self.suspects.remove(&session);
        }
    }

    /// The session's expiry is decided.
    pub(crate) fn expires(&mut self, session: SessionId) {
        self.forget(session);
        self.expiring.insert(session);
    }

    /// The expiry could not be proposed: the session lives a little longer.
    pub(crate) fn does_not_expire(&mut self, session: SessionId) {
        self.expiring.remove(&session);
    }

    /// Keeps only the sessions for which `is_live` says so.
    pub(crate) fn retain(&mut self, is_live: impl Fn(SessionId) -> bool) {
        let gone: Vec<_> = self.sessions.keys().copied().filter(|session| !is_live(*session)).collect();
        for session in gone {
            self.forget(session);
        }
        self.expiring.retain(|session| is_live(*session));
    }

    /// Time goes on; `now` is a monotonic clock. Returns the sessions to expire. They stay due until `ended` is called.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Due> {
        let gap = self.last_tick.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.last_tick = Some(now);
        self.awake += if Bug::ExpiryWithoutStallRule.is_planted() { gap } else { gap.min(TICK_MAX) };
        let before = std::mem::take(&mut self.suspects);
        let mut due = Vec::new();
        for (deadline, session) in &self.by_deadline {
            if *deadline > self.awake {
                break;
            }
            self.suspects.insert(*session);
            if before.contains(session) || Bug::ExpiryWithoutStallRule.is_planted() {
                let heard = self.sessions[session];
                let silent_ms = (self.awake - heard.at).as_millis() as u64;
                due.push(Due { session: *session, silent_ms, last_node: heard.via });
            }
        }
        due
    }

    /// No time passes: the leader cannot count it.
    pub(crate) fn skip(&mut self, now: Duration) {
        self.last_tick = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tracked(session: SessionId, timeout: Duration) -> Tracked {
        Tracked { session, timeout, generation: 10 }
    }

    fn of(session: SessionId, generation: Zxid) -> SignOfLife {
        SignOfLife { session, generation }
    }

    fn tracker() -> SessionTracker {
        let mut tracker = SessionTracker::default();
        tracker.restart([tracked(1, SECOND), tracked(2, SECOND * 10)].into_iter());
        tracker
    }

    /// Ticks as it should be, up to `to`; returns who was due at the end and before.
    const NOBODY: [SessionId; 0] = [];

    fn run(tracker: &mut SessionTracker, from: Duration, to: Duration) -> Vec<SessionId> {
        let mut due = BTreeSet::new();
        let mut now = from;
        while now <= to {
            due.extend(tracker.tick(now).into_iter().map(|due| due.session));
            now += TICK;
        }
        due.into_iter().collect()
    }

    #[test]
    fn a_session_is_due_after_its_timeout_of_silence_and_not_before() {
        let mut tracker = tracker();
        assert_eq!(run(&mut tracker, Duration::ZERO, SECOND), NOBODY);
        assert_eq!(run(&mut tracker, SECOND + TICK, SECOND + 2 * TICK), [1]);
    }

    #[test]
    fn a_sign_of_life_gives_a_full_timeout() {
        let mut tracker = tracker();
        run(&mut tracker, Duration::ZERO, SECOND - TICK);
        assert_eq!(tracker.touch(SECOND - TICK, of(1, 0), 3), Hearing::Counts);
        assert_eq!(run(&mut tracker, SECOND, 2 * SECOND - TICK), NOBODY);
        assert_eq!(run(&mut tracker, 2 * SECOND, 2 * SECOND + 2 * TICK), [1]);
    }

    #[test]
    fn time_in_which_the_leader_was_stopped_does_not_count() {
        let mut tracker = tracker();
        run(&mut tracker, Duration::ZERO, SECOND / 2);
        assert_eq!(tracker.tick(SECOND * 3600), [], "an hour of SIGSTOP is one tick");
        let resumed = SECOND * 3600;
        assert_eq!(run(&mut tracker, resumed + TICK, resumed + 2 * TICK), NOBODY);
        assert_eq!(run(&mut tracker, resumed + 3 * TICK, resumed + SECOND), [1]);
    }

    #[test]
    fn what_arrived_while_the_leader_slept_is_heard_before_anything_expires() {
        let mut tracker = tracker();
        run(&mut tracker, Duration::ZERO, SECOND - TICK);
        assert_eq!(tracker.tick(SECOND + SECOND), [], "suspected only");
        tracker.touch(SECOND + SECOND, of(1, 0), 2);
        assert_eq!(run(&mut tracker, SECOND * 2 + TICK, SECOND * 2 + 2 * TICK), NOBODY);
    }

    #[test]
    fn time_without_a_majority_does_not_count() {
        let mut tracker = tracker();
        for tenth in 0..1000 {
            tracker.skip(TICK * tenth);
        }
        assert_eq!(run(&mut tracker, SECOND * 100, SECOND * 101 - TICK), NOBODY);
    }

    #[test]
    fn a_new_leader_grants_every_session_a_full_timeout() {
        let mut tracker = tracker();
        run(&mut tracker, Duration::ZERO, SECOND - TICK);
        tracker.restart([tracked(1, SECOND)].into_iter());
        assert_eq!(run(&mut tracker, Duration::ZERO, SECOND - TICK), NOBODY);
    }

    #[test]
    fn an_expiry_tells_the_silence_and_the_last_node() {
        let mut tracker = tracker();
        tracker.touch(Duration::ZERO, of(1, 0), 3);
        let mut due = Vec::new();
        for tenth in 0..=12 {
            due = tracker.tick(TICK * tenth);
        }
        assert_eq!(due, [Due { session: 1, silent_ms: 1200, last_node: 3 }]);
    }

    #[test]
    fn what_is_heard_between_ticks_counts_from_when_it_was_heard() {
        let mut tracker = tracker();
        run(&mut tracker, Duration::ZERO, SECOND / 2);
        let late = SECOND / 2 + TICK_MAX - TICK / 2;
        assert_eq!(tracker.touch(late, of(1, 0), 3), Hearing::Counts);
        assert_eq!(run(&mut tracker, late, late + SECOND - TICK), NOBODY);
        assert_eq!(run(&mut tracker, late + SECOND, late + SECOND + 2 * TICK), [1]);
    }

    #[test]
    fn a_session_whose_expiry_is_decided_is_not_heard_any_more() {
        let mut tracker = tracker();
        tracker.expires(1);
        tracker.opened(tracked(1, SECOND), 1);
        tracker.retain(|_| true);
        assert_eq!(tracker.touch(Duration::ZERO, of(1, 0), 1), Hearing::Unknown);
        tracker.does_not_expire(1);
        tracker.opened(tracked(1, SECOND), 1);
        assert_eq!(tracker.touch(Duration::ZERO, of(1, 0), 1), Hearing::Counts);
    }

    #[test]
    fn ended_sessions_are_forgotten() {
        let mut tracker = tracker();
        tracker.forget(1);
        tracker.retain(|session| session != 2);
        assert!(!tracker.is_known(1) && !tracker.is_known(2));
        assert_eq!(run(&mut tracker, Duration::ZERO, SECOND * 60), NOBODY);
    }

    /// A stream that another one has taken the session from keeps it alive no more; a call does, and so does the new stream.
    #[test]
    fn an_older_stream_is_not_heard() {
        let mut tracker = tracker();
        assert_eq!(tracker.touch(Duration::ZERO, of(1, 10), 1), Hearing::Counts);
        tracker.attached(1, 20);
        run(&mut tracker, Duration::ZERO, SECOND);
        assert_eq!(tracker.touch(SECOND, of(1, 10), 1), Hearing::Old);
        assert_eq!(
            run(&mut tracker, SECOND + TICK, SECOND + 2 * TICK),
            [1],
            "what it said counted for nothing"
        );
        for generation in [20, 0, 30] {
            assert_eq!(
                tracker.touch(SECOND, of(1, generation), 1),
                Hearing::Counts,
                "generation {generation}"
            );
        }
        tracker.attached(7, 20);
        assert!(!tracker.is_known(7), "an attach makes no session known");
    }
}
