//! How a stream gets its session: a new one, or one that goes on, here or from another node.

use std::net::SocketAddr;
use std::sync::Arc;

use coordd_proto::v1::{self, ErrorCode};
use tonic::{Status, Streaming};

use super::refuse;
use crate::convert::{bad_arguments, error};
use crate::reads::authenticate;
use crate::service::{Service, from_address};
use crate::session::connection::{Connection, Frames};

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

    let (session, password, timeout_ms) = if attach.session_id == 0 {
        if attach.last_zxid > 0 {
            service.catch_up(attach.last_zxid).await.map_err(refuse)?;
        }
        let opened = service.open_session(attach.timeout_ms, &attach.client_name).await.map_err(refuse)?;
        (opened.0, bytes::Bytes::copy_from_slice(&opened.1), opened.2)
    } else {
        service.catch_up(attach.last_zxid).await.map_err(refuse)?;
        if service.replica().tree().session(attach.session_id).is_none() {
            // It may have been opened on another node a moment ago; "no such session" is a last word.
            let barrier = service.replica().read_barrier().await;
            barrier.map_err(|no_quorum| refuse(error(ErrorCode::NotServing, no_quorum.to_string())))?;
        }
        (attach.session_id, attach.password.clone(), 0)
    };

    let limit = service.options().limits.outbox_bytes;
    let outbox = service.hub().new_outbox(session, limit, (*auth).clone());
    let attached = {
        // Under one hold of the tree: what happens from here on reaches the outbox live, and what happened before and
        // after the client's last zxid is replayed into it now.
        let tree = service.replica().tree();
        if let Some(refused) = Service::refuse_session(&tree, session, &password) {
            return Err(refuse(refused));
        }
        service.hub().attach(&outbox, from);
        if let Err(refused) = resume_watches(&service, &tree, &outbox, &attach) {
            drop(tree);
            service.hub().detach(&outbox);
            return Err(refuse(refused));
        }
        let live = tree.session(session);
        v1::Attached {
            session_id: session,
            password,
            timeout_ms: live.map_or(timeout_ms, |live| live.timeout_ms()),
            zxid: tree.last_zxid(),
            node_id: service.replica().id(),
            last_write_seq: live.map_or(0, |live| live.last_seq()),
            cluster_id: service.replica().cluster_id().to_owned(),
        }
    };
    service.replica().touch(session);
    Ok(Connection::spawn(service, outbox, auth, attached, requests, first))
}

/// Arms the watches that go on, and puts what they missed into the outbox.
fn resume_watches(
    service: &Service,
    tree: &coordd_tree::Tree,
    outbox: &Arc<crate::session::outbox::Outbox>,
    attach: &v1::Attach,
) -> Result<(), v1::Error> {
    if attach.watches.is_empty() {
        return Ok(());
    }
    let limit = service.options().limits.watches;
    if attach.watches.len() > limit {
        let message = format!("{} watches to resume; at most {limit} (--watches-max)", attach.watches.len());
        return Err(error(ErrorCode::Throttled, message));
    }
    let mut resumed_watches = Vec::with_capacity(attach.watches.len());
    for resumed in &attach.watches {
        let spec = resumed.spec.as_ref().ok_or_else(|| bad_arguments("a watch to resume has no spec"))?;
        let watch = service.registration(outbox, spec, &resumed.path)?;
        resumed_watches.push(watch);
    }
    service.hub().resume(tree, outbox, resumed_watches, attach.last_zxid);
    Ok(())
}
