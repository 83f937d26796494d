//! What a leader knows of its followers beside openraft, which does not tell: what each has acknowledged, and whether it
//! takes entries at all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::NodeId;
use crate::seldom::Seldom;
use crate::type_config::types::{LogId, Vote};

/// The followers of this node, by the vote that it leads with: nothing of one reign says anything about another.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    known: Mutex<HashMap<NodeId, Follower>>,
    said: Seldom,
}

#[derive(Debug)]
struct Follower {
    vote: Vote,
    acknowledged: Option<LogId>,
    /// The last request with entries failed, and not for want of a connection.
    is_stuck: bool,
}

impl Followers {
    fn known(&self) -> MutexGuard<'_, HashMap<NodeId, Follower>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, node: NodeId, vote: Vote, change: impl FnOnce(&mut Follower)) {
        let mut known = self.known();
        let new = || Follower { vote, acknowledged: None, is_stuck: false };
        let follower = known.entry(node).or_insert_with(new);
        if follower.vote < vote {
            *follower = new();
        }
        if follower.vote == vote {
            change(follower);
        }
    }

    /// What the follower has acknowledged to the leader with this vote: it has it on its disk.
    pub(crate) fn acknowledged(&self, node: NodeId, vote: &Vote) -> Option<LogId> {
        self.known().get(&node).filter(|follower| follower.vote == *vote)?.acknowledged
    }

    /// The follower has acknowledged everything up to `id`.
    pub(crate) fn note_acknowledged(&self, node: NodeId, vote: Vote, id: Option<LogId>) {
        self.update(node, vote, |follower| follower.acknowledged = follower.acknowledged.max(id));
    }

    /// Whether the follower takes entries, as far as is known: its heartbeats are worth nothing while it does not.
    pub(crate) fn is_stuck(&self, node: NodeId, vote: &Vote) -> bool {
        self.known().get(&node).is_some_and(|follower| follower.vote == *vote && follower.is_stuck)
    }

    pub(crate) fn set_stuck(&self, node: NodeId, vote: Vote, is_stuck: bool) {
        self.update(node, vote, |follower| follower.is_stuck = is_stuck);
    }

    /// Its log ends before what it has acknowledged.
    pub(crate) fn say_lost(&self, node: NodeId, acknowledged: LogId) {
        if let Some(times) = self.said.is_due() {
            tracing::error!(
                node,
                times,
                "node {node} has lost what it had acknowledged: its log lacks entry {} or one before it. It does not count for \
                 any majority. Its directory is an old copy, or its disk lost writes: replace it",
                acknowledged.index
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::types::LeaderId;

    fn vote(term: u64) -> Vote {
        Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true }
    }

    fn id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { leader_id: LeaderId { term, node_id: 1 }, index })
    }

    #[test]
    fn a_reign_knows_its_own_followers() {
        let followers = Followers::default();
        followers.note_acknowledged(2, vote(3), id(3, 9));
        followers.note_acknowledged(2, vote(3), id(3, 7));
        followers.note_acknowledged(2, vote(3), None);
        assert_eq!(followers.acknowledged(2, &vote(3)), id(3, 9), "nothing is taken back");
        assert_eq!(followers.acknowledged(2, &vote(4)), None);
        assert_eq!(followers.acknowledged(3, &vote(3)), None);

        followers.set_stuck(2, vote(3), true);
        assert!(followers.is_stuck(2, &vote(3)) && !followers.is_stuck(2, &vote(4)));
        followers.note_acknowledged(2, vote(5), id(3, 2));
        assert!(!followers.is_stuck(2, &vote(5)));
        // An answer to an earlier reign's request.
        followers.note_acknowledged(2, vote(3), id(3, 99));
        assert_eq!(followers.acknowledged(2, &vote(5)), id(3, 2));
    }
}
