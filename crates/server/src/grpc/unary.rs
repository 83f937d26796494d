//! The service `Coordd`.

use std::sync::Arc;

use coordd_proto::v1::coordd_server::Coordd;
use coordd_proto::v1::{self, ErrorCode, reply};
use coordd_raft::SignOfLife;
use coordd_tree::{Auth, Command, ErrorKind, Write, WriteOp, WriteOutcome};
use tonic::{Request, Response, Status, Streaming};

use super::{CoorddApi, attach, client_address, client_ip, refuse, subscribe};
use crate::admission::Place;
use crate::convert::{IntoWrite, error, error_to_wire, outcome_to_wire, unnumbered_to_wire};
use crate::reads::{Read, authenticate};
use crate::service::{Service, from_address, is_same_secret};
use crate::session::connection::Frames;

/// When a call that was refused for want of room may be tried again.
const GROWTH_RETRY_MS: u32 = 1000;

type Reply<T> = Result<Response<T>, Status>;

/// The one kind of result that a call can have.
macro_rules! expect {
    ($result:expr, $kind:ident) => {
        match $result {
            reply::Result::$kind(reply) => Ok(Response::new(reply)),
            other => Err(Status::internal(format!("an answer of another kind: {other:?}"))),
        }
    };
}

/// A read by a unary call.
macro_rules! read {
    ($self:ident, $request:ident, $kind:ident, $zxid:expr) => {{
        let auth = from_address(client_ip(&$request));
        let message = $request.into_inner();
        $self.service.check_lineage(message.lineage.as_ref()).map_err(refuse)?;
        let min_zxid = message.min_zxid;
        let (result, zxid) = $self.read(auth, Read::$kind(message), min_zxid).await?;
        let mut response = expect!(result, $kind)?;
        let set: fn(&mut _, u64) = $zxid;
        set(response.get_mut(), zxid);
        Ok(response)
    }};
}

/// A write by a unary call.
macro_rules! write {
    ($self:ident, $request:ident, $kind:ident) => {{
        let auth = from_address(client_ip(&$request));
        let mut message = $request.into_inner();
        let session = message.session.take();
        expect!($self.write(auth, message, session).await?, $kind)
    }};
}

impl CoorddApi {
    async fn read(&self, auth: Auth, read: Read, min_zxid: u64) -> Result<(reply::Result, u64), Status> {
        self.service.check_serving().map_err(refuse)?;
        read.check().map_err(refuse)?;
        let credentials: &[v1::Credential] = match &read {
            Read::Get(request) => &request.credentials,
            Read::List(request) => &request.credentials,
            Read::MultiRead(request) => &request.credentials,
            Read::GetAcl(request) => &request.credentials,
            Read::CountDescendants(request) => &request.credentials,
            Read::GetEphemerals(request) => &request.credentials,
            Read::Exists(_) | Read::GetQuota(_) | Read::Sync(_) => &[],
        };
        let auth = authenticate(&auth, credentials, self.service.super_digest()).map_err(refuse)?;
        if read.watch().is_some() {
            return Err(refuse(error(
                ErrorCode::BadArguments,
                "watches need a session stream, or Subscribe",
            )));
        }
        self.service.catch_up(min_zxid).await.map_err(refuse)?;
        if read.is_linearizable().map_err(refuse)? {
            let barrier = self.service.replica().read_barrier().await;
            barrier.map_err(|no_quorum| refuse(error(ErrorCode::NotServing, no_quorum.to_string())))?;
        }
        {
            let tree = self.service.replica().tree();
            if let Some(result) = read.run_short(&tree, &auth, 0) {
                return Ok((result.map_err(refuse)?, tree.last_zxid()));
            }
        }
        let reading = self.service.read_long(move |tree| (read.run(tree, &auth, 0), tree.last_zxid()));
        let (result, zxid) = reading.await.map_err(refuse)?;
        Ok((result.map_err(refuse)?, zxid))
    }

    async fn write(
        &self,
        auth: Auth,
        request: impl IntoWrite,
        session: Option<v1::SessionRef>,
    ) -> Result<reply::Result, Status> {
        let session = session.unwrap_or_default();
        let (seq, acked) = (session.write_seq, session.acked_write_seq);
        let place = Place { session: session.session_id, seq, acked };
        let id = session.session_id;
        let asked = self.service.refuse_growth(request.into_write(self.service.own_lineage()));
        if let (Err(refused), 0) = (&asked, seq) {
            let retry_after_ms = if refused.kind == ErrorKind::NoSpace { GROWTH_RETRY_MS } else { 0 };
            return Err(refuse(v1::Error { retry_after_ms, ..unnumbered_to_wire(refused.clone()) }));
        }
        if id == 0 && seq != 0 {
            return Err(refuse(error(ErrorCode::BadArguments, "write_seq without session_id")));
        }
        if id != 0 {
            self.check_session(&session).await?;
        }
        let limits = self.service.write_limits();
        let write = match (asked, seq) {
            (Ok(request), 0) => place.admit_unnumbered(request, auth, &limits).map_err(refuse)?,
            // It takes its number all the same, as on a stream.
            (asked, _) => place.admit(asked, auth, &limits),
        };
        // A call is bound to no stream: it acts for whoever has the session, and takes it from nobody.
        // Where a snapshot takes the place of the log, only the answer to a numbered write can be looked up.
        let asked_in = if seq == 0 { 0 } else { id };
        let answer = self.service.propose(self.service.command(write, 0), asked_in, seq).await;
        let (zxid, result) = answer.map_err(refuse)?;
        let outcome = result.map_err(|refused| refuse(error_to_wire(refused)))?;
        Ok(outcome_to_wire(outcome, zxid))
    }

    /// The caller may act for the session; it was heard from.
    async fn check_session(&self, session: &v1::SessionRef) -> Result<(), Status> {
        self.service.check_serving().map_err(refuse)?;
        let refused = self.refuse_session(session);
        if refused.as_ref().is_some_and(|refused| refused.code() == ErrorCode::NoSession) {
            // It may have been opened on another node a moment ago.
            let barrier = self.service.replica().read_barrier().await;
            barrier.map_err(|no_quorum| refuse(error(ErrorCode::NotServing, no_quorum.to_string())))?;
            if let Some(refused) = self.refuse_session(session) {
                return Err(refuse(refused));
            }
        } else if let Some(refused) = refused {
            return Err(refuse(refused));
        }
        let generation = 0;
        self.service.replica().touch(SignOfLife { session: session.session_id, generation });
        Ok(())
    }

    fn refuse_session(&self, session: &v1::SessionRef) -> Option<v1::Error> {
        Service::refuse_session(&self.service.replica().tree(), session.session_id, &session.password)
    }
}

#[tonic::async_trait]
impl Coordd for CoorddApi {
    type SessionStream = Frames;
    type SubscribeStream = subscribe::Replies;

    async fn session(&self, request: Request<Streaming<v1::ClientFrame>>) -> Reply<Self::SessionStream> {
        let from = client_address(&request);
        let frames = attach::attach(self.service.clone(), from, request.into_inner()).await?;
        Ok(Response::new(frames))
    }

    async fn create(&self, request: Request<v1::CreateRequest>) -> Reply<v1::CreateReply> {
        write!(self, request, Create)
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        write!(self, request, Delete)
    }

    async fn set(&self, request: Request<v1::SetRequest>) -> Reply<v1::SetReply> {
        write!(self, request, Set)
    }

    async fn multi(&self, request: Request<v1::MultiRequest>) -> Reply<v1::MultiReply> {
        write!(self, request, Multi)
    }

    async fn delete_tree(&self, request: Request<v1::DeleteTreeRequest>) -> Reply<v1::DeleteTreeReply> {
        write!(self, request, DeleteTree)
    }

    async fn set_acl(&self, request: Request<v1::SetAclRequest>) -> Reply<v1::SetAclReply> {
        write!(self, request, SetAcl)
    }

    async fn set_quota(&self, request: Request<v1::SetQuotaRequest>) -> Reply<v1::SetQuotaReply> {
        write!(self, request, SetQuota)
    }

    async fn delete_quota(&self, request: Request<v1::DeleteQuotaRequest>) -> Reply<v1::DeleteQuotaReply> {
        write!(self, request, DeleteQuota)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Reply<v1::GetReply> {
        read!(self, request, Get, |reply: &mut v1::GetReply, zxid| reply.zxid = zxid)
    }

    async fn exists(&self, request: Request<v1::ExistsRequest>) -> Reply<v1::ExistsReply> {
        read!(self, request, Exists, |reply: &mut v1::ExistsReply, zxid| reply.zxid = zxid)
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Reply<v1::ListReply> {
        read!(self, request, List, |reply: &mut v1::ListReply, zxid| reply.zxid = zxid)
    }

    async fn multi_read(&self, request: Request<v1::MultiReadRequest>) -> Reply<v1::MultiReadReply> {
        read!(self, request, MultiRead, |reply: &mut v1::MultiReadReply, zxid| reply.zxid = zxid)
    }

    async fn get_acl(&self, request: Request<v1::GetAclRequest>) -> Reply<v1::GetAclReply> {
        read!(self, request, GetAcl, |_: &mut v1::GetAclReply, _| {})
    }

    async fn get_ephemerals(
        &self,
        request: Request<v1::GetEphemeralsRequest>,
    ) -> Reply<v1::GetEphemeralsReply> {
        read!(self, request, GetEphemerals, |_: &mut v1::GetEphemeralsReply, _| {})
    }

    async fn count_descendants(
        &self,
        request: Request<v1::CountDescendantsRequest>,
    ) -> Reply<v1::CountDescendantsReply> {
        read!(self, request, CountDescendants, |_: &mut v1::CountDescendantsReply, _| {})
    }

    async fn get_quota(&self, request: Request<v1::GetQuotaRequest>) -> Reply<v1::GetQuotaReply> {
        read!(self, request, GetQuota, |_: &mut v1::GetQuotaReply, _| {})
    }

    async fn sync(&self, request: Request<v1::SyncRequest>) -> Reply<v1::SyncReply> {
        let auth = from_address(client_ip(&request));
        let (result, _) = self.read(auth, Read::Sync(request.into_inner()), 0).await?;
        let mut response = expect!(result, Sync)?;
        response.get_mut().lineage = Some(self.service.lineage());
        Ok(response)
    }

    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Reply<v1::OpenSessionReply> {
        let request = request.into_inner();
        let opened = self.service.open_session(request.timeout_ms, &request.client_name).await;
        let (session_id, password, timeout_ms, zxid) = opened.map_err(refuse)?;
        let password = bytes::Bytes::copy_from_slice(&password);
        let lineage = Some(self.service.lineage());
        Ok(Response::new(v1::OpenSessionReply { session_id, password, timeout_ms, zxid, lineage }))
    }

    async fn keep_alive(&self, request: Request<v1::KeepAliveRequest>) -> Reply<v1::KeepAliveReply> {
        let session = request.into_inner().session.unwrap_or_default();
        self.check_session(&session).await?;
        let is_confirmed = self.confirmations.is_confirmed(session.session_id).await;
        let tree = self.service.replica().tree();
        let timeout_ms = tree.session(session.session_id).map_or(0, |live| live.timeout_ms());
        let alive_ms = if is_confirmed { timeout_ms } else { 0 };
        Ok(Response::new(v1::KeepAliveReply { timeout_ms, zxid: tree.last_zxid(), alive_ms }))
    }

    async fn close_session(&self, request: Request<v1::CloseSessionRequest>) -> Reply<v1::CloseSessionReply> {
        let session = request.into_inner().session.unwrap_or_default();
        self.check_session(&session).await?;
        let id = session.session_id;
        let command = match session.write_seq {
            // Without a number it cannot take a place among the writes, so it is not one.
            0 => Command::EndSession { session: id, reason: coordd_tree::EndReason::Closed },
            seq => {
                let (acked, auth) = (session.acked_write_seq, Auth::default());
                let op = WriteOp::CloseSession;
                self.service.command(Write { session: id, seq, acked, auth, guards: Vec::new(), op }, 0)
            }
        };
        let (_, result) = self.service.propose(command, id, session.write_seq).await.map_err(refuse)?;
        match result.map_err(|refused| refuse(error_to_wire(refused)))? {
            coordd_tree::Outcome::SessionEnded(ephemerals) => {
                Ok(Response::new(v1::CloseSessionReply { ephemerals }))
            }
            other => Err(Status::internal(format!("an answer of another kind: {other:?}"))),
        }
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Reply<Self::SubscribeStream> {
        let auth = from_address(client_ip(&request));
        let request = request.into_inner();
        let auth: Arc<Auth> =
            authenticate(&auth, &request.credentials, self.service.super_digest()).map_err(refuse)?;
        let replies = subscribe::subscribe(self.service.clone(), auth, request).await.map_err(refuse)?;
        Ok(Response::new(replies))
    }

    async fn outcome(&self, request: Request<v1::OutcomeRequest>) -> Reply<v1::OutcomeReply> {
        use v1::outcome_reply::Fate;
        let request = request.into_inner();
        // An answer that is final must not come from the past.
        let barrier = self.service.replica().read_barrier().await;
        barrier.map_err(|no_quorum| refuse(error(ErrorCode::NotServing, no_quorum.to_string())))?;
        let tree = self.service.replica().tree();
        let session = request.session_id;
        let password = tree
            .session(session)
            .map(|live| *live.password())
            .or_else(|| tree.ended_session(session).map(|ended| ended.password));
        if password.is_some_and(|password| !is_same_secret(&password, &request.password)) {
            return Err(refuse(error(ErrorCode::AuthFailed, "wrong password for the session")));
        }
        let (fate, reply) = match tree.outcome(session, request.write_seq) {
            WriteOutcome::Applied { zxid, result } => {
                let result = match result {
                    Ok(outcome) => outcome_to_wire(outcome, zxid),
                    Err(refused) => reply::Result::Error(error_to_wire(refused)),
                };
                (Fate::Applied, Some(v1::Reply { id: 0, zxid, result: Some(result) }))
            }
            WriteOutcome::Acknowledged => (Fate::Acknowledged, None),
            WriteOutcome::Never => (Fate::Never, None),
            WriteOutcome::NotYet => (Fate::NotYet, None),
            WriteOutcome::Unknown => (Fate::Unknown, None),
        };
        Ok(Response::new(v1::OutcomeReply { fate: fate as i32, reply }))
    }
}
