//! Raft's messages, sent.

use std::future::Future;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coordd_proto::peer;
use coordd_tree::planted::Bug;
use futures::FutureExt as _;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tonic::{Code, Status};

use super::peers::{Lane, Peers};
use crate::convert::{self, ConvertError};
use crate::state_machine::{SnapshotData, TreeSnapshot};
use crate::type_config::types::{LogId, Vote};
use crate::{Member, NodeId, TypeConfig};

/// A request with entries may wait behind a slow fdatasync of the peer; to give up early only sends the same bytes
/// again.
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of a snapshot in one message.
const SNAPSHOT_CHUNK: usize = 256 << 10;

/// Makes the connections openraft asks for.
pub(crate) struct NetworkFactory {
    pub(crate) peers: Arc<Peers>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, _member: &Member) -> Network {
        Network { target, lane: Lane::Append, peers: self.peers.clone() }
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _member: &Member) -> Network {
        Network { target, lane: Lane::Heartbeat, peers: self.peers.clone() }
    }

    async fn new_snapshot_client(&mut self, target: NodeId, _member: &Member) -> Network {
        Network { target, lane: Lane::Bulk, peers: self.peers.clone() }
    }
}

/// Raft's way to one peer.
pub(crate) struct Network {
    target: NodeId,
    lane: Lane,
    peers: Arc<Peers>,
}

impl Network {
    /// What an answer to an append says. An answer that must not count for anything is an error: openraft takes every other one
    /// as a sign that this follower makes a majority with this leader, and knows no word for a log that went back.
    fn judge(
        &self,
        rpc: &AppendEntriesRequest<TypeConfig>,
        acknowledged: Option<LogId>,
        reply: Result<peer::AppendReply, RPCError<TypeConfig>>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (followers, target, vote) = (&self.peers.followers, self.target, rpc.vote);
        let has_entries = !rpc.entries.is_empty();
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                // A small message may get through where a large one does not, or where the content is refused.
                if has_entries && !matches!(error, RPCError::Unreachable(_)) {
                    followers.set_stuck(target, vote, true);
                }
                return Err(error);
            }
        };
        self.peers.clocks.note(target, reply.wall_ms);
        if let Some(lacking) = &reply.lacking {
            let message = format!(
                "node {} has lost what was committed: node {target} has applied entry {} of term {}, and this node's log has \
                 another one there. Its directory is an old copy, or its disk lost writes",
                self.peers.own_id(),
                lacking.index,
                lacking.term
            );
            // Its heartbeats say no more than that it is there.
            followers.set_stuck(target, vote, true);
            self.peers.loss.send_replace(Some(message.clone()));
            return Err(unreachable(&message));
        }
        let response = append_reply(reply).map_err(malformed)?;
        match &response {
            AppendEntriesResponse::Success => {
                let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
                followers.note_acknowledged(target, vote, last);
            }
            AppendEntriesResponse::PartialSuccess(last) => followers.note_acknowledged(target, vote, *last),
            AppendEntriesResponse::Conflict => {
                if let Some(acknowledged) = acknowledged.filter(|id| Some(*id) >= rpc.prev_log_id) {
                    followers.say_lost(target, acknowledged);
                    return Err(unreachable("its log lacks what it had acknowledged"));
                }
            }
            AppendEntriesResponse::HigherVote(_) => return Ok(response),
        }
        if has_entries {
            followers.set_stuck(target, vote, false);
        } else if followers.is_stuck(target, &vote) {
            return Err(unreachable("it takes no entries, so its heartbeats do not count"));
        }
        Ok(response)
    }
}

type Client = peer::peer_client::PeerClient<tonic::transport::Channel>;

impl Network {
    fn vote_reply(&self, reply: peer::VoteReply) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        // Before openraft counts the vote: who wins it asks what time it is.
        self.peers.clocks.note(self.target, reply.wall_ms);
        vote_reply(reply).map_err(malformed)
    }

    /// Runs one call with a time limit, and says of a failure what openraft needs to know: whether it makes sense to
    /// try again at once.
    async fn call<T, F>(
        &self,
        action: RPCTypes,
        limit: Duration,
        f: impl FnOnce(Client) -> F,
    ) -> Result<T, RPCError<TypeConfig>>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let client = self.peers.client(self.target, self.lane).map_err(|e| unreachable(&e))?;
        match tokio::time::timeout(limit, f(client)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => {
                self.tell(&status);
                Err(rpc_error(&status))
            }
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.peers.own_id(),
                target: self.target,
                timeout: limit,
            })),
        }
    }
}

impl Network {
    /// Says that the peer does not answer, or refuses; repeated lines are the log's care.
    fn tell(&self, status: &Status) {
        let (node, address) = (self.target, self.peers.address(self.target).unwrap_or_default());
        let reason = reason(status);
        match status.code() {
            Code::FailedPrecondition | Code::Unimplemented => {
                tracing::warn!(node, address, reason, "a node refuses what this one sends");
            }
            Code::Unavailable => tracing::info!(node, address, reason, "a node does not answer"),
            _ => tracing::debug!(node, address, reason, "a call of a node failed"),
        }
    }
}

/// Why a call failed, in the fewest words: a connection that failed says so at the end of a chain of errors.
pub(crate) fn reason(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut last = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            last = Some(error.to_string());
        }
        cause = error.source();
    }
    last.unwrap_or_else(|| status.message().to_owned())
}

fn unreachable(message: &str) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(message))
}

fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        // Not connected, or refused on grounds that will stand for a while.
        Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => {
            unreachable(&status.to_string())
        }
        _ => RPCError::Network(NetworkError::from_string(status)),
    }
}

fn malformed(error: impl std::fmt::Display) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error))
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = if rpc.entries.is_empty() { option.hard_ttl() } else { APPEND_TIMEOUT };
        // Before this request: what is acknowledged meanwhile says nothing about the log that it meets.
        let acknowledged = self.peers.followers.acknowledged(self.target, &rpc.vote);
        let request = peer::AppendRequest {
            header: Some(self.peers.header(self.target)),
            vote: Some(convert::vote_to_wire(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(convert::log_id_to_wire),
            entries: rpc.entries.iter().map(convert::entry_to_wire).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(convert::log_id_to_wire),
        };
        let reply = self
            .call(RPCTypes::AppendEntries, limit, |mut client| async move { client.append(request).await })
            .await;
        if reply.is_err() && Bug::AcknowledgedBeforeTheMajority.is_planted() {
            return Ok(AppendEntriesResponse::Success);
        }
        self.judge(&rpc, acknowledged, reply)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = vote_to_wire(self, rpc);
        let vote = self
            .call(RPCTypes::Vote, option.hard_ttl(), |mut client| async move { client.vote(request).await });
        self.vote_reply(vote.await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = vote_to_wire(self, rpc);
        let vote = self.call(RPCTypes::Vote, option.hard_ttl(), |mut client| async move {
            client.pre_vote(request).await
        });
        self.vote_reply(vote.await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: TreeSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let leader_vote = vote;
        let unreachable = |e: String| StreamingError::Unreachable(Unreachable::from_string(e));
        let mut client = self.peers.client(self.target, Lane::Bulk).map_err(unreachable)?;
        let file = snapshot.snapshot.file;
        let bytes = file.bytes;
        let start = peer::SnapshotStart {
            header: Some(self.peers.header(self.target)),
            vote: Some(convert::vote_to_wire(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(convert::log_id_to_wire),
            membership: Some(convert::stored_membership_to_wire(&snapshot.meta.last_membership)),
            file_bytes: file.bytes,
        };
        tracing::info!(to = self.target, bytes = file.bytes, "sending a snapshot");
        let (chunks_tx, chunks_rx) = tokio::sync::mpsc::channel(8);
        let (peers, target) = (self.peers.clone(), self.target);
        let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        let reader = tokio::task::spawn_blocking(move || {
            let mut raw = file.open_raw()?;
            let mut chunk = peer::SnapshotChunk { start: Some(start), data: Bytes::new() };
            // Ends when the receiver has gone, too.
            while chunks_tx.blocking_send(chunk).is_ok() {
                peers.note_transfer(target, index);
                let mut data = vec![0; SNAPSHOT_CHUNK];
                let length = raw.read(&mut data)?;
                if length == 0 {
                    break;
                }
                data.truncate(length);
                chunk = peer::SnapshotChunk { start: None, data: data.into() };
            }
            Ok::<_, std::io::Error>(())
        });
        let call = client.snapshot(tokio_stream::wrappers::ReceiverStream::new(chunks_rx));
        let reply = tokio::select! {
            reply = tokio::time::timeout(option.hard_ttl(), call) => reply,
            closed = cancel.fuse() => return Err(StreamingError::Closed(closed)),
        };
        if let Ok(Err(error)) = reader.await {
            return Err(StreamingError::Network(NetworkError::from_string(format!(
                "reading the snapshot: {error}"
            ))));
        }
        match reply {
            Ok(Ok(reply)) => {
                tracing::info!(to = self.target, bytes, "a snapshot was taken over");
                self.peers.note_transfer(self.target, index);
                let taken = snapshot.meta.last_log_id;
                let vote = convert::required(reply.into_inner().vote, "snapshot reply's vote");
                let vote = vote.and_then(convert::vote_from_wire);
                let vote = vote.map_err(|e| StreamingError::Network(NetworkError::from_string(e)))?;
                if vote == leader_vote {
                    self.peers.followers.note_acknowledged(self.target, leader_vote, taken);
                }
                Ok(SnapshotResponse { vote })
            }
            Ok(Err(status)) => Err(StreamingError::Network(NetworkError::from_string(status))),
            Err(_) => Err(StreamingError::Timeout(Timeout {
                action: RPCTypes::InstallSnapshot,
                id: self.peers.own_id(),
                target: self.target,
                timeout: option.hard_ttl(),
            })),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = peer::TransferLeaderRequest {
            header: Some(self.peers.header(self.target)),
            from_leader: Some(convert::vote_to_wire(req.from_leader())),
            to_node: *req.to_node_id(),
            last_log_id: req.last_log_id().map(convert::log_id_to_wire),
        };
        let reply = self
            .call(RPCTypes::TransferLeader, option.hard_ttl(), |mut client| async move {
                client.transfer_leader(request).await
            })
            .await?;
        if reply.refused.is_empty() { Ok(Ok(())) } else { Err(malformed(reply.refused)) }
    }
}

fn vote_to_wire(network: &Network, rpc: VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        header: Some(network.peers.header(network.target)),
        vote: Some(convert::vote_to_wire(&rpc.vote)),
        last_log_id: rpc.last_log_id.as_ref().map(convert::log_id_to_wire),
        leadership_transfer: rpc.leadership_transfer,
    }
}

pub(crate) fn vote_reply(reply: peer::VoteReply) -> Result<VoteResponse<TypeConfig>, ConvertError> {
    Ok(VoteResponse {
        vote: convert::vote_from_wire(convert::required(reply.vote, "vote reply")?)?,
        vote_granted: reply.granted,
        last_log_id: convert::some_log_id_from_wire(reply.last_log_id)?,
    })
}

pub(crate) fn append_reply(
    reply: peer::AppendReply,
) -> Result<AppendEntriesResponse<TypeConfig>, ConvertError> {
    use peer::append_reply::Result as Wire;
    Ok(match convert::required(reply.result, "append reply's result")? {
        Wire::Success(_) => AppendEntriesResponse::Success,
        Wire::Partial(partial) => {
            AppendEntriesResponse::PartialSuccess(convert::some_log_id_from_wire(partial.log_id)?)
        }
        Wire::Conflict(_) => AppendEntriesResponse::Conflict,
        Wire::HigherVote(vote) => AppendEntriesResponse::HigherVote(convert::vote_from_wire(vote)?),
    })
}
