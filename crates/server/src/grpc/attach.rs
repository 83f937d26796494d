//! How a stream gets its session: a new one, or one that goes on, here or from another node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coordd_proto::v1::{self, ErrorCode};
use coordd_raft::SignOfLife;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::refuse;
use crate::convert::{bad_arguments, error};
use crate::hub::{Missed, STEP_WATCHES};
use crate::reads::authenticate;
use crate::service::{Service, from_address};
use crate::session::connection::{Connection, Frames, check_count};
use crate::watch::Registration;

/// How long the next frame of an attach of several may take.
const NEXT_FRAME: Duration = Duration::from_secs(10);

/// Takes the first frames of a stream, attaches it to its session and starts its task.
pub(super) async fn attach(
    service: Arc<Service>,
    from: Option<SocketAddr>,
    mut requests: Streaming<v1::ClientFrame>,
) -> Result<Frames, Status> {
    let first = next_frame(&service, &mut requests).await?;
    let mut first = first.ok_or_else(|| Status::invalid_argument("an empty session stream"))?;
    let mut attach = first.attach.take().ok_or_else(|| {
        refuse(error(ErrorCode::Protocol, "the first frame of a session stream must attach"))
    })?;
    // Before anything that may have to wait: its requests are kept meanwhile.
    check_count(&first).map_err(refuse)?;
    // Before anything that may have to wait: a client of another ensemble is not to wait for this one.
    service.check_lineage(attach.lineage.as_ref()).map_err(refuse)?;
    service.check_serving().map_err(refuse)?;
    let auth =
        authenticate(&from_address(from.map(|from| from.ip())), &attach.credentials, service.super_digest())
            .map_err(refuse)?;

    let watches;
    let (session, password, timeout_ms, drawn) = if attach.session_id == 0 {
        watches = take_all_watches(&service, &mut requests, &mut attach).await?;
        if attach.last_zxid > 0 {
            service.catch_up(attach.last_zxid).await.map_err(refuse)?;
        }
        let opened = service.open_session(attach.timeout_ms, &attach.client_name).await.map_err(refuse)?;
        (opened.0, bytes::Bytes::copy_from_slice(&opened.1), opened.2, None)
    } else {
        catch_up_to_session(&service, &attach).await.map_err(refuse)?;
        if service.replica().tree().session(attach.session_id).is_none() {
            // It may have been opened on another node a moment ago; "no such session" is a last word.
            let barrier = service.replica().read_barrier().await;
            barrier.map_err(|no_quorum| refuse(error(ErrorCode::NotServing, no_quorum.to_string())))?;
        }
        let (session, password) = (attach.session_id, attach.password.clone());
        if let Some(refused) = Service::refuse_session(&service.replica().tree(), session, &password) {
            return Err(refuse(refused));
        }
        // The client is there, however long the next step takes.
        service.replica().touch(SignOfLife { session, generation: 0 });
        // Before the session is taken: an attach that cannot succeed must not take it from a stream that has it.
        watches = take_all_watches(&service, &mut requests, &mut attach).await?;
        let drawn = service.take_session(session).await.map_err(refuse)?;
        (session, password, 0, drawn)
    };

    let limit = service.options().limits.outbox_bytes;
    let (outbox, attached, missed) = {
        // Under one hold of the tree: what happens from here on reaches the outbox live, and what happened before and
        // after the client's last zxid is replayed into it, now or while the client reads.
        let tree = service.replica().tree();
        if let Some(refused) = Service::refuse_session(&tree, session, &password) {
            return Err(refuse(refused));
        }
        let live = tree.session(session);
        let current = live.map_or(0, |live| live.generation());
        if drawn.is_some_and(|drawn| drawn < current) {
            let message = format!("another connection has attached to session {session:#x} meanwhile");
            return Err(refuse(error(ErrorCode::SessionMoved, message)));
        }
        let outbox = service.hub().new_outbox(session, current, limit, (*auth).clone());
        service.hub().attach(&outbox, from);
        let missed = if watches.is_empty() {
            None
        } else {
            let mut missed = Missed::new(watches, attach.last_zxid);
            // Many are armed by the stream's task, in steps and without the tree.
            let is_done = missed.unarmed() <= STEP_WATCHES
                && !service.hub().arm_step(&outbox, &mut missed)
                && service.hub().catch_up_step(&tree, &outbox, &mut missed);
            (!is_done).then_some(missed)
        };
        let v1::Lineage { cluster_id, number } = service.lineage();
        let attached = v1::Attached {
            session_id: session,
            password,
            timeout_ms: live.map_or(timeout_ms, |live| live.timeout_ms()),
            zxid: tree.last_zxid(),
            node_id: service.replica().id(),
            last_write_seq: live.map_or(0, |live| live.last_seq()),
            cluster_id,
            lineage_number: number,
            limits: Some(service.limits_to_wire()),
        };
        (outbox, attached, missed)
    };
    service.replica().touch(outbox.sign_of_life());
    Ok(Connection::spawn(service, outbox, auth, attached, missed, requests, first))
}

/// Waits until this node shows what the client of a session has seen. A client that does not name its lineage
/// is told of another one in a way that every client understands.
async fn catch_up_to_session(service: &Service, attach: &v1::Attach) -> Result<(), v1::Error> {
    service.catch_up(attach.last_zxid).await.map_err(|refused| match (refused.code(), &attach.lineage) {
        (ErrorCode::OtherLineage, None) => error(ErrorCode::SessionExpired, refused.message),
        _ => refused,
    })
}

async fn next_frame(
    service: &Service,
    requests: &mut Streaming<v1::ClientFrame>,
) -> Result<Option<v1::ClientFrame>, Status> {
    requests.message().await.map_err(|status| match status.code() {
        Code::OutOfRange | Code::Internal => service.unreadable(&status),
        _ => status,
    })
}

/// The watches that go on: those of the first frame, and of as many more as the client sends.
async fn take_all_watches(
    service: &Service,
    requests: &mut Streaming<v1::ClientFrame>,
    attach: &mut v1::Attach,
) -> Result<Vec<Registration>, Status> {
    let mut watches = Vec::new();
    take_watches(service, &mut watches, std::mem::take(&mut attach.watches)).await.map_err(refuse)?;
    let mut more = attach.more_watches;
    while more {
        let frame = timeout(NEXT_FRAME, next_frame(service, requests)).await;
        let frame = frame
            .map_err(|_| refuse(error(ErrorCode::NotServing, "the attach was not completed in time")))?;
        let next = frame?.and_then(|frame| frame.attach.filter(|_| frame.requests.is_empty()));
        let next = next.ok_or_else(|| {
            refuse(error(ErrorCode::Protocol, "more watches were announced, and another frame came"))
        })?;
        take_watches(service, &mut watches, next.watches).await.map_err(refuse)?;
        more = next.more_watches;
        if attach.session_id != 0 {
            // The owner has shown its password, and is alive while it is busy with this.
            service.replica().touch(SignOfLife { session: attach.session_id, generation: 0 });
        }
    }
    Ok(watches)
}

async fn take_watches(
    service: &Service,
    watches: &mut Vec<Registration>,
    resumed: Vec<v1::ResumeWatch>,
) -> Result<(), v1::Error> {
    let limit = service.options().limits.watches;
    let count = watches.len().saturating_add(resumed.len());
    if count > limit {
        // Not a matter of time: to try again would be in vain.
        return Err(bad_arguments(format!("{count} watches to resume; at most {limit} (--watches-max)")));
    }
    for v1::ResumeWatch { spec, path } in resumed {
        let spec = spec.ok_or_else(|| bad_arguments("a watch to resume has no spec"))?;
        watches.push(Registration::asked(&spec, &path)?);
        if watches.len().is_multiple_of(STEP_WATCHES) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}
