//! What the fuzz targets of this crate do with their bytes. Each is a plain function, so that the tests below replay what
//! the fuzzer once found.

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes};
use coordd_proto::peer;
use coordd_tree::{Batch, Entry, RULES};
use openraft::EntryPayload;
use prost::Message;

use crate::convert::{self, log_id_to_wire, vote_to_wire};
use crate::network::{
    Peers, append_reply, append_request, check_batch, snapshot_start, transfer_request, vote_reply,
    vote_request,
};
use crate::type_config::Member;

pub use crate::storage::fuzzing::{data_files, snapshot_file, wal_record, wal_recovery};

/// Bytes as one message of the peer protocol, of the kind that the first of them says: what goes to openraft means on the
/// wire again what it meant.
pub fn peer_message(data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    if bytes.is_empty() {
        return;
    }
    match bytes.get_u8() {
        0 => decoded(bytes, append),
        1 => decoded(bytes, vote),
        2 => decoded(bytes, snapshot),
        3 => decoded(bytes, transfer),
        4 => decoded(bytes, forward),
        5 => decoded(bytes, |request: peer::ReadIndexRequest| drop(check(request.header))),
        6 => decoded(bytes, |request: peer::RenewRequest| drop(check(request.header))),
        7 => decoded(bytes, |_: peer::HelloRequest| {}),
        8 => decoded(bytes, |_: peer::FormRequest| {}),
        9 => decoded(bytes, |reply: peer::AppendReply| drop(append_reply(reply))),
        10 => decoded(bytes, |reply: peer::VoteReply| {
            let Ok(response) = vote_reply(reply) else { return };
            assert_eq!(Some(vote_to_wire(&response.vote)), reply.vote);
            assert_eq!(response.last_log_id.as_ref().map(log_id_to_wire), reply.last_log_id);
        }),
        11 => decoded(bytes, |_: peer::HelloReply| {}),
        12 => decoded(bytes, |_: peer::ForwardReply| {}),
        _ => {}
    }
}

fn decoded<M: Message + Default>(bytes: Bytes, use_it: impl FnOnce(M)) {
    if let Ok(message) = M::decode(bytes) {
        use_it(message);
    }
}

/// As a node of three would.
fn check(header: Option<peer::Header>) -> Result<u64, tonic::Status> {
    let member = |n: u64| (n, Member { peer_address: format!("host-{n}:7501"), ..Member::default() });
    let peers = Peers::new(1, BTreeMap::from([1, 2, 3].map(member)));
    peers.set_cluster_id("ours");
    peers.check(header.as_ref())
}

fn append(request: peer::AppendRequest) {
    drop(check(request.header.clone()));
    let Ok(rpc) = append_request(request.clone()) else { return };
    assert_eq!(Some(vote_to_wire(&rpc.vote)), request.vote);
    assert_eq!(rpc.prev_log_id.as_ref().map(log_id_to_wire), request.prev_log_id);
    assert_eq!(rpc.leader_commit.as_ref().map(log_id_to_wire), request.leader_commit);
    for (entry, next) in rpc.entries.iter().zip(rpc.prev_log_id.map_or(0, |id| id.index + 1)..) {
        assert_eq!(entry.log_id.index, next);
        let again = convert::entry_from_wire(convert::entry_to_wire(entry));
        assert_eq!(&again.expect("what was taken can be sent on"), entry);
        if let EntryPayload::Normal(payload) = &entry.payload {
            drop(Entry::decode(&payload.0));
        }
    }
}

fn vote(request: peer::VoteRequest) {
    drop(check(request.header.clone()));
    let Ok(rpc) = vote_request(request.clone()) else { return };
    assert_eq!(Some(vote_to_wire(&rpc.vote)), request.vote);
    assert_eq!(rpc.last_log_id.as_ref().map(log_id_to_wire), request.last_log_id);
}

fn snapshot(chunk: peer::SnapshotChunk) {
    let Some(start) = chunk.start else { return };
    drop(check(start.header.clone()));
    let Ok((_, meta)) = snapshot_start(start) else { return };
    let again = convert::stored_membership_to_wire(&meta.last_membership);
    let again = convert::stored_membership_from_wire(again).expect("what was taken can be sent on");
    assert_eq!(again, meta.last_membership);
}

fn transfer(request: peer::TransferLeaderRequest) {
    drop(check(request.header.clone()));
    let Ok(rpc) = transfer_request(request.clone()) else { return };
    assert_eq!(Some(vote_to_wire(rpc.from_leader())), request.from_leader);
}

/// What passes the check makes, in whatever order it comes, an entry that can be decoded.
fn forward(frame: peer::ForwardFrame) {
    drop(check(frame.header));
    let passed: Vec<Bytes> =
        frame.batches.into_iter().filter(|batch| check_batch(2, batch).is_ok()).collect();
    let entry = Entry::encode_from_parts(RULES, 7, &passed);
    let entry = Entry::decode(&entry).expect("an entry of batches that were checked");
    let batches: Vec<Batch> = passed.iter().map(|batch| Batch::decode(batch).expect("checked")).collect();
    assert_eq!(entry.batches, batches);
}

#[cfg(test)]
mod tests {
    use coordd_corpus::{keep_seeds, replay};
    use coordd_tree::{Command, EndReason, Origin};

    use super::*;

    fn header() -> Option<peer::Header> {
        Some(peer::Header {
            protocol: crate::network::PROTOCOL,
            cluster_id: "ours".into(),
            from: 2,
            to: 1,
            wall_ms: 0,
        })
    }

    fn message(kind: u8, message: &impl Message) -> Vec<u8> {
        [&[kind], &message.encode_to_vec()[..]].concat()
    }

    fn membership() -> peer::Membership {
        let node = |node_id| peer::Node {
            node_id,
            peer_address: format!("host-{node_id}:7501"),
            client_address: format!("host-{node_id}:7401"),
        };
        peer::Membership {
            configs: vec![
                peer::VoterSet { node_ids: vec![1, 2, 3] },
                peer::VoterSet { node_ids: vec![2, 3] },
            ],
            nodes: [1, 2, 3, 4].map(node).to_vec(),
        }
    }

    #[test]
    fn the_seeds_are_what_is_written() {
        use peer::entry::Payload;
        let vote = Some(peer::Vote { term: 3, node_id: 2, committed: true });
        let log_id = |index| Some(peer::LogId { term: 3, node_id: 2, index });
        let commands = vec![Command::EndSession { session: 9, reason: EndReason::Closed }; 2];
        let batch = Batch { origin: Origin { node: 2, incarnation: 1 }, first_seq: 1, commands }.encode();
        let data = Entry::encode_from_parts(RULES, 1000, std::slice::from_ref(&batch));
        let payloads = [Payload::Blank(true), Payload::Data(data), Payload::Membership(membership())];
        let entries = payloads
            .into_iter()
            .zip(6..)
            .map(|(payload, index)| peer::Entry { log_id: log_id(index), payload: Some(payload) });
        let append = peer::AppendRequest {
            header: header(),
            vote,
            prev_log_id: log_id(5),
            entries: entries.collect(),
            leader_commit: log_id(5),
        };
        let ask = peer::VoteRequest {
            header: header(),
            vote: Some(peer::Vote { term: 4, node_id: 2, committed: false }),
            last_log_id: log_id(5),
            leadership_transfer: true,
        };
        let start = peer::SnapshotStart {
            header: header(),
            vote,
            last_log_id: log_id(5),
            membership: Some(peer::StoredMembership { log_id: log_id(1), membership: Some(membership()) }),
            file_bytes: 777,
        };
        let transfer = peer::TransferLeaderRequest {
            header: header(),
            from_leader: vote,
            to_node: 1,
            last_log_id: log_id(5),
        };
        let forward = peer::ForwardFrame {
            header: header(),
            batches: vec![batch; 2],
            touched: vec![1, 2],
            touched_generations: vec![3, 0],
            disk_is_low: false,
            rules: RULES,
            memory_is_low: false,
        };
        let partial = peer::append_reply::Result::Partial(peer::PartialSuccess { log_id: log_id(5) });
        let form = peer::FormRequest { header: header(), node_ids: vec![1, 2, 3] };
        let hello = peer::HelloReply {
            cluster_id: "ours".into(),
            node_id: 2,
            initialized: true,
            acknowledged: log_id(5),
            acknowledged_to: vote,
            client_address: "h2:7401".into(),
        };
        let append_reply =
            peer::AppendReply { result: Some(partial), wall_ms: 1_700_000_000_000, lacking: log_id(4) };
        let vote_reply =
            peer::VoteReply { vote, last_log_id: log_id(5), granted: true, wall_ms: 1_700_000_000_000 };
        keep_seeds(
            "raft_peer_message",
            &[
                ("append", message(0, &append)),
                ("vote", message(1, &ask)),
                ("snapshot", message(2, &peer::SnapshotChunk { start: Some(start), data: Bytes::new() })),
                ("transfer", message(3, &transfer)),
                ("forward", message(4, &forward)),
                ("read-index", message(5, &peer::ReadIndexRequest { header: header() })),
                (
                    "renew",
                    message(
                        6,
                        &peer::RenewRequest {
                            header: header(),
                            sessions: vec![7, 8],
                            generations: vec![5, 0],
                        },
                    ),
                ),
                ("hello", message(7, &peer::HelloRequest { protocol: 1, from: 2, to: 1 })),
                ("form", message(8, &form)),
                ("append-reply", message(9, &append_reply)),
                ("vote-reply", message(10, &vote_reply)),
                ("hello-reply", message(11, &hello)),
                (
                    "forward-reply",
                    message(
                        12,
                        &peer::ForwardReply {
                            term: 3,
                            applied_index: 5,
                            digest: 7,
                            growth_refused: false,
                            for_memory: false,
                            applied: log_id(5),
                        },
                    ),
                ),
            ],
        );
    }

    #[test]
    fn what_the_fuzzer_found_stays_found() {
        replay("raft_peer_message", peer_message);
        replay("raft_wal_record", wal_record);
        replay("raft_wal_recovery", wal_recovery);
        replay("raft_data_files", data_files);
        replay("raft_snapshot_file", snapshot_file);
    }
}
