use coordd_tree::{Applied, SessionId, Tree};

use crate::NodeId;

/// What the node does with what the replicated tree says. Implemented by the server.
///
/// The methods about the tree are called in the order of the log, on one thread at a time, **while the tree is locked
/// for writing**: they must only push into queues. What they push before they return is in the queue before any read
/// can see the new state; that is how an event comes before the reply that shows it (G5).
pub trait Observer: Send + Sync + 'static {
    /// What waits for the result of a command that this node submitted.
    type Waiter: Send + 'static;

    /// A command was applied. `tree` is just past it. `waiter` is there if this process submitted it.
    fn applied(&self, tree: &Tree, applied: Applied, waiter: Option<Self::Waiter>);

    /// A run of commands was applied, and the lock is about to be given back: a good time to wake who waits.
    fn settled(&self, tree: &Tree);

    /// The tree was replaced by a snapshot. `skipped` waited for commands that the snapshot covers; their results, if
    /// they are kept at all, are in the tree's records.
    fn installed(&self, tree: &Tree, skipped: Vec<Self::Waiter>);

    /// On the leader: a node has heard from these sessions. Called without the tree's lock.
    fn touched(&self, via: NodeId, sessions: &[SessionId]);

    /// On the leader of `term`: the same, and returns those whose silence it counts from now on. These are none if it has
    /// not begun to count in this term, and not sessions that are unknown to it or whose expiry is decided.
    fn renewed(&self, term: u64, via: NodeId, sessions: &[SessionId]) -> Vec<SessionId>;
}
