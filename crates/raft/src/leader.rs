//! The leader's side of a write: batches of all nodes become entries of the log.

use std::sync::Arc;

use bytes::Bytes;
use coordd_tree::Entry;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, watch};

use crate::clock::StampClock;
use crate::observer::Observer;
use crate::replica::RaftNode;
use crate::rules::Rules;
use crate::type_config::{Payload, TypeConfig};

/// An entry is closed when it has so many bytes of batches.
const ENTRY_BYTES: usize = 512 << 10;
/// So many entries may be proposed and not applied. Meanwhile batches gather for the next.
const ENTRIES_IN_FLIGHT: usize = 4;
/// Batches that wait for a place in an entry. Each origin has few under way, so this is never the limit.
const QUEUE: usize = 256;

/// The leader's queue of batches.
pub(crate) struct LeaderQueue {
    batches: mpsc::Sender<Bytes>,
    /// Grows when batches were lost: whoever has sent some must send again what is not applied.
    lost: watch::Sender<u64>,
}

impl LeaderQueue {
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (batches, queue) = mpsc::channel(QUEUE);
        (Arc::new(LeaderQueue { batches, lost: watch::Sender::new(0) }), queue)
    }

    /// Queues a batch; waits while the queue is full.
    pub(crate) async fn push(&self, batch: Bytes) {
        // The other end lives as long as the process.
        let _ = self.batches.send(batch).await;
    }

    /// Tells when batches were lost.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    fn report_loss(&self) {
        self.lost.send_modify(|generation| *generation += 1);
    }
}

/// Proposes what is queued: all of it in one entry, as soon as fewer than [`ENTRIES_IN_FLIGHT`] are under way.
///
/// A proposal that openraft refuses, or gives up, may leave later ones standing. They do no harm, for the tree takes
/// each origin's commands only in order; the origins are told to send again.
pub(crate) async fn run_leader<O: Observer>(
    raft: RaftNode<O>,
    leader: Arc<LeaderQueue>,
    mut queue: mpsc::Receiver<Bytes>,
    clock: Arc<StampClock>,
    rules: Arc<Rules>,
) {
    let mut raised = rules.changes();
    let mut in_flight = FuturesUnordered::new();
    let mut batches = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(outcome) = in_flight.next(), if !in_flight.is_empty() => {
                let outcome: Result<ClientWriteResult<TypeConfig>, _> = outcome;
                let refused = match outcome {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("given up".to_owned()),
                };
                if let Some(error) = refused {
                    tracing::debug!(%error, "a proposal was not taken");
                    leader.report_loss();
                }
            }
            received = next(&mut queue, &mut raised), if in_flight.len() < ENTRIES_IN_FLIGHT => {
                let Some(first) = received else { return };
                let mut bytes = 0;
                let mut more = first;
                while let Some(batch) = more {
                    bytes += batch.len();
                    batches.push(batch);
                    more = if bytes < ENTRY_BYTES { queue.try_recv().ok() } else { None };
                }
                let entry = Entry::encode_from_parts(rules.stamp(), clock.now_ms(), &batches);
                batches.clear();
                let (responder, committed, outcome) = ProgressResponder::new();
                if raft.client_write_ff(Payload(entry), Some(responder)).await.is_err() {
                    return;
                }
                in_flight.push(async move {
                    let outcome = outcome.await;
                    // openraft warns when nobody listens for the commit.
                    drop(committed);
                    outcome
                });
            }
        }
    }
}

/// The next batch; or none, where an entry is due that does nothing but follow newer rules. `None` when the queue is closed.
async fn next(queue: &mut mpsc::Receiver<Bytes>, raised: &mut watch::Receiver<u32>) -> Option<Option<Bytes>> {
    tokio::select! {
        biased;
        received = queue.recv() => received.map(Some),
        Ok(()) = raised.changed() => Some(None),
    }
}
