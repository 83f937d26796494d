//! One session stream: requests in, replies and events out.
//!
//! Writes are submitted as they arrive and are never held up by reads. A read waits until all earlier writes of the
//! session are applied here, and a linearizable one until its barrier is passed; replies leave in the order of the
//! requests. Everything that leaves goes through this task, in the order of the outbox, so an event is out before a reply
//! that shows what it tells.

mod requests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coordd_proto::status::into_status;
use coordd_proto::v1::{self, ErrorCode};
use coordd_raft::NoQuorum;
use coordd_tree::{Auth, Command, ErrorKind, WriteSeq};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tonic::{Code, Status, Streaming};

use super::outbox::{Item, Outbox};
use super::pending::{Pending, PendingQueue, State};
use super::pipe::{FrameReceiver, FrameSender, pipe};
use crate::convert::{error, error_to_wire, outcome_to_wire};
use crate::hub::{Missed, Waiter};
use crate::reads::Read;
use crate::service::Service;

/// An unasked mark is sent so often.
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of one frame to the client, about; a single item may be larger. Small, because a client on a slow line takes a
/// frame that is on its way for silence.
const FRAME_BYTES: usize = 256 << 10;
/// Requests of one frame. What all parts of a frame take in memory is checked before it is decoded; see
/// [`coordd_proto::check`].
pub(crate) const FRAME_REQUESTS: usize = 10_000;
/// Requests of a frame that are taken in one step.
const STEP_REQUESTS: usize = 500;
/// How long requests under way have to be answered when the node stops.
const CLOSING: Duration = Duration::from_secs(2);
/// How long a client has to take the last thing that is said.
const LAST_WORD: Duration = Duration::from_secs(5);
/// What is kept for requests is counted when it has changed by so much.
const KEPT_STEP: usize = 16 << 10;

/// What a stream ends with: nothing more to say, or a status.
type End = Option<Status>;

/// What the client reads.
pub(crate) type Frames = FrameReceiver<v1::ServerFrame>;

type Barrier = Pin<Box<dyn Future<Output = Result<(), NoQuorum>> + Send>>;

/// A read that takes long, on its way.
type LongRead = Pin<Box<dyn Future<Output = v1::Reply> + Send>>;

/// See the module.
pub(crate) struct Connection {
    service: Arc<Service>,
    outbox: Arc<Outbox>,
    auth: Arc<Auth>,
    pending: PendingQueue,
    /// How much is counted of what they take in memory.
    kept_bytes: usize,
    /// The read at the front takes long.
    long_read: Option<LongRead>,
    /// The linearizable read at the front waits for this.
    barrier: Option<Barrier>,
    /// So many requests at the front had arrived when the barrier was asked for that is under way, or was passed last:
    /// it serves them all.
    covered: usize,
    /// The node stops, or the session has ended: nothing more is read, and the stream ends when everything is answered,
    /// or at this time.
    closing: Option<Instant>,
    acked: WriteSeq,
    /// The session's.
    timeout: Duration,
    frame: v1::ServerFrame,
    frame_bytes: usize,
    frames: FrameSender<v1::ServerFrame>,
    /// The outbox called while a frame waited to be sent.
    woken: bool,
    /// The session has ended; said when everything before is answered.
    ended: Option<v1::SessionEnd>,
}

impl Connection {
    /// Starts the task of a stream whose session is attached. `first` are the items to say first.
    pub(crate) fn spawn(
        service: Arc<Service>,
        outbox: Arc<Outbox>,
        auth: Arc<Auth>,
        attached: v1::Attached,
        missed: Option<Missed>,
        requests: Streaming<v1::ClientFrame>,
        first: v1::ClientFrame,
    ) -> Frames {
        let (frames, receiver) = pipe();
        let mut connection = Connection {
            service,
            outbox,
            auth,
            pending: PendingQueue::default(),
            kept_bytes: 0,
            long_read: None,
            barrier: None,
            covered: 0,
            closing: None,
            acked: 0,
            timeout: Duration::from_millis(attached.timeout_ms.into()),
            frame: v1::ServerFrame::default(),
            frame_bytes: 0,
            frames,
            woken: false,
            ended: None,
        };
        connection.say(v1::server_item::Item::Attached(attached), 64);
        tokio::spawn(async move {
            let (end, outbox, frames) = connection.run(requests, first, missed).await;
            frames.finish(end, &outbox).await;
        });
        receiver
    }

    /// Serves the stream to its end. What is left then are the frames that the client has not taken, and
    /// their outbox.
    async fn run(
        mut self,
        requests: Streaming<v1::ClientFrame>,
        first: v1::ClientFrame,
        missed: Option<Missed>,
    ) -> (End, Arc<Outbox>, FrameSender<v1::ServerFrame>) {
        let end = self.serve(requests, first, missed).await;
        self.service.hub().detach(&self.outbox);
        self.outbox.release(self.kept_bytes);
        (end, self.outbox, self.frames)
    }

    async fn serve(
        &mut self,
        mut requests: Streaming<v1::ClientFrame>,
        first: v1::ClientFrame,
        missed: Option<Missed>,
    ) -> End {
        if let Some(missed) = missed
            && let Err(end) = self.catch_up(missed).await
        {
            return end;
        }
        if let Err(end) = self.take_frame(first).await {
            return end;
        }
        // Twice the number, so that the pings of a client that keeps to it are heard while its window is full.
        let unread_max = self.service.options().limits.outstanding * 2;
        let unread_bytes_max = self.service.options().limits.frame_bytes;
        let mut serving = self.service.serving();
        // It may have changed since this stream was let in.
        serving.mark_changed();
        let stopping = self.service.stopping().clone();
        let mut mark = interval(MARK_INTERVAL);
        mark.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Err(end) = self.advance().await {
                return end;
            }
            let is_late = self.closing.is_some_and(|at| Instant::now() >= at);
            if is_late || self.pending.is_empty() {
                if let Some(end) = self.ended.take() {
                    self.say(v1::server_item::Item::Ended(end), 256);
                    // The client may have gone.
                    let _ = tokio::time::timeout(LAST_WORD, self.flush()).await;
                    return None;
                }
                if self.closing.is_some() {
                    return Some(into_status(error(ErrorCode::NotServing, "this node is stopping")));
                }
            }
            self.count_kept();
            let outbox = self.outbox.clone();
            let may_read = self.closing.is_none()
                && self.pending.len() < unread_max
                && self.pending.bytes() < unread_bytes_max;
            tokio::select! {
                frame = requests.message(), if may_read => match frame {
                    Ok(Some(frame)) => {
                        if let Err(end) = self.take_frame(frame).await {
                            return end;
                        }
                    }
                    Err(status) if matches!(status.code(), Code::OutOfRange | Code::Internal) => {
                        return Some(self.service.unreadable(&status));
                    }
                    // The frame would take too much memory; the status says how much it may take.
                    Err(status) if status.code() == Code::InvalidArgument => return Some(status),
                    // The client has closed its half, or its connection: the session waits for it to come back.
                    Ok(None) | Err(_) => return None,
                },
                () = outbox.ready() => {}
                passed = wait_for(&mut self.barrier), if self.barrier.is_some() => {
                    self.barrier = None;
                    if let Err(end) = self.pass_barrier(passed) {
                        return end;
                    }
                }
                reply = wait_for_read(&mut self.long_read), if self.long_read.is_some() => {
                    self.long_read = None;
                    if let Err(end) = self.answer_front(reply) {
                        return end;
                    }
                }
                changed = serving.changed() => {
                    let reason = serving.borrow_and_update().clone();
                    match reason {
                        Err(reason) if changed.is_ok() => {
                            return Some(into_status(error(ErrorCode::NotServing, reason)));
                        }
                        Ok(()) if changed.is_ok() => {}
                        _ => return Some(into_status(error(ErrorCode::NotServing, "this node is stopping"))),
                    }
                }
                () = stopping.cancelled(), if self.closing.is_none() => {
                    self.closing = Some(Instant::now() + CLOSING);
                }
                () = at(self.closing), if self.closing.is_some() => {}
                _ = mark.tick() => {
                    let zxid = *self.service.hub().zxid().borrow();
                    // Everything up to here is in the outbox, and said before this.
                    if let Err(end) = self.drain().await {
                        return end;
                    }
                    self.say(v1::server_item::Item::Pong(v1::Pong { nonce: 0, zxid }), 16);
                }
            }
        }
    }

    /// Says what the watches of the session have missed, before anything that shows a later state, at the speed at which the
    /// client reads.
    async fn catch_up(&mut self, mut missed: Missed) -> Result<(), End> {
        while missed.unarmed() > 0 {
            self.service.hub().arm_step(&self.outbox, &mut missed);
            tokio::task::yield_now().await;
        }
        loop {
            self.drain().await?;
            if self.ended.is_some() {
                return Ok(());
            }
            self.say(v1::server_item::Item::Pong(v1::Pong { nonce: 0, zxid: missed.position() }), 16);
            self.flush().await?;
            tokio::task::yield_now().await;
            let tree = self.service.replica().tree();
            if self.service.hub().catch_up_step(&tree, &self.outbox, &mut missed) {
                return Ok(());
            }
        }
    }

    /// Counts what the requests that are not answered take, when that has changed by much.
    fn count_kept(&mut self) {
        let (now, counted) = (self.pending.bytes(), self.kept_bytes);
        if now.abs_diff(counted) < KEPT_STEP {
            return;
        }
        match now > counted {
            true => self.outbox.keep(now - counted),
            false => self.outbox.release(counted - now),
        }
        self.kept_bytes = now;
    }

    /// Says what there is to say, and gives reads their turn, until there is nothing left to do but wait.
    async fn advance(&mut self) -> Result<(), End> {
        loop {
            self.woken = false;
            self.drain().await?;
            let ran = self.run_reads()?;
            self.flush().await?;
            if !ran && !self.woken {
                return Ok(());
            }
        }
    }

    /// A frame of the client.
    async fn take_frame(&mut self, frame: v1::ClientFrame) -> Result<(), End> {
        self.check_way_to_leader()?;
        self.service.replica().touch(self.outbox.sign_of_life());
        self.acked = self.acked.max(frame.acked_write_seq);
        check_count(&frame).map_err(|refused| Some(into_status(refused)))?;
        let mut writes = Vec::new();
        let mut requests = frame.requests.into_iter();
        self.take_step(&mut requests, &mut writes)?;
        while requests.len() > 0 {
            // A frame of many requests does not keep its thread from others.
            tokio::task::yield_now().await;
            self.take_step(&mut requests, &mut writes)?;
        }
        if !writes.is_empty()
            && let Err(overloaded) = self.service.replica().submit(writes)
        {
            // The order of the session's writes must not get a hole: end the stream, and the client sends again.
            return Err(Some(into_status(error(ErrorCode::Throttled, overloaded.to_string()))));
        }
        if let Some(ping) = frame.ping {
            let zxid = *self.service.hub().zxid().borrow();
            self.take_outbox()?;
            self.say(v1::server_item::Item::Pong(v1::Pong { nonce: ping.nonce, zxid }), 16);
            self.service.hub().wants_renewal(&self.outbox, ping.nonce);
        }
        Ok(())
    }

    /// Takes the next requests of a frame. Apart from the loop around it, which waits: a request would be
    /// moved once more.
    fn take_step(
        &mut self,
        requests: &mut std::vec::IntoIter<v1::Request>,
        writes: &mut Vec<(Command<'static>, Waiter)>,
    ) -> Result<(), End> {
        for request in requests.take(STEP_REQUESTS) {
            if let Some(write) = self.take_request(request)? {
                writes.push(write);
            }
        }
        Ok(())
    }

    /// A client must not be kept where its signs of life may not reach the leader: one with a short timeout would be dead
    /// before this node as a whole stops serving. It pings every third of its timeout, and has a third to go elsewhere.
    fn check_way_to_leader(&self) -> Result<(), End> {
        let silence = self.service.replica().leader_silence().unwrap_or(Duration::MAX);
        if silence <= self.timeout / 2 {
            return Ok(());
        }
        let message =
            format!("no leader was heard for {} ms, over half of the session's timeout", silence.as_millis());
        Err(Some(into_status(error(ErrorCode::NotServing, message))))
    }

    fn break_protocol<T>(&self, message: String) -> Result<T, End> {
        Err(Some(into_status(error(ErrorCode::Protocol, message))))
    }

    /// Takes what waits in the outbox.
    async fn drain(&mut self) -> Result<(), End> {
        let (items, _counted) = self.outbox.take().into_parts();
        for item in items {
            self.handle_item(item)?;
            if self.frame_bytes > FRAME_BYTES {
                self.flush().await?;
            }
        }
        self.check_overflow()
    }

    /// The same, all into the present frame.
    fn take_outbox(&mut self) -> Result<(), End> {
        let (items, _counted) = self.outbox.take().into_parts();
        items.into_iter().try_for_each(|item| self.handle_item(item))?;
        // What overflew is lost to this stream: nothing may be said that shows the client a later state.
        self.check_overflow()
    }

    fn check_overflow(&self) -> Result<(), End> {
        match self.outbox.overflow_error() {
            Some(refused) => Err(Some(into_status(refused))),
            None => Ok(()),
        }
    }

    fn handle_item(&mut self, item: Item) -> Result<(), End> {
        match item {
            Item::Written { result: Err(refused), .. } if refused.kind == ErrorKind::SessionMoved => {
                // Its number is still free, and is the later stream's: an answer would say that it was taken.
                return Err(Some(into_status(error_to_wire(refused))));
            }
            Item::Written { request_id, zxid, result } => {
                let result = match result {
                    Ok(outcome) => outcome_to_wire(outcome, 0),
                    Err(refused) => v1::reply::Result::Error(error_to_wire(refused)),
                };
                self.pending.answer_write(v1::Reply { id: request_id, zxid, result: Some(result) });
                self.say_done();
            }
            Item::WriteLost { request_id } => {
                let message = "this node was brought up to date by a snapshot and does not know the write's fate; ask again";
                let result = v1::reply::Result::Error(error(ErrorCode::OutcomeUnknown, message));
                self.pending.answer_write(v1::Reply { id: request_id, zxid: 0, result: Some(result) });
                self.say_done();
            }
            Item::Event { watch_ids, fired } => {
                let event = fired.to_wire(watch_ids.to_vec());
                let value = event.value.as_ref().map_or(0, |value| value.len());
                let bytes = event.watch_ids.len() * 8 + event.path.len() + value + 64;
                self.say(v1::server_item::Item::Event(event), bytes);
            }
            Item::Resync { watch_ids, zxid } => {
                let resync = v1::Resync { watch_ids: watch_ids.to_vec(), zxid };
                let bytes = resync.watch_ids.len() * 8 + 64;
                self.say(v1::server_item::Item::Resync(resync), bytes);
            }
            Item::Renewed { nonce } => {
                self.say(v1::server_item::Item::Renewed(v1::Renewed { nonce }), 16);
            }
            Item::Ended(end) => {
                self.ended = Some(end);
                // Reads that wait for a majority do not get for ever.
                self.closing.get_or_insert_with(|| Instant::now() + CLOSING);
            }
            Item::Moved => {
                let message = "another connection has attached to the session";
                return Err(Some(into_status(error(ErrorCode::SessionMoved, message))));
            }
        }
        Ok(())
    }

    /// Says the replies at the front that are there.
    fn say_done(&mut self) {
        while let Some((reply, bytes)) = self.pending.pop_done() {
            self.covered = self.covered.saturating_sub(1);
            self.say(v1::server_item::Item::Reply(reply), bytes);
        }
    }

    /// Runs the reads at the front whose turn it is; says whether there were any.
    fn run_reads(&mut self) -> Result<bool, End> {
        // Those that were answered at once and have nothing before them.
        self.say_done();
        let mut ran = false;
        while self.barrier.is_none() && self.long_read.is_none() && self.frame_bytes <= FRAME_BYTES {
            let (id, read) = match self.pending.front() {
                Some(Pending { id, state: State::Read(read), .. }) => (*id, read),
                Some(Pending { id, state: State::RemoveWatch(op), .. }) => {
                    let result = self.remove_watch(op).unwrap_or_else(v1::reply::Result::Error);
                    let zxid = self.service.replica().tree().last_zxid();
                    self.answer_front(v1::Reply { id: *id, zxid, result: Some(result) })?;
                    ran = true;
                    continue;
                }
                _ => break,
            };
            let reply = match read.is_linearizable() {
                Ok(is_linearizable) if !is_linearizable || self.covered > 0 => match self.read(id, read) {
                    Some(reply) => reply,
                    None => {
                        self.long_read = Some(self.read_long(id, read.clone()));
                        break;
                    }
                },
                Ok(_) => {
                    self.covered = self.pending.len();
                    let service = self.service.clone();
                    self.barrier = Some(Box::pin(async move { service.replica().read_barrier().await }));
                    break;
                }
                Err(refused) => v1::Reply { id, zxid: 0, result: Some(v1::reply::Result::Error(refused)) },
            };
            self.answer_front(reply)?;
            ran = true;
        }
        // What is left has its turn when the frame is sent.
        Ok(ran || self.frame_bytes > FRAME_BYTES)
    }

    fn pass_barrier(&mut self, passed: Result<(), NoQuorum>) -> Result<(), End> {
        let Some(Pending { id, state: State::Read(read), .. }) = self.pending.front() else { return Ok(()) };
        let reply = match passed {
            Ok(()) => match self.read(*id, read) {
                Some(reply) => reply,
                None => {
                    self.long_read = Some(self.read_long(*id, read.clone()));
                    return Ok(());
                }
            },
            Err(no_quorum) => {
                self.covered = 0;
                let refused = error(ErrorCode::NotServing, no_quorum.to_string());
                v1::Reply { id: *id, zxid: 0, result: Some(v1::reply::Result::Error(refused)) }
            }
        };
        self.answer_front(reply)
    }

    /// The read at the front has its reply. The events it may show were put into the outbox before it could see them;
    /// they are said first.
    fn answer_front(&mut self, reply: v1::Reply) -> Result<(), End> {
        self.take_outbox()?;
        self.pending.answer_front(reply);
        self.say_done();
        Ok(())
    }

    /// Reads what takes long. The reply shows the version that was read. Its events were in the outbox
    /// before.
    fn read_long(&self, id: u64, read: Read) -> LongRead {
        let (service, auth, session) = (self.service.clone(), self.auth.clone(), self.outbox.session);
        Box::pin(async move {
            let reading = service.read_long(move |tree| (read.run(tree, &auth, session), tree.last_zxid()));
            let (result, zxid) = reading.await.unwrap_or_else(|refused| (Err(refused), 0));
            v1::Reply { id, zxid, result: Some(result.unwrap_or_else(v1::reply::Result::Error)) }
        })
    }

    /// Reads, and arms the watch that comes with it in the same step. Events up to the state that is read are in the
    /// outbox before the tree is let go; they are said before the reply. `None` if it takes long.
    fn read(&self, id: u64, read: &Read) -> Option<v1::Reply> {
        let watch = read.watch().map(|(spec, path)| self.service.registration(&self.outbox, spec, path));
        let tree = self.service.replica().tree();
        let zxid = tree.last_zxid();
        let result = match watch {
            Some(Err(refused)) => Err(refused),
            watch => {
                let result = read.run_short(&tree, &self.auth, self.outbox.session)?;
                // A read that fails arms nothing; `Exists` of a znode that is not there does not fail.
                if let (Ok(_), Some(Ok(watch))) = (&result, watch) {
                    self.service.hub().watches().arm(&self.outbox, watch);
                }
                result
            }
        };
        Some(v1::Reply { id, zxid, result: Some(result.unwrap_or_else(v1::reply::Result::Error)) })
    }

    fn say(&mut self, item: v1::server_item::Item, bytes: usize) {
        self.frame_bytes += bytes;
        self.frame.items.push(v1::ServerItem { item: Some(item) });
    }

    /// Sends what was said. While the client does not read, the outbox goes on filling, up to its limit; then the stream
    /// ends.
    async fn flush(&mut self) -> Result<(), End> {
        if self.frame.items.is_empty() {
            return Ok(());
        }
        let unsent = self.outbox.sending(std::mem::take(&mut self.frame_bytes));
        let frame = std::mem::take(&mut self.frame);
        let has_waited = !self.frames.has_room();
        loop {
            tokio::select! {
                biased;
                room = self.frames.room() => match room {
                    Ok(()) => {
                        self.frames.send(frame, unsent);
                        // The client has read what was in the way: that is a sign of life, and its pings may have to
                        // wait behind what it asked for.
                        if has_waited {
                            self.service.replica().touch(self.outbox.sign_of_life());
                        }
                        return Ok(());
                    }
                    Err(_) => return Err(None),
                },
                () = self.outbox.ready() => {
                    self.woken = true;
                    self.check_overflow()?;
                }
            }
        }
    }
}

/// Refuses a frame of too many requests.
pub(crate) fn check_count(frame: &v1::ClientFrame) -> Result<(), v1::Error> {
    match frame.requests.len() {
        count if count <= FRAME_REQUESTS => Ok(()),
        count => {
            let message = format!("{count} requests in a frame; at most {FRAME_REQUESTS}");
            Err(error(ErrorCode::Protocol, message))
        }
    }
}

async fn wait_for_read(reading: &mut Option<LongRead>) -> v1::Reply {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn wait_for(barrier: &mut Option<Barrier>) -> Result<(), NoQuorum> {
    match barrier {
        Some(barrier) => barrier.await,
        None => std::future::pending().await,
    }
}
