//! Linearizable reads by ReadIndex: at most one question to the leader under way per node, shared by all reads that
//! waited when it was asked.

use std::sync::Arc;
use std::time::Duration;

use coordd_proto::peer;
use openraft::LinearizerOption;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::network::Lane;
use crate::observer::Observer;
use crate::replica::Node;

/// A read gives up after so long; the node is cut off from a majority then.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);

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
    loop {
        let leadership = *node.leadership.borrow();
        let answer = match leadership.leader {
            Some(_) if leadership.is_own => own_read_index(node).await,
            Some(leader) => match node.peers.client(leader, Lane::Heartbeat) {
                Ok(mut client) => {
                    let request = peer::ReadIndexRequest { header: Some(node.peers.header(leader)) };
                    let deadline = Instant::now() + Duration::from_secs(1);
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

/// On the leader: the index, once a majority has confirmed that it still leads.
pub(crate) async fn own_read_index<O: Observer>(node: &Node<O>) -> Option<u64> {
    // Zero: only a round that started after this read counts (ReadIndex, not a lease).
    let option = LinearizerOption::new(Some(Duration::ZERO), true);
    let linearizer = node.raft.get_read_linearizer(option).await.ok()?;
    Some(linearizer.read_log_id().index())
}
