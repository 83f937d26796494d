use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::stream::FusedStream;
use tokio::sync::{mpsc, oneshot};

use crate::session::shared::Shared;
use crate::session::watches::{LastingSink, Sink};
use crate::{Error, ErrorKind, WatchEvent};

/// The client's end of a watch that fires once. It is armed with the read that returned it, so the event is about the
/// first change after what that read showed. Dropping it removes the watch.
#[must_use = "dropping a watcher removes the watch"]
pub struct OneshotWatcher {
    event_rx: oneshot::Receiver<Result<WatchEvent, Error>>,
    _registration: WatchRegistration,
}

impl OneshotWatcher {
    pub(crate) fn new(receiver: OneshotReceiver, registration: WatchRegistration) -> Self {
        Self { event_rx: receiver.0, _registration: registration }
    }

    /// Waits for the event and is consumed by it. [`WatchEvent::Resync`]: something may have changed; read again.
    ///
    /// # Errors
    ///
    /// `SessionExpired` or `SessionClosed` when the session has ended.
    ///
    /// # On connection loss
    ///
    /// It keeps waiting; a change that happened meanwhile is delivered after the reconnect.
    ///
    /// # Cancellation
    ///
    /// The watcher is gone with the future, and the event with it.
    pub async fn changed(self) -> Result<WatchEvent, Error> {
        self.event_rx.await.unwrap_or_else(|_| Err(runtime_gone()))
    }
}

/// The client's end of a watch that stays. Dropping it removes the watch.
///
/// Events are delivered in the order of their zxids, each once. They wait here until they are read, as many as
/// [`ConnectOptions::watch_buffer`](crate::ConnectOptions::watch_buffer) says; if they are not read in time the
/// watcher is ended, after the events that fitted, with `WatcherLagged`, and other watchers are not held up.
#[must_use = "dropping a watcher removes the watch"]
pub struct PersistentWatcher {
    receiver: LastingReceiver,
    /// The stream has told why it ended.
    has_ended: bool,
    _registration: WatchRegistration,
}

impl PersistentWatcher {
    pub(crate) fn new(receiver: LastingReceiver, registration: WatchRegistration) -> Self {
        Self { receiver, has_ended: false, _registration: registration }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// All are the end of this watcher: `WatcherLagged`; `SessionExpired` or `SessionClosed` when the session has ended.
    ///
    /// # Cancellation
    ///
    /// Safe: an event that was not returned is returned by the next call.
    ///
    /// # On connection loss
    ///
    /// It keeps waiting; what happened meanwhile is delivered after the reconnect, or a [`WatchEvent::Resync`] where the
    /// server no longer has it.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchEvent, Error>> {
        Poll::Ready(match ready!(self.receiver.events_rx.poll_recv(cx)) {
            Some(event) => {
                self.receiver.on_taken(&event);
                Ok(event)
            }
            None => Err(self.receiver.end.get().cloned().unwrap_or_else(runtime_gone)),
        })
    }
}

/// The events, and at the end the error that [`next`](PersistentWatcher::next) gives, once.
impl Stream for PersistentWatcher {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.poll_event(cx));
        self.has_ended = item.is_err();
        Poll::Ready(Some(item))
    }
}

impl FusedStream for PersistentWatcher {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

fn runtime_gone() -> Error {
    Error::new(ErrorKind::SessionExpired, "the runtime of the session was shut down")
}

/// Ends the watch, here and at the server, when it is dropped.
pub(crate) struct WatchRegistration {
    shared: Arc<Shared>,
    watch_id: u64,
}

impl WatchRegistration {
    pub(crate) fn new(shared: Arc<Shared>, watch_id: u64) -> Self {
        Self { shared, watch_id }
    }
}

impl Drop for WatchRegistration {
    fn drop(&mut self) {
        self.shared.drop_watch(self.watch_id);
    }
}

/// The receiving half of a [`Sink::OneShot`].
pub(crate) struct OneshotReceiver(oneshot::Receiver<Result<WatchEvent, Error>>);

pub(crate) fn oneshot() -> (Sink, OneshotReceiver) {
    let (event_tx, event_rx) = oneshot::channel();
    (Sink::OneShot(event_tx), OneshotReceiver(event_rx))
}

/// The receiving half of a [`LastingSink`].
pub(crate) struct LastingReceiver {
    events_rx: mpsc::Receiver<WatchEvent>,
    buffered_bytes: Arc<AtomicUsize>,
    end: Arc<OnceLock<Error>>,
}

impl LastingReceiver {
    fn on_taken(&self, event: &WatchEvent) {
        let bytes = event.event().and_then(|event| event.value.as_ref()).map_or(0, |(data, _)| data.len());
        self.buffered_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

pub(crate) fn lasting(capacity: usize) -> (Sink, LastingReceiver) {
    let (events_tx, events_rx) = mpsc::channel(capacity);
    let (buffered_bytes, end) = (Arc::<AtomicUsize>::default(), Arc::<OnceLock<Error>>::default());
    let receiver = LastingReceiver { events_rx, buffered_bytes: buffered_bytes.clone(), end: end.clone() };
    (Sink::Lasting(LastingSink { events_tx, buffered_bytes, end }), receiver)
}
