//! What time it is. Entries carry the leader's word for it, and one clock that is wrong must not make the leader's word wrong:
//! nodes tell each other what their clocks show, and whoever begins to lead takes the middle.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::NodeId;

/// A clock that is off by more is worth a word.
const FAR: Duration = Duration::from_secs(10);
/// What a node's clock showed so long ago says little: this node may have been suspended since, or that one's clock corrected.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// A node alone has nobody to ask. It says so when its clock has gone so far since its last entry.
const LEAP: Duration = Duration::from_secs(24 * 3600);

/// This node's wall clock: milliseconds since the Unix epoch. 0 if it shows a time before that, which is no time at all.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// What the wall clocks of the other nodes showed, and when this node heard it.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    heard: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
}

impl Clocks {
    /// `node` says what its clock shows. 0 is what versions say that do not know of it.
    pub(crate) fn note(&self, node: NodeId, wall_ms: u64) {
        self.note_at(node, wall_ms, Instant::now());
    }

    fn note_at(&self, node: NodeId, wall_ms: u64, at: Instant) {
        if wall_ms != 0 {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (wall_ms, at));
        }
    }

    /// What each should show now.
    fn read_at(&self, now: Instant) -> Vec<(NodeId, u64)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let ages =
            heard.iter().map(|(node, (wall_ms, at))| (*node, *wall_ms, now.saturating_duration_since(*at)));
        ages.filter(|(_, _, age)| *age < FORGOTTEN)
            .map(|(node, wall_ms, age)| (node, wall_ms.saturating_add(age.as_millis() as u64)))
            .collect()
    }
}

/// The time that most can agree on: the middle of what the clocks show and of the tree's own time, which is never gone
/// behind. The tree's time is among them because it was agreed on before: where only two clocks are known, it decides which
/// of them is wrong.
fn agreed_ms(own_ms: u64, others: &[(NodeId, u64)], tree_ms: u64) -> u64 {
    if others.is_empty() {
        return own_ms.max(tree_ms);
    }
    let mut shown: Vec<u64> = others.iter().map(|(_, shown)| *shown).collect();
    shown.extend([own_ms, tree_ms]);
    shown.sort_unstable();
    shown[shown.len() / 2].max(tree_ms)
}

/// The leader's clock for stamping entries: milliseconds since the Unix epoch that never go back, and that go at the
/// speed of the monotonic clock while this node leads, whatever is done to the wall clocks meanwhile.
pub(crate) struct StampClock {
    own: NodeId,
    base: Mutex<Base>,
    corrections: AtomicU64,
}

#[derive(Clone, Copy)]
struct Base {
    term: u64,
    at: Instant,
    time_ms: u64,
    /// How many other clocks were known.
    known: usize,
}

impl Base {
    fn now_ms(&self, now: Instant) -> u64 {
        self.time_ms.saturating_add(now.saturating_duration_since(self.at).as_millis() as u64)
    }
}

impl StampClock {
    pub(crate) fn new(own: NodeId) -> Self {
        let base = Base { term: 0, at: Instant::now(), time_ms: 0, known: 0 };
        StampClock { own, base: Mutex::new(base), corrections: AtomicU64::new(0) }
    }

    fn base(&self) -> MutexGuard<'_, Base> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node leads in `term`: if that is news, starts anew at the time that most nodes agree on, and no earlier than
    /// `tree_ms`, the tree's.
    pub(crate) fn lead(&self, term: u64, tree_ms: u64, clocks: &Clocks) {
        self.lead_at(term, tree_ms, clocks, wall_ms(), Instant::now());
    }

    fn lead_at(&self, term: u64, tree_ms: u64, clocks: &Clocks, own_ms: u64, now: Instant) {
        let mut base = self.base();
        if base.term == term {
            return;
        }
        let others = clocks.read_at(now);
        let time_ms = agreed_ms(own_ms, &others, tree_ms);
        *base = Base { term, at: now, time_ms, known: others.len() };
        drop(base);
        if others.is_empty() {
            if tree_ms > 0 && own_ms > tree_ms.saturating_add(LEAP.as_millis() as u64) {
                let since = age(own_ms - tree_ms);
                tracing::warn!(
                    "this node's clock is {since} after the last entry; if it is wrong, stop the node and correct it: what is \
                     due by it goes soon"
                );
            }
        } else {
            self.compare(own_ms, &others, time_ms);
        }
    }

    /// The clocks of more nodes are known than when this node began to lead in its term: goes forward to what most agree on now,
    /// if that is later. Call it now and then.
    pub(crate) fn settle(&self, clocks: &Clocks) {
        self.settle_at(clocks, wall_ms(), Instant::now());
    }

    fn settle_at(&self, clocks: &Clocks, own_ms: u64, now: Instant) {
        let mut base = self.base();
        let others = clocks.read_at(now);
        if base.term == 0 || others.len() <= base.known {
            return;
        }
        let before_ms = base.now_ms(now);
        let time_ms = agreed_ms(own_ms, &others, before_ms);
        *base = Base { at: now, time_ms, known: others.len(), ..*base };
        drop(base);
        if is_far(time_ms, before_ms) {
            tracing::warn!(
                "the ensemble's time goes forward by {}, to what most clocks show",
                age(time_ms - before_ms)
            );
        }
        self.compare(own_ms, &others, time_ms);
    }

    fn compare(&self, own_ms: u64, others: &[(NodeId, u64)], time_ms: u64) {
        for (node, shown) in others.iter().filter(|(_, shown)| is_far(*shown, time_ms)) {
            tracing::warn!(node, "its clock is {} what most nodes agree on", off(*shown, time_ms));
        }
        if is_far(own_ms, time_ms) {
            self.corrections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                node = self.own,
                "this node leads, and its clock is {} what most nodes agree on; entries carry the agreed time. Correct \
                 the clock",
                off(own_ms, time_ms)
            );
        }
    }

    /// How often this node began to lead with a clock that was far from what most agreed on.
    pub(crate) fn corrections(&self) -> u64 {
        self.corrections.load(Ordering::Relaxed)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.base().now_ms(Instant::now())
    }
}

fn is_far(a_ms: u64, b_ms: u64) -> bool {
    Duration::from_millis(a_ms.abs_diff(b_ms)) > FAR
}

fn off(shown_ms: u64, time_ms: u64) -> String {
    let side = if shown_ms > time_ms { "ahead of" } else { "behind" };
    format!("{} {side}", age(shown_ms.abs_diff(time_ms)))
}

/// As a person says it.
fn age(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    /// Some day.
    const NOW: u64 = 20_000 * DAY;

    /// What a node whose clock shows `own` begins to lead with, if it knows these of others.
    fn led(own: u64, others: &[u64], tree: u64) -> u64 {
        let (clock, clocks, at) = (StampClock::new(1), Clocks::default(), Instant::now());
        for (shown, node) in others.iter().zip(2..) {
            clocks.note_at(node, *shown, at);
        }
        clock.lead_at(1, tree, &clocks, own, at);
        let time = clock.base().now_ms(at);
        let is_far_off = is_far(own, time) && !others.is_empty();
        assert_eq!(clock.corrections(), u64::from(is_far_off), "{own} {others:?} {tree}");
        time
    }

    #[test]
    fn one_wrong_clock_changes_nothing() {
        let (ahead, behind) = (NOW + 400 * DAY, NOW - 400 * DAY);
        for tree in [NOW - 1, NOW - 3 * DAY] {
            for wrong in [ahead, behind, 1] {
                assert_eq!(led(wrong, &[NOW, NOW], tree), NOW);
                assert_eq!(led(NOW, &[wrong, NOW], tree), NOW);
                assert_eq!(led(NOW, &[NOW, wrong], tree), NOW);
                assert_eq!(led(wrong, &[NOW, NOW, NOW, NOW], tree), NOW);
                assert_eq!(led(NOW, &[NOW, NOW, NOW, wrong], tree), NOW);
            }
        }
        // The third is down: what was agreed on decides.
        for wrong in [ahead, behind] {
            assert!(NOW - led(wrong, &[NOW], NOW - 5) <= 5);
            assert!(NOW - led(NOW, &[wrong], NOW - 5) <= 5);
        }
    }

    #[test]
    fn time_does_not_go_behind_the_trees() {
        assert_eq!(led(NOW, &[], NOW + DAY), NOW + DAY);
        assert_eq!(led(NOW, &[NOW, NOW], NOW + DAY), NOW + DAY);
        assert_eq!(led(NOW, &[], NOW - DAY), NOW, "a node alone has its own clock");
    }

    /// The end of all time is reached, not passed.
    #[test]
    fn last_time_stays() {
        let (clock, at) = (StampClock::new(1), Instant::now());
        clock.lead_at(1, u64::MAX, &Clocks::default(), NOW, at);
        assert_eq!(clock.base().now_ms(at + Duration::from_secs(9)), u64::MAX);
    }

    #[test]
    fn within_a_term_the_clock_goes_on_as_it_was() {
        let (clock, clocks, at) = (StampClock::new(1), Clocks::default(), Instant::now());
        let second = Duration::from_secs(1);
        clock.lead_at(1, 0, &clocks, NOW, at);
        clock.lead_at(1, NOW + DAY, &clocks, NOW + DAY, at + second);
        assert_eq!(clock.base().now_ms(at + second), NOW + 1000);
        clock.settle_at(&clocks, NOW + DAY, at + second);
        assert_eq!(clock.base().now_ms(at + 2 * second), NOW + 2000);
    }

    /// After days without the ensemble, with one wrong clock of the two that are up: time stands where it was until the
    /// third is there, and is then right.
    #[test]
    fn a_third_clock_settles_it() {
        let (clock, clocks, at) = (StampClock::new(1), Clocks::default(), Instant::now());
        clocks.note_at(2, NOW, at);
        clock.lead_at(7, NOW - 3 * DAY, &clocks, NOW - 400 * DAY, at);
        assert_eq!(clock.base().now_ms(at), NOW - 3 * DAY);
        let later = at + Duration::from_secs(5);
        clocks.note_at(3, NOW + 5000, later);
        clock.settle_at(&clocks, NOW - 400 * DAY + 5000, later);
        assert_eq!(clock.base().now_ms(later), NOW + 5000);
        // Another wrong one among more: nothing goes back.
        clocks.note_at(4, NOW - 900 * DAY, later);
        clock.settle_at(&clocks, NOW - 400 * DAY + 5000, later);
        assert_eq!(clock.base().now_ms(later), NOW + 5000);
    }

    #[test]
    fn what_a_clock_showed_grows_old() {
        let (clocks, at) = (Clocks::default(), Instant::now());
        clocks.note_at(2, NOW, at);
        clocks.note_at(3, 0, at);
        assert_eq!(clocks.read_at(at + Duration::from_secs(3)), [(2, NOW + 3000)]);
        assert!(clocks.read_at(at + FORGOTTEN).is_empty());
    }

    #[test]
    fn a_clock_is_off_in_words() {
        assert_eq!(off(NOW + 400 * DAY, NOW), "400 days ahead of");
        assert_eq!(off(NOW - 90_000, NOW), "90 s behind");
    }
}
