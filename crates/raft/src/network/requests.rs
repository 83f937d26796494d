//! What peers ask for, in openraft's types. What openraft would stumble over is refused here: it takes the word of a peer
//! for everything else, and a node that it ends does not come back.

use std::collections::BTreeSet;

use bytes::Bytes;
use coordd_proto::peer;
use coordd_tree::{Batch, Entry};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

use crate::convert::{self, ConvertError};
use crate::type_config::types::{EntryPayload, LeaderId, LogId, SnapshotMeta, Vote};
use crate::type_config::{NodeId, TypeConfig};

/// A term or an index of a message is at most so far beyond the receiver's own. A node that was away for a year, while there were
/// ten elections a second or a million entries a second, is behind by less; and numbers that grow by this much at a time do
/// not get near the end of their range within the life of a disk, which has to sync each term.
const LEAP_MAX: u64 = 1 << 45;
const TERM_LEAP_MAX: u64 = 1 << 32;
/// Sessions that one frame may name. More than may be live in an ensemble.
const TOUCHED_MAX: usize = 1 << 20;

/// A vote of the message's sender, of a leader or of a candidate, which is not absurdly far beyond `own_term`.
pub(crate) fn check_vote(
    vote: &Vote,
    from: NodeId,
    is_leader: bool,
    own_term: u64,
) -> Result<(), ConvertError> {
    let refused = |cause: String| Err(ConvertError::new("vote", cause));
    if vote.leader_id.node_id != from {
        return refused(format!("node {from} speaks for node {}", vote.leader_id.node_id));
    }
    if vote.committed != is_leader {
        return refused(format!("its sender is {} leader", if is_leader { "no" } else { "already the" }));
    }
    if vote.leader_id.term > own_term.saturating_add(TERM_LEAP_MAX) {
        let term = vote.leader_id.term;
        return refused(format!(
            "term {term} is too far beyond this node's, {own_term}: at most {TERM_LEAP_MAX}"
        ));
    }
    Ok(())
}

/// An index that is not absurdly far beyond `own`.
pub(crate) fn check_index(id: Option<LogId>, own: u64) -> Result<(), ConvertError> {
    match id.map_or(0, |id| id.index) {
        index if index > own.saturating_add(LEAP_MAX) => {
            let cause = format!("index {index} is too far beyond this node's, {own}: at most {LEAP_MAX}");
            Err(ConvertError::new("log id", cause))
        }
        _ => Ok(()),
    }
}

/// What may stand in a frame beside its batches.
pub(crate) fn check_touched(touched: &[u64]) -> Result<(), ConvertError> {
    match touched.len() {
        0..=TOUCHED_MAX => Ok(()),
        count => {
            Err(ConvertError::new("frame", format!("{count} sessions, and at most {TOUCHED_MAX} are taken")))
        }
    }
}

/// Entries that follow `prev_log_id` one by one, of its leader's past, and that can be applied.
pub(crate) fn append_request(
    request: peer::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, ConvertError> {
    let rpc = AppendEntriesRequest::<TypeConfig> {
        vote: convert::vote_from_wire(convert::required(request.vote, "append request")?)?,
        prev_log_id: convert::some_log_id_from_wire(request.prev_log_id)?,
        entries: request.entries.into_iter().map(convert::entry_from_wire).collect::<Result<Vec<_>, _>>()?,
        leader_commit: convert::some_log_id_from_wire(request.leader_commit)?,
    };
    let first = rpc.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
    for (entry, next) in rpc.entries.iter().zip(first..) {
        if entry.log_id.index != next {
            let cause = format!("entry {} where {next} follows", entry.log_id.index);
            return Err(ConvertError::new("append request", cause));
        }
    }
    let mut before = rpc.prev_log_id.map(|id| id.leader_id);
    for entry in &rpc.entries {
        let leader_id = Some(entry.log_id.leader_id);
        if leader_id < before {
            let cause =
                format!("entry {} is of an earlier leader than the one before it", entry.log_id.index);
            return Err(ConvertError::new("append request", cause));
        }
        before = leader_id;
        check_payload(&entry.payload)?;
    }
    of_the_past(rpc.vote, before.max(rpc.leader_commit.map(|id| id.leader_id)))?;
    Ok(rpc)
}

/// What stands in the log was proposed by the leader with this vote, or before it.
fn of_the_past(vote: Vote, newest: Option<LeaderId>) -> Result<(), ConvertError> {
    match newest.filter(|newest| *newest > vote.leader_id) {
        None => Ok(()),
        Some(newest) => {
            let cause = format!("a leader of term {} knows of term {}", vote.leader_id.term, newest.term);
            Err(ConvertError::new("log id", cause))
        }
    }
}

/// An entry that cannot be applied stops every node that has it, for ever.
fn check_payload(payload: &EntryPayload) -> Result<(), ConvertError> {
    match payload {
        EntryPayload::Blank => Ok(()),
        EntryPayload::Normal(data) => {
            Entry::check(&data.0).map_err(|error| ConvertError::new("entry's commands", error.to_string()))
        }
        EntryPayload::Membership(membership) => {
            let configs = membership.get_joint_config();
            match configs.is_empty() || configs.len() > 2 || configs.iter().any(BTreeSet::is_empty) {
                false => Ok(()),
                true => Err(ConvertError::new("membership", "no voters, or more than two sets of them")),
            }
        }
    }
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
    let leaders = [meta.last_log_id, *meta.last_membership.log_id()].map(|id| id.map(|id| id.leader_id));
    of_the_past(vote, leaders.into_iter().flatten().max())?;
    Ok((vote, meta))
}

/// A batch that may stand in an entry: it goes there unread, and an entry that cannot be decoded stops every node for ever.
pub(crate) fn check_batch(from: NodeId, batch: &Bytes) -> Result<(), ConvertError> {
    let origin = Batch::check(batch).map_err(|e| ConvertError::new("forwarded batch", e.to_string()))?;
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
    fn a_vote_is_its_senders_and_not_absurd() {
        let vote = |term, committed| Vote { leader_id: LeaderId { term, node_id: 2 }, committed };
        assert!(check_vote(&vote(8, true), 2, true, 7).is_ok());
        assert!(check_vote(&vote(1, false), 2, false, 7).is_ok());
        let refused = |vote: Vote, from, is_leader, own_term| {
            check_vote(&vote, from, is_leader, own_term).unwrap_err().to_string()
        };
        assert!(refused(vote(8, true), 3, true, 7).contains("node 3 speaks for node 2"));
        assert!(refused(vote(8, false), 2, true, 7).contains("no leader"));
        assert!(refused(vote(8, true), 2, false, 7).contains("already the leader"));
        for term in [TERM_LEAP_MAX + 8, 1 << 62, u64::MAX >> 1] {
            assert!(
                refused(vote(term, false), 2, false, 7).contains("too far beyond this node's, 7"),
                "{term}"
            );
        }
        let id = |index| Some(LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index });
        assert!(check_index(id(1 << 40), 5).is_ok() && check_index(None, 5).is_ok());
        assert!(check_index(id(1 << 50), 5).unwrap_err().to_string().contains("too far"));
    }

    #[test]
    fn entries_that_cannot_be_applied_are_refused() {
        let append = |payload: peer::entry::Payload, term, vote_term| {
            let mut entry = entry(8);
            entry.payload = Some(payload);
            entry.log_id.as_mut().unwrap().term = term;
            append_request(peer::AppendRequest {
                vote: Some(peer::Vote { term: vote_term, node_id: 1, committed: true }),
                prev_log_id: Some(peer::LogId { term: 2, node_id: 1, index: 7 }),
                entries: vec![entry],
                ..peer::AppendRequest::default()
            })
        };
        let good = || peer::entry::Payload::Data(Entry::encode_from_parts(1, 7, &[]));
        let refused = |payload, term, vote_term| append(payload, term, vote_term).unwrap_err().to_string();
        assert!(append(good(), 2, 2).is_ok() && append(good(), 3, 5).is_ok());
        assert!(refused(peer::entry::Payload::Data("garbage".into()), 2, 2).contains("commands"));
        assert!(refused(good(), 1, 2).contains("earlier leader"));
        assert!(refused(good(), 6, 5).contains("knows of term 6"));
        let empty = peer::Membership::default();
        assert!(refused(peer::entry::Payload::Membership(empty), 2, 2).contains("no voters"));
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
