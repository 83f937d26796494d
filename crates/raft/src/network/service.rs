//! Raft's messages, received.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coordd_proto::peer::peer_server::{Peer, PeerServer};
use coordd_proto::status::into_status;
use coordd_proto::v1::admin_server::AdminServer;
use coordd_proto::v1::coordd_server::CoorddServer;
use coordd_proto::{WrongPort, peer, v1};
use futures::Stream;
use openraft::raft::{AppendEntriesResponse, VoteResponse};
use openraft::storage::Snapshot;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::gate::{Gate, Pass};
use super::requests::{append_request, check_batch, snapshot_start, transfer_request, vote_request};
use super::{MESSAGE_BYTES, PROTOCOL, Peers};
use crate::convert::{self, ConvertError};
use crate::formation::Formation;
use crate::observer::Observer;
use crate::read_index::{own_read_index, own_renewal};
use crate::replica::Node;
use crate::state_machine::{SnapshotData, load_tree};
use crate::type_config::TypeConfig;

/// A leader says so often that it leads.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);

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
}

/// Serves the peer API until `shutdown` is done.
pub(crate) async fn serve<O: Observer>(
    service: PeerService<O>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
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
    // The server's own options of this name do not reach a listener that is given to it. An answer of a few bytes must
    // not wait for the acknowledgement of the one before.
    let incoming =
        TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(5)));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(2)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .add_service(service)
        .add_service(WrongPort::<CoorddServer<()>>::new(not_here()))
        .add_service(WrongPort::<AdminServer<()>>::new(not_here()))
        .serve_with_incoming_shutdown(incoming, shutdown)
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
        self.peers.check(request.header.as_ref())?;
        let rpc = append_request(request)?;
        let (_pass, node) = self.raft()?;
        let result = match node.raft.append_entries(rpc).await.map_err(fatal)? {
            AppendEntriesResponse::Success => Wire::Success(true),
            AppendEntriesResponse::PartialSuccess(id) => {
                Wire::Partial(peer::PartialSuccess { log_id: id.as_ref().map(convert::log_id_to_wire) })
            }
            AppendEntriesResponse::Conflict => Wire::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => Wire::HigherVote(convert::vote_to_wire(&vote)),
        };
        Ok(Response::new(peer::AppendReply { result: Some(result) }))
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteReply>, Status> {
        let request = request.into_inner();
        self.peers.check(request.header.as_ref())?;
        let (_pass, node) = self.raft()?;
        let response = node.raft.vote(vote_request(request)?).await.map_err(fatal)?;
        Ok(vote_reply(&response))
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteReply>, Status> {
        let request = request.into_inner();
        self.peers.check(request.header.as_ref())?;
        let (_pass, node) = self.raft()?;
        let response = node.raft.pre_vote(vote_request(request)?).await.map_err(fatal)?;
        Ok(vote_reply(&response))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SnapshotReply>, Status> {
        let mut chunks = request.into_inner();
        let first =
            chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        let start = convert::required(first.start, "snapshot's start")?;
        self.peers.check(start.header.as_ref())?;
        let node = self.node()?;
        let file_bytes = start.file_bytes;
        let (vote, meta) = snapshot_start(start)?;
        let free_bytes = node.disk.free_bytes();
        if free_bytes < file_bytes {
            // An attempt would only take what the log still has.
            let message =
                format!("{free_bytes} bytes are left on the disk, and the snapshot has {file_bytes}");
            return Err(Status::resource_exhausted(message));
        }
        let last_log_index = meta.last_log_id.map(|id| id.index);
        tracing::info!(bytes = file_bytes, last_log_index, "receiving a snapshot");
        // Each takes as much memory as the tree; one that was given up goes on for a moment.
        let permit = self.receiving.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::unavailable("another snapshot is being received"))?;
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
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => {
                    // The builder has failed, and says why below.
                    if data_tx.send(chunk.data).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(status) => {
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
        self.peers.check(request.header.as_ref())?;
        let (_pass, node) = self.raft()?;
        let response = node.raft.handle_transfer_leader(transfer_request(request)?).await.map_err(fatal)?;
        let refused = response.err().map(|e| e.to_string()).unwrap_or_default();
        Ok(Response::new(peer::TransferLeaderReply { refused }))
    }

    type ForwardStream = std::pin::Pin<Box<dyn Stream<Item = Result<peer::ForwardReply, Status>> + Send>>;

    async fn forward(
        &self,
        request: Request<Streaming<peer::ForwardFrame>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let mut frames = request.into_inner();
        let first =
            frames.message().await?.ok_or_else(|| Status::invalid_argument("an empty forward stream"))?;
        let from = self.peers.check(first.header.as_ref())?;
        let node = self.node()?.clone();
        if !node.leadership.borrow().is_own {
            return Err(not_leading());
        }
        let (replies_tx, replies_rx) = mpsc::channel(4);
        tokio::spawn(async move {
            node.rules.report(from, first.rules);
            let disk_is_low = node.disk.follower(from);
            disk_is_low.store(first.disk_is_low, Ordering::Relaxed);
            let status = take_frames(&node, from, frames, &replies_tx, &disk_is_low).await;
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
        let sessions = own_renewal(node, from, &request.sessions).await.ok_or_else(not_leading)?;
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
        Ok(Response::new(peer::HelloReply {
            cluster_id: self.peers.cluster_id().to_owned(),
            node_id: self.peers.own_id(),
            initialized,
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
    from: crate::NodeId,
    mut frames: Streaming<peer::ForwardFrame>,
    replies: &mpsc::Sender<Result<peer::ForwardReply, Status>>,
    disk_is_low: &AtomicBool,
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
                    disk_is_low.store(frame.disk_is_low, Ordering::Relaxed);
                    if !frame.touched.is_empty() {
                        node.shared.observer.touched(from, &frame.touched);
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
                    let (applied_index, digest) = node.shared.read().applied();
                    let growth_refused = node.disk.growth_refused();
                    let reply = peer::ForwardReply { term, applied_index, digest, growth_refused };
                    if replies.send(Ok(reply)).await.is_err() {
                        return None;
                    }
                }
            }
        }
    }
}
