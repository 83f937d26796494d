//! The leader's record of which sessions were heard from, and which are due to expire (G6). Pure: time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
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
///
/// Nothing here passes all sessions: whatever may be about many of them takes a part at a time.
#[derive(Debug, Default)]
pub(crate) struct SessionTracker {
    awake: Duration,
    /// The waking time at the tick before the last one.
    awake_before: Duration,
    last_tick: Option<Duration>,
    sessions: BTreeMap<SessionId, Heard>,
    by_deadline: BTreeSet<(Duration, SessionId)>,
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

    /// A session that lives, and has its full timeout from now on. One whose expiry is decided is not taken
    /// up again.
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
        self.insert(session, Heard { at: self.awake_at(now), via, ..heard });
        Hearing::Counts
    }

    fn forget(&mut self, session: SessionId) {
        if let Some(heard) = self.sessions.remove(&session) {
            self.by_deadline.remove(&(heard.at + heard.timeout, session));
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

    /// Up to which session a part goes that begins after `after`: the tracker knows at most `count` sessions
    /// in it.
    pub(crate) fn part_end(&self, after: SessionId, count: usize) -> SessionId {
        let later = (Bound::Excluded(after), Bound::Unbounded);
        let skipped = count.saturating_sub(1);
        let known = self.sessions.range(later).nth(skipped).map(|(session, _)| *session);
        let expiring = self.expiring.range(later).nth(skipped).copied();
        known.into_iter().chain(expiring).min().unwrap_or(SessionId::MAX)
    }

    /// Compares a part of the sessions, by their ids, with those of them that live: it learns of those that
    /// it does not know, and forgets the others.
    pub(crate) fn reconcile(&mut self, part: RangeInclusive<SessionId>, live: &[Tracked]) {
        let is_live = |session| live.binary_search_by_key(&session, |live| live.session).is_ok();
        let known = self.sessions.range(part.clone()).map(|(session, _)| *session);
        let gone: Vec<_> = known.filter(|session| !is_live(*session)).collect();
        gone.into_iter().for_each(|session| self.forget(session));
        let expired = self.expiring.range(part).copied();
        let expired: Vec<_> = expired.filter(|session| !is_live(*session)).collect();
        for session in expired {
            self.expiring.remove(&session);
        }
        for tracked in live {
            if !self.sessions.contains_key(&tracked.session) {
                self.opened(*tracked, 0);
            }
        }
    }

    /// Time goes on; `now` is a monotonic clock.
    pub(crate) fn tick(&mut self, now: Duration) {
        let gap = self.last_tick.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.last_tick = Some(now);
        self.awake_before = self.awake;
        self.awake += if Bug::ExpiryWithoutStallRule.is_planted() { gap } else { gap.min(TICK_MAX) };
    }

    /// Up to `count` of the sessions to expire, those that have been due for longest first. They stay due
    /// until `expires` is called.
    pub(crate) fn due(&self, count: usize) -> Vec<Due> {
        // A session that was due at the tick before, and was heard since, has a later deadline by now.
        let since = match Bug::ExpiryWithoutStallRule.is_planted() {
            true => self.awake,
            false => self.awake_before,
        };
        let due = self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= since).take(count);
        due.map(|(_, session)| {
            let heard = self.sessions[session];
            let silent_ms = (self.awake - heard.at).as_millis() as u64;
            Due { session: *session, silent_ms, last_node: heard.via }
        })
        .collect()
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
        tracker.reconcile(0..=SessionId::MAX, &[tracked(1, SECOND), tracked(2, SECOND * 10)]);
        tracker
    }

    fn tick(tracker: &mut SessionTracker, now: Duration) -> Vec<Due> {
        tracker.tick(now);
        tracker.due(usize::MAX)
    }

    fn is_known(tracker: &SessionTracker, session: SessionId) -> bool {
        tracker.sessions.contains_key(&session)
    }

    /// Ticks as it should be, up to `to`; returns who was due at the end and before.
    const NOBODY: [SessionId; 0] = [];

    fn run(tracker: &mut SessionTracker, from: Duration, to: Duration) -> Vec<SessionId> {
        let mut due = BTreeSet::new();
        let mut now = from;
        while now <= to {
            due.extend(tick(tracker, now).into_iter().map(|due| due.session));
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
        assert_eq!(tick(&mut tracker, SECOND * 3600), [], "an hour of SIGSTOP is one tick");
        let resumed = SECOND * 3600;
        assert_eq!(run(&mut tracker, resumed + TICK, resumed + 2 * TICK), NOBODY);
        assert_eq!(run(&mut tracker, resumed + 3 * TICK, resumed + SECOND), [1]);
    }

    #[test]
    fn what_arrived_while_the_leader_slept_is_heard_before_anything_expires() {
        let mut tracker = tracker();
        run(&mut tracker, Duration::ZERO, SECOND - TICK);
        assert_eq!(tick(&mut tracker, SECOND + SECOND), [], "suspected only");
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
        tracker = SessionTracker::default();
        tracker.reconcile(0..=SessionId::MAX, &[tracked(1, SECOND)]);
        assert_eq!(run(&mut tracker, Duration::ZERO, SECOND - TICK), NOBODY);
    }

    #[test]
    fn an_expiry_tells_the_silence_and_the_last_node() {
        let mut tracker = tracker();
        tracker.touch(Duration::ZERO, of(1, 0), 3);
        let mut due = Vec::new();
        for tenth in 0..=12 {
            due = tick(&mut tracker, TICK * tenth);
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
        tracker.reconcile(0..=SessionId::MAX, &[tracked(1, SECOND), tracked(2, SECOND)]);
        assert_eq!(tracker.touch(Duration::ZERO, of(1, 0), 1), Hearing::Unknown);
        tracker.does_not_expire(1);
        tracker.opened(tracked(1, SECOND), 1);
        assert_eq!(tracker.touch(Duration::ZERO, of(1, 0), 1), Hearing::Counts);
    }

    #[test]
    fn ended_sessions_are_forgotten() {
        let mut tracker = tracker();
        tracker.forget(1);
        tracker.reconcile(2..=2, &[]);
        assert!(!is_known(&tracker, 1) && !is_known(&tracker, 2));
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
        assert!(!is_known(&tracker, 7), "an attach makes no session known");
    }

    /// Parts cover all sessions of both sides, and none of them is about more than its share.
    #[test]
    fn parts_cover_all_sessions() {
        let live: Vec<Tracked> = (1..=1000).map(|id| tracked(id * 3, SECOND)).collect();
        let mut tracker = SessionTracker::default();
        // Twice as many as live, a third of which do.
        (1..=2000).filter(|id| id % 2 == 0).for_each(|id| tracker.opened(tracked(id, SECOND), 1));
        (2001..=3000).for_each(|id| tracker.expires(id));
        let (mut after, mut parts) = (0, 0);
        loop {
            let end = tracker.part_end(after, 100);
            assert!(tracker.sessions.range(after + 1..=end).count() <= 100);
            assert!(tracker.expiring.range(after + 1..=end).count() <= 100);
            let part: Vec<Tracked> =
                live.iter().filter(|live| (after + 1..=end).contains(&live.session)).copied().collect();
            tracker.reconcile(after + 1..=end, &part);
            parts += 1;
            if end == SessionId::MAX {
                break;
            }
            after = end;
        }
        assert!(parts >= 20, "{parts} parts");
        // An expiry that is decided stays so while the session lives.
        let known: Vec<SessionId> = live.iter().map(|live| live.session).filter(|id| *id <= 2000).collect();
        assert_eq!(tracker.sessions.keys().copied().collect::<Vec<_>>(), known);
        assert_eq!(tracker.expiring.len(), 334);
        assert_eq!(tracker.by_deadline.len(), known.len());
    }

    /// Many sessions that are due at once expire some at a time, in the order of their deadlines.
    #[test]
    fn due_sessions_come_in_parts() {
        let mut tracker = SessionTracker::default();
        (1..=10).for_each(|id| tracker.opened(tracked(id, SECOND * id as u32), 1));
        (0..=120).for_each(|tenth| tracker.tick(TICK * tenth));
        let mut order = Vec::new();
        loop {
            let due = tracker.due(3);
            assert!(due.len() <= 3);
            if due.is_empty() {
                break;
            }
            due.iter().for_each(|due| tracker.expires(due.session));
            order.extend(due.into_iter().map(|due| due.session));
        }
        assert_eq!(order, (1..=10).collect::<Vec<_>>());
    }
}
