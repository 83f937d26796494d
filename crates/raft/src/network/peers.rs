use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use coordd_proto::peer;
use coordd_proto::peer::peer_client::PeerClient;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use super::followers::Followers;
use super::{MESSAGE_BYTES, PROTOCOL};
use crate::addresses::ClientAddresses;
use crate::clock::{Clocks, wall_ms};
use crate::{Member, NodeId};

/// The other nodes of the ensemble and the connections to them.
pub(crate) struct Peers {
    own_id: NodeId,
    /// Set when the ensemble is formed.
    cluster_id: OnceLock<String>,
    members: BTreeMap<NodeId, Member>,
    channels: Mutex<HashMap<(NodeId, Lane), Channel>>,
    client_addresses: ClientAddresses,
    /// The last entry of the snapshot that each peer is being sent, or was a moment ago.
    transfers: Mutex<HashMap<NodeId, (u64, Instant)>>,
    /// What the peers' clocks show.
    pub(crate) clocks: Clocks,
    /// What the peers have of this node's log, while it leads.
    pub(crate) followers: Followers,
    /// A peer has shown that this node lost what was committed: what to say of it.
    pub(crate) loss: watch::Sender<Option<String>>,
}

/// How long after a snapshot its receiver may take to ask for the log behind it.
const TRANSFER_GRACE: Duration = Duration::from_secs(20);

/// What a connection is for. Large transfers and writes do not share one with Raft's own messages, which must not
/// wait behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Append,
    Heartbeat,
    Bulk,
}

impl Peers {
    pub(crate) fn new(own_id: NodeId, members: BTreeMap<NodeId, Member>) -> Self {
        Peers {
            own_id,
            cluster_id: OnceLock::new(),
            members,
            channels: Mutex::new(HashMap::new()),
            client_addresses: ClientAddresses::default(),
            transfers: Mutex::new(HashMap::new()),
            clocks: Clocks::default(),
            followers: Followers::default(),
            loss: watch::Sender::new(None),
        }
    }

    pub(crate) fn own_id(&self) -> NodeId {
        self.own_id
    }

    pub(crate) fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// Of all nodes but this one.
    pub(crate) fn others(&self) -> impl Iterator<Item = NodeId> {
        self.members.keys().copied().filter(|id| *id != self.own_id)
    }

    /// Where the clients of the nodes reach them, this one included.
    pub(crate) fn client_addresses(&self) -> &ClientAddresses {
        &self.client_addresses
    }

    /// Empty before the ensemble is formed.
    pub(crate) fn cluster_id(&self) -> &str {
        self.cluster_id.get().map_or("", String::as_str)
    }

    pub(crate) fn set_cluster_id(&self, id: &str) {
        // Set once: the data directory has refused another value before this is called.
        let _ = self.cluster_id.set(id.to_owned());
    }

    /// Where a peer listens, as this node is configured.
    pub(crate) fn address(&self, id: NodeId) -> Option<&str> {
        self.members.get(&id).map(|member| member.peer_address.as_str())
    }

    pub(crate) fn header(&self, to: NodeId) -> peer::Header {
        peer::Header {
            protocol: PROTOCOL,
            cluster_id: self.cluster_id().to_owned(),
            from: self.own_id,
            to,
            wall_ms: wall_ms(),
        }
    }

    /// A client of the peer. It connects when it is used, and again after it failed.
    pub(crate) fn client(&self, id: NodeId, lane: Lane) -> Result<PeerClient<Channel>, String> {
        let mut channels = self.channels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let channel = match channels.get(&(id, lane)) {
            Some(channel) => channel.clone(),
            None => {
                let address = self.address(id).ok_or_else(|| format!("node {id} is not in --ensemble"))?;
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|e| format!("address of node {id}, {address}: {e}"))?;
                let channel = endpoint
                    .connect_timeout(Duration::from_secs(1))
                    .tcp_nodelay(true)
                    .tcp_keepalive(Some(Duration::from_secs(5)))
                    .http2_keep_alive_interval(Duration::from_secs(2))
                    .keep_alive_timeout(Duration::from_secs(3))
                    .keep_alive_while_idle(true)
                    .initial_stream_window_size(4 << 20)
                    .initial_connection_window_size(8 << 20)
                    .connect_lazy();
                channels.insert((id, lane), channel.clone());
                channel
            }
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }

    /// A peer is being sent the snapshot up to `index`; say it again while it goes on.
    pub(crate) fn note_transfer(&self, to: NodeId, index: u64) {
        self.transfers
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .insert(to, (index, Instant::now()));
    }

    /// The log after this entry is needed by a peer that has just got, or is getting, a snapshot up to it. Without it the
    /// peer would need the next snapshot, and so on.
    pub(crate) fn needed_after(&self) -> Option<u64> {
        let mut transfers = self.transfers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        transfers.retain(|_, (_, at)| at.elapsed() < TRANSFER_GRACE);
        transfers.values().map(|(index, _)| *index).min()
    }

    /// Refuses a message that is not for this node, or not of this ensemble.
    pub(crate) fn check(&self, header: Option<&peer::Header>) -> Result<NodeId, tonic::Status> {
        let header = header.ok_or_else(|| tonic::Status::invalid_argument("no header"))?;
        if header.protocol != PROTOCOL {
            return Err(tonic::Status::failed_precondition(format!(
                "peer protocol {} asked; node {} speaks {PROTOCOL}",
                header.protocol, self.own_id
            )));
        }
        if header.to != self.own_id {
            return Err(tonic::Status::failed_precondition(format!(
                "a message for node {} reached node {}: check the addresses in --ensemble",
                header.to, self.own_id
            )));
        }
        if header.from == self.own_id || !self.members.contains_key(&header.from) {
            return Err(tonic::Status::failed_precondition(format!(
                "node {} is not a peer of node {}: check --id and --ensemble",
                header.from, self.own_id
            )));
        }
        if header.cluster_id != self.cluster_id() {
            return Err(tonic::Status::failed_precondition(format!(
                "node {} belongs to ensemble {:?}, node {} to {:?}",
                header.from,
                header.cluster_id,
                self.own_id,
                self.cluster_id()
            )));
        }
        self.clocks.note(header.from, header.wall_ms);
        Ok(header.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        let member = |n: u64| Member { peer_address: format!("127.0.0.1:{}", 7500 + n), ..Member::default() };
        let peers = Peers::new(1, BTreeMap::from_iter([1, 2, 3].map(|n| (n, member(n)))));
        peers.set_cluster_id("ours");
        peers
    }

    fn header() -> peer::Header {
        peer::Header { protocol: PROTOCOL, cluster_id: "ours".into(), from: 2, to: 1, wall_ms: 0 }
    }

    #[test]
    fn a_message_of_this_ensemble_for_this_node_is_taken() {
        assert_eq!(peers().check(Some(&header())).unwrap(), 2);
    }

    #[test]
    fn messages_for_another_node_ensemble_or_protocol_are_refused() {
        let refused = |change: fn(&mut peer::Header)| {
            let mut header = header();
            change(&mut header);
            peers().check(Some(&header)).unwrap_err().message().to_owned()
        };
        assert!(refused(|h| h.to = 3).contains("a message for node 3 reached node 1"));
        assert!(refused(|h| h.cluster_id = "theirs".into()).contains("\"theirs\""));
        assert!(refused(|h| h.cluster_id.clear()).contains("ensemble \"\""));
        assert!(refused(|h| h.protocol = 9).contains("peer protocol 9"));
        assert!(refused(|h| h.from = 1).contains("not a peer"));
        assert!(refused(|h| h.from = 8).contains("not a peer"));
        assert!(peers().check(None).is_err());
    }
}
