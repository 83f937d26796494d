//! Which rules the leader stamps entries with.
//!
//! Builds of two versions may run beside each other while an ensemble is upgraded, and all of them must apply an entry alike.
//! So an entry follows the newest rules that all members know. A member says which it knows when it connects to the
//! leader; until all have, and while one is away, the rules stay what they were. They never go back, because what
//! they have made of the tree stays: a member with an older build cannot come back after that.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use coordd_tree::RULES;
use tokio::sync::watch;

use crate::NodeId;

/// What is known of the rules of the members.
pub(crate) struct Rules {
    /// The others, with the newest rules that each knows; 1 until it has said so.
    others: Mutex<BTreeMap<NodeId, u32>>,
    /// The newest rules that the tree has followed.
    applied: AtomicU32,
    /// The rules that entries are to follow.
    stamp: watch::Sender<u32>,
}

impl Rules {
    /// Of an ensemble with these other members.
    pub(crate) fn new(others: impl IntoIterator<Item = NodeId>) -> Rules {
        let others: BTreeMap<NodeId, u32> = others.into_iter().map(|id| (id, 1)).collect();
        let stamp = if others.is_empty() { RULES } else { 1 };
        Rules { others: Mutex::new(others), applied: AtomicU32::new(1), stamp: watch::Sender::new(stamp) }
    }

    /// A member says which rules it knows; 0 is said by builds that know only rules 1.
    pub(crate) fn report(&self, id: NodeId, rules: u32) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = others.get_mut(&id) {
            *known = rules.max(1);
        }
        let common = others.values().copied().min().unwrap_or(RULES).min(RULES);
        drop(others);
        self.raise(common);
    }

    /// The tree has followed these rules, so all members know them.
    pub(crate) fn applied(&self, rules: u32) {
        if self.applied.load(Ordering::Relaxed) < rules {
            self.applied.store(rules, Ordering::Relaxed);
            self.raise(rules);
        }
    }

    fn raise(&self, rules: u32) {
        self.stamp.send_if_modified(|stamp| {
            let is_higher = *stamp < rules;
            if is_higher {
                tracing::info!(rules, "all members know these rules; entries follow them from now on");
                *stamp = rules;
            }
            is_higher
        });
    }

    /// The newest rules that the tree has followed: what every member applies commands by.
    pub(crate) fn in_force(&self) -> u32 {
        self.applied.load(Ordering::Relaxed)
    }

    /// The rules that the next entry is to follow.
    pub(crate) fn stamp(&self) -> u32 {
        *self.stamp.borrow()
    }

    /// Tells when [`Rules::stamp`] changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u32> {
        self.stamp.subscribe()
    }

    /// This node begins to lead: if the rules that all know are not in force, an entry is due that follows them.
    pub(crate) fn lead(&self) {
        if self.stamp() > self.in_force() {
            self.stamp.send_modify(|_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_rise_when_all_know_them() {
        let rules = Rules::new([2, 3]);
        assert_eq!(rules.stamp(), 1);
        rules.report(2, RULES);
        assert_eq!(rules.stamp(), 1, "node 3 has not said anything");
        rules.report(3, 0);
        assert_eq!(rules.stamp(), 1, "node 3 knows only rules 1");
        rules.report(3, RULES + 7);
        assert_eq!(rules.stamp(), RULES, "this build knows no newer ones");
    }

    #[test]
    fn rules_never_go_back() {
        let rules = Rules::new([2, 3]);
        rules.applied(RULES);
        rules.report(2, 0);
        assert_eq!((rules.stamp(), rules.in_force()), (RULES, RULES));
    }

    #[test]
    fn a_single_member_needs_nobody() {
        let rules = Rules::new([]);
        assert_eq!((rules.stamp(), rules.in_force()), (RULES, 1));
    }
}
