use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use coordd_proto::v1::request::Op;
use tokio::sync::oneshot;

use crate::session::pending::{Answer, REQUEST_BYTES_MAX};
use crate::session::shared::{Shared, Submitted};
use crate::{Error, ErrorKind};

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
#[must_use = "the request is under way, but its answer is lost unless this is awaited"]
pub struct Call<T> {
    progress: Progress,
    write_seq: Option<u64>,
    /// Allocates nothing for a closure that captures nothing, which is the rule.
    map: Option<Map<T>>,
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
        map: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Self {
        let encoded_bytes = op.encoded_len();
        if encoded_bytes > REQUEST_BYTES_MAX {
            let message = format!("the request has {encoded_bytes} bytes, the limit is {REQUEST_BYTES_MAX}");
            return Self::refused(Error::new(ErrorKind::BadArguments, message));
        }
        // The size is below 4 MiB, so this fits.
        let permits = 1 + (encoded_bytes / 1024) as u32;
        if shared.try_room(permits) {
            return match shared.submit(op, encoded_bytes, permits, arms_watch) {
                Ok(Submitted { write_seq, answer_rx }) => Self {
                    progress: Progress::Submitted(answer_rx),
                    write_seq: (write_seq > 0).then_some(write_seq),
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
            map: Some(Box::new(map)),
        }
    }

    pub(crate) fn refused(error: Error) -> Self {
        Self { progress: Progress::Refused(Some(error)), write_seq: None, map: None }
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
        if let Progress::WaitsForRoom(submitting) = &mut this.progress {
            match ready!(submitting.as_mut().poll(cx)) {
                Ok(Submitted { write_seq, answer_rx }) => {
                    this.write_seq = (write_seq > 0).then_some(write_seq);
                    this.progress = Progress::Submitted(answer_rx);
                }
                Err(error) => this.progress = Progress::Refused(Some(error)),
            }
        }
        let answer = match &mut this.progress {
            Progress::Submitted(answer_rx) => match ready!(Pin::new(answer_rx).poll(cx)) {
                Ok(answer) => answer,
                // The session task went away with its runtime.
                Err(_) => {
                    Err(Error::new(ErrorKind::SessionExpired, "the runtime of the session was shut down"))
                }
            },
            Progress::Refused(error) => Err(error.take().expect("polled after it was ready")),
            Progress::WaitsForRoom(_) => return Poll::Pending,
        };
        let map = this.map.take();
        Poll::Ready(answer.and_then(|answer| map.expect("polled after it was ready")(answer)))
    }
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
