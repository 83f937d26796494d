//! Events as a plain server stream.

use std::sync::Arc;
use std::time::Duration;

use coordd_proto::status::into_status;
use coordd_proto::v1::subscribe_reply::Item as Said;
use coordd_proto::v1::{self, ErrorCode, WatchKind};
use coordd_tree::Auth;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;

use crate::convert::{bad_arguments, error, error_to_wire};
use crate::hub::Missed;
use crate::service::Service;
use crate::session::outbox::{Item, Outbox};
use crate::session::pipe::{FrameReceiver, FrameSender, pipe};

const PATHS_MAX: usize = 100;
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// What a reply takes in memory beside its bytes, about.
const REPLY_BYTES: usize = 200;

pub(super) type Replies = FrameReceiver<v1::SubscribeReply>;

/// Starts a subscription and the task that feeds it.
pub(super) async fn subscribe(
    service: Arc<Service>,
    auth: Arc<Auth>,
    request: v1::SubscribeRequest,
) -> Result<Replies, v1::Error> {
    if request.paths.is_empty() || request.paths.len() > PATHS_MAX {
        return Err(bad_arguments(format!("{} paths; from 1 to {PATHS_MAX}", request.paths.len())));
    }
    service.check_lineage(request.lineage.as_ref())?;
    service.check_serving()?;
    service.catch_up(request.from_zxid).await?;
    let limit = service.options().limits.outbox_bytes;
    let outbox = service.hub().new_outbox(0, 0, limit, (*auth).clone());
    let (from, missed) = match start(&service, &outbox, &request) {
        Ok(started) => started,
        Err(refused) => {
            service.hub().detach(&outbox);
            return Err(refused);
        }
    };
    let (replies, receiver) = pipe();
    tokio::spawn(async move {
        let mut feed = Feed { service, outbox, replies };
        let end = feed.run(from, missed).await;
        feed.service.hub().detach(&feed.outbox);
        feed.replies.finish(end, &feed.outbox).await;
    });
    Ok(receiver)
}

/// Arms the watches at one point of history; returns where the stream starts, and what has to be caught up with.
fn start(
    service: &Service,
    outbox: &Arc<Outbox>,
    request: &v1::SubscribeRequest,
) -> Result<(u64, Option<Missed>), v1::Error> {
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
        return Ok((tree.last_zxid(), None));
    }
    Ok((request.from_zxid, Some(Missed::new(watches, request.from_zxid))))
}

/// What feeds one subscription.
struct Feed {
    service: Arc<Service>,
    outbox: Arc<Outbox>,
    replies: FrameSender<v1::SubscribeReply>,
}

impl Feed {
    /// Says one thing, when the reader has room for it.
    async fn say(&self, item: Said) -> Result<(), Option<Status>> {
        self.say_reply(item, false).await
    }

    async fn say_reply(&self, item: Said, is_first: bool) -> Result<(), Option<Status>> {
        let lineage = is_first.then(|| self.service.lineage());
        let reply = v1::SubscribeReply { item: Some(item), lineage };
        let unsent = self.outbox.sending(prost::Message::encoded_len(&reply) + REPLY_BYTES);
        loop {
            // A reader that does not read is ended by its outbox, which goes on filling.
            tokio::select! {
                biased;
                room = self.replies.room() => {
                    room.map_err(|_| None)?;
                    self.replies.send(reply, unsent);
                    return Ok(());
                }
                () = self.outbox.ready() => self.check_overflow()?,
            }
        }
    }

    fn check_overflow(&self) -> Result<(), Option<Status>> {
        match self.outbox.overflow_error() {
            Some(refused) => Err(Some(into_status(refused))),
            None => Ok(()),
        }
    }

    /// Says what is in the outbox.
    async fn drain(&self) -> Result<(), Option<Status>> {
        let (items, _counted) = self.outbox.take().into_parts();
        for item in items {
            match item {
                Item::Event { watch_ids, fired } => {
                    self.say(Said::Event(fired.to_wire(watch_ids.to_vec()))).await?;
                }
                Item::Resync { watch_ids, zxid } => {
                    self.say(Said::Resync(v1::Resync { watch_ids: watch_ids.to_vec(), zxid })).await?;
                }
                _ => {}
            }
        }
        self.check_overflow()
    }

    /// Says what the watches have missed, until they are armed.
    async fn catch_up(&self, mut missed: Missed) -> Result<(), Option<Status>> {
        while self.service.hub().arm_step(&self.outbox, &mut missed) {
            tokio::task::yield_now().await;
        }
        loop {
            let is_done = {
                let tree = self.service.replica().tree();
                self.service.hub().catch_up_step(&tree, &self.outbox, &mut missed)
            };
            self.drain().await?;
            if is_done {
                return Ok(());
            }
            self.say(Said::Mark(v1::Pong { nonce: 0, zxid: missed.position() })).await?;
            tokio::task::yield_now().await;
        }
    }

    async fn run(&mut self, from: u64, missed: Option<Missed>) -> Option<Status> {
        match self.serve(from, missed).await {
            Ok(end) => end,
            Err(end) => end,
        }
    }

    async fn serve(&self, from: u64, missed: Option<Missed>) -> Result<Option<Status>, Option<Status>> {
        self.say_reply(Said::Mark(v1::Pong { nonce: 0, zxid: from }), true).await?;
        if let Some(missed) = missed {
            self.catch_up(missed).await?;
        }
        let mut serving = self.service.serving();
        let mut mark = interval(MARK_INTERVAL);
        mark.set_missed_tick_behavior(MissedTickBehavior::Delay);
        mark.reset();
        let mut is_mark_due = false;
        loop {
            // Looked up first: everything up to it is in the outbox then, and is said before it.
            let marked = is_mark_due.then(|| *self.service.hub().zxid().borrow());
            is_mark_due = false;
            self.drain().await?;
            if let Some(zxid) = marked {
                self.say(Said::Mark(v1::Pong { nonce: 0, zxid })).await?;
            }
            tokio::select! {
                () = self.outbox.ready() => {}
                () = self.replies.closed() => return Ok(None),
                changed = serving.changed() => {
                    if changed.is_err() || serving.borrow_and_update().is_err() {
                        let message = "this node stops serving; go on elsewhere";
                        return Ok(Some(into_status(error(ErrorCode::NotServing, message))));
                    }
                }
                _ = mark.tick() => is_mark_due = true,
            }
        }
    }
}
