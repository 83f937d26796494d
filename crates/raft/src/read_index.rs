//! Linearizable reads by ReadIndex: at most one question to the leader under way per node, shared by all reads that
//! waited when it was asked. And renewals of sessions, which are safe for the same reason: a majority confirms the
//! leader after it has heard.

use std::sync::Arc;
use std::time::Duration;

use coordd_proto::peer;
use coordd_tree::SessionId;
use coordd_tree::planted::Bug;
use openraft::LinearizerOption;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::NodeId;
use crate::network::Lane;
use crate::observer::{Observer, SignOfLife, hear_renewals};
use crate::replica::Node;
use crate::types;

/// A read gives up after so long; the node is cut off from a majority then.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);
/// A question to the leader gives up after so long.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// No majority could be reached in time. Nothing was read; another node may answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no leader with a majority could be reached for a linearizable read")]
pub struct NoQuorum;

pub(crate) type Waiter = oneshot::Sender<Result<(), NoQuorum>>;

/// Serves the waiting reads, for ever.
pub(crate) async fn run_read_index<O: Observer>(
    node: Arc<Node<O>>,
    mut reads: mpsc::UnboundedReceiver<Waiter>,
) {
    let mut waiting = Vec::new();
    while reads.recv_many(&mut waiting, usize::MAX).await > 0 {
        let deadline = Instant::now() + READ_TIMEOUT;
        let index = timeout_at(deadline, ask(&node)).await;
        let batch = std::mem::take(&mut waiting);
        let node = node.clone();
        // Waiting for the apply does not keep the next round from being asked.
        tokio::spawn(async move {
            let result = match index {
                Ok(index) => {
                    let mut applied = node.shared.applied.subscribe();
                    let reached = timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await;
                    reached.map_err(|_| NoQuorum).map(|_| ())
                }
                Err(_) => Err(NoQuorum),
            };
            for waiter in batch {
                // A reader that has gone needs no answer.
                let _ = waiter.send(result.clone());
            }
        });
    }
}

/// The index that a read must wait for; asks until there is an answer.
async fn ask<O: Observer>(node: &Node<O>) -> u64 {
    if Bug::StaleLinearizableReads.is_planted() {
        return *node.shared.applied.borrow();
    }
    loop {
        let leadership = *node.leadership.borrow();
        let answer = match leadership.leader {
            Some(_) if leadership.is_own => own_read_index(node).await.map(|read| read.index),
            Some(leader) => match node.peers.client(leader, Lane::Heartbeat) {
                Ok(mut client) => {
                    let request = peer::ReadIndexRequest { header: Some(node.peers.header(leader)) };
                    let deadline = Instant::now() + QUESTION_TIMEOUT;
                    let reply = timeout_at(deadline, client.read_index(request)).await;
                    reply.ok().and_then(Result::ok).map(|reply| reply.into_inner().index)
                }
                Err(_) => None,
            },
            None => None,
        };
        match answer {
            Some(index) => return index,
            None => sleep(RETRY).await,
        }
    }
}

/// On the leader: the entry to wait for, once a majority has confirmed that it still leads. Its term is the leader's own.
pub(crate) async fn own_read_index<O: Observer>(node: &Node<O>) -> Option<types::LogId> {
    // Zero: only a round that started after this read counts (ReadIndex, not a lease).
    let option = LinearizerOption::new(Some(Duration::ZERO), true);
    let linearizer = node.raft.get_read_linearizer(option).await.ok()?;
    Some(*linearizer.read_log_id().log_id())
}

/// Has the leader hear these sessions; see [`Replica::renew`](crate::Replica::renew).
pub(crate) async fn renew<O: Observer>(
    node: &Node<O>,
    signs: Vec<SignOfLife>,
) -> Result<Vec<SessionId>, NoQuorum> {
    let leadership = *node.leadership.borrow();
    let leader = leadership.leader.ok_or(NoQuorum)?;
    let deadline = Instant::now() + QUESTION_TIMEOUT;
    if leadership.is_own {
        let renewal = timeout_at(deadline, own_renewal(node, node.id(), &signs)).await;
        return renewal.ok().flatten().ok_or(NoQuorum);
    }
    let mut client = node.peers.client(leader, Lane::Heartbeat).map_err(|_| NoQuorum)?;
    let (sessions, generations) = SignOfLife::to_wire(&signs);
    let request = peer::RenewRequest { header: Some(node.peers.header(leader)), sessions, generations };
    match timeout_at(deadline, client.renew(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner().sessions),
        Ok(Err(_)) | Err(_) => Err(NoQuorum),
    }
}

/// On the leader: notes the signs of life first and is confirmed by a majority afterwards. So any other leader begins
/// later than the signs of life, and it grants everybody a full timeout.
pub(crate) async fn own_renewal<O: Observer>(
    node: &Node<O>,
    via: NodeId,
    signs: &[SignOfLife],
) -> Option<Vec<SessionId>> {
    let leadership = *node.leadership.borrow();
    let renewed = hear_renewals(&node.shared.observer, leadership.term, via, signs).await;
    // If the node lost its leadership and has it again, another leader may have decided an expiry in between.
    let confirmed = own_read_index(node).await?.leader_id.term;
    (confirmed == leadership.term).then_some(renewed)
}
