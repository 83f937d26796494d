use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use coordd_proto::v1;
use coordd_proto::v1::request::Op;
use coordd_proto::v1::server_item::Item;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::core::Core;
use super::lease::Moment;
use super::limits::ServerLimits;
use super::pending::{Answer, AnswerTx, PendingRequest, too_large};
use super::state::{EndReason, SessionEnd, SessionState};
use super::watches::Sink;
use crate::{Credential, Error, ErrorKind, Lineage, Outcome, SessionToken};

/// The queue's room: a request takes one permit and one more for each whole KiB. 64 Ki small requests, or 64 MiB.
const QUEUE_PERMITS: usize = 64 * 1024;

/// Bytes of watches in a frame that every node takes. The least that a node may be told to take is 64 KiB.
const ATTACH_BYTES_MIN: usize = 32 << 10;

/// What the handles, the session task and the transport share.
pub(crate) struct Shared {
    core: Mutex<Core>,
    room: Semaphore,
    /// Calls that wait for room. While there are any, new calls wait behind them.
    waiting_for_room: AtomicUsize,
    /// The last handle is gone or the session is being closed: the task should not sleep through it.
    closing: Notify,
    state_tx: watch::Sender<SessionState>,
    /// Bytes of a request that the present node takes, or the last one.
    request_bytes_max: AtomicUsize,
}

/// What the transport gets when it asks for a frame.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and a box would cost each frame an allocation"
)]
pub(crate) enum NextFrame {
    Frame(v1::ClientFrame),
    /// There is something to send, but the caller should let other tasks run first.
    YieldFirst,
    /// Nothing to send; the waker is kept.
    Nothing,
    StreamOver,
}

/// What the session task does after a frame.
pub(crate) enum Flow {
    Continue,
    /// The session has ended.
    Ended,
    /// This stream is of no more use: attach again after so long.
    AttachAgain(Duration),
}

/// What the session task does after a tick.
pub(crate) enum Tick {
    Fine,
    /// The node has said nothing for too long.
    Silent,
    /// The session was being closed and nobody could be told.
    GiveUp,
}

/// Answers that a frame brought, sent after the lock is released: a woken caller takes the lock at once.
pub(crate) type Answers = Vec<(AnswerTx, Result<Answer, Error>)>;

/// A request that has its place in the order.
pub(crate) struct Submitted {
    pub(crate) write_seq: u64,
    pub(crate) answer_rx: oneshot::Receiver<Result<Answer, Error>>,
}

impl Shared {
    pub(crate) fn new(credentials: Vec<Credential>, timeout: Duration) -> Self {
        Self {
            core: Mutex::new(Core::new(credentials, timeout)),
            room: Semaphore::new(QUEUE_PERMITS),
            waiting_for_room: AtomicUsize::new(0),
            closing: Notify::new(),
            state_tx: watch::Sender::new(SessionState::Connecting),
            request_bytes_max: AtomicUsize::new(ServerLimits::default().request_bytes()),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // Nothing in a critical section leaves the tables half changed, so a panic elsewhere does not matter here.
        self.core.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<SessionState> {
        self.state_tx.subscribe()
    }

    pub(crate) fn state(&self) -> SessionState {
        self.state_tx.borrow().clone()
    }

    pub(crate) fn session(&self) -> Option<SessionToken> {
        self.core().session.clone()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.core().timeout
    }

    pub(crate) fn lineage(&self) -> Option<Lineage> {
        self.core().lineage.clone()
    }

    pub(crate) fn limits(&self) -> ServerLimits {
        self.core().pending.limits()
    }

    pub(crate) fn request_bytes_max(&self) -> usize {
        self.request_bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn seen_zxid(&self) -> u64 {
        self.core().seen_zxid
    }

    /// The present stream's number.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn stream_id(&self) -> u64 {
        self.core().stream_id
    }

    pub(crate) fn suspended_for(&self) -> Option<Duration> {
        self.core().suspended_since.map(|since| since.elapsed())
    }

    pub(crate) fn alive_for(&self) -> Duration {
        let core = self.core();
        match core.refusal() {
            Some(_) => Duration::ZERO,
            None => core.lease.remaining(Moment::now(), core.timeout),
        }
    }

    pub(crate) fn last_failure(&self) -> Option<Error> {
        self.core().last_failure.clone()
    }

    /// No node holds the session, and it has not ended.
    pub(crate) fn is_suspended(&self) -> bool {
        *self.state_tx.borrow() == SessionState::Suspended
    }

    /// Nobody waits for the answer to this write any more, but somebody may ask for it later. False if it is
    /// not waited for here, because its answer has come.
    pub(crate) fn keep_outcome(&self, write_seq: u64) -> bool {
        self.core().keep_outcome(write_seq)
    }

    /// The answer to a write that came too late for its caller.
    pub(crate) fn late_outcome(&self, write_seq: u64) -> Option<Outcome> {
        let core = self.core();
        core.late.iter().find(|(late, _)| *late == write_seq).map(|(_, outcome)| outcome.clone())
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.core().pending.len()
    }

    pub(crate) fn add_credential(&self, credential: Credential) {
        let mut core = self.core();
        if !core.credentials.contains(&credential) {
            core.credentials.push(credential);
        }
    }

    // --- Calls.

    /// Takes room for a request without waiting; false if there is none, or others wait for it.
    pub(crate) fn try_room(&self, permits: u32) -> bool {
        if self.waiting_for_room.load(Ordering::Acquire) > 0 {
            return false;
        }
        match self.room.try_acquire_many(permits) {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => false,
            // The session has ended; submitting tells how.
            Err(tokio::sync::TryAcquireError::Closed) => true,
        }
    }

    /// Waits for room, in the order of the calls that wait.
    pub(crate) async fn room(&self, permits: u32) {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.waiting_for_room.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting_for_room);
        // An error means that the session has ended; submitting tells how.
        if let Ok(permit) = self.room.acquire_many(permits).await {
            permit.forget();
        }
    }

    /// Gives a request its place in the order. Its permits come back with its answer.
    pub(crate) fn submit(
        &self,
        op: Op,
        encoded_bytes: usize,
        permits: u32,
        arms_watch: Option<u64>,
    ) -> Result<Submitted, Error> {
        let (answer_tx, answer_rx) = oneshot::channel();
        let request = v1::Request::default();
        let pending = PendingRequest {
            request,
            encoded_bytes,
            permits,
            answer_tx: Some(answer_tx),
            arms_watch,
            refusal: None,
        };
        let mut core = self.core();
        // The limits may have changed since the call was made.
        let bytes_max = core.pending.limits().request_bytes();
        let is_too_large = encoded_bytes > bytes_max;
        let refusal = core.refusal().or_else(|| is_too_large.then(|| too_large(encoded_bytes, bytes_max)));
        if let Some(error) = refusal {
            if let Some(watch_id) = arms_watch {
                core.watches.remove(watch_id);
            }
            drop(core);
            self.room.add_permits(permits as usize);
            return Err(error);
        }
        let write_seq = core.pending.push(op, pending);
        self.wake_outbound(core);
        Ok(Submitted { write_seq, answer_rx })
    }

    /// Closes the session behind what was submitted before. Later submissions are refused.
    pub(crate) fn submit_close(&self) -> Result<Submitted, Error> {
        let submitted = self.submit(Op::Close(v1::CloseRequest {}), 8, 0, None)?;
        self.core().closing_since = Some(Instant::now());
        self.closing.notify_one();
        Ok(submitted)
    }

    /// The last handle is gone.
    pub(crate) fn on_last_handle_dropped(&self) {
        let mut core = self.core();
        if core.refusal().is_some() {
            return;
        }
        if core.session.is_some() {
            core.push_silently(Op::Close(v1::CloseRequest {}));
        }
        core.closing_since = Some(Instant::now());
        self.wake_outbound(core);
        self.closing.notify_one();
    }

    /// Completes when closing begins.
    pub(crate) async fn closing(&self) {
        self.closing.notified().await;
    }

    // --- Watches.

    pub(crate) fn register_watch(
        &self,
        kind: v1::WatchKind,
        with_value: bool,
        path: &str,
        sink: Sink,
    ) -> v1::WatchSpec {
        self.core().watches.register(kind, with_value, path, sink)
    }

    /// The watcher is gone: the server need not watch any more.
    pub(crate) fn drop_watch(&self, watch_id: u64) {
        let mut core = self.core();
        if core.watches.remove(watch_id) && core.refusal().is_none() {
            core.push_silently(Op::RemoveWatch(v1::RemoveWatchRequest { watch_id }));
            self.wake_outbound(core);
        }
    }

    // --- The transport.

    pub(crate) fn next_frame(&self, stream_id: u64, yielded: bool, waker: &Waker) -> NextFrame {
        let mut core = self.core();
        if core.stream_id != stream_id {
            return NextFrame::StreamOver;
        }
        let can_send = core.attached && core.pending.can_send();
        let can_ping = core.attached && core.ping_due;
        if !can_send && !can_ping {
            match &mut core.outbound_waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return NextFrame::Nothing;
        }
        if can_send && !yielded {
            return NextFrame::YieldFirst;
        }
        let requests = core.pending.next_requests();
        let acked_write_seq = core.pending.acked_write_seq();
        let ping =
            std::mem::take(&mut core.ping_due).then(|| v1::Ping { nonce: core.lease.on_ping(Moment::now()) });
        NextFrame::Frame(v1::ClientFrame { attach: None, requests, acked_write_seq, ping })
    }

    /// Wakes the transport if it has slept and there is something for it.
    fn wake_outbound(&self, mut core: MutexGuard<'_, Core>) {
        if !core.attached || !(core.pending.can_send() || core.ping_due) {
            return;
        }
        let waker = core.outbound_waker.take();
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    // --- The session task.

    /// Begins a stream: its number and its first frame. If that says so, more frames follow:
    /// [`next_attach`](Self::next_attach).
    pub(crate) fn begin_stream(&self, client_name: &str) -> (u64, v1::Attach) {
        let mut core = self.core();
        core.stream_id += 1;
        core.attached = false;
        core.attach_sent = Moment::now();
        core.pending.on_stream_lost();
        let has_watches = !core.watches.is_empty();
        core.watches.begin_resume();
        let fixed: usize = core.credentials.iter().map(|c| c.scheme.len() + c.auth.len() + 16).sum();
        core.attach_bytes_sent = 0;
        let (watches, more_watches) = core.next_resumed(fixed + client_name.len() + 256);
        let (session_id, password) =
            core.session.as_ref().map(|token| (token.session_id, token.password.clone())).unwrap_or_default();
        let attach = v1::Attach {
            session_id,
            password,
            timeout_ms: u32::try_from(core.timeout.as_millis()).unwrap_or(u32::MAX),
            last_zxid: if has_watches { core.mark_zxid } else { core.seen_zxid },
            credentials: core.credentials.iter().cloned().map(Into::into).collect(),
            watches,
            client_name: client_name.to_owned(),
            lineage: core.lineage.as_ref().map(Into::into),
            more_watches,
        };
        (core.stream_id, attach)
    }

    /// The next frame of an attach whose first one did not hold all watches. `None`: there is none, or the
    /// node does not wait for it.
    pub(crate) fn next_attach(&self, stream_id: u64) -> Option<v1::Attach> {
        let mut core = self.core();
        if core.stream_id != stream_id || core.attached {
            return None;
        }
        core.attach_frames += 1;
        let (watches, more_watches) = core.next_resumed(64);
        Some(v1::Attach { watches, more_watches, ..v1::Attach::default() })
    }

    /// A node cannot read a frame of the attach, which may be larger than it takes: the frames of the next
    /// attach are smaller. False if they were so small that every node takes them.
    pub(crate) fn shrink_attach(&self) -> bool {
        let mut core = self.core();
        let is_small = core.attach_bytes_sent <= ATTACH_BYTES_MIN;
        if !is_small {
            core.attach_bytes_max = Some(core.attach_bytes_sent / 2);
        }
        !is_small
    }

    /// Grows while an attach of several frames is under way.
    pub(crate) fn attach_frames(&self) -> u64 {
        self.core().attach_frames
    }

    /// The node has taken the session. An error if it cannot serve it after all.
    pub(crate) fn on_attached(&self, attached: &v1::Attached, address: &str) -> Result<(), Error> {
        let mut core = self.core();
        let lineage = Lineage { cluster_id: attached.cluster_id.clone(), number: attached.lineage_number };
        if let Some(known) = core.lineage.as_ref().filter(|known| **known != lineage) {
            let message = format!(
                "the node is of ensemble {}, the session is of ensemble {}",
                lineage.cluster_id, known.cluster_id
            );
            return Err(Error::new(ErrorKind::OtherLineage, message));
        }
        if attached.zxid < core.seen_zxid {
            let message =
                format!("the node is at zxid {}, this session has seen {}", attached.zxid, core.seen_zxid);
            return Err(Error::new(ErrorKind::NotServing, message));
        }
        if attached.last_write_seq < core.pending.acked_write_seq() {
            let message = format!(
                "the session's last write is {} to the node, but write {} was answered",
                attached.last_write_seq,
                core.pending.acked_write_seq()
            );
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        core.lineage = Some(lineage);
        core.seen_zxid = attached.zxid;
        let limits = attached.limits.as_ref().map_or_else(ServerLimits::default, ServerLimits::from);
        core.attach_bytes_max = None;
        self.request_bytes_max.store(limits.request_bytes(), Ordering::Relaxed);
        let refused = core.pending.set_limits(limits, attached.last_write_seq);
        for (pending, error) in &refused {
            if let Some(watch_id) = pending.arms_watch {
                core.watches.refuse(watch_id, error);
            }
        }
        if attached.limits.is_none() {
            core.arm_again(attached.zxid);
        }
        if core.watches.is_empty() {
            core.mark_zxid = attached.zxid;
        }
        if core.session.is_none() {
            let password = attached.password.clone();
            core.session = Some(SessionToken { session_id: attached.session_id, password });
            let sent = core.attach_sent;
            core.lease.on_opened(sent);
            // Dropped before it was opened: it can be closed only now.
            if core.closing_since.is_some() {
                core.push_silently(Op::Close(v1::CloseRequest {}));
            }
        }
        if attached.timeout_ms > 0 {
            core.timeout = Duration::from_millis(u64::from(attached.timeout_ms));
        }
        let now = Instant::now();
        core.last_received = now;
        core.suspended_since = None;
        core.last_failure = None;
        core.attached = true;
        core.lease.ping_soon();
        self.wake_outbound(core);
        for (pending, error) in refused {
            self.room.add_permits(pending.permits as usize);
            if let Some(answer_tx) = pending.answer_tx {
                // A caller that is gone does not want to know.
                drop(answer_tx.send(Err(error)));
            }
        }
        let address = Arc::from(address);
        self.state_tx.send_replace(SessionState::Connected { node_id: attached.node_id, address });
        Ok(())
    }

    /// The stream is of no more use.
    pub(crate) fn on_stream_lost(&self) {
        let mut core = self.core();
        let waker = core.outbound_waker.take();
        core.stream_id += 1;
        core.ping_due = false;
        core.pending.on_stream_lost();
        let was_attached = std::mem::take(&mut core.attached);
        if was_attached {
            core.suspended_since = Some(core.last_received);
        }
        drop(core);
        // It finds that its stream is over and lets go of the connection.
        if let Some(waker) = waker {
            waker.wake();
        }
        if was_attached {
            self.state_tx.send_replace(SessionState::Suspended);
        }
    }

    pub(crate) fn on_attempt_failed(&self, error: Error) {
        self.core().last_failure = Some(error);
    }

    /// The session is being closed, and either was never opened or has answered nothing for its timeout.
    pub(crate) fn is_given_up(&self) -> bool {
        let core = self.core();
        core.closing_since.is_some_and(|since| core.session.is_none() || since.elapsed() > core.timeout)
    }

    /// Takes a frame apart. Answers are left in `answers`.
    pub(crate) fn on_frame(&self, frame: v1::ServerFrame, answers: &mut Answers) -> Flow {
        let mut core = self.core();
        core.last_received = Instant::now();
        let mut permits = 0;
        let mut flow = Flow::Continue;
        for item in frame.items.into_iter().filter_map(|item| item.item) {
            match item {
                Item::Reply(reply) => match core.on_reply(reply, answers) {
                    Ok(freed) => {
                        permits += freed;
                        if core.closing_since.is_some() {
                            core.closing_since = Some(core.last_received);
                        }
                    }
                    Err(after) => {
                        flow = Flow::AttachAgain(after);
                        break;
                    }
                },
                Item::Event(event) => core.on_event(event),
                Item::Pong(pong) => core.on_mark(pong.zxid),
                Item::Renewed(renewed) => core.lease.on_renewed(renewed.nonce),
                Item::Resync(resync) => core.on_resync(&resync),
                Item::Ended(end) => {
                    drop(core);
                    self.room.add_permits(permits);
                    self.end(end.into());
                    return Flow::Ended;
                }
                Item::Attached(_) => {
                    tracing::warn!("the node said `attached` twice; attaching again");
                    flow = Flow::AttachAgain(Duration::ZERO);
                    break;
                }
            }
        }
        let closed = core.ended.is_some();
        self.wake_outbound(core);
        if permits > 0 {
            self.room.add_permits(permits);
        }
        if closed {
            self.finish(SessionState::Closed);
            return Flow::Ended;
        }
        flow
    }

    /// Looks after pings and silence. `silence_max`: how long a node may say nothing while it is asked.
    pub(crate) fn on_tick(&self, silence_max: Duration) -> Tick {
        let mut core = self.core();
        if core.closing_since.is_some_and(|since| since.elapsed() > core.timeout) {
            return Tick::GiveUp;
        }
        let silence = core.last_received.elapsed();
        if silence > silence_max {
            return Tick::Silent;
        }
        // Also while there is other traffic: only pings renew the lease. Well before a third of the timeout, because the
        // next tick may be late.
        let is_due = core.lease.is_ping_due(Moment::now(), core.timeout);
        if is_due || (silence > silence_max / 2 && !core.ping_due) {
            core.ping_due = true;
        }
        self.wake_outbound(core);
        Tick::Fine
    }

    /// The session has ended: everything that waits fails, and nothing is accepted any more.
    pub(crate) fn end(&self, end: SessionEnd) {
        let mut core = self.core();
        let closed_by_us = core.closing_since.is_some() && end.reason != EndReason::Refused;
        let (kind, state) = match closed_by_us {
            // If the answer to the close was lost, the next attach learns only that there is no such session.
            true => (ErrorKind::SessionClosed, SessionState::Closed),
            false => (ErrorKind::SessionExpired, SessionState::Expired(end.clone())),
        };
        // First, so that who is told by a call or a watch that the session has ended finds the state so.
        self.finish(state);
        core.fail_all(Error::new(kind, end.to_string()));
    }

    /// The session was being closed, and nobody could be told: it will expire by itself.
    pub(crate) fn give_up(&self) {
        let mut core = self.core();
        core.expires_by_itself = true;
        self.finish(SessionState::Closed);
        core.fail_all(expires_by_itself());
    }

    /// The session task is gone, with the runtime that it ran on: nobody keeps the session, and nobody
    /// answers.
    pub(crate) fn on_task_gone(&self) {
        if self.state().is_terminal() {
            return;
        }
        if self.core().closing_since.is_some() {
            return self.give_up();
        }
        let detail = "the runtime on which the client was connected was shut down".to_owned();
        self.end(SessionEnd { reason: EndReason::Abandoned, detail });
    }

    /// What came of closing a session that is `Closed`.
    pub(crate) fn closed(&self) -> Result<(), Error> {
        if self.core().expires_by_itself { Err(expires_by_itself()) } else { Ok(()) }
    }

    fn finish(&self, state: SessionState) {
        // Calls that wait for room find out when they submit.
        self.room.close();
        self.state_tx.send_replace(state);
    }
}

fn expires_by_itself() -> Error {
    Error::new(ErrorKind::SessionClosed, "closed while no node answered; it expires by itself")
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::session::watches::LastingSink;

    fn watch(shared: &Shared) -> (u64, mpsc::Receiver<crate::WatchEvent>) {
        let (events_tx, events_rx) = mpsc::channel(8);
        let sink = LastingSink { events_tx, buffered_bytes: Arc::default(), end: Arc::default() };
        let mut core = shared.core();
        let kind = v1::WatchKind::PersistentRecursive;
        let watch_id = core.watches.register(kind, false, "/a", Sink::Lasting(sink)).watch_id;
        core.watches.on_armed(watch_id, 5);
        (watch_id, events_rx)
    }

    /// A stream breaks, and the next one begins. Returns which zxid the attach names.
    fn attach(shared: &Shared, zxid: u64) -> u64 {
        shared.on_stream_lost();
        let (_, attach) = shared.begin_stream("a test");
        let attached = v1::Attached { session_id: 7, zxid, ..v1::Attached::default() };
        shared.on_attached(&attached, "127.0.0.1:7401").expect("a node that is up to date");
        attach.last_zxid
    }

    fn resync(shared: &Shared, watch_ids: &[u64], zxid: u64) {
        let item = Item::Resync(v1::Resync { watch_ids: watch_ids.into(), zxid });
        let frame = v1::ServerFrame { items: vec![v1::ServerItem { item: Some(item) }] };
        assert!(matches!(shared.on_frame(frame, &mut Answers::new()), Flow::Continue));
    }

    /// A stream that breaks right after a resync of all watches goes on from there: they are not told again
    /// that events are missing. Watches that the resync does not name go on from where they were.
    #[test]
    fn attach_after_resync() {
        let shared = Shared::new(Vec::new(), Duration::from_secs(10));
        attach(&shared, 5);
        let (first, _first_rx) = watch(&shared);
        let (second, _second_rx) = watch(&shared);
        assert_eq!(attach(&shared, 9), 5);
        resync(&shared, &[first], 9);
        assert_eq!(attach(&shared, 9), 5, "the second watch still misses events");
        resync(&shared, &[first, second], 9);
        assert_eq!(attach(&shared, 9), 9);
    }
}
