use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coordd_proto::v1;
use coordd_proto::v1::admin_client::AdminClient;
use futures::Stream;
use tonic::transport::Channel;

use crate::connector::Connector;
use crate::unary::{Asked, Caller, REPLY_BYTES_MAX};
use crate::{Credential, EndReason, Error, ErrorKind, QuotaUsage, SessionEnd};

/// How long one of several endpoints may take to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The calls of an operator. They need no session.
///
/// A call goes to one node. If that node is silent, does not serve or cannot be reached, the next one is asked, and later calls
/// stay with the node that answered. With a single endpoint there is no other.
#[derive(Clone, Debug)]
pub struct Admin {
    caller: Arc<Caller>,
    endpoint: String,
    timeout: Duration,
}

/// The state of a node, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub node_id: u64,
    /// The ensemble.
    pub cluster_id: String,
    /// "leader", "follower", "candidate" or "learner".
    pub role: String,
    /// Raft's term.
    pub term: u64,
    /// The leader it knows; `None` if none.
    pub leader_id: Option<u64>,
    /// The newest entry of its log.
    pub last_log_index: u64,
    /// Known to be committed up to here.
    pub committed_index: u64,
    /// Applied up to here.
    pub applied_index: u64,
    /// Covered by its newest snapshot.
    pub snapshot_index: u64,
    /// Dropped from the log up to here.
    pub purged_index: u64,
    /// The place in history it has applied.
    pub zxid: u64,
    /// The running digest of the tree at `zxid`.
    pub digest: u64,
    /// Znodes in the tree.
    pub znodes: u64,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// Live sessions of the ensemble.
    pub sessions: u64,
    /// Sessions attached to this node.
    pub attached_sessions: u64,
    /// Watches armed on this node.
    pub watches: u64,
    /// Why it takes no clients; `None` if it does.
    pub not_serving: Option<String>,
    /// The members as it knows them.
    pub members: Vec<MemberInfo>,
    /// The version of its build.
    pub version: String,
    /// Since it started.
    pub uptime: Duration,
    /// Counts its starts.
    pub incarnation: u64,
    /// Bytes of the log on disk that no snapshot covers yet.
    pub log_bytes: u64,
    /// Resident memory of the process.
    pub resident_bytes: u64,
    /// Bytes that are left on its disk.
    pub disk_free_bytes: u64,
    /// Less is left than it needs for its next snapshot and its reserve (`--disk-reserve-bytes`).
    pub disk_is_low: bool,
    /// It refuses writes with [`ErrorKind::NoSpace`](crate::ErrorKind::NoSpace): the nodes that have room are no majority.
    pub growth_refused: bool,
    /// Bytes that it holds for its clients, and how many it may hold (`--client-memory-max`).
    pub client_memory_bytes: u64,
    /// See `client_memory_bytes`.
    pub client_memory_max_bytes: u64,
    /// Resident memory from which on it has little left (`--memory-limit`).
    pub memory_limit_bytes: u64,
    /// It has little memory left.
    pub memory_is_low: bool,
    /// Open client connections, and how many there may be.
    pub connections: u64,
    /// See `connections`.
    pub connections_max: u64,
    /// Calls and streams under way on them.
    pub streams: u64,
    /// Bytes of the watches armed on it.
    pub watch_bytes: u64,
    /// Open files of the process, and how many there may be.
    pub open_files: u64,
    /// See `open_files`.
    pub open_files_max: u64,
    /// What this process has done since it started, by name; the names are in the `.proto` file.
    pub counters: BTreeMap<String, u64>,
    /// The newest rules that the tree has followed: what all members apply commands by. Builds before there were rules say 0.
    pub rules: u32,
    /// The newest rules that the node knows. Builds before there were rules say 0.
    pub rules_known: u32,
    /// How much there is of what clients can make grow beside znodes, by name; the names are in the `.proto` file.
    pub tables: BTreeMap<String, u64>,
}

/// A member of the ensemble as a node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberInfo {
    /// The node.
    pub node_id: u64,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where its clients reach it; `None` if not known.
    pub client_address: Option<String>,
    /// It votes.
    pub voter: bool,
    /// On the leader: entries of the log the member has; `None` elsewhere.
    pub matched_index: Option<u64>,
}

/// A live session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session.
    pub session_id: u64,
    /// What the client calls itself.
    pub client_name: String,
    /// The timeout in force.
    pub timeout: Duration,
    /// When it was opened: milliseconds since the Unix epoch.
    pub opened_ms: u64,
    /// The zxid that opened it.
    pub opened_zxid: u64,
    /// Its newest write.
    pub last_write_seq: u64,
    /// Its ephemerals.
    pub ephemerals: u64,
    /// Answers that the client has not acknowledged.
    pub unacknowledged: u64,
    /// It is attached to the node that was asked.
    pub attached_here: bool,
    /// Where its stream comes from; `None` if it is not attached to the node that was asked.
    pub client_address: Option<String>,
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionRecord {
    /// It is alive.
    Live(SessionInfo),
    /// It has ended, less than an hour ago.
    Ended {
        /// The session.
        session_id: u64,
        /// What the client called itself.
        client_name: String,
        /// Why and how.
        end: SessionEnd,
        /// The zxid that ended it.
        zxid: u64,
        /// When: milliseconds since the Unix epoch.
        ended_ms: u64,
        /// Its newest write.
        last_write_seq: u64,
        /// If it expired: the silence the leader had counted, and the node it was last heard through.
        silence: Option<(Duration, u64)>,
    },
}

impl Admin {
    /// Connects to one node: "host:port", or the first to take a connection of those that another form of
    /// [`Endpoints`](crate::Endpoints) names. `timeout`: for connecting, and for each call.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an endpoint that is none, `ConnectionLoss` if it cannot be reached.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn connect(endpoint: impl Into<String>, timeout: Duration) -> Result<Self, Error> {
        Self::connect_any([endpoint], timeout).await
    }

    /// Connects to the first of several endpoints that takes a connection. `timeout`: for each call, whatever number of nodes
    /// it takes to get an answer.
    ///
    /// # Errors
    ///
    /// `BadArguments` for endpoints that are none; `ConnectionLoss`, with a line for each endpoint, if none can be reached.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn connect_any<I>(endpoints: I, timeout: Duration) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let dial_timeout = if endpoints.len() == 1 { timeout } else { timeout.min(DIAL_TIMEOUT) };
        let caller = Caller::new(Connector::new(endpoints, dial_timeout)?);
        let endpoint = caller.connect().await?;
        Ok(Self { caller: Arc::new(caller), endpoint, timeout })
    }

    /// The node that it connected to first. Later calls may have been answered by others.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn ask<T, R, F>(&self, request: R, call: impl Fn(AdminClient<Channel>, R) -> F) -> Asked<T>
    where
        R: Clone,
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let client = |channel| AdminClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        self.caller.ask(self.timeout, |channel| call(client(channel), request.clone())).await
    }

    /// The state of the node that answers; [`NodeStatus::node_id`] says which that is.
    ///
    /// # Errors
    ///
    /// `ConnectionLoss`. A node that does not serve clients answers this nevertheless.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn status(&self) -> Result<NodeStatus, Error> {
        let asked =
            self.ask(v1::StatusRequest {}, |mut client, request| async move { client.status(request).await });
        Ok(asked.await.answer?.into())
    }

    /// The live sessions, in the order of their ids, fetched page by page.
    ///
    /// # Errors
    ///
    /// As items: `ConnectionLoss`, `NotServing`. The stream ends after an error.
    pub fn sessions(&self) -> impl Stream<Item = Result<SessionInfo, Error>> + Send + Unpin + 'static {
        let admin = self.clone();
        let pages = futures::stream::try_unfold(Some(0), move |after| {
            let admin = admin.clone();
            async move {
                let Some(after) = after else { return Ok::<_, Error>(None) };
                let request = v1::ListSessionsRequest { after, limit: 0 };
                let asked = admin
                    .ask(request, |mut client, request| async move { client.list_sessions(request).await });
                let page = asked.await.answer?;
                let next = page.sessions.last().filter(|_| page.more).map(|last| last.session_id);
                let sessions = page.sessions.into_iter().map(|info| Ok(SessionInfo::from(info)));
                Ok(Some((futures::stream::iter(sessions), next)))
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(pages))
    }

    /// The quotas of the ensemble with what is used, in the order of their paths, fetched page by page. `credentials` say who
    /// asks: quotas of znodes that the caller may not list are left out.
    ///
    /// # Errors
    ///
    /// As items: `BadArguments` for a credential that is none, `ConnectionLoss`, `NotServing`. The stream ends after an error.
    pub fn quotas(
        &self,
        credentials: Vec<Credential>,
    ) -> impl Stream<Item = Result<(String, QuotaUsage), Error>> + Send + Unpin + 'static {
        let admin = self.clone();
        let credentials: Vec<v1::Credential> = credentials.into_iter().map(Into::into).collect();
        let pages = futures::stream::try_unfold(Some(String::new()), move |after| {
            let (admin, credentials) = (admin.clone(), credentials.clone());
            async move {
                let Some(after) = after else { return Ok::<_, Error>(None) };
                let request = v1::ListQuotasRequest { after, limit: 0, credentials };
                let asked = admin
                    .ask(request, |mut client, request| async move { client.list_quotas(request).await });
                let page = asked.await.answer?;
                let next = (!page.next_after.is_empty()).then_some(page.next_after);
                let quotas =
                    page.quotas.into_iter().map(|info| Ok((info.path.clone(), QuotaUsage::from(info))));
                Ok(Some((futures::stream::iter(quotas), next)))
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(pages))
    }

    /// Ends a session with its ephemerals. `by`: who or why, for the record. Returns how many ephemerals went; 0 also if that
    /// was said by a node whose answer did not arrive.
    ///
    /// # Errors
    ///
    /// `NoSession`; `ConnectionLoss`, after which the session may or may not have ended; `NotServing`.
    ///
    /// # Cancellation
    ///
    /// The session may be ended all the same.
    pub async fn kill_session(&self, session_id: u64, by: impl Into<String>) -> Result<u64, Error> {
        let request = v1::KillSessionRequest { session_id, by: by.into() };
        let asked =
            self.ask(request, |mut client, request| async move { client.kill_session(request).await });
        let asked = asked.await;
        match asked.answer {
            Ok(reply) => Ok(reply.ephemerals),
            // Was it the attempt before that ended it?
            Err(error) if asked.may_be_repeated && error.kind == ErrorKind::NoSession => {
                match self.session(session_id).await {
                    Ok(SessionRecord::Ended { end, .. }) if end.reason == EndReason::Killed => Ok(0),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of a session, live or ended, and why it ended.
    ///
    /// # Errors
    ///
    /// `NoSession`: it never was, or ended over an hour ago. `ConnectionLoss`, `NotServing`.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn session(&self, session_id: u64) -> Result<SessionRecord, Error> {
        let request = v1::GetSessionRequest { session_id };
        let asked = self.ask(request, |mut client, request| async move { client.get_session(request).await });
        match asked.await.answer?.session {
            Some(v1::get_session_reply::Session::Live(info)) => Ok(SessionRecord::Live(info.into())),
            Some(v1::get_session_reply::Session::Ended(end)) => Ok(SessionRecord::from(end)),
            None => Err(Error::new(ErrorKind::Protocol, "the answer is empty")),
        }
    }
}
