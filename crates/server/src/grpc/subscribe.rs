//! Events as a plain server stream.

use std::sync::Arc;
use std::time::Duration;

use coordd_proto::status::into_status;
use coordd_proto::v1::subscribe_reply::Item as Said;
use coordd_proto::v1::{self, ErrorCode, WatchKind};
use coordd_tree::Auth;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;

use crate::convert::{bad_arguments, error, error_to_wire};
use crate::service::Service;
use crate::session::outbox::{Item, Outbox};

const PATHS_MAX: usize = 100;
const MARK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) type Replies = mpsc::Receiver<Result<v1::SubscribeReply, Status>>;

/// Starts a subscription and the task that feeds it.
pub(super) async fn subscribe(
    service: Arc<Service>,
    auth: Arc<Auth>,
    request: v1::SubscribeRequest,
) -> Result<Replies, v1::Error> {
    if request.paths.is_empty() || request.paths.len() > PATHS_MAX {
        return Err(bad_arguments(format!("{} paths; from 1 to {PATHS_MAX}", request.paths.len())));
    }
    service.check_serving()?;
    service.catch_up(request.from_zxid).await?;
    let limit = service.options().limits.outbox_bytes;
    let outbox = service.hub().new_outbox(0, 0, limit, (*auth).clone());
    let from = match start(&service, &outbox, &request) {
        Ok(from) => from,
        Err(refused) => {
            service.hub().detach(&outbox);
            return Err(refused);
        }
    };
    let (replies, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let end = feed(&service, &outbox, &replies, from).await;
        service.hub().detach(&outbox);
        if let Some(status) = end {
            // Nobody to tell if the reader has gone.
            let _ = replies.try_send(Err(status));
        }
    });
    Ok(receiver)
}

/// Arms the watches at one point of history; returns where the stream starts.
fn start(service: &Service, outbox: &Arc<Outbox>, request: &v1::SubscribeRequest) -> Result<u64, v1::Error> {
    let tree = service.replica().tree();
    let mut watches = Vec::with_capacity(request.paths.len());
    for (index, path) in request.paths.iter().enumerate() {
        coordd_tree::validate_path(&path.path).map_err(error_to_wire)?;
        let kind = match WatchKind::try_from(path.kind).ok() {
            Some(WatchKind::Unspecified | WatchKind::PersistentRecursive) => WatchKind::PersistentRecursive,
            Some(WatchKind::Persistent) => WatchKind::Persistent,
            _ => return Err(bad_arguments("a subscription is PERSISTENT or PERSISTENT_RECURSIVE")),
        };
        let spec =
            v1::WatchSpec { watch_id: index as u64 + 1, kind: kind as i32, with_value: path.with_value };
        let watch = service.registration(outbox, &spec, &path.path)?;
        watches.push(watch);
    }
    if request.from_zxid == 0 {
        for watch in watches {
            service.hub().watches().arm(outbox, watch);
        }
        return Ok(tree.last_zxid());
    }
    service.hub().resume(&tree, outbox, watches, request.from_zxid);
    Ok(request.from_zxid)
}

async fn feed(
    service: &Service,
    outbox: &Outbox,
    replies: &mpsc::Sender<Result<v1::SubscribeReply, Status>>,
    from: u64,
) -> Option<Status> {
    let say = async |item| {
        let reply = v1::SubscribeReply { item: Some(item) };
        // A reader that does not read is ended by its outbox, which goes on filling.
        tokio::select! {
            biased;
            sent = replies.send(Ok(reply)) => sent.map_err(|_| None),
            () = overflow(outbox) => Err(Some(too_slow())),
        }
    };
    if let Err(end) = say(Said::Mark(v1::Pong { nonce: 0, zxid: from })).await {
        return end;
    }
    let mut serving = service.serving();
    let mut mark = interval(MARK_INTERVAL);
    mark.set_missed_tick_behavior(MissedTickBehavior::Delay);
    mark.reset();
    let mut is_mark_due = false;
    loop {
        // Looked up first: everything up to it is in the outbox then, and is said before it.
        let marked = is_mark_due.then(|| *service.hub().zxid().borrow());
        is_mark_due = false;
        for item in outbox.take() {
            let said = match item {
                Item::Event(event) => say(Said::Event(event)).await,
                Item::Resync(resync) => say(Said::Resync(resync)).await,
                _ => Ok(()),
            };
            if let Err(end) = said {
                return end;
            }
        }
        if outbox.is_overflown() {
            return Some(too_slow());
        }
        if let Some(zxid) = marked
            && let Err(end) = say(Said::Mark(v1::Pong { nonce: 0, zxid })).await
        {
            return end;
        }
        tokio::select! {
            () = outbox.ready() => {}
            () = replies.closed() => return None,
            changed = serving.changed() => {
                if changed.is_err() || serving.borrow_and_update().is_err() {
                    return Some(into_status(error(ErrorCode::NotServing, "this node stops serving; go on elsewhere")));
                }
            }
            _ = mark.tick() => is_mark_due = true,
        }
    }
}

async fn overflow(outbox: &Outbox) {
    while !outbox.is_overflown() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn too_slow() -> Status {
    into_status(error(ErrorCode::Throttled, "the reader is too slow; subscribe again from the last zxid"))
}
