//! How a stream gets its session: a new one, or one that goes on, here or from another node.

use std::net::SocketAddr;
use std::sync::Arc;

use coordd_proto::v1::{self, ErrorCode};
use coordd_raft::SignOfLife;
use tonic::{Status, Streaming};

use super::refuse;
use crate::convert::{bad_arguments, error};
use crate::hub::Missed;
use crate::reads::authenticate;
use crate::service::{Service, from_address};
use crate::session::connection::{Connection, Frames};
use crate::watch::Registration;

/// Takes the first frame of a stream, attaches it to its session and starts its task.
pub(super) async fn attach(
    service: Arc<Service>,
    from: Option<SocketAddr>,
    mut requests: Streaming<v1::ClientFrame>,
) -> Result<Frames, Status> {
    let mut first =
        requests.message().await?.ok_or_else(|| Status::invalid_argument("an empty session stream"))?;
    let attach = first.attach.take().ok_or_else(|| {
        refuse(error(ErrorCode::Protocol, "the first frame of a session stream must attach"))
    })?;
    service.check_serving().map_err(refuse)?;
    let auth =
        authenticate(&from_address(from.map(|from| from.ip())), &attach.credentials, service.super_digest())
            .map_err(refuse)?;

    let watches = resumed_watches(&service, &attach).map_err(refuse)?;

    let (session, password, timeout_ms, drawn) = if attach.session_id == 0 {
        if attach.last_zxid > 0 {
            service.catch_up(attach.last_zxid).await.map_err(refuse)?;
        }
        let opened = service.open_session(attach.timeout_ms, &attach.client_name).await.map_err(refuse)?;
        (opened.0, bytes::Bytes::copy_from_slice(&opened.1), opened.2, None)
    } else {
        service.catch_up(attach.last_zxid).await.map_err(refuse)?;
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
            let mut missed = Missed::new(&outbox, watches, attach.last_zxid);
            let is_done = service.hub().catch_up_step(&tree, &outbox, &mut missed);
            (!is_done).then_some(missed)
        };
        let attached = v1::Attached {
            session_id: session,
            password,
            timeout_ms: live.map_or(timeout_ms, |live| live.timeout_ms()),
            zxid: tree.last_zxid(),
            node_id: service.replica().id(),
            last_write_seq: live.map_or(0, |live| live.last_seq()),
            cluster_id: service.replica().cluster_id().to_owned(),
        };
        (outbox, attached, missed)
    };
    service.replica().touch(outbox.sign_of_life());
    Ok(Connection::spawn(service, outbox, auth, attached, missed, requests, first))
}

/// The watches that go on, checked. Before anything is done: an attach that cannot succeed must not take the session from a
/// stream that has it.
fn resumed_watches(service: &Service, attach: &v1::Attach) -> Result<Vec<Registration>, v1::Error> {
    let limit = service.options().limits.watches;
    if attach.watches.len() > limit {
        let message = format!("{} watches to resume; at most {limit} (--watches-max)", attach.watches.len());
        return Err(error(ErrorCode::Throttled, message));
    }
    let watches = attach.watches.iter().map(|resumed| {
        let spec = resumed.spec.as_ref().ok_or_else(|| bad_arguments("a watch to resume has no spec"))?;
        Registration::asked(spec, &resumed.path)
    });
    watches.collect()
}
