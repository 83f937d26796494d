//! Frames between the task of a stream and the transport: a few of them, counted until the transport takes them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coordd_proto::status::into_status;
use coordd_proto::v1::{self, ErrorCode};
use futures::Stream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::outbox::{Outbox, Unsent};
use crate::convert::error;

/// Frames that wait.
const FRAMES: usize = 4;
/// How long a stream that has ended waits until its reader takes the next frame.
const UNTAKEN: Duration = Duration::from_secs(30);

/// The reader is gone.
#[derive(Debug)]
pub(crate) struct Gone;

struct Shared<T> {
    state: Mutex<State<T>>,
    /// A frame was taken, or the reader has gone.
    room: Notify,
    gone: Notify,
}

struct State<T> {
    frames: VecDeque<(T, Unsent)>,
    /// Said after the frames.
    end: Option<Status>,
    has_ended: bool,
    is_gone: bool,
    reader: Option<Waker>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Where frames go in.
pub(crate) struct FrameSender<T>(Arc<Shared<T>>);

/// Where the transport takes them.
pub(crate) struct FrameReceiver<T>(Arc<Shared<T>>);

pub(crate) fn pipe<T>() -> (FrameSender<T>, FrameReceiver<T>) {
    let state = State { frames: VecDeque::new(), end: None, has_ended: false, is_gone: false, reader: None };
    let shared = Arc::new(Shared { state: Mutex::new(state), room: Notify::new(), gone: Notify::new() });
    (FrameSender(shared.clone()), FrameReceiver(shared))
}

impl<T> FrameSender<T> {
    /// There is room for a frame.
    pub(crate) fn has_room(&self) -> bool {
        self.0.look().1 < FRAMES
    }

    /// Waits until there is room for a frame.
    pub(crate) async fn room(&self) -> Result<(), Gone> {
        loop {
            let (is_gone, frames) = self.0.look();
            if is_gone {
                return Err(Gone);
            }
            if frames < FRAMES {
                return Ok(());
            }
            self.0.room.notified().await;
        }
    }

    /// Waits until the reader has gone.
    pub(crate) async fn closed(&self) {
        while !self.0.look().0 {
            self.0.gone.notified().await;
        }
    }

    /// Adds a frame; call it when there is room.
    pub(crate) fn send(&self, frame: T, unsent: Unsent) {
        self.0.change(|state| state.frames.push_back((frame, unsent)));
    }

    /// Ends the stream after the frames that wait, and returns when they are taken or the reader has gone.
    /// They are dropped, and the stream ends with an error, if `outbox` has overflown or is ended for the
    /// node's memory, or if no frame is taken for 30 s.
    pub(crate) async fn finish(self, status: Option<Status>, outbox: &Outbox) {
        self.finish_within(UNTAKEN, status, outbox).await;
    }

    async fn finish_within(self, untaken: Duration, status: Option<Status>, outbox: &Outbox) {
        self.end(status);
        let mut deadline = Instant::now() + untaken;
        loop {
            let (is_gone, frames) = self.0.look();
            if is_gone || frames == 0 {
                return;
            }
            if let Some(refused) = outbox.overflow_error() {
                return self.cut(into_status(refused));
            }
            tokio::select! {
                biased;
                () = self.0.room.notified() => deadline = Instant::now() + untaken,
                () = outbox.ready() => {}
                () = sleep_until(deadline) => {
                    let message = format!("the client took nothing for {} s", untaken.as_secs());
                    let refused = v1::Error { retry_after_ms: 100, ..error(ErrorCode::Throttled, message) };
                    return self.cut(into_status(refused));
                }
            }
        }
    }

    /// Ends the stream after the frames that wait.
    fn end(&self, status: Option<Status>) {
        self.0.change(|state| {
            if !state.has_ended {
                state.has_ended = true;
                state.end = status;
            }
        });
    }

    /// Ends the stream at once: what waits is dropped. The status takes the place of an end that was to
    /// follow it.
    fn cut(&self, status: Status) {
        let dropped = self.0.change(|state| {
            let dropped = std::mem::take(&mut state.frames);
            if !state.has_ended || !dropped.is_empty() {
                state.has_ended = true;
                state.end = Some(status);
            }
            dropped
        });
        drop(dropped);
    }
}

impl<T> Shared<T> {
    /// Whether the reader has gone, and how many frames wait.
    fn look(&self) -> (bool, usize) {
        let state = self.lock();
        (state.is_gone, state.frames.len())
    }

    fn change<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let mut state = self.lock();
        let changed = change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        changed
    }
}

impl<T> Drop for FrameSender<T> {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl<T> Stream for FrameReceiver<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        if let Some((frame, unsent)) = state.frames.pop_front() {
            drop(state);
            self.0.room.notify_one();
            drop(unsent);
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.has_ended {
            return Poll::Ready(state.end.take().map(Err));
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Drop for FrameReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_gone = true;
        let dropped = std::mem::take(&mut state.frames);
        drop(state);
        drop(dropped);
        self.0.room.notify_one();
        self.0.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use coordd_tree::Auth;
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;
    use crate::client_memory::{ClientMemory, Holder as _};

    /// Frames come in order and the end after them; a reader that is behind leaves no room.
    #[test]
    fn frames_come_before_the_end() {
        let memory = ClientMemory::unlimited();
        let outbox = Outbox::new(1, 1, 1, 1000, Auth::default(), memory.clone());
        let idle = memory.used();
        let (sender, mut receiver) = pipe();
        for number in 0..FRAMES {
            assert!(sender.has_room());
            sender.send(number, outbox.sending(100));
        }
        assert!(!sender.has_room() && sender.room().now_or_never().is_none());
        assert_eq!(memory.used(), idle + 100 * FRAMES);
        sender.end(Some(Status::aborted("the end")));
        let next = |receiver: &mut FrameReceiver<usize>| receiver.next().now_or_never().expect("is there");
        for number in 0..FRAMES {
            assert_eq!(next(&mut receiver).expect("a frame").expect("no end yet"), number);
        }
        assert_eq!(next(&mut receiver).expect("the end").unwrap_err().message(), "the end");
        assert!(next(&mut receiver).is_none());
        assert_eq!(memory.used(), idle);
    }

    /// A stream that is cut drops its frames at once, although nobody reads them.
    #[test]
    fn a_cut_stream_holds_nothing() {
        let memory = ClientMemory::unlimited();
        let outbox = Outbox::new(1, 1, 1, 1000, Auth::default(), memory.clone());
        let idle = memory.used();
        let (sender, mut receiver) = pipe();
        sender.send(1, outbox.sending(100));
        sender.cut(Status::aborted("cut"));
        assert_eq!(memory.used(), idle);
        let said = receiver.next().now_or_never().expect("is there").expect("the end");
        assert_eq!(said.unwrap_err().message(), "cut");
        drop(receiver);
        assert!(sender.room().now_or_never().expect("no wait").is_err());
        assert!(sender.closed().now_or_never().is_some());
    }

    /// The frames of a stream that has ended are dropped when the node needs their memory, or when nobody
    /// takes them.
    #[tokio::test]
    async fn ended_streams_give_way() {
        let memory = ClientMemory::unlimited();
        let outbox = Outbox::new(1, 1, 1, 1000, Auth::default(), memory.clone());
        let idle = memory.used();
        let next = |mut receiver: FrameReceiver<u32>| receiver.next().now_or_never().expect("is there");
        let (sender, receiver) = pipe();
        sender.send(1, outbox.sending(100));
        sender.finish_within(Duration::ZERO, None, &outbox).await;
        assert_eq!(memory.used(), idle);
        let said = next(receiver).expect("not the end that was to follow").unwrap_err();
        assert!(said.message().contains("took nothing"), "{said}");

        let (sender, receiver) = pipe();
        sender.send(1, outbox.sending(100));
        let mut finishing = Box::pin(sender.finish(None, &outbox));
        assert!((&mut finishing).now_or_never().is_none());
        outbox.end();
        assert!(finishing.now_or_never().is_some());
        assert_eq!(memory.used(), idle);
        let said = next(receiver).expect("not the end that was to follow").unwrap_err();
        assert!(said.message().contains("--client-memory-max"), "{said}");
    }

    /// A stream that has ended stays until its last frame is taken, or its reader has gone.
    #[tokio::test]
    async fn ended_streams_wait_for_readers() {
        let outbox = Outbox::new(1, 1, 1, 1000, Auth::default(), ClientMemory::unlimited());
        for is_read in [true, false] {
            let (sender, mut receiver) = pipe();
            sender.send(1, outbox.sending(100));
            let mut finishing = Box::pin(sender.finish(None, &outbox));
            assert!((&mut finishing).now_or_never().is_none());
            if is_read {
                assert!(receiver.next().await.is_some_and(|frame| frame.is_ok()));
            } else {
                drop(receiver);
            }
            assert!(finishing.now_or_never().is_some());
        }
    }
}
