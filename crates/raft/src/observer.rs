use coordd_tree::{Applied, SessionId, Tree, Zxid};

use crate::NodeId;

/// A client was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignOfLife {
    /// Its session.
    pub session: SessionId,
    /// The generation of its stream: a sign of life counts only while no later stream has the session. 0 for a call, which
    /// acts for whoever has the session.
    pub generation: Zxid,
}

impl SignOfLife {
    /// From the two lists of a peer's message. A generation that is missing is 0: builds that know only rules 1 send none.
    pub(crate) fn from_wire(sessions: &[u64], generations: &[u64]) -> Vec<SignOfLife> {
        let generations = generations.iter().copied().chain(std::iter::repeat(0));
        let signs = sessions.iter().copied().zip(generations);
        signs.map(|(session, generation)| SignOfLife { session, generation }).collect()
    }

    /// The two lists of a message to a peer.
    pub(crate) fn to_wire(signs: &[SignOfLife]) -> (Vec<u64>, Vec<u64>) {
        signs.iter().map(|sign| (sign.session, sign.generation)).unzip()
    }
}

/// Signs of life that are heard in one step.
const STEP_SIGNS: usize = 1000;

/// Has `observer` hear signs of life, with a turn for other tasks after each step.
pub(crate) async fn hear<O: Observer>(observer: &O, via: NodeId, signs: &[SignOfLife]) {
    for part in signs.chunks(STEP_SIGNS) {
        observer.touched(via, part);
        give_turn(part).await;
    }
}

/// The same for [`Observer::renewed`].
pub(crate) async fn hear_renewals<O: Observer>(
    observer: &O,
    term: u64,
    via: NodeId,
    signs: &[SignOfLife],
) -> Vec<SessionId> {
    let mut renewed = Vec::with_capacity(signs.len());
    for part in signs.chunks(STEP_SIGNS) {
        renewed.extend(observer.renewed(term, via, part));
        give_turn(part).await;
    }
    renewed
}

/// After a whole step only: most have few signs to hear.
async fn give_turn(part: &[SignOfLife]) {
    if part.len() == STEP_SIGNS {
        tokio::task::yield_now().await;
    }
}

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

    /// Whether one event reaches few waiters only, so that telling them takes a fraction of a millisecond.
    fn tells_few(&self) -> bool;

    /// A run of commands was applied, and the lock is about to be given back: a good time to wake who waits.
    fn settled(&self, tree: &Tree);

    /// The tree was replaced by a snapshot. `skipped` waited for commands that the snapshot covers; their results, if
    /// they are kept at all, are in the tree's records.
    fn installed(&self, tree: &Tree, skipped: Vec<Self::Waiter>);

    /// On the leader: a node has heard from these sessions. Called without the tree's lock.
    fn touched(&self, via: NodeId, signs: &[SignOfLife]);

    /// On the leader of `term`: the same, and returns those whose silence it counts from now on. These are none if it has
    /// not begun to count in this term, and not sessions that are unknown to it, whose expiry is decided, or that a later stream has.
    fn renewed(&self, term: u64, via: NodeId, signs: &[SignOfLife]) -> Vec<SessionId>;
}
