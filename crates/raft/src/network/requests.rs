//! What peers ask for, in openraft's types. What openraft would stumble over is refused here: it takes the word of a peer
//! for everything else, and a node that it ends does not come back.

use bytes::Bytes;
use coordd_proto::peer;
use coordd_tree::Batch;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

use crate::convert::{self, ConvertError};
use crate::type_config::types::{SnapshotMeta, Vote};
use crate::type_config::{NodeId, TypeConfig};

/// Entries that follow `prev_log_id` one by one.
pub(crate) fn append_request(
    request: peer::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, ConvertError> {
    let rpc = AppendEntriesRequest::<TypeConfig> {
        vote: convert::vote_from_wire(convert::required(request.vote, "append request")?)?,
        prev_log_id: convert::some_log_id_from_wire(request.prev_log_id)?,
        entries: request.entries.into_iter().map(convert::entry_from_wire).collect::<Result<Vec<_>, _>>()?,
        leader_commit: convert::some_log_id_from_wire(request.leader_commit)?,
    };
    let first = rpc.prev_log_id.map_or(0, |id| id.index + 1);
    for (entry, next) in rpc.entries.iter().zip(first..) {
        if entry.log_id.index != next {
            let cause = format!("entry {} where {next} follows", entry.log_id.index);
            return Err(ConvertError::new("append request", cause));
        }
    }
    Ok(rpc)
}

/// Of a vote or a pre-vote.
pub(crate) fn vote_request(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, ConvertError> {
    Ok(VoteRequest {
        vote: convert::vote_from_wire(convert::required(request.vote, "vote request")?)?,
        last_log_id: convert::some_log_id_from_wire(request.last_log_id)?,
        leadership_transfer: request.leadership_transfer,
    })
}

/// A leader that wants another to lead.
pub(crate) fn transfer_request(
    request: peer::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, ConvertError> {
    Ok(TransferLeaderRequest::new(
        convert::vote_from_wire(convert::required(request.from_leader, "transfer request")?)?,
        request.to_node,
        convert::some_log_id_from_wire(request.last_log_id)?,
    ))
}

/// What the snapshot covers that is to come, and by whose word.
pub(crate) fn snapshot_start(start: peer::SnapshotStart) -> Result<(Vote, SnapshotMeta), ConvertError> {
    let vote = convert::vote_from_wire(convert::required(start.vote, "snapshot's vote")?)?;
    let membership = convert::required(start.membership, "snapshot's membership")?;
    let meta = SnapshotMeta {
        last_log_id: convert::some_log_id_from_wire(start.last_log_id)?,
        last_membership: convert::stored_membership_from_wire(membership)?,
    };
    Ok((vote, meta))
}

/// A batch that may stand in an entry: it goes there unread, and an entry that cannot be decoded stops every node for ever.
pub(crate) fn check_batch(from: NodeId, batch: &Bytes) -> Result<(), ConvertError> {
    let origin =
        Batch::decode(batch).map_err(|e| ConvertError::new("forwarded batch", e.to_string()))?.origin;
    match origin.node == from {
        true => Ok(()),
        // The commands of that node would be taken for these, and never get their turn.
        false => Err(ConvertError::new("forwarded batch", format!("it is of node {}", origin.node))),
    }
}

#[cfg(test)]
mod tests {
    use coordd_tree::{Command, EndReason, Origin};

    use super::*;

    fn entry(index: u64) -> peer::Entry {
        let log_id = Some(peer::LogId { term: 1, node_id: 1, index });
        peer::Entry { log_id, payload: Some(peer::entry::Payload::Blank(true)) }
    }

    fn append(prev: Option<u64>, indexes: &[u64]) -> Result<AppendEntriesRequest<TypeConfig>, ConvertError> {
        append_request(peer::AppendRequest {
            vote: Some(peer::Vote { term: 1, node_id: 1, committed: true }),
            prev_log_id: prev.map(|index| peer::LogId { term: 1, node_id: 1, index }),
            entries: indexes.iter().copied().map(entry).collect(),
            ..peer::AppendRequest::default()
        })
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_refused() {
        assert!(append(None, &[]).is_ok());
        assert!(append(None, &[0, 1]).is_ok());
        assert!(append(Some(7), &[8, 9]).is_ok());
        for (prev, indexes) in [(None, &[1][..]), (Some(7), &[7]), (Some(7), &[8, 10]), (Some(7), &[9, 8])] {
            let refused = append(prev, indexes).unwrap_err().to_string();
            assert!(refused.contains("follows"), "{prev:?} {indexes:?}: {refused}");
        }
    }

    #[test]
    fn a_batch_that_would_stop_every_node_is_refused() {
        let command = Command::EndSession { session: 1, reason: EndReason::Closed };
        let origin = Origin { node: 2, incarnation: 1 };
        let batch = Batch { origin, first_seq: 1, commands: vec![command] }.encode();
        assert!(check_batch(2, &batch).is_ok());
        let cut = batch.slice(..batch.len() - 1);
        assert!(check_batch(2, &cut).unwrap_err().to_string().contains("a batch cannot be decoded"));
        let added = Bytes::from([&batch[..], &[0]].concat());
        assert!(check_batch(2, &added).unwrap_err().to_string().contains("left over"));
        assert!(check_batch(3, &batch).unwrap_err().to_string().contains("it is of node 2"));
    }
}
