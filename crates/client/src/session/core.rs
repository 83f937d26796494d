use std::collections::{HashSet, VecDeque};
use std::task::Waker;
use std::time::Duration;

use coordd_proto::v1;
use coordd_proto::v1::request::Op;
use tokio::time::Instant;

use super::lease::{Lease, Moment};
use super::pending::{Answer, PendingRequest, PendingRequests, Unanswered};
use super::shared::Answers;
use super::watches::WatchTable;
use crate::{Credential, Error, ErrorKind, Lineage, Outcome, SessionToken};

/// Late answers that are remembered.
const LATE_MAX: usize = 1024;

/// Held for short moments and never across an await, hence a `std` mutex.
pub(super) struct Core {
    pub(super) pending: PendingRequests,
    pub(super) watches: WatchTable,
    pub(super) credentials: Vec<Credential>,
    pub(super) session: Option<SessionToken>,
    /// Of the session and of all zxids here.
    pub(super) lineage: Option<Lineage>,
    pub(super) timeout: Duration,
    /// The newest zxid seen anywhere: a node behind it is refused.
    pub(super) seen_zxid: u64,
    /// Everything up to here has surely been delivered: watches go on behind it. It can be behind `seen_zxid`, because
    /// one change can be several events, and the stream can break between them.
    pub(super) mark_zxid: u64,
    /// Counts streams, so that an old one that is still being torn down cannot take requests.
    pub(super) stream_id: u64,
    /// The present stream has said `attached`.
    pub(super) attached: bool,
    /// Counts the frames of attaches after the first ones: an attach that goes on is not given up.
    pub(super) attach_frames: u64,
    /// Bytes of watches in the largest frame of the newest attach.
    pub(super) attach_bytes_sent: usize,
    /// Bytes of watches that a frame of the next attach may name, where a node has refused larger ones.
    pub(super) attach_bytes_max: Option<usize>,
    pub(super) outbound_waker: Option<Waker>,
    pub(super) ping_due: bool,
    pub(super) lease: Lease,
    /// When the present stream's `attach` was made.
    pub(super) attach_sent: Moment,
    pub(super) last_received: Instant,
    pub(super) suspended_since: Option<Instant>,
    /// Since when it is being closed and nothing was answered.
    pub(super) closing_since: Option<Instant>,
    /// It was being closed, and nobody could be told.
    pub(super) expires_by_itself: bool,
    pub(super) last_failure: Option<Error>,
    pub(super) ended: Option<Error>,
    /// Writes whose callers have stopped waiting.
    pub(super) given_up: HashSet<u64>,
    /// What was answered to them, the newest last.
    pub(super) late: VecDeque<(u64, Outcome)>,
}

impl Core {
    pub(super) fn new(credentials: Vec<Credential>, timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            pending: PendingRequests::default(),
            watches: WatchTable::default(),
            credentials,
            session: None,
            lineage: None,
            timeout,
            seen_zxid: 0,
            mark_zxid: 0,
            stream_id: 0,
            attached: false,
            attach_frames: 0,
            attach_bytes_sent: 0,
            attach_bytes_max: None,
            outbound_waker: None,
            ping_due: false,
            lease: Lease::default(),
            attach_sent: Moment::now(),
            last_received: now,
            suspended_since: None,
            closing_since: None,
            expires_by_itself: false,
            last_failure: None,
            ended: None,
            given_up: HashSet::new(),
            late: VecDeque::new(),
        }
    }

    /// Sends a request nobody waits for.
    pub(super) fn push_silently(&mut self, op: Op) {
        let request = v1::Request::default();
        let pending = PendingRequest {
            request,
            encoded_bytes: 16,
            permits: 0,
            answer_tx: None,
            arms_watch: None,
            refusal: None,
        };
        self.pending.push(op, pending);
    }

    /// See [`Shared::keep_outcome`](super::shared::Shared::keep_outcome).
    pub(super) fn keep_outcome(&mut self, write_seq: u64) -> bool {
        let waits = self.pending.has_write(write_seq);
        if waits {
            self.given_up.insert(write_seq);
        }
        waits
    }

    /// The node knows none of the watches that stood in later frames than the first one of the attach.
    pub(super) fn arm_again(&mut self, zxid: u64) {
        for request in self.watches.begin_arming_again(zxid) {
            let arms_watch = request.watch.map(|spec| spec.watch_id);
            let encoded_bytes = request.path.len() + 16;
            let pending = PendingRequest {
                request: v1::Request::default(),
                encoded_bytes,
                permits: 0,
                answer_tx: None,
                arms_watch,
                refusal: None,
            };
            self.pending.push(Op::AddWatch(request), pending);
        }
    }

    /// Takes the watches that the next frame of the attach names, beside `fixed` bytes of other fields. Says
    /// whether there are more.
    pub(super) fn next_resumed(&mut self, fixed: usize) -> (Vec<v1::ResumeWatch>, bool) {
        let limit = self.pending.limits().attach_bytes(fixed);
        let bytes = self.attach_bytes_max.map_or(limit, |max| max.min(limit));
        let (watches, more) = self.watches.next_resumed(bytes);
        self.attach_bytes_sent = self.attach_bytes_sent.max(WatchTable::bytes_of(&watches));
        (watches, more)
    }

    /// Why a new request is not accepted.
    pub(super) fn refusal(&self) -> Option<Error> {
        match (&self.ended, self.closing_since) {
            (Some(ended), _) => Some(ended.clone()),
            (None, Some(_)) => Some(Error::new(ErrorKind::SessionClosed, "the session is being closed")),
            (None, None) => None,
        }
    }

    /// Everything up to `zxid` has been delivered.
    pub(super) fn on_mark(&mut self, zxid: u64) {
        self.seen_zxid = self.seen_zxid.max(zxid);
        self.mark_zxid = self.mark_zxid.max(zxid);
    }

    /// Returns the permits that come back, or after how long to attach again.
    pub(super) fn on_reply(&mut self, reply: v1::Reply, answers: &mut Answers) -> Result<usize, Duration> {
        let pending = match self.pending.on_reply(&reply) {
            Ok(pending) => pending,
            Err(Unanswered::SendAgain(after)) => return Err(after),
            Err(Unanswered::OutOfOrder) => {
                tracing::warn!(
                    id = reply.id,
                    "a reply that does not belong to the oldest request; attaching again"
                );
                return Err(Duration::ZERO);
            }
        };
        self.on_mark(reply.zxid);
        let result = match (&pending.refusal, reply.result) {
            (Some(refusal), _) => Err(refusal.clone()),
            (None, Some(v1::reply::Result::Error(error))) => Err(error.into()),
            (None, Some(result)) => Ok(Answer { zxid: reply.zxid, result }),
            (None, None) => Err(Error::new(ErrorKind::Protocol, "the reply is empty")),
        };
        if let Some(watch_id) = pending.arms_watch {
            match &result {
                Ok(_) if self.watches.on_armed(watch_id, reply.zxid) => {}
                Ok(_) => self.push_silently(Op::RemoveWatch(v1::RemoveWatchRequest { watch_id })),
                Err(error) => self.watches.refuse(watch_id, error),
            }
        }
        if self.given_up.remove(&pending.request.write_seq) {
            self.late.push_back((pending.request.write_seq, outcome_of(&result, reply.zxid)));
            if self.late.len() > LATE_MAX {
                self.late.pop_front();
            }
        }
        if matches!(pending.request.op, Some(Op::Close(_))) && result.is_ok() {
            self.fail_all(Error::new(ErrorKind::SessionClosed, "the session was closed by this client"));
        }
        if let Some(answer_tx) = pending.answer_tx {
            answers.push((answer_tx, result));
        }
        Ok(pending.permits as usize)
    }

    pub(super) fn on_event(&mut self, event: v1::Event) {
        // There may be more events of this change, so only the one before it is surely complete.
        let zxid = event.zxid;
        self.mark_zxid = self.mark_zxid.max(zxid.saturating_sub(1));
        self.seen_zxid = self.seen_zxid.max(zxid);
        for watch_id in self.watches.deliver(event) {
            tracing::warn!(watch_id, "a watcher does not read its events and was ended");
            self.push_silently(Op::RemoveWatch(v1::RemoveWatchRequest { watch_id }));
        }
    }

    pub(super) fn on_resync(&mut self, resync: &v1::Resync) {
        match self.watches.are_all_named(&resync.watch_ids) {
            // Nothing earlier is to come. An attach that named an older position would miss the same events
            // again.
            true => self.on_mark(resync.zxid),
            // Watches that are not named may still have events of earlier changes to come.
            false => self.seen_zxid = self.seen_zxid.max(resync.zxid),
        }
        for watch_id in self.watches.resync(resync) {
            self.push_silently(Op::RemoveWatch(v1::RemoveWatchRequest { watch_id }));
        }
    }

    pub(super) fn fail_all(&mut self, error: Error) {
        for pending in self.pending.drain() {
            let write_seq = pending.request.write_seq;
            if let Some(answer_tx) = pending.answer_tx {
                let error = Error { write_seq: (write_seq > 0).then_some(write_seq), ..error.clone() };
                // A caller that is gone does not want to know.
                drop(answer_tx.send(Err(error)));
            }
        }
        self.watches.end(&error);
        self.ended = Some(error);
    }
}

fn outcome_of(answer: &Result<Answer, Error>, zxid: u64) -> Outcome {
    let result = answer.as_ref().map(drop).map_err(Clone::clone);
    Outcome::Applied { zxid, result }
}
