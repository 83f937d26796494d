//! openraft's types and their form on the wire and on disk, both ways. openraft's own serde form is not stable across
//! its versions, so ours is the peer API's protobuf.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coordd_proto::peer;
use openraft::EntryPayload;

use crate::type_config::types::{Entry, LeaderId, LogId, Membership, StoredMembership, Vote};
use crate::type_config::{Member, Payload};

/// A message that lacks a field it must have, or has one that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}: {cause}")]
pub(crate) struct ConvertError {
    what: &'static str,
    cause: String,
}

impl ConvertError {
    /// `what` is not as it must be because of `cause`.
    pub(crate) fn new(what: &'static str, cause: impl Into<String>) -> Self {
        ConvertError { what, cause: cause.into() }
    }
}

/// A field that protobuf cannot require.
pub(crate) fn required<T>(value: Option<T>, what: &'static str) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError::new(what, "missing"))
}

/// To the wire.
pub(crate) fn vote_to_wire(vote: &Vote) -> peer::Vote {
    peer::Vote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

/// From the wire.
pub(crate) fn vote_from_wire(vote: peer::Vote) -> Result<Vote, ConvertError> {
    let leader_id = LeaderId { term: counted(vote.term, "vote's term")?, node_id: vote.node_id };
    Ok(Vote { leader_id, committed: vote.committed })
}

/// To the wire.
pub(crate) fn log_id_to_wire(id: &LogId) -> peer::LogId {
    peer::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

/// From the wire.
pub(crate) fn log_id_from_wire(id: peer::LogId) -> Result<LogId, ConvertError> {
    let leader_id = LeaderId { term: counted(id.term, "log id's term")?, node_id: id.node_id };
    Ok(LogId { leader_id, index: counted(id.index, "log id's index")? })
}

/// The same of one that need not be there.
pub(crate) fn some_log_id_from_wire(id: Option<peer::LogId>) -> Result<Option<LogId>, ConvertError> {
    id.map(log_id_from_wire).transpose()
}

/// Terms and indexes are counted one by one, so none that is true gets here, and one more is always a number.
const COUNT_MAX: u64 = u64::MAX >> 1;

fn counted(number: u64, what: &'static str) -> Result<u64, ConvertError> {
    match number <= COUNT_MAX {
        true => Ok(number),
        false => Err(ConvertError::new(what, format!("{number} is more than can be counted to"))),
    }
}

/// To the wire.
pub(crate) fn membership_to_wire(membership: &Membership) -> peer::Membership {
    let configs = membership.get_joint_config().iter();
    peer::Membership {
        configs: configs
            .map(|voters| peer::VoterSet { node_ids: voters.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| peer::Node {
                node_id: *id,
                peer_address: node.peer_address.clone(),
                client_address: node.client_address.clone(),
            })
            .collect(),
    }
}

/// From the wire.
pub(crate) fn membership_from_wire(membership: peer::Membership) -> Result<Membership, ConvertError> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|voters| voters.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Member> = membership
        .nodes
        .into_iter()
        .map(|n| (n.node_id, Member { peer_address: n.peer_address, client_address: n.client_address }))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|e| ConvertError::new("membership", e.to_string()))
}

/// To the wire.
pub(crate) fn stored_membership_to_wire(stored: &StoredMembership) -> peer::StoredMembership {
    peer::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

/// From the wire.
pub(crate) fn stored_membership_from_wire(
    stored: peer::StoredMembership,
) -> Result<StoredMembership, ConvertError> {
    let membership = membership_from_wire(required(stored.membership, "stored membership")?)?;
    Ok(StoredMembership::new(some_log_id_from_wire(stored.log_id)?, membership))
}

/// To the wire. The payload's bytes are shared.
pub(crate) fn entry_to_wire(entry: &Entry) -> peer::Entry {
    use peer::entry::Payload as Wire;
    let payload = match &entry.payload {
        EntryPayload::Blank => Wire::Blank(true),
        EntryPayload::Normal(data) => Wire::Data(data.0.clone()),
        EntryPayload::Membership(membership) => Wire::Membership(membership_to_wire(membership)),
    };
    peer::Entry { log_id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

/// From the wire.
pub(crate) fn entry_from_wire(entry: peer::Entry) -> Result<Entry, ConvertError> {
    use peer::entry::Payload as Wire;
    let payload = match required(entry.payload, "entry's payload")? {
        Wire::Blank(_) => EntryPayload::Blank,
        // A copy, because the log keeps it: these bytes are a slice of a receive buffer that may be a hundred times as large.
        Wire::Data(data) => EntryPayload::Normal(Payload(Bytes::copy_from_slice(&data))),
        Wire::Membership(membership) => EntryPayload::Membership(membership_from_wire(membership)?),
    };
    Ok(Entry { log_id: log_id_from_wire(required(entry.log_id, "entry's log id")?)?, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_kind_survive_the_wire() {
        let log_id = LogId { leader_id: LeaderId { term: 7, node_id: 2 }, index: 9 };
        let voters = BTreeSet::from([1, 2, 3]);
        let member = |n| Member { peer_address: format!("h{n}:7501"), client_address: format!("h{n}:7401") };
        let nodes = BTreeMap::from_iter([1, 2, 3, 4].map(|n| (n, member(n))));
        let membership = Membership::new(vec![voters.clone(), BTreeSet::from([4])], nodes).unwrap();
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload("data".into())),
            EntryPayload::Membership(membership),
        ] {
            let entry = Entry { log_id, payload };
            assert_eq!(entry_from_wire(entry_to_wire(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn an_entry_without_a_log_id_is_refused() {
        let entry = peer::Entry { log_id: None, payload: Some(peer::entry::Payload::Blank(true)) };
        assert_eq!(entry_from_wire(entry).unwrap_err().to_string(), "malformed entry's log id: missing");
    }

    #[test]
    fn votes_and_log_ids_survive_the_wire() {
        let vote = Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true };
        assert_eq!(vote_from_wire(vote_to_wire(&vote)).unwrap(), vote);
    }

    #[test]
    fn a_number_that_cannot_be_counted_on_from_is_refused() {
        let id = |term, index| peer::LogId { term, node_id: 1, index };
        assert!(log_id_from_wire(id(COUNT_MAX, COUNT_MAX)).is_ok());
        let refused = log_id_from_wire(id(1, u64::MAX)).unwrap_err().to_string();
        assert_eq!(refused, "malformed log id's index: 18446744073709551615 is more than can be counted to");
        assert!(log_id_from_wire(id(u64::MAX, 1)).is_err());
        assert!(vote_from_wire(peer::Vote { term: u64::MAX, node_id: 1, committed: false }).is_err());
    }
}
