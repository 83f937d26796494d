//! How an ensemble comes to be, exactly once.
//!
//! The node with the lowest id forms it: it asks all nodes who they are, draws a cluster id, has every node store it,
//! stores it itself, and only then begins the log. A crash at any step leaves nodes that have the id and no log; the
//! next start goes on from there. Forming needs all nodes; every later start needs a majority.
//!
//! A node with an empty data directory that finds its peers in an ensemble that has begun is refused: it was a member,
//! or else it could not be in their configuration, and has lost its disk. As its old self it could vote for a leader
//! that lacks what it had acknowledged.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coordd_proto::peer;
use coordd_tree::planted::Bug;
use futures::future::join_all;
use tokio::sync::watch;
use tonic::Code;

use crate::NodeId;
use crate::network::{Lane, PROTOCOL, Peers, reason};
use crate::storage::DataDir;
use crate::waiting::Waiting;

const RETRY: Duration = Duration::from_millis(100);
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Every restart waits so long at most for nodes that hang.
const STRANGER_TIMEOUT: Duration = Duration::from_millis(300);

/// The ensemble could not be joined; a person has to look.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    /// See the module.
    #[error(
        "this node's data directory is empty, but node {peer} already belongs to ensemble {cluster_id} that has begun: \
         node {node} has lost its disk and must not come back as itself; docs/operations.md, \
         \"Replacing a node\", says what is possible"
    )]
    DiskLost {
        /// This node.
        node: NodeId,
        /// Who says so.
        peer: NodeId,
        /// The ensemble.
        cluster_id: String,
    },
    /// This node's data directory is of another ensemble than most of the nodes it is configured with.
    #[error(
        "this node {node} belongs to ensemble {cluster_id}, but {others} of the {nodes} nodes in --ensemble belong to \
         ensemble {other_cluster}: this is the data directory of another ensemble"
    )]
    Stranger {
        /// This node.
        node: NodeId,
        /// Its ensemble.
        cluster_id: String,
        /// How many have another one.
        others: usize,
        /// Of how many.
        nodes: usize,
        /// Their ensemble.
        other_cluster: String,
    },
    /// Two nodes belong to different ensembles.
    #[error(
        "node {first} belongs to ensemble {first_cluster}, node {second} to {second_cluster}: their data directories are of different ensembles"
    )]
    Mixed {
        /// One node.
        first: NodeId,
        /// Its ensemble.
        first_cluster: String,
        /// Another.
        second: NodeId,
        /// Its ensemble.
        second_cluster: String,
    },
    /// The id could not be stored.
    #[error("storing the cluster id: {0}")]
    Store(String),
}

/// This node's part in the forming.
pub(crate) struct Formation {
    data_dir: Arc<Mutex<DataDir>>,
    /// The log had begun when this process started.
    has_log: bool,
    adopted: watch::Sender<bool>,
}

impl Formation {
    pub(crate) fn new(data_dir: Arc<Mutex<DataDir>>, has_log: bool) -> Arc<Self> {
        let has_id = lock(&data_dir).cluster_id().is_some();
        Arc::new(Formation { data_dir, has_log, adopted: watch::Sender::new(has_id) })
    }

    pub(crate) fn has_log(&self) -> bool {
        self.has_log
    }

    /// The forming node asks this one to take a cluster id.
    pub(crate) fn adopt(
        &self,
        peers: &Peers,
        header: &peer::Header,
        node_ids: &[NodeId],
    ) -> Result<(), String> {
        let own: Vec<NodeId> = peers.members().keys().copied().collect();
        if header.to != peers.own_id() || header.protocol != PROTOCOL {
            return Err(format!("a message for node {} reached node {}", header.to, peers.own_id()));
        }
        if own.first() != Some(&header.from) || own != node_ids {
            return Err(format!(
                "node {} is configured with the nodes {own:?}, node {} with {node_ids:?}: --ensemble must name the same \
                 nodes everywhere",
                peers.own_id(),
                header.from
            ));
        }
        self.store(peers, &header.cluster_id)
    }

    fn store(&self, peers: &Peers, cluster_id: &str) -> Result<(), String> {
        // Blocks on the disk, once in the life of a data directory.
        // Which nodes it is formed with is settled when the log begins.
        let node_ids: Vec<NodeId> = match self.has_log {
            true => Vec::new(),
            false => peers.members().keys().copied().collect(),
        };
        lock(&self.data_dir).join(cluster_id, &node_ids).map_err(|e| e.to_string())?;
        peers.set_cluster_id(cluster_id);
        self.adopted.send_replace(true);
        Ok(())
    }

    /// Waits until this node belongs to an ensemble. `new_cluster_id` is for the case that one is to be formed.
    pub(crate) async fn join(&self, peers: &Peers, new_cluster_id: String) -> Result<(), FormationError> {
        let stored = lock(&self.data_dir).cluster_id().unwrap_or_default().to_owned();
        if !stored.is_empty() {
            peers.set_cluster_id(&stored);
        }
        if self.has_log {
            return refuse_stranger(peers, &stored).await;
        }
        if peers.members().keys().next() == Some(&peers.own_id()) {
            let cluster_id = self.agree(peers, stored, new_cluster_id).await?;
            self.store(peers, &cluster_id).map_err(FormationError::Store)?;
            self.hand_out(peers, &cluster_id).await;
            Ok(())
        } else {
            self.wait_for_id(peers, stored.is_empty()).await
        }
    }

    /// The id that this ensemble has, or gets. Needs the answers of all nodes, but one of them is enough to say that the ensemble has
    /// begun without this one.
    async fn agree(&self, peers: &Peers, stored: String, new: String) -> Result<String, FormationError> {
        let mut known = (peers.own_id(), stored.clone());
        let mut silent: Vec<NodeId> = peers.others().collect();
        let (mut told, mut waiting) = (false, Waiting::begin());
        loop {
            let answers = join_all(silent.iter().map(|id| hello(peers, *id))).await;
            let asked = std::mem::take(&mut silent);
            let mut reasons = Vec::new();
            for (id, reply) in asked.into_iter().zip(answers) {
                let reply = match reply {
                    Ok(reply) => reply,
                    Err(reason) => {
                        silent.push(id);
                        reasons.push(reason);
                        continue;
                    }
                };
                if reply.cluster_id.is_empty() {
                    continue;
                }
                if stored.is_empty() && reply.initialized && !Bug::WipedMemberVotes.is_planted() {
                    let (node, cluster_id) = (peers.own_id(), reply.cluster_id);
                    return Err(FormationError::DiskLost { node, peer: id, cluster_id });
                }
                if known.1.is_empty() {
                    known = (id, reply.cluster_id);
                } else if known.1 != reply.cluster_id {
                    return Err(FormationError::Mixed {
                        first: known.0,
                        first_cluster: known.1,
                        second: id,
                        second_cluster: reply.cluster_id,
                    });
                }
            }
            if silent.is_empty() {
                return Ok(if known.1.is_empty() { new } else { known.1 });
            }
            let waited = waiting.due();
            if !std::mem::replace(&mut told, true) || waited.is_some() {
                let (waited_s, nodes) = (waited.unwrap_or(0), reasons.join("; "));
                tracing::info!(nodes, waited_s, "waiting for nodes, to form the ensemble");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn hand_out(&self, peers: &Peers, cluster_id: &str) {
        let node_ids: Vec<NodeId> = peers.members().keys().copied().collect();
        for id in peers.others() {
            loop {
                let header = peer::Header { cluster_id: cluster_id.to_owned(), ..peers.header(id) };
                let request = peer::FormRequest { header: Some(header), node_ids: node_ids.clone() };
                let refused = match peers.client(id, Lane::Bulk) {
                    Ok(mut client) => match tokio::time::timeout(CALL_TIMEOUT, client.form(request)).await {
                        Ok(Ok(_)) => break,
                        Ok(Err(status)) => reason(&status),
                        Err(_) => "no answer".to_owned(),
                    },
                    Err(error) => error,
                };
                tracing::warn!(node = id, reason = refused, "the ensemble is not formed yet");
                tokio::time::sleep(RETRY * 5).await;
            }
        }
        tracing::info!(cluster_id, "the ensemble is formed");
    }

    /// A node that does not form the ensemble waits for the one that does, and looks meanwhile whether it is too late.
    async fn wait_for_id(&self, peers: &Peers, is_pristine: bool) -> Result<(), FormationError> {
        let mut adopted = self.adopted.subscribe();
        let mut waiting = Waiting::begin();
        loop {
            if *adopted.borrow_and_update() {
                return Ok(());
            }
            let mut reasons = Vec::new();
            for id in peers.others() {
                let reply = match hello(peers, id).await {
                    Ok(reply) => reply,
                    Err(reason) => {
                        reasons.push(reason);
                        continue;
                    }
                };
                // A node that starts knows its log a moment before its ensemble.
                let has_begun = reply.initialized && !reply.cluster_id.is_empty();
                if has_begun && is_pristine && !*adopted.borrow() {
                    if Bug::WipedMemberVotes.is_planted() {
                        return self.store(peers, &reply.cluster_id).map_err(FormationError::Store);
                    }
                    let (node, cluster_id) = (peers.own_id(), reply.cluster_id);
                    return Err(FormationError::DiskLost { node, peer: id, cluster_id });
                }
            }
            if let Some(waited_s) = waiting.due() {
                let forms = peers.members().keys().next().copied().unwrap_or_default();
                let nodes = if reasons.is_empty() { "all answer".to_owned() } else { reasons.join("; ") };
                tracing::info!(
                    nodes,
                    waited_s,
                    "waiting for nodes: node {forms} forms the ensemble when all answer"
                );
            }
            // Ends early when the id arrives.
            let _ = tokio::time::timeout(RETRY * 5, adopted.changed()).await;
        }
    }
}

fn lock(data_dir: &Mutex<DataDir>) -> MutexGuard<'_, DataDir> {
    data_dir.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Asks a node who it is. The error says which node does not answer, or refuses, and why.
pub(crate) async fn hello(peers: &Peers, id: NodeId) -> Result<peer::HelloReply, String> {
    let address = peers.address(id).unwrap_or_default();
    let mut client = peers.client(id, Lane::Bulk)?;
    let request = peer::HelloRequest { protocol: PROTOCOL, from: peers.own_id(), to: id };
    match tokio::time::timeout(CALL_TIMEOUT, client.hello(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => {
            let reason = reason(&status);
            if matches!(status.code(), Code::FailedPrecondition | Code::Unimplemented) {
                tracing::warn!(
                    node = id,
                    address,
                    reason,
                    "a node is not who it should be: check --ensemble"
                );
            }
            Err(format!("node {id} at {address}: {reason}"))
        }
        Err(_) => Err(format!("node {id} at {address}: no answer within {} s", CALL_TIMEOUT.as_secs())),
    }
}

/// A majority elsewhere: this node can never take part, so somebody should be told. The few that belong to the ensemble of
/// a lone stranger see a minority, and go on. Nobody is waited for who does not answer.
async fn refuse_stranger(peers: &Peers, own: &str) -> Result<(), FormationError> {
    let asked = peers.others().map(|id| tokio::time::timeout(STRANGER_TIMEOUT, hello(peers, id)));
    let answers = join_all(asked).await;
    let elsewhere: Vec<String> = answers
        .into_iter()
        .filter_map(|answer| Some(answer.ok()?.ok()?.cluster_id))
        .filter(|cluster_id| !cluster_id.is_empty() && cluster_id != own)
        .collect();
    let nodes = peers.members().len();
    match elsewhere.first() {
        Some(other) if elsewhere.len() > nodes / 2 => Err(FormationError::Stranger {
            node: peers.own_id(),
            cluster_id: own.to_owned(),
            others: elsewhere.len(),
            nodes,
            other_cluster: other.clone(),
        }),
        _ => Ok(()),
    }
}
