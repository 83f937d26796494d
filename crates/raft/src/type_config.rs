//! The one place where openraft's types are chosen.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_adv;

/// Names a node of the ensemble. From 1; never given to another node, also not after its disk is lost.
pub type NodeId = u64;

/// What an entry of the log carries: an encoded [`coordd_tree::Entry`]. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A node as the membership knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Where its peers reach it, `host:port`.
    pub peer_address: String,
    /// Where its clients reach it; empty if it is not known.
    pub client_address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer_address)
    }
}

openraft::declare_raft_types!(
    /// openraft's types for coordd. The answer to a proposal is `()`: results reach the waiting request through the
    /// apply on the node it came from.
    pub TypeConfig:
        D = Payload,
        R = (),
        NodeId = NodeId,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_adv::LeaderId<u64, NodeId>,
);

/// openraft's types, applied to [`TypeConfig`].
pub mod types {
    use super::{Member, NodeId, Payload};

    /// (term, node).
    pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
    /// (term, node, index).
    pub type LogId = openraft::LogId<LeaderId>;
    /// (term, node, committed).
    pub type Vote = openraft::Vote<LeaderId>;
    /// What an entry carries.
    pub type EntryPayload = openraft::EntryPayload<Payload, NodeId, Member>;
    /// An entry of the log.
    pub type Entry = openraft::Entry<LeaderId, EntryPayload>;
    /// Voters and learners.
    pub type Membership = openraft::Membership<NodeId, Member>;
    /// A membership and the entry that set it.
    pub type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, Member>;
    /// What a snapshot covers.
    pub type SnapshotMeta = openraft::storage::SnapshotMeta<LeaderId, NodeId, Member>;
}
