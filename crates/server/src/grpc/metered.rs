//! Counts what calls hold: requests that are not complete, and replies that the client has not taken.
//!
//! The transport takes a part of a reply from here only when the client has a window for the part before it.
//! So what was handed over with nothing taken after it may stay in memory for as long as the client likes: it
//! is counted. A large reply is handed over in parts, and the rest can be dropped when the node needs the
//! memory, or when nobody takes it. The parts that were handed over stay in the transport then: they count
//! for the connection, which can be ended for them.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use coordd_proto::status::into_status;
use coordd_proto::v1::{self, ErrorCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tower::{Layer, Service};

use crate::client_memory::{ClientMemory, Holder, Registered};
use crate::convert::error;
use crate::frames::MessageCounter;
use crate::incoming::{Client, ClientInfo};

/// A call takes about so many bytes of memory beside its headers and messages.
const CALL_BYTES: usize = 2 << 10;
/// HTTP/2 counts a header with so many bytes beside its name and value.
const HEADER_OVERHEAD: usize = 32;
/// A first message of which so much comes within each period of its deadline is on its way, on a slow line.
const PROGRESS: usize = 64 << 10;
/// Messages below this are not worth counting beside the call itself.
const SMALL: usize = 2 << 10;
/// A reply of a unary call above this can be dropped.
const DROPPABLE: usize = 4 << 10;
/// A frame of a stream above this can be dropped.
const DROPPABLE_FRAME: usize = 64 << 10;
/// The first part of a reply that can be dropped: it stays, if nobody takes it.
const FIRST_PART: usize = 1 << 10;
/// The parts after it.
const PART: usize = 64 << 10;
/// What waits for a socket is no more than this, for each call.
const SOCKET_BYTES: usize = 512 << 10;
/// A unary reply of which nothing is taken for so long is dropped.
pub(crate) const UNTAKEN: Duration = Duration::from_secs(30);

/// Wraps the services whose calls are counted.
#[derive(Clone)]
pub(crate) struct MeterLayer;

impl<S> Layer<S> for MeterLayer {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Metered<S> {
        Metered { inner }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Metered<S> {
    inner: S,
}

impl<S, B> Service<http::Request<tonic::body::Body>> for Metered<S>
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
{
    type Response = http::Response<ReplyBody<B>>;
    type Error = S::Error;
    type Future = Calling<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let call = request.extensions().get::<ClientInfo>().map(|client| {
            client.0.call_begins();
            let headers = request.headers().iter();
            let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
            let bytes = CALL_BYTES + headers.sum::<usize>();
            client.0.keep(bytes);
            let is_stream =
                matches!(request.uri().path(), "/coordd.v1.Coordd/Session" | "/coordd.v1.Coordd/Subscribe");
            let (request_bytes, is_answered, is_late) = Default::default();
            Arc::new(Call { client: client.0.clone(), bytes, is_stream, request_bytes, is_answered, is_late })
        });
        let request = match &call {
            Some(call) => {
                let call = call.clone();
                request.map(|inner| tonic::body::Body::new(RequestBody::new(inner, call)))
            }
            None => request,
        };
        Calling { inner: self.inner.call(request), call }
    }
}

/// One call.
struct Call {
    client: Arc<Client>,
    /// The bytes that are counted for the call itself, with its headers.
    bytes: usize,
    is_stream: bool,
    /// Complete messages of a request that is not answered yet.
    request_bytes: AtomicUsize,
    is_answered: AtomicBool,
    /// Its first message did not come in time.
    is_late: AtomicBool,
}

impl Call {
    /// The request was carried out, or its stream has begun.
    fn answered(&self) {
        // It may be answered without a look at its message.
        if !self.is_late.load(Ordering::Relaxed) {
            self.client.asks();
        }
        self.is_answered.store(true, Ordering::Relaxed);
        self.client.release(self.request_bytes.swap(0, Ordering::Relaxed));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.client.release(self.bytes + *self.request_bytes.get_mut());
        self.client.call_ends();
    }
}

/// The body of a request. What has come of a message that is not complete is counted, and until the call is
/// answered the complete ones too. The first message has a deadline.
struct RequestBody {
    inner: tonic::body::Body,
    call: Arc<Call>,
    messages: MessageCounter,
    /// Bytes of messages that are not complete, and how many of them are counted.
    pending: usize,
    counted: usize,
    /// A message was complete.
    has_message: bool,
    /// When the first message has to be complete; set when it is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes that have come in the present period of the deadline.
    came: usize,
}

impl RequestBody {
    fn new(inner: tonic::body::Body, call: Arc<Call>) -> Self {
        let messages = MessageCounter::default();
        let (pending, counted, came) = Default::default();
        RequestBody { inner, call, messages, pending, counted, has_message: false, deadline: None, came }
    }

    /// Fails when the first message is late.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.has_message {
            return Poll::Pending;
        }
        let period = self.call.client.first_request();
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(period)));
        loop {
            ready!(deadline.as_mut().poll(cx));
            if self.came < PROGRESS {
                self.call.is_late.store(true, Ordering::Relaxed);
                let message = format!(
                    "no complete request came within {} ms (--first-request-timeout)",
                    period.as_millis()
                );
                return Poll::Ready(into_status(error(ErrorCode::NotServing, message)));
            }
            self.came = 0;
            deadline.as_mut().reset(tokio::time::Instant::now() + period);
        }
    }

    /// Notes that the first message is there, or on its way.
    fn note_first(&mut self, came: usize, complete: usize) {
        self.came += came;
        if complete > 0 {
            self.has_message = true;
            self.deadline = None;
        }
        if complete > 0 || self.came >= PROGRESS {
            self.call.client.asks();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            return this.poll_deadline(cx).map(|late| Some(Err(late)));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.pending += data.len();
            let complete = this.messages.count(data);
            if !this.has_message {
                this.note_first(data.len(), complete);
            }
            let client = &this.call.client;
            client.took(data.len());
            this.pending -= complete;
            if complete >= SMALL && !this.call.is_answered.load(Ordering::Relaxed) {
                this.call.request_bytes.fetch_add(complete, Ordering::Relaxed);
                client.keep(complete);
            }
            // Small ones are not worth it.
            let wanted = if this.pending < SMALL { 0 } else { this.pending };
            match wanted.cmp(&this.counted) {
                std::cmp::Ordering::Greater => client.keep(wanted - this.counted),
                std::cmp::Ordering::Less => client.release(this.counted - wanted),
                std::cmp::Ordering::Equal => {}
            }
            this.counted = wanted;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.call.client.release(self.counted);
    }
}

pin_project_lite::pin_project! {
    /// A call that is not answered yet.
    pub(crate) struct Calling<F> {
        #[pin]
        inner: F,
        call: Option<Arc<Call>>,
    }
}

impl<F, B, E> Future for Calling<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
{
    type Output = Result<http::Response<ReplyBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let call = this.call.take();
        if let Some(call) = &call {
            call.answered();
        }
        let wrap = |inner| ReplyBody::new(inner, call);
        Poll::Ready(answer.map(|response| response.map(wrap)))
    }
}

pin_project_lite::pin_project! {
    /// The body of a reply.
    pub(crate) struct ReplyBody<B> {
        #[pin]
        inner: B,
        call: Option<Arc<Call>>,
        // Bytes of the present message that are counted here.
        held: usize,
        // The parts handed over last, which are counted here: the transport may have both.
        parts: [usize; 2],
        state: State,
    }

    impl<B> PinnedDrop for ReplyBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(call) = this.call {
                call.client.release(*this.held + this.parts.iter().sum::<usize>());
            }
        }
    }
}

impl<B> ReplyBody<B> {
    fn new(inner: B, call: Option<Arc<Call>>) -> Self {
        ReplyBody { inner, call, held: 0, parts: [0; 2], state: State::Between }
    }
}

/// Counts a part that is handed over. The transport asks for the next part when the client has a window for a
/// byte more than it was sent, so it may keep this part and the one before it.
fn hand_over(client: &Client, parts: &mut [usize; 2], bytes: usize) {
    client.keep(bytes);
    client.release(parts[0]);
    *parts = [parts[1], bytes];
}

/// No more parts come; returns what those took that the transport may have.
fn release_parts(client: &Client, parts: &mut [usize; 2]) -> usize {
    let bytes = std::mem::take(parts).iter().sum();
    client.release(bytes);
    bytes
}

/// What is left of the present message.
enum State {
    /// Nothing: it was handed over.
    Between,
    /// Its last byte. When more is asked for after that, there is a window for all before it.
    Last(Bytes),
    /// Parts, that may be dropped.
    Parts(Arc<Rest>),
    /// The call was ended.
    Ended,
}

impl<B> Body for ReplyBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(call) = this.call else { return this.inner.poll_frame(cx) };
        match std::mem::replace(this.state, State::Between) {
            State::Between => {}
            State::Last(last) => return Poll::Ready(Some(Ok(Frame::data(last)))),
            State::Parts(rest) => match rest.next(PART) {
                Part::Data(data) => {
                    hand_over(&call.client, this.parts, data.len());
                    *this.state = State::Parts(rest);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Part::AllTaken(bytes) => {
                    release_parts(&call.client, this.parts);
                    call.client.sends(bytes.min(SOCKET_BYTES));
                }
                Part::Dropped(why) => {
                    call.client.sends(release_parts(&call.client, this.parts));
                    *this.state = State::Ended;
                    return Poll::Ready(Some(Ok(dropped(why))));
                }
            },
            State::Ended => {
                *this.state = State::Ended;
                return Poll::Ready(None);
            }
        }
        // Asked for more: there is a window for what was handed over.
        if *this.held > 0 {
            call.client.sends((*this.held).min(SOCKET_BYTES));
            call.client.release(std::mem::take(this.held));
        }
        let frame = ready!(this.inner.poll_frame(cx));
        let mut data = match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => data,
            Some(Ok(Err(frame))) => return Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        let droppable = if call.is_stream { DROPPABLE_FRAME } else { DROPPABLE };
        if data.len() >= droppable {
            let rest = Rest::new(data, call.is_stream, call.client.memory().clone());
            return Poll::Ready(match rest.next(FIRST_PART) {
                Part::Data(first) => {
                    hand_over(&call.client, this.parts, first.len());
                    *this.state = State::Parts(rest);
                    Some(Ok(Frame::data(first)))
                }
                Part::Dropped(why) => {
                    *this.state = State::Ended;
                    Some(Ok(dropped(why)))
                }
                Part::AllTaken(_) => None,
            });
        }
        if data.len() >= SMALL {
            *this.held = data.len();
            call.client.keep(data.len());
            // A stream is asked for its next message anyway. Two frames for each message cost a tenth of a
            // read.
            if !call.is_stream {
                *this.state = State::Last(data.split_off(data.len() - 1));
            }
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match self.state {
            State::Between => self.inner.is_end_stream(),
            State::Ended => true,
            State::Last(_) | State::Parts(_) => false,
        }
    }
}

/// The end of a call whose reply was dropped.
fn dropped(why: v1::Error) -> Frame<Bytes> {
    let mut trailers = http::HeaderMap::new();
    // Of ASCII, and short.
    let _ = into_status(why).add_header(&mut trailers);
    Frame::trailers(trailers)
}

/// What is left of a large message, in a place where it can be dropped from outside.
struct Rest {
    data: Mutex<Left>,
    bytes: usize,
    is_stream: bool,
    memory: Arc<ClientMemory>,
    _registered: Registered,
}

struct Left {
    data: Bytes,
    is_dropped: bool,
    is_over: bool,
    taken: Instant,
}

enum Part {
    Data(Bytes),
    /// All of it was taken; so many bytes it was.
    AllTaken(usize),
    Dropped(v1::Error),
}

impl Rest {
    fn new(data: Bytes, is_stream: bool, memory: Arc<ClientMemory>) -> Arc<Self> {
        let bytes = data.len();
        memory.add(bytes);
        let left = Left { data, is_dropped: false, is_over: false, taken: Instant::now() };
        let is_far_exceeded = memory.is_far_exceeded();
        let rest = Arc::new_cyclic(|rest: &Weak<Rest>| Rest {
            data: Mutex::new(left),
            bytes,
            is_stream,
            _registered: memory.register(rest.clone()),
            memory,
        });
        if is_far_exceeded {
            rest.end();
        }
        rest
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.data.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The next part: a copy, because a slice would keep all of it. The last byte is a part of its own: when more is asked for
    /// after it, there is a window for all before it.
    fn next(&self, most: usize) -> Part {
        let mut left = self.lock();
        if left.is_dropped {
            let message = "nobody took the reply in time, or this node has no memory left for its clients \
                           (--client-memory-max); ask again";
            return Part::Dropped(v1::Error { retry_after_ms: 1000, ..error(ErrorCode::Throttled, message) });
        }
        left.taken = Instant::now();
        match left.data.len() {
            0 => {
                self.give_up(&mut left);
                Part::AllTaken(self.bytes)
            }
            1 => Part::Data(std::mem::take(&mut left.data)),
            len => {
                let part = Bytes::copy_from_slice(&left.data[..most.min(len - 1)]);
                left.data.advance(part.len());
                Part::Data(part)
            }
        }
    }

    fn give_up(&self, left: &mut Left) {
        left.data = Bytes::new();
        if !std::mem::replace(&mut left.is_over, true) {
            self.memory.remove(self.bytes);
        }
    }
}

impl Holder for Rest {
    fn held(&self) -> usize {
        let left = self.lock();
        if left.is_over { 0 } else { self.bytes }
    }

    fn end(&self) {
        let mut left = self.lock();
        if !left.is_over {
            left.is_dropped = true;
            self.give_up(&mut left);
        }
    }

    fn is_stale(&self, now: Instant) -> bool {
        let left = self.lock();
        !self.is_stream && !left.is_over && now.saturating_duration_since(left.taken) > UNTAKEN
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let mut left = self.lock();
        self.give_up(&mut left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rest: &Rest) -> (Vec<u8>, usize) {
        let (mut all, mut parts) = (Vec::new(), 0);
        loop {
            match rest.next(PART) {
                Part::Data(data) => {
                    assert!(data.len() <= PART);
                    all.extend_from_slice(&data);
                    parts += 1;
                }
                Part::AllTaken(bytes) => {
                    assert_eq!(bytes, all.len());
                    return (all, parts);
                }
                Part::Dropped(why) => panic!("{why:?}"),
            }
        }
    }

    /// A large reply comes in parts, and counts until the last of them was taken.
    #[test]
    fn large_replies_come_in_parts() {
        let memory = ClientMemory::unlimited();
        let data: Vec<u8> = (0..200_000_u32).map(|byte| byte as u8).collect();
        let rest = Rest::new(data.clone().into(), false, memory.clone());
        assert_eq!((memory.used(), rest.held()), (200_000, 200_000));
        assert_eq!(all(&rest), (data, 5));
        assert_eq!((memory.used(), rest.held()), (0, 0));
        rest.end();
        drop(rest);
        assert_eq!(memory.used(), 0);
    }

    /// A reply that nobody takes can be dropped, and the caller is told.
    #[test]
    fn untaken_replies_are_dropped() {
        let memory = ClientMemory::unlimited();
        let rest = Rest::new(vec![0; 100_000].into(), false, memory.clone());
        assert!(matches!(rest.next(FIRST_PART), Part::Data(data) if data.len() == FIRST_PART));
        let now = Instant::now();
        assert!(!rest.is_stale(now) && rest.is_stale(now + UNTAKEN * 2));
        rest.end();
        assert_eq!(memory.used(), 0);
        assert!(matches!(rest.next(PART), Part::Dropped(why) if why.code() == ErrorCode::Throttled));
        let frames = Rest::new(vec![0; 100_000].into(), true, memory.clone());
        assert!(!frames.is_stale(now + UNTAKEN * 2), "a stream may be idle for as long as it likes");
    }

    /// A reply of one message.
    struct OneMessage(Option<Bytes>);

    impl Body for OneMessage {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.take().map(|message| Ok(Frame::data(message))))
        }
    }

    fn call(client: &Arc<Client>) -> Arc<Call> {
        client.call_begins();
        let (bytes, is_stream, request_bytes, is_answered, is_late) = Default::default();
        Arc::new(Call { client: client.clone(), bytes, is_stream, request_bytes, is_answered, is_late })
    }

    /// The next frame of a body that has one; the bytes of its data.
    fn next<B: Body<Data = Bytes, Error = Status> + Unpin>(body: &mut B) -> Option<usize> {
        let polled = Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        let Poll::Ready(frame) = polled else { panic!("a frame is there") };
        frame.map(|frame| frame.expect("no error").data_ref().map_or(0, Bytes::len))
    }

    /// What the transport has of a reply counts for its connection, also when the rest of the reply was
    /// dropped.
    #[test]
    fn handed_over_parts_count() {
        let memory = ClientMemory::unlimited();
        let client = Client::new(None, Duration::ZERO, &memory);
        let idle = memory.used();
        let message = || OneMessage(Some(vec![0; 300_000].into()));
        let mut body = ReplyBody::new(message(), Some(call(&client)));
        assert_eq!(
            (next(&mut body), next(&mut body), next(&mut body)),
            (Some(FIRST_PART), Some(PART), Some(PART))
        );
        assert_eq!((client.held(), memory.used() - idle), (2 * PART, 300_000 + 2 * PART));
        let State::Parts(rest) = &body.state else { panic!("there are more parts") };
        rest.end();
        assert_eq!((client.held(), memory.used() - idle), (2 * PART, 2 * PART));
        drop(body);
        assert_eq!(memory.used(), idle);

        let mut body = ReplyBody::new(message(), Some(call(&client)));
        let mut bytes = 0;
        while let Some(part) = next(&mut body) {
            bytes += part;
        }
        assert_eq!((bytes, client.held()), (300_000, 300_000), "all of it waits for the socket");
    }
}
