use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coordd_proto::v1::request::Op;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::session::pending::{Answer, too_large};
use crate::session::shared::{Shared, Submitted};
use crate::{Error, ErrorKind, SessionState};

/// A request on its way: a future of its answer.
///
/// # Ordering
///
/// The request took its place when the method that returned this was called; awaiting only waits. One exception keeps
/// memory bounded: when requests for 64 MiB, or 65,536 requests, are unanswered, a call waits for room and takes its
/// place when it gets it, in the order in which such calls were first polled.
///
/// # Cancellation
///
/// Dropping it does not withdraw the request: a write takes effect, and only its answer is lost. (A call that still
/// waits for room is withdrawn.)
///
/// # On connection loss
///
/// It keeps waiting. The request is sent again to the next node, and a write takes effect exactly once. The call fails
/// when the session has ended; then [`Error::write_seq`] is the number to ask [`Client::outcome`](crate::Client::outcome)
/// about.
///
/// # Deadlines
///
/// With a [`timeout`](Self::timeout), or on a handle that [fails fast](crate::Client::failing_fast), it stops
/// waiting earlier. That does not withdraw the request, for the writes behind it have their numbers: a write
/// may have taken effect, or does so when a node is reached, exactly once, and if the session ends first it
/// may never. `outcome(session, write_seq)` tells which, and remembers an answer that came late. Nothing is
/// known to have changed only if [`Error::write_seq`] is `None`.
#[must_use = "the request is under way, but its answer is lost unless this is awaited"]
pub struct Call<T> {
    progress: Progress,
    write_seq: Option<u64>,
    /// When to stop waiting; `None` for never, which is the rule.
    giving_up: Option<GivingUp>,
    /// Allocates nothing for a closure that captures nothing, which is the rule.
    map: Option<Map<T>>,
}

/// How long the calls of a handle wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patience {
    pub(crate) timeout: Option<Duration>,
    pub(crate) fail_fast: bool,
}

struct GivingUp {
    shared: Arc<Shared>,
    /// Since when, and how long.
    timeout: Option<(Instant, Duration)>,
    fail_fast: bool,
    /// Made when it is first polled, in the runtime of the caller.
    waiting: Option<Pin<Box<dyn Future<Output = Error> + Send>>>,
}

type Map<T> = Box<dyn FnOnce(Answer) -> Result<T, Error> + Send>;
type AnswerRx = oneshot::Receiver<Result<Answer, Error>>;

enum Progress {
    /// The queue is full.
    WaitsForRoom(Pin<Box<dyn Future<Output = Result<Submitted, Error>> + Send>>),
    Submitted(AnswerRx),
    /// Refused before it was sent.
    Refused(Option<Error>),
}

impl<T> Call<T> {
    pub(crate) fn submit(
        shared: &Arc<Shared>,
        op: Op,
        arms_watch: Option<u64>,
        patience: Patience,
        map: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Self {
        let encoded_bytes = op.encoded_len();
        let bytes_max = shared.request_bytes_max();
        if encoded_bytes > bytes_max {
            return Self::refused(too_large(encoded_bytes, bytes_max));
        }
        if patience.fail_fast && shared.is_suspended() {
            return Self::refused(suspended(shared));
        }
        let giving_up = GivingUp::new(shared, patience);
        // The size is below that of a frame, so this fits.
        let permits = 1 + (encoded_bytes / 1024) as u32;
        if shared.try_room(permits) {
            return match shared.submit(op, encoded_bytes, permits, arms_watch) {
                Ok(Submitted { write_seq, answer_rx }) => Self {
                    progress: Progress::Submitted(answer_rx),
                    write_seq: (write_seq > 0).then_some(write_seq),
                    giving_up,
                    map: Some(Box::new(map)),
                },
                Err(error) => Self::refused(error),
            };
        }
        let shared = shared.clone();
        let submitting = async move {
            shared.room(permits).await;
            shared.submit(op, encoded_bytes, permits, arms_watch)
        };
        Self {
            progress: Progress::WaitsForRoom(Box::pin(submitting)),
            write_seq: None,
            giving_up,
            map: Some(Box::new(map)),
        }
    }

    /// Waits at most for `timeout` from now; then the call fails with `DeadlineExceeded`. Must be awaited in
    /// a tokio runtime.
    #[must_use = "the request is under way, but its answer is lost unless this is awaited"]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let Some(giving_up) = &mut self.giving_up {
            giving_up.timeout = Some((Instant::now(), timeout));
            giving_up.waiting = None;
        }
        self
    }

    pub(crate) fn refused(error: Error) -> Self {
        Self { progress: Progress::Refused(Some(error)), write_seq: None, giving_up: None, map: None }
    }

    /// The number of this write in its session; `None` for a read, or a call that waits for room.
    pub fn write_seq(&self) -> Option<u64> {
        self.write_seq
    }
}

// Nothing in it is pinned in place.
impl<T> Unpin for Call<T> {}

impl<T> Future for Call<T> {
    type Output = Result<T, Error>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let answer = match this.poll_answer(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => Err(ready!(this.poll_giving_up(cx))),
        };
        let map = this.map.take();
        Poll::Ready(answer.and_then(|answer| map.expect("polled after it was ready")(answer)))
    }
}

impl<T> Call<T> {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        if let Progress::WaitsForRoom(submitting) = &mut self.progress {
            match ready!(submitting.as_mut().poll(cx)) {
                Ok(Submitted { write_seq, answer_rx }) => {
                    self.write_seq = (write_seq > 0).then_some(write_seq);
                    self.progress = Progress::Submitted(answer_rx);
                }
                Err(error) => self.progress = Progress::Refused(Some(error)),
            }
        }
        match &mut self.progress {
            Progress::Submitted(answer_rx) => match ready!(Pin::new(answer_rx).poll(cx)) {
                Ok(answer) => Poll::Ready(answer),
                // The session task went away with its runtime.
                Err(_) => Poll::Ready(Err(Error::new(
                    ErrorKind::SessionExpired,
                    "the runtime of the session was shut down",
                ))),
            },
            Progress::Refused(error) => Poll::Ready(Err(error.take().expect("polled after it was ready"))),
            Progress::WaitsForRoom(_) => Poll::Pending,
        }
    }

    /// Ready when the caller has waited long enough.
    fn poll_giving_up(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(giving_up) = &mut self.giving_up else { return Poll::Pending };
        let error = ready!(giving_up.poll(cx));
        let write_seq = self.write_seq;
        // An answer that is on its way here is better than none, and the waker is known to what brings it.
        if write_seq.is_some_and(|write_seq| !giving_up.shared.keep_outcome(write_seq)) {
            self.giving_up = None;
            return Poll::Pending;
        }
        Poll::Ready(Error { write_seq, ..error })
    }
}

impl GivingUp {
    fn new(shared: &Arc<Shared>, patience: Patience) -> Option<Self> {
        let timeout = patience.timeout.map(|timeout| (Instant::now(), timeout));
        Some(Self { shared: shared.clone(), timeout, fail_fast: patience.fail_fast, waiting: None })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.timeout.is_none() && !self.fail_fast {
            return Poll::Pending;
        }
        let Self { shared, timeout, fail_fast, waiting } = self;
        let make = || {
            let (shared, timeout, fail_fast) = (shared.clone(), *timeout, *fail_fast);
            Box::pin(async move {
                let mut states = shared.subscribe();
                let late = async {
                    // A time that no clock reaches is never.
                    match timeout.and_then(|(since, timeout)| since.checked_add(timeout)) {
                        Some(deadline) => tokio::time::sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                };
                let lost = async {
                    let is_suspended = |state: &SessionState| *state == SessionState::Suspended;
                    if !fail_fast || states.wait_for(is_suspended).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = late => late_error(&shared, timeout.map_or(Duration::ZERO, |(_, timeout)| timeout)),
                    () = lost => suspended(&shared),
                }
            }) as Pin<Box<dyn Future<Output = Error> + Send>>
        };
        waiting.get_or_insert_with(make).as_mut().poll(cx)
    }
}

fn late_error(shared: &Shared, timeout: Duration) -> Error {
    let mut message = format!("not answered within {timeout:?}");
    if let Some(failure) = shared.last_failure() {
        message = format!("{message}; no node takes the session: {}", failure.message);
    }
    Error::new(ErrorKind::DeadlineExceeded, message)
}

fn suspended(shared: &Shared) -> Error {
    let message = match shared.last_failure() {
        Some(failure) => format!("no node holds the session: {}", failure.message),
        None => "no node holds the session".to_owned(),
    };
    Error::new(ErrorKind::Suspended, message)
}

/// The answer is of another kind than the request.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    let mut kind = format!("{:?}", answer.result);
    kind.truncate(kind.find('(').unwrap_or(kind.len()));
    Error::new(ErrorKind::Protocol, format!("the answer is a {kind}, which was not asked for"))
}

/// Takes the reply of one kind out of an answer.
macro_rules! expect_reply {
    ($kind:ident, $answer:expr) => {
        match $answer {
            $crate::session::pending::Answer {
                result: coordd_proto::v1::reply::Result::$kind(reply),
                ..
            } => Ok(reply),
            answer => Err($crate::call::unexpected(&answer)),
        }
    };
}
pub(crate) use expect_reply;
