use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use coordd_proto::v1;
use futures::Stream;

use super::shared::{NextFrame, Shared};

/// The frames of one stream, pulled by the transport when it can write.
///
/// Nothing is packed before it is pulled: whatever has queued while the transport was busy goes into one frame.
pub(crate) struct Outbound {
    shared: Arc<Shared>,
    stream_id: u64,
    attach: Option<v1::Attach>,
    yielded: bool,
}

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>, stream_id: u64, attach: v1::Attach) -> Self {
        Self { shared, stream_id, attach: Some(attach), yielded: false }
    }
}

impl Stream for Outbound {
    type Item = v1::ClientFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::ClientFrame>> {
        if let Some(attach) = self.attach.take() {
            if attach.more_watches {
                self.attach = self.shared.next_attach(self.stream_id);
            }
            return Poll::Ready(Some(v1::ClientFrame { attach: Some(attach), ..Default::default() }));
        }
        let yielded = std::mem::take(&mut self.yielded);
        match self.shared.next_frame(self.stream_id, yielded, cx.waker()) {
            NextFrame::Frame(frame) => Poll::Ready(Some(frame)),
            // A batch of replies wakes many callers, and the first to send its next request wakes this task, which the
            // scheduler then runs before the other callers. Going to the back of the run queue once lets them queue
            // up, and one frame carries them all.
            NextFrame::YieldFirst => {
                self.yielded = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            NextFrame::Nothing => Poll::Pending,
            NextFrame::StreamOver => Poll::Ready(None),
        }
    }
}
