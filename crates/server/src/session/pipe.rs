//! Frames between the task of a stream and the transport: a few of them, counted until the transport takes them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures::Stream;
use tokio::sync::Notify;
use tonic::Status;

use super::outbox::Unsent;

/// Frames that wait.
const FRAMES: usize = 4;

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

    /// Ends the stream after the frames that wait.
    pub(crate) fn end(&self, status: Option<Status>) {
        self.0.change(|state| state.finish(status));
    }

    /// Ends the stream at once: what waits is dropped.
    pub(crate) fn cut(&self, status: Status) {
        let dropped = self.0.change(|state| {
            state.finish(Some(status));
            std::mem::take(&mut state.frames)
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

impl<T> State<T> {
    fn finish(&mut self, status: Option<Status>) {
        if !self.has_ended {
            self.has_ended = true;
            self.end = status;
        }
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

    use super::super::outbox::Outbox;
    use super::*;
    use crate::client_memory::ClientMemory;

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
}
