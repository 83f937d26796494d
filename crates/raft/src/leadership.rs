use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;

use crate::NodeId;
use crate::observer::Observer;
use crate::replica::RaftNode;
use crate::type_config::types::Vote;

/// Who leads, as this node knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft's term.
    pub term: u64,
    /// The leader of the term, if this node knows of one.
    pub leader: Option<NodeId>,
    /// This node is it.
    pub is_own: bool,
    /// The vote that the leader holds.
    pub(crate) vote: Option<Vote>,
}

impl Leadership {
    /// Nothing has happened between the two that changes who leads.
    pub(crate) fn is_same_reign(&self, other: Leadership) -> bool {
        (self.term, self.leader, self.is_own) == (other.term, other.leader, other.is_own)
    }
}

/// Keeps `leadership` at what openraft says, until openraft stops. Then the process ends: a node whose log has failed
/// must not go on as if it had one.
pub(crate) async fn follow_leadership<O: Observer>(
    raft: RaftNode<O>,
    leadership: Arc<watch::Sender<Leadership>>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let current = {
            let metrics = metrics.borrow_watched();
            Leadership {
                term: metrics.vote.leader_id.term,
                leader: metrics.current_leader,
                is_own: metrics.state == ServerState::Leader,
                vote: Some(metrics.vote),
            }
        };
        leadership.send_if_modified(|known| {
            let changed = *known != current;
            if changed && (known.leader, known.term) != (current.leader, current.term) {
                match current.leader {
                    Some(leader) => {
                        tracing::info!(term = current.term, leader, own = current.is_own, "leadership")
                    }
                    None => tracing::info!(
                        term = current.term,
                        "leadership: nobody leads, as far as this node knows"
                    ),
                }
            }
            *known = current;
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
