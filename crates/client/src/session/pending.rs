use std::collections::VecDeque;
use std::time::Duration;

use coordd_proto::v1;
use coordd_proto::v1::request::Op;
use tokio::sync::oneshot;

use super::limits::ServerLimits;
use crate::{Check, Error, ErrorKind};

/// Where an answer goes.
pub(crate) type AnswerTx = oneshot::Sender<Result<Answer, Error>>;

/// The answer to a request that was carried out or refused.
#[derive(Debug)]
pub(crate) struct Answer {
    /// See `v1::Reply::zxid`.
    pub(crate) zxid: u64,
    /// The reply proper.
    pub(crate) result: v1::reply::Result,
}

/// A request that has no answer yet.
pub(crate) struct PendingRequest {
    pub(crate) request: v1::Request,
    /// The encoded size of the operation.
    pub(crate) encoded_bytes: usize,
    /// Permits of the queue that come back with the answer.
    pub(crate) permits: u32,
    /// Nobody waits for the answer of a request that the SDK sent for itself.
    pub(crate) answer_tx: Option<AnswerTx>,
    /// The watch that this request arms.
    pub(crate) arms_watch: Option<u64>,
    /// The answer to a write that the node cannot take. What is sent instead only uses up its number.
    pub(crate) refusal: Option<Error>,
}

/// A reply that answers nothing.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The request was not carried out, and others behind it may depend on it: attach again after so long and send
    /// everything again.
    SendAgain(Duration),
    /// The reply does not belong to the oldest unanswered request.
    OutOfOrder,
}

/// The unanswered requests of a session, oldest first: the first `sent` ones are on the present stream, the rest wait.
///
/// Invariants: ids rise; write numbers rise by one from write to write and are given at the call, so that the order of
/// effects is the order of the calls; a request leaves only from the front and only with its answer.
#[derive(Default)]
pub(crate) struct PendingRequests {
    queue: VecDeque<PendingRequest>,
    sent: usize,
    last_id: u64,
    last_write_seq: u64,
    acked_write_seq: u64,
    /// Of the node of the present stream.
    limits: ServerLimits,
}

/// Bytes of a request beside its operation: the id, the number, and what frames them.
const REQUEST_OVERHEAD: usize = 32;
/// Pause before sending again where the server named none.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(20);

impl PendingRequests {
    /// Appends a request and gives it its id and, if it writes, its number. Returns the number, 0 for a read.
    pub(crate) fn push(&mut self, op: Op, mut pending: PendingRequest) -> u64 {
        self.last_id += 1;
        let write_seq = if is_write(&op) {
            self.last_write_seq += 1;
            self.last_write_seq
        } else {
            0
        };
        pending.request = v1::Request { id: self.last_id, write_seq, op: Some(op) };
        self.queue.push_back(pending);
        write_seq
    }

    /// Something waits and the window has room for it.
    pub(crate) fn can_send(&self) -> bool {
        self.sent < self.queue.len() && self.sent < self.limits.outstanding
    }

    /// Takes what the next frame carries: as many requests as the window and the size of a frame allow. They stay in
    /// the queue, because they may have to be sent again.
    pub(crate) fn next_requests(&mut self) -> Vec<v1::Request> {
        let until = self.queue.len().min(self.limits.outstanding);
        let until = until.min(self.sent.saturating_add(self.limits.frame_requests));
        let mut requests = Vec::with_capacity(until.saturating_sub(self.sent));
        let mut bytes = 0;
        while self.sent < until {
            let pending = &self.queue[self.sent];
            // A frame carries at least one request, however large.
            let size = pending.encoded_bytes + REQUEST_OVERHEAD;
            if bytes > 0 && bytes + size > self.limits.batch_bytes() {
                break;
            }
            bytes += size;
            requests.push(pending.request.clone());
            self.sent += 1;
        }
        requests
    }

    /// Matches a reply to the oldest unanswered request.
    pub(crate) fn on_reply(&mut self, reply: &v1::Reply) -> Result<PendingRequest, Unanswered> {
        let Some(front) = self.queue.front() else { return Err(Unanswered::OutOfOrder) };
        if self.sent == 0 || front.request.id != reply.id {
            return Err(Unanswered::OutOfOrder);
        }
        if let Some(v1::reply::Result::Error(error)) = &reply.result
            && must_send_again(front, error)
        {
            let after = Duration::from_millis(u64::from(error.retry_after_ms));
            return Err(Unanswered::SendAgain(after.max(SEND_AGAIN_AFTER)));
        }
        let Some(front) = self.queue.pop_front() else { return Err(Unanswered::OutOfOrder) };
        self.sent -= 1;
        // Replies come in order, so the newest answered write is also the end of the answered ones.
        self.acked_write_seq = self.acked_write_seq.max(front.request.write_seq);
        Ok(front)
    }

    /// The next stream is to a node with these limits. `last_write_seq` is the newest write that took effect.
    /// Returns the reads that are too large for the node, with their answers. A write that is too large keeps
    /// its place, because those behind it need its number: what is sent instead changes nothing.
    pub(crate) fn set_limits(
        &mut self,
        limits: ServerLimits,
        last_write_seq: u64,
    ) -> Vec<(PendingRequest, Error)> {
        self.limits = limits;
        let bytes_max = limits.request_bytes();
        if self.queue.iter().all(|pending| pending.encoded_bytes <= bytes_max) {
            return Vec::new();
        }
        let mut refused = Vec::new();
        for mut pending in std::mem::take(&mut self.queue) {
            if pending.encoded_bytes > bytes_max {
                let error = too_large(pending.encoded_bytes, bytes_max);
                let write_seq = pending.request.write_seq;
                if write_seq == 0 {
                    refused.push((pending, error));
                    continue;
                }
                // One that took effect has its answer recorded under its number.
                if write_seq > last_write_seq {
                    pending.refusal = Some(Error { write_seq: Some(write_seq), ..error });
                }
                let nothing = no_effect();
                pending.encoded_bytes = nothing.encoded_len();
                pending.request.op = Some(nothing);
            }
            self.queue.push_back(pending);
        }
        refused
    }

    pub(crate) fn limits(&self) -> ServerLimits {
        self.limits
    }

    /// The stream is gone: everything unanswered is to be sent again, in the same order.
    pub(crate) fn on_stream_lost(&mut self) {
        self.sent = 0;
    }

    /// The number up to which all writes are answered.
    pub(crate) fn acked_write_seq(&self) -> u64 {
        self.acked_write_seq
    }

    /// This write is not answered.
    pub(crate) fn has_write(&self, write_seq: u64) -> bool {
        write_seq > self.acked_write_seq && write_seq <= self.last_write_seq && !self.queue.is_empty()
    }

    /// Unanswered requests.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Gives up all requests: the session has ended.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = PendingRequest> {
        self.sent = 0;
        std::mem::take(&mut self.queue).into_iter()
    }
}

/// The refusal of a request that is larger than the node takes.
pub(crate) fn too_large(bytes: usize, bytes_max: usize) -> Error {
    let message = format!("a request of {bytes} bytes; this server takes {bytes_max} (--frame-bytes-max)");
    Error::new(ErrorKind::BadArguments, message)
}

/// A write that changes nothing, because its only condition does not hold: the root always exists.
fn no_effect() -> Op {
    let absent = v1::Check::from(Check::absent("/"));
    let ops = vec![v1::MultiOp { op: Some(v1::multi_op::Op::Check(absent)) }];
    Op::Multi(v1::MultiRequest { ops, ..Default::default() })
}

/// Whether an operation writes and therefore carries a number.
pub(crate) fn is_write(op: &Op) -> bool {
    match op {
        Op::Create(_)
        | Op::Delete(_)
        | Op::Set(_)
        | Op::Multi(_)
        | Op::DeleteTree(_)
        | Op::SetAcl(_)
        | Op::SetQuota(_)
        | Op::DeleteQuota(_)
        | Op::Close(_) => true,
        Op::Get(_)
        | Op::Exists(_)
        | Op::List(_)
        | Op::MultiRead(_)
        | Op::GetAcl(_)
        | Op::GetEphemerals(_)
        | Op::CountDescendants(_)
        | Op::GetQuota(_)
        | Op::Sync(_)
        | Op::AddWatch(_)
        | Op::RemoveWatch(_)
        | Op::AddAuth(_)
        | Op::WhoAmI(_) => false,
    }
}

/// Whether an error is an accident of the node or the stream rather than an answer.
fn must_send_again(pending: &PendingRequest, error: &v1::Error) -> bool {
    match error.code() {
        // Not executed, and the writes behind it will not be either until this one has been.
        v1::ErrorCode::SequenceGap | v1::ErrorCode::TooManyUnacknowledged => true,
        // This node cannot; another, or the same one a little later, can.
        v1::ErrorCode::NotServing | v1::ErrorCode::SessionMoved => true,
        // The number makes sending it again harmless, and the answer final.
        v1::ErrorCode::OutcomeUnknown => pending.request.write_seq != 0,
        // A limit that passes by itself comes with a time to wait. Of one that stays (watches) the caller
        // must know. A write has its number, which nothing but an answer to it uses up.
        v1::ErrorCode::Throttled => error.retry_after_ms > 0 || pending.request.write_seq != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(encoded_bytes: usize) -> PendingRequest {
        let request = v1::Request::default();
        PendingRequest {
            request,
            encoded_bytes,
            permits: 1,
            answer_tx: None,
            arms_watch: None,
            refusal: None,
        }
    }

    fn set() -> Op {
        Op::Set(v1::SetRequest::default())
    }

    fn get() -> Op {
        Op::Get(v1::GetRequest::default())
    }

    fn ok(id: u64) -> v1::Reply {
        let result = Some(v1::reply::Result::Sync(v1::SyncReply::default()));
        v1::Reply { id, zxid: 0, result }
    }

    fn error(id: u64, code: v1::ErrorCode) -> v1::Reply {
        let error = v1::Error { code: code as i32, ..Default::default() };
        v1::Reply { id, zxid: 0, result: Some(v1::reply::Result::Error(error)) }
    }

    #[test]
    fn writes_are_numbered_at_the_call_and_reads_are_not() {
        let mut queue = PendingRequests::default();
        let numbers: Vec<u64> =
            [set(), get(), set(), get(), set()].into_iter().map(|op| queue.push(op, pending(1))).collect();
        assert_eq!(numbers, [1, 0, 2, 0, 3]);
    }

    #[test]
    fn everything_unanswered_is_sent_again_in_order_with_its_numbers() {
        let mut queue = PendingRequests::default();
        for op in [set(), get(), set()] {
            queue.push(op, pending(1));
        }
        let first = queue.next_requests();
        assert!(queue.on_reply(&ok(1)).is_ok());
        queue.push(set(), pending(1));
        queue.on_stream_lost();
        let again = queue.next_requests();
        assert_eq!(again[..2], first[1..]);
        assert_eq!(again.iter().map(|r| (r.id, r.write_seq)).collect::<Vec<_>>(), [(2, 0), (3, 2), (4, 3)]);
        assert_eq!(queue.acked_write_seq(), 1);
    }

    #[test]
    fn the_window_and_the_frame_size_bound_what_is_sent() {
        let limits = ServerLimits::default();
        let mut queue = PendingRequests::default();
        for _ in 0..limits.outstanding + 1 {
            queue.push(set(), pending(1));
        }
        assert_eq!(queue.next_requests().len(), limits.outstanding);
        assert!(!queue.can_send());
        assert!(queue.on_reply(&ok(1)).is_ok());
        assert_eq!(queue.next_requests().len(), 1);

        let mut queue = PendingRequests::default();
        let full = limits.batch_bytes();
        for bytes in [full * 2, full / 2 - REQUEST_OVERHEAD, full / 2 - REQUEST_OVERHEAD, 1] {
            queue.push(set(), pending(bytes));
        }
        let frames: Vec<usize> =
            std::iter::from_fn(|| queue.can_send().then(|| queue.next_requests().len())).collect();
        assert_eq!(frames, [1, 2, 1]);
    }

    /// The limits of the node decide, whether they are smaller or larger than usual.
    #[test]
    fn limits_of_the_node_are_followed() {
        let mut queue = PendingRequests::default();
        let told =
            v1::Limits { frame_bytes: 64 << 10, outstanding: 10, frame_requests: 4, ..Default::default() };
        assert!(queue.set_limits(ServerLimits::from(&told), 0).is_empty());
        for _ in 0..20 {
            queue.push(set(), pending(1000));
        }
        let frames: Vec<usize> =
            std::iter::from_fn(|| queue.can_send().then(|| queue.next_requests().len())).collect();
        assert_eq!(frames, [4, 4, 2]);
        assert_eq!(queue.limits().request_bytes(), (64 << 10) - 4096);
        assert_eq!(queue.limits().value_bytes, ServerLimits::default().value_bytes, "what is not told");
    }

    /// Requests that are larger than the next node takes: reads are refused at once, and writes keep their
    /// numbers. One that took effect on the node before gets the answer that is recorded.
    #[test]
    fn requests_too_large_for_the_next_node() {
        let mut queue = PendingRequests::default();
        let large = 1 << 20;
        for (op, bytes) in [(set(), large), (get(), large), (set(), large), (set(), 10), (get(), 10)] {
            queue.push(op, pending(bytes));
        }
        queue.next_requests();
        queue.on_stream_lost();
        let told = v1::Limits { frame_bytes: 64 << 10, ..Default::default() };
        let refused = queue.set_limits(ServerLimits::from(&told), 1);
        let ids: Vec<_> = refused.iter().map(|(pending, error)| (pending.request.id, error.kind)).collect();
        assert_eq!(ids, [(2, ErrorKind::BadArguments)]);

        let sent = queue.next_requests();
        let numbers: Vec<_> = sent.iter().map(|request| (request.id, request.write_seq)).collect();
        assert_eq!(numbers, [(1, 1), (3, 2), (4, 3), (5, 0)]);
        assert!(sent[..2].iter().all(|request| request.op == Some(no_effect())), "{sent:?}");
        assert_eq!(sent[2].op, Some(set()));
        let recorded = queue.on_reply(&ok(1)).expect("an answer");
        assert_eq!(recorded.refusal, None, "it took effect");
        let refused = queue.on_reply(&ok(3)).expect("an answer").refusal.expect("a refusal");
        assert_eq!((refused.kind, refused.write_seq), (ErrorKind::BadArguments, Some(2)));
    }

    #[test]
    fn a_reply_to_anything_but_the_oldest_request_is_out_of_order() {
        let mut queue = PendingRequests::default();
        queue.push(set(), pending(1));
        queue.push(set(), pending(1));
        assert!(matches!(queue.on_reply(&ok(1)), Err(Unanswered::OutOfOrder)), "not sent yet");
        queue.next_requests();
        assert!(matches!(queue.on_reply(&ok(2)), Err(Unanswered::OutOfOrder)));
        assert!(queue.on_reply(&ok(1)).is_ok());
    }

    #[test]
    fn an_accident_of_the_node_keeps_the_request_and_an_answer_takes_it() {
        let mut queue = PendingRequests::default();
        queue.push(set(), pending(1));
        queue.next_requests();
        for code in [
            v1::ErrorCode::SequenceGap,
            v1::ErrorCode::TooManyUnacknowledged,
            v1::ErrorCode::OutcomeUnknown,
            v1::ErrorCode::NotServing,
            v1::ErrorCode::Throttled,
        ] {
            assert!(matches!(queue.on_reply(&error(1, code)), Err(Unanswered::SendAgain(_))), "{code:?}");
        }
        assert_eq!(queue.acked_write_seq(), 0, "a write without an answer is not acknowledged");
        assert!(queue.on_reply(&error(1, v1::ErrorCode::BadVersion)).is_ok());
        assert_eq!(queue.acked_write_seq(), 1, "a refusal is an answer");
    }

    #[test]
    fn the_limit_of_watches_is_told_to_the_caller() {
        let mut queue = PendingRequests::default();
        queue.push(get(), PendingRequest { arms_watch: Some(7), ..pending(1) });
        queue.next_requests();
        assert!(queue.on_reply(&error(1, v1::ErrorCode::Throttled)).is_ok());
    }
}
