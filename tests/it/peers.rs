//! What strangers may send to the port of the peers: it is refused, and no node ends of it.

use std::time::Duration;

use coordd_client::CreateMode;
use coordd_proto::peer;
use coordd_proto::peer::peer_client::PeerClient;
use coordd_tests::Ensemble;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A stranger that speaks for one node to another.
struct Forger {
    client: PeerClient<Channel>,
    header: peer::Header,
}

impl Forger {
    async fn new(ensemble: &Ensemble, from: u64, to: u64) -> Forger {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", ensemble.peer_endpoint(to))).expect("an address");
        let client = PeerClient::new(endpoint.connect().await.expect("the peer port is open"));
        let cluster_id = ensemble.status_of(to).await.cluster_id;
        Forger {
            client,
            header: peer::Header { protocol: 1, cluster_id, from, to, ..peer::Header::default() },
        }
    }

    fn vote(&self, term: u64, committed: bool) -> Option<peer::Vote> {
        Some(peer::Vote { term, node_id: self.header.from, committed })
    }

    fn log_id(&self, term: u64, index: u64) -> Option<peer::LogId> {
        Some(peer::LogId { term, node_id: self.header.from, index })
    }

    async fn append(&mut self, term: u64, entries: Vec<peer::Entry>, prev: Option<peer::LogId>) -> Code {
        let request = peer::AppendRequest {
            header: Some(self.header.clone()),
            vote: self.vote(term, true),
            prev_log_id: prev,
            entries,
            leader_commit: None,
        };
        code(self.client.append(request).await)
    }

    /// The first message of a snapshot up to `index`.
    fn snapshot(&self, term: u64, index: u64, file_bytes: u64) -> peer::SnapshotChunk {
        let node = |node_id| peer::Node { node_id, ..peer::Node::default() };
        let membership = peer::Membership {
            configs: vec![peer::VoterSet { node_ids: vec![1, 2, 3] }],
            nodes: [1, 2, 3].map(node).to_vec(),
        };
        let start = peer::SnapshotStart {
            header: Some(self.header.clone()),
            vote: self.vote(term, true),
            last_log_id: self.log_id(term, index),
            membership: Some(peer::StoredMembership {
                log_id: self.log_id(1, 1),
                membership: Some(membership),
            }),
            file_bytes,
        };
        peer::SnapshotChunk { start: Some(start), data: b"some bytes".as_slice().into() }
    }
}

fn code<T>(reply: Result<T, tonic::Status>) -> Code {
    reply.err().map_or(Code::Ok, |status| status.code())
}

fn chunk() -> peer::SnapshotChunk {
    peer::SnapshotChunk { start: None, data: b"more".as_slice().into() }
}

/// Votes and terms near the end of their range, entries that no node could apply, batches and sessions that are none,
/// snapshots of nothing: refused, and the ensemble goes on in the term that it was in.
#[tokio::test]
async fn forged_messages_end_no_node() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/precious", "1", CreateMode::Persistent).await.expect("a create");
    let leader = ensemble.leader().await;
    let followers = ensemble.ids_but(leader);
    let [to, other] = followers[..] else { panic!("three nodes") };
    let term = ensemble.status_of(leader).await.term;
    let refused = Code::InvalidArgument;

    for (from, to) in [(leader, to), (other, to), (other, leader)] {
        let mut forger = Forger::new(&ensemble, from, to).await;
        for absurd in [u64::MAX, (1 << 63) - 1, 1 << 62, 1 << 48, term + (1 << 33)] {
            for leadership_transfer in [false, true] {
                let request = peer::VoteRequest {
                    header: Some(forger.header.clone()),
                    vote: forger.vote(absurd, false),
                    last_log_id: forger.log_id(absurd, 1 << 40),
                    leadership_transfer,
                };
                assert_eq!(code(forger.client.vote(request.clone()).await), refused, "{absurd}");
                assert_eq!(code(forger.client.pre_vote(request).await), refused, "{absurd}");
            }
            assert_eq!(forger.append(absurd, Vec::new(), None).await, refused, "{absurd}");
            let transfer = peer::TransferLeaderRequest {
                header: Some(forger.header.clone()),
                from_leader: forger.vote(absurd, true),
                to_node: to,
                last_log_id: None,
            };
            assert_eq!(code(forger.client.transfer_leader(transfer).await), refused, "{absurd}");
            let snapshot = tokio_stream::iter([forger.snapshot(absurd, 9, 1000)]);
            assert_eq!(code(forger.client.snapshot(snapshot).await), refused, "{absurd}");
        }
        // A candidate's vote is none of a leader, and nobody votes in the name of another.
        let other_vote = Some(peer::Vote { term: term + 1, node_id: 9, committed: true });
        for vote in [forger.vote(term + 1, false), other_vote] {
            let request = peer::AppendRequest {
                header: Some(forger.header.clone()),
                vote,
                ..peer::AppendRequest::default()
            };
            assert_eq!(code(forger.client.append(request).await), refused);
        }
        // What could not be applied, was proposed in the future, or defines no majority.
        let payload = |payload| peer::Entry { log_id: forger.log_id(term, 1), payload: Some(payload) };
        let no_voters = peer::entry::Payload::Membership(peer::Membership::default());
        let garbage = peer::entry::Payload::Data(b"garbage".as_slice().into());
        let mut late = payload(peer::entry::Payload::Blank(true));
        late.log_id = forger.log_id(term + 9, 1);
        let prev = forger.log_id(1, 0);
        for entry in [payload(garbage), payload(no_voters), late] {
            assert_eq!(forger.append(term + 1, vec![entry], prev).await, refused);
        }
        // A snapshot that is far beyond everything, and one that has no room.
        for (index, file_bytes, why) in [(1 << 60, 1000, refused), (9, 1 << 60, Code::ResourceExhausted)] {
            let snapshot = tokio_stream::iter([forger.snapshot(term, index, file_bytes)]);
            let said = code(forger.client.snapshot(snapshot).await);
            // Of somebody who does not lead, it is not even read.
            let is_refused = [why, Code::Ok, Code::FailedPrecondition].contains(&said);
            assert!(is_refused, "{said:?}");
        }
    }

    // Frames to the leader: sessions without end, and a batch that is none.
    let mut forger = Forger::new(&ensemble, other, leader).await;
    let first = peer::ForwardFrame { header: Some(forger.header.clone()), ..peer::ForwardFrame::default() };
    let batches =
        peer::ForwardFrame { batches: vec![b"garbage".as_slice().into()], ..peer::ForwardFrame::default() };
    let touched = peer::ForwardFrame { touched: vec![7; 2_000_000], ..peer::ForwardFrame::default() };
    for frame in [batches, touched] {
        let frames = tokio_stream::iter([first.clone(), frame]);
        let mut replies = forger.client.forward(frames).await.expect("the leader takes frames").into_inner();
        let ended = loop {
            match replies.message().await {
                Ok(Some(_)) => {}
                other => break code(other),
            }
        };
        assert_eq!(ended, refused);
    }

    client.set("/precious", "2", None).await.expect("the ensemble goes on");
    ensemble.wait_equal().await;
    let now = ensemble.status_of(leader).await;
    assert_eq!((now.term, now.role.as_str()), (term, "leader"));
    for id in ensemble.ids() {
        assert!(ensemble.status(id).await.is_some_and(|status| status.not_serving.is_none()), "node {id}");
    }
}

/// A snapshot that never ends takes no place away: the next one takes its.
#[tokio::test]
async fn a_stuck_snapshot_blocks_nobody() {
    let ensemble = Ensemble::start(3).await;
    let leader = ensemble.leader().await;
    let to = ensemble.ids_but(leader)[0];
    let status = ensemble.status_of(to).await;
    let mut forger = Forger::new(&ensemble, leader, to).await;
    let start = forger.snapshot(status.term, status.last_log_index + 5, 1000);
    let (stuck, frames) = tokio::sync::mpsc::channel(4);
    stuck.send(start.clone()).await.expect("a place");
    let mut client = forger.client.clone();
    let first =
        tokio::spawn(
            async move { client.snapshot(tokio_stream::wrappers::ReceiverStream::new(frames)).await },
        );
    tokio::time::sleep(Duration::from_millis(300)).await;
    stuck.send(chunk()).await.expect("a place");
    // It is looked at, and then found to be none.
    let second = forger.client.snapshot(tokio_stream::iter([start, chunk()]));
    let second = tokio::time::timeout(TIMEOUT / 4, second).await.expect("not held up");
    assert_eq!(code(second), Code::DataLoss);
    assert_eq!(code(first.await.expect("no panic")), Code::Aborted);
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("the ensemble goes on");
}
