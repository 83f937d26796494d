//! Raft's messages, received.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use coordd_proto::peer::peer_server::{Peer, PeerServer};
use coordd_proto::status::into_status;
use coordd_proto::v1::admin_server::AdminServer;
use coordd_proto::v1::coordd_server::CoorddServer;
use coordd_proto::{WrongPort, peer, v1};
use futures::Stream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{AppendEntriesResponse, VoteResponse};
use openraft::storage::Snapshot;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::gate::{Gate, Pass};
use super::incoming::accept;
use super::requests::{
    append_request, check_batch, check_index, check_touched, check_vote, snapshot_start, transfer_request,
    vote_request,
};
use super::{Lane, MESSAGE_BYTES, PROTOCOL, Peers};
use crate::NodeId;
use crate::clock::wall_ms;
use crate::convert::{self, ConvertError};
use crate::disk::{FollowerRoom, Shortage};
use crate::formation::Formation;
use crate::observer::{Observer, SignOfLife, hear};
use crate::read_index::{own_read_index, own_renewal};
use crate::replica::Node;
use crate::seldom::Seldom;
use crate::state_machine::{SnapshotData, load_tree};
use crate::type_config::TypeConfig;
use crate::type_config::types::{LogId, Vote};

/// A leader says so often that it leads.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);
/// A stream that stands still for so long is ended.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// A snapshot takes as long as its sender waits for it, at most.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a snapshot waits for the end of the one in whose place it came.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of batches of one node.
const FORWARDS_MAX: usize = 4;
/// Calls at the same time on one connection. A peer needs some dozens.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Bytes of one call's headers.
const HEADER_BYTES: u32 = 16 << 10;
/// How often a node that does not follow its leader's log asks the leader what it had acknowledged.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The peer API of this node. Formation is answered from the start, everything else once the log is open.
pub(crate) struct PeerService<O: Observer> {
    pub(crate) peers: Arc<Peers>,
    pub(crate) formation: Arc<Formation>,
    pub(crate) node: Arc<OnceLock<Arc<Node<O>>>>,
    /// One place, for the snapshot that is being received.
    pub(crate) receiving: Arc<Semaphore>,
    /// Closed when the node stops.
    pub(crate) open: Gate,
    /// Where clients of this node belong.
    pub(crate) client_address: String,
    pub(crate) streams: Arc<Streams>,
}

/// What several calls of the peers have to know of each other.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// The snapshot that is being received, or was: by whose word, and how it is stopped.
    snapshot: Mutex<Option<(Vote, CancellationToken)>>,
    /// The streams of each node's batches, the oldest first.
    forwards: Mutex<HashMap<NodeId, VecDeque<CancellationToken>>>,
    /// A question to the leader is under way.
    asking: AtomicBool,
    refused: Seldom,
    contradicted: Seldom,
}

impl Streams {
    /// Whoever leads now, or sends once more, is not held up by a stream that stands still. `followed` is the vote of the leader
    /// that this node follows: its snapshot gives way to its next one only.
    fn take_snapshot_place(&self, vote: Vote, followed: Option<Vote>) -> Result<CancellationToken, Status> {
        let mut current = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, stop)) = current.as_ref() {
            if !stop.is_cancelled() && Some(*other) == followed && vote != *other {
                return Err(Status::unavailable("the snapshot of this node's leader is being received"));
            }
            stop.cancel();
        }
        let stop = CancellationToken::new();
        *current = Some((vote, stop.clone()));
        Ok(stop)
    }

    /// A node has one such stream, and for a moment the one that it gave up.
    fn forward_begins(&self, from: NodeId) -> CancellationToken {
        let mut forwards = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = forwards.entry(from).or_default();
        if streams.len() >= FORWARDS_MAX
            && let Some(oldest) = streams.pop_front()
        {
            oldest.cancel();
        }
        let stop = CancellationToken::new();
        streams.push_back(stop.clone());
        stop
    }

    /// Asks the leader, at the address that this node is configured with, what this node has acknowledged to it. A node that
    /// has less than that stops: others count on what it lost.
    fn ask_what_was_acknowledged<O: Observer>(self: &Arc<Self>, node: &Arc<Node<O>>, leader: NodeId) {
        if self.asking.swap(true, Ordering::Relaxed) {
            return;
        }
        let (streams, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            if lacks_acknowledged(&node, leader).await.is_some() {
                // What was being written then is written by now.
                tokio::time::sleep(ASK_INTERVAL).await;
                if let Some((has, acknowledged)) = lacks_acknowledged(&node, leader).await {
                    node.outdated(&format!(
                        "node {} lacks what it had acknowledged: its log ends at entry {has}, and node {leader}, which leads, \
                         counts on it up to entry {acknowledged}. Its directory is an old copy, or its disk lost writes",
                        node.id(),
                    ));
                }
            }
            tokio::time::sleep(ASK_INTERVAL).await;
            streams.asking.store(false, Ordering::Relaxed);
        });
    }
}

/// The end of this node's log, and what it has acknowledged to the leader that it follows, if that is more.
async fn lacks_acknowledged<O: Observer>(node: &Node<O>, leader: NodeId) -> Option<(u64, u64)> {
    let mut client = node.peers.client(leader, Lane::Bulk).ok()?;
    let request = peer::HelloRequest { protocol: PROTOCOL, from: node.id(), to: leader };
    let reply = tokio::time::timeout(ASK_TIMEOUT, client.hello(request)).await.ok()?.ok()?.into_inner();
    let acknowledged = convert::log_id_from_wire(reply.acknowledged?).ok()?;
    let vote = convert::vote_from_wire(reply.acknowledged_to?).ok()?;
    // A later leader may have replaced what was acknowledged to this one.
    if reply.cluster_id != node.peers.cluster_id() || node.leadership.borrow().vote != Some(vote) {
        return None;
    }
    let logged = node.log.last_log_id().map_or(0, |id| id.index);
    let covered = node.snapshots.latest().and_then(|file| file.meta.last_log_id).map_or(0, |id| id.index);
    let has = logged.max(covered);
    (has < acknowledged.index).then_some((has, acknowledged.index))
}

/// A stream's next message, or an error if there is none in time.
async fn within<T>(limit: Duration, next: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limit, next).await {
        Ok(message) => message,
        Err(_) => Err(Status::deadline_exceeded(format!("nothing came for {limit:?}"))),
    }
}

/// Serves the peer API until `shutdown` is done.
pub(crate) async fn serve<O: Observer>(
    service: PeerService<O>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let nodes = service.peers.members().len();
    let (own_id, client_address) = (service.peers.own_id(), service.client_address.clone());
    let not_here = || {
        let message = format!(
            "this is the peer port of node {own_id}; clients use {client_address}: check the endpoints"
        );
        into_status(v1::Error { code: v1::ErrorCode::NotServing as i32, message, ..v1::Error::default() })
    };
    let service = PeerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(2)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_BYTES)
        .add_service(service)
        .add_service(WrongPort::<CoorddServer<()>>::new(not_here()))
        .add_service(WrongPort::<AdminServer<()>>::new(not_here()))
        .serve_with_incoming_shutdown(accept(listener, nodes), shutdown)
        .await
}

impl<O: Observer> PeerService<O> {
    fn node(&self) -> Result<&Arc<Node<O>>, Status> {
        self.node.get().ok_or_else(|| Status::unavailable("this node is starting"))
    }

    /// For calls that Raft answers: what is returned first is held until it has.
    fn raft(&self) -> Result<(Pass, &Arc<Node<O>>), Status> {
        Ok((self.open.pass()?, self.node()?))
    }

    /// A message that makes no sense: whoever sends it is no peer, or of a version that this one does not understand.
    fn refuse(&self, from: NodeId, error: ConvertError) -> Status {
        if let Some(times) = self.streams.refused.is_due() {
            tracing::warn!(from, times, %error, "a message of a peer is refused");
        }
        error.into()
    }

    fn check_vote(&self, vote: &Vote, from: NodeId, is_leader: bool) -> Result<(), Status> {
        let own_term = self.node()?.leadership.borrow().term;
        check_vote(vote, from, is_leader, own_term).map_err(|error| self.refuse(from, error))
    }

    /// A leader has all that was committed before its time, so a message by which its log contradicts what this node has
    /// applied is of a leader that has lost some, together with the majority that elected it. To follow it would be to lose
    /// that here, too. The error is an entry that it lacks.
    fn refuse_loss(&self, known: &[LogId], vote: &Vote) -> Result<(), LogId> {
        let Some(node) = self.node.get() else { return Ok(()) };
        let applied = {
            let metrics = node.raft.metrics();
            let metrics = metrics.borrow_watched();
            // A word of the past may be about what was never committed.
            if *vote < metrics.vote {
                return Ok(());
            }
            metrics.last_applied
        };
        let Some(applied) = applied else { return Ok(()) };
        let lacking = contradiction(known, applied, |index| node.log.cached_log_id(index));
        let Some(lacking) = lacking else { return Ok(()) };
        if let Some(times) = self.streams.contradicted.is_due() {
            tracing::error!(
                leader = vote.leader_id.node_id,
                times,
                "node {} leads and lacks entry {} of term {}, which was committed and which this node has: it, and another node, \
                 lost what they had acknowledged. This node does not follow it",
                vote.leader_id.node_id,
                lacking.index,
                lacking.leader_id.term
            );
        }
        Err(lacking)
    }
}

/// What a node that has applied everything up to `applied` has, and a log with the entries `known` has not.
pub(crate) fn contradiction(
    known: &[LogId],
    applied: LogId,
    own: impl Fn(u64) -> Option<LogId>,
) -> Option<LogId> {
    known.iter().find_map(|id| {
        let is_before = id.index < applied.index;
        // The leaders of a log's entries follow each other in order.
        if id.index == applied.index && id.leader_id != applied.leader_id
            || is_before && id.leader_id > applied.leader_id
            || id.index > applied.index && id.leader_id < applied.leader_id
        {
            return Some(applied);
        }
        if is_before { own(id.index).filter(|own| own.leader_id != id.leader_id) } else { None }
    })
}

impl From<ConvertError> for Status {
    fn from(error: ConvertError) -> Self {
        Status::invalid_argument(error.to_string())
    }
}

/// openraft has stopped; so will this process.
fn fatal(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this node's log has stopped: {error}"))
}

fn not_leading() -> Status {
    Status::aborted("this node does not lead")
}

fn vote_reply(response: &VoteResponse<TypeConfig>) -> Response<peer::VoteReply> {
    Response::new(peer::VoteReply {
        vote: Some(convert::vote_to_wire(&response.vote)),
        last_log_id: response.last_log_id.as_ref().map(convert::log_id_to_wire),
        granted: response.vote_granted,
        wall_ms: wall_ms(),
    })
}

#[tonic::async_trait]
impl<O: Observer> Peer for PeerService<O> {
    async fn append(
        &self,
        request: Request<peer::AppendRequest>,
    ) -> Result<Response<peer::AppendReply>, Status> {
        use peer::append_reply::Result as Wire;
        let request = request.into_inner();
        let from = self.peers.check(request.header.as_ref())?;
        let rpc = append_request(request).map_err(|error| self.refuse(from, error))?;
        self.check_vote(&rpc.vote, from, true)?;
        let (_pass, node) = self.raft()?;
        check_index(rpc.prev_log_id, node.log.last_log_id().map_or(0, |id| id.index))?;
        let known: Vec<LogId> =
            rpc.prev_log_id.into_iter().chain(rpc.entries.iter().map(|entry| entry.log_id)).collect();
        if let Err(lacking) = self.refuse_loss(&known, &rpc.vote) {
            let lacking = Some(convert::log_id_to_wire(&lacking));
            return Ok(Response::new(peer::AppendReply { result: None, wall_ms: wall_ms(), lacking }));
        }
        let result = match node.raft.append_entries(rpc).await.map_err(fatal)? {
            AppendEntriesResponse::Success => Wire::Success(true),
            AppendEntriesResponse::PartialSuccess(id) => {
                Wire::Partial(peer::PartialSuccess { log_id: id.as_ref().map(convert::log_id_to_wire) })
            }
            AppendEntriesResponse::Conflict => {
                // Mostly it lags, and the leader looks for where the logs part.
                self.streams.ask_what_was_acknowledged(node, from);
                Wire::Conflict(true)
            }
            AppendEntriesResponse::HigherVote(vote) => Wire::HigherVote(convert::vote_to_wire(&vote)),
        };
        Ok(Response::new(peer::AppendReply { result: Some(result), wall_ms: wall_ms(), lacking: None }))
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteReply>, Status> {
        let request = request.into_inner();
        let from = self.peers.check(request.header.as_ref())?;
        let rpc = vote_request(request).map_err(|error| self.refuse(from, error))?;
        self.check_vote(&rpc.vote, from, false)?;
        let (_pass, node) = self.raft()?;
        let response = node.raft.vote(rpc).await.map_err(fatal)?;
        Ok(vote_reply(&response))
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteReply>, Status> {
        let request = request.into_inner();
        let from = self.peers.check(request.header.as_ref())?;
        let rpc = vote_request(request).map_err(|error| self.refuse(from, error))?;
        self.check_vote(&rpc.vote, from, false)?;
        let (_pass, node) = self.raft()?;
        let response = node.raft.pre_vote(rpc).await.map_err(fatal)?;
        Ok(vote_reply(&response))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SnapshotReply>, Status> {
        let mut chunks = request.into_inner();
        let first = within(CHUNK_TIMEOUT, chunks.message()).await?;
        let first = first.ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        let start = convert::required(first.start, "snapshot's start")?;
        let from = self.peers.check(start.header.as_ref())?;
        let node = self.node()?;
        let file_bytes = start.file_bytes;
        let (vote, meta) = snapshot_start(start)?;
        self.check_vote(&vote, from, true)?;
        check_index(meta.last_log_id, node.log.last_log_id().map_or(0, |id| id.index))?;
        self.refuse_loss(&meta.last_log_id.into_iter().collect::<Vec<_>>(), &vote).map_err(|lacking| {
            Status::failed_precondition(format!(
                "the snapshot's leader lacks entry {lacking}, which was committed"
            ))
        })?;
        let followed = node.leadership.borrow().vote;
        if let Some(higher) = followed.filter(|own| *own > vote) {
            // Its leader is none any more: all that is to come would be thrown away.
            return Ok(Response::new(peer::SnapshotReply { vote: Some(convert::vote_to_wire(&higher)) }));
        }
        let free_bytes = node.disk.free_bytes();
        if free_bytes < file_bytes {
            // An attempt would only take what the log still has.
            let message =
                format!("{free_bytes} bytes are left on the disk, and the snapshot has {file_bytes}");
            return Err(Status::resource_exhausted(message));
        }
        // Each takes as much memory as the tree, so there is one at a time; one that was given up goes on for a moment.
        let stopped = self.streams.take_snapshot_place(vote, followed)?;
        let _place = stopped.clone().drop_guard();
        let permit = within(PLACE_TIMEOUT, async { Ok(self.receiving.clone().acquire_owned().await) }).await;
        let permit = permit.ok().and_then(Result::ok);
        let permit = permit.ok_or_else(|| Status::unavailable("another snapshot is being received"))?;
        let last_log_index = meta.last_log_id.map(|id| id.index);
        tracing::info!(bytes = file_bytes, last_log_index, "receiving a snapshot");
        let (data_tx, mut data_rx) = mpsc::channel::<bytes::Bytes>(8);
        let snapshots = node.snapshots.clone();
        let file_meta = meta.clone();
        // The tree is built here, before openraft hears of the snapshot: installing it is then only a swap.
        let build = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut receiver = snapshots.receive(&file_meta, file_bytes)?;
            while let Some(data) = data_rx.blocking_recv() {
                receiver.write(&data)?;
            }
            let (file, tree) = receiver.finish_with(load_tree)?;
            Ok::<_, std::io::Error>(SnapshotData { file, tree: Some(tree) })
        });
        let mut broken = None;
        let deadline = tokio::time::Instant::now() + SNAPSHOT_TIMEOUT;
        loop {
            let chunk = tokio::select! {
                chunk = within(CHUNK_TIMEOUT, chunks.message()) => chunk,
                () = stopped.cancelled() => Err(Status::aborted("a newer snapshot took the place of this one")),
                () = tokio::time::sleep_until(deadline) => Err(Status::deadline_exceeded("the snapshot took too long")),
            };
            match chunk {
                Ok(Some(chunk)) => {
                    // The builder has failed, and says why below.
                    if data_tx.send(chunk.data).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    tracing::warn!(from, %status, "a snapshot was given up");
                    broken = Some(status);
                    break;
                }
            }
        }
        drop(data_tx);
        let snapshot = build.await.map_err(|e| Status::internal(e.to_string()))?;
        if let Some(status) = broken {
            return Err(status);
        }
        let snapshot = snapshot.map_err(|e| Status::data_loss(format!("the snapshot was not taken: {e}")))?;
        let snapshot = Snapshot { meta, snapshot };
        let (_pass, node) = self.raft()?;
        let response = node.raft.install_full_snapshot(vote, snapshot).await.map_err(fatal)?;
        Ok(Response::new(peer::SnapshotReply { vote: Some(convert::vote_to_wire(&response.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderReply>, Status> {
        let request = request.into_inner();
        let from = self.peers.check(request.header.as_ref())?;
        let rpc = transfer_request(request).map_err(|error| self.refuse(from, error))?;
        self.check_vote(rpc.from_leader(), from, true)?;
        let (_pass, node) = self.raft()?;
        let response = node.raft.handle_transfer_leader(rpc).await.map_err(fatal)?;
        let refused = response.err().map(|e| e.to_string()).unwrap_or_default();
        Ok(Response::new(peer::TransferLeaderReply { refused }))
    }

    type ForwardStream = std::pin::Pin<Box<dyn Stream<Item = Result<peer::ForwardReply, Status>> + Send>>;

    async fn forward(
        &self,
        request: Request<Streaming<peer::ForwardFrame>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let mut frames = request.into_inner();
        let first = within(CHUNK_TIMEOUT, frames.message()).await?;
        let first = first.ok_or_else(|| Status::invalid_argument("an empty forward stream"))?;
        let from = self.peers.check(first.header.as_ref())?;
        let node = self.node()?.clone();
        if !node.leadership.borrow().is_own {
            return Err(not_leading());
        }
        let (replies_tx, replies_rx) = mpsc::channel(4);
        let replaced = self.streams.forward_begins(from);
        tokio::spawn(async move {
            node.rules.report(from, first.rules);
            let room = node.disk.follower(from);
            room.said(first.disk_is_low, first.memory_is_low);
            let status = tokio::select! {
                status = take_frames(&node, from, frames, &replies_tx, &room) => status,
                () = replaced.cancelled() => Some(Status::aborted("newer streams took the place of this one")),
            };
            if let Some(status) = status {
                // Nobody to tell if the follower has gone.
                let _ = replies_tx.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies_rx))))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexReply>, Status> {
        self.peers.check(request.into_inner().header.as_ref())?;
        let (_pass, node) = self.raft()?;
        let index = own_read_index(node).await.ok_or_else(not_leading)?.index;
        Ok(Response::new(peer::ReadIndexReply { index }))
    }

    async fn renew(
        &self,
        request: Request<peer::RenewRequest>,
    ) -> Result<Response<peer::RenewReply>, Status> {
        let request = request.into_inner();
        let from = self.peers.check(request.header.as_ref())?;
        let (_pass, node) = self.raft()?;
        let signs = SignOfLife::from_wire(&request.sessions, &request.generations);
        let sessions = own_renewal(node, from, &signs).await.ok_or_else(not_leading)?;
        Ok(Response::new(peer::RenewReply { sessions }))
    }

    async fn hello(
        &self,
        request: Request<peer::HelloRequest>,
    ) -> Result<Response<peer::HelloReply>, Status> {
        let request = request.into_inner();
        let own_id = self.peers.own_id();
        if request.to != own_id {
            return Err(Status::failed_precondition(format!(
                "node {own_id} answers there, not node {}: an address in --ensemble is that of another node",
                request.to
            )));
        }
        if request.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "node {own_id} speaks peer protocol {PROTOCOL}, and was asked in protocol {}",
                request.protocol
            )));
        }
        let pass = self.open.pass()?;
        let initialized = match self.node.get() {
            Some(node) => node.raft.is_initialized().await.map_err(fatal)?,
            None => self.formation.has_log(),
        };
        drop(pass);
        let leadership = self.node.get().map(|node| *node.leadership.borrow()).unwrap_or_default();
        let vote = leadership.vote.filter(|_| leadership.is_own);
        let acknowledged = vote.and_then(|vote| self.peers.followers.acknowledged(request.from, &vote));
        Ok(Response::new(peer::HelloReply {
            cluster_id: self.peers.cluster_id().to_owned(),
            node_id: self.peers.own_id(),
            initialized,
            acknowledged: acknowledged.as_ref().map(convert::log_id_to_wire),
            acknowledged_to: vote.as_ref().map(convert::vote_to_wire),
            client_address: self.peers.client_addresses().get(self.peers.own_id()).unwrap_or_default(),
        }))
    }

    async fn form(&self, request: Request<peer::FormRequest>) -> Result<Response<peer::FormReply>, Status> {
        let request = request.into_inner();
        let header = convert::required(request.header, "form request's header")?;
        self.formation.adopt(&self.peers, &header, &request.node_ids).map_err(Status::failed_precondition)?;
        Ok(Response::new(peer::FormReply {}))
    }
}

/// Takes a follower's frames while this node leads; returns what to tell the follower at the end.
async fn take_frames<O: Observer>(
    node: &Node<O>,
    from: NodeId,
    mut frames: Streaming<peer::ForwardFrame>,
    replies: &mpsc::Sender<Result<peer::ForwardReply, Status>>,
    room: &FollowerRoom,
) -> Option<Status> {
    let mut leadership = node.leadership.subscribe();
    let mut losses = node.leader.losses();
    let mut beat = tokio::time::interval(BEAT_INTERVAL);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let term = leadership.borrow().term;
    loop {
        tokio::select! {
            frame = frames.message() => match frame {
                Ok(Some(frame)) => {
                    room.said(frame.disk_is_low, frame.memory_is_low);
                    if let Err(error) = check_touched(&frame.touched) {
                        return Some(error.into());
                    }
                    if !frame.touched.is_empty() {
                        let signs = SignOfLife::from_wire(&frame.touched, &frame.touched_generations);
                        hear(&node.shared.observer, from, &signs).await;
                    }
                    for batch in frame.batches {
                        if let Err(error) = check_batch(from, &batch) {
                            tracing::error!(node = from, %error, "a batch is refused");
                            return Some(error.into());
                        }
                        tokio::select! {
                            () = node.leader.push(batch) => {}
                            () = replies.closed() => return None,
                            _ = losses.changed() => return Some(Status::cancelled("batches were lost; send again")),
                        }
                    }
                }
                Ok(None) => return None,
                Err(status) => return Some(status),
            },
            _ = losses.changed() => return Some(Status::cancelled("batches were lost; send again")),
            changed = leadership.changed() => {
                let now = *leadership.borrow();
                if changed.is_err() || !now.is_own || now.term != term {
                    return Some(not_leading());
                }
            }
            _ = beat.tick() => {
                // A leader that has lost its majority is silent, so that its followers, if they still hear it, know.
                if node.has_fresh_quorum() {
                    let ((applied_index, digest), applied) = {
                        let replicated = node.shared.read();
                        (replicated.applied(), replicated.last_applied)
                    };
                    let refused = node.disk.growth_refused();
                    let reply = peer::ForwardReply {
                        term,
                        applied_index,
                        digest,
                        growth_refused: refused.is_some(),
                        for_memory: refused == Some(Shortage::Memory),
                        applied: applied.as_ref().map(convert::log_id_to_wire),
                    };
                    if replies.send(Ok(reply)).await.is_err() {
                        return None;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::types::LeaderId;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id: 1 }, index }
    }

    #[test]
    fn a_leader_that_lacks_what_was_applied_contradicts_itself() {
        let own = |index: u64| (20..=40).contains(&index).then(|| id(3 + index / 30, index));
        let found = |known: &[LogId]| contradiction(known, id(4, 40), own);
        // It lags behind what this node has, or is ahead of it.
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[id(2, 5), id(3, 25), id(4, 35), id(4, 40), id(5, 41)]), None);
        assert_eq!(found(&[id(4, 900), id(6, 901)]), None);
        // Elected by a majority that forgot.
        assert_eq!(found(&[id(6, 12)]), Some(id(4, 40)), "a later leader in an earlier place");
        assert_eq!(found(&[id(6, 40)]), Some(id(4, 40)), "another entry in the same place");
        assert_eq!(found(&[id(3, 41)]), Some(id(4, 40)), "an earlier leader in a later place");
        assert_eq!(found(&[id(4, 25)]), Some(id(3, 25)), "another entry before it");
    }

    #[test]
    fn a_stream_that_stands_still_gives_way() {
        let vote = |term| Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true };
        let streams = Streams::default();
        let forged = streams.take_snapshot_place(vote(900), Some(vote(7))).unwrap();
        let leaders = streams.take_snapshot_place(vote(7), Some(vote(7))).unwrap();
        assert!(forged.is_cancelled() && !leaders.is_cancelled());
        assert!(streams.take_snapshot_place(vote(900), Some(vote(7))).is_err());
        let again = streams.take_snapshot_place(vote(7), Some(vote(7))).unwrap();
        assert!(leaders.is_cancelled());
        let next_leaders = streams.take_snapshot_place(vote(8), Some(vote(8))).unwrap();
        assert!(again.is_cancelled());
        next_leaders.cancel();
        assert!(streams.take_snapshot_place(vote(9), Some(vote(8))).is_ok(), "it has ended");
    }

    #[test]
    fn a_node_has_few_streams_of_batches() {
        let streams = Streams::default();
        let all: Vec<_> = (0..=FORWARDS_MAX).map(|_| streams.forward_begins(2)).collect();
        assert!(all[0].is_cancelled() && all[1..].iter().all(|stream| !stream.is_cancelled()));
        assert!(!streams.forward_begins(3).is_cancelled() && !all[1].is_cancelled());
    }
}
