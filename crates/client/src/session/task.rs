use std::sync::Arc;
use std::time::Duration;

use coordd_proto::v1;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::server_item::Item;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;

use super::outbound::Outbound;
use super::refusal::Refusal;
use super::shared::{Answers, Flow, Shared, Tick};
use super::state::{EndReason, SessionEnd};
use crate::complaint::Complaint;
use crate::connector::{Backoff, Connector};
use crate::{Error, ErrorKind};

/// Frames of the server may be larger than those of the client: a page of children, or a reply per request.
const SERVER_FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A node that is asked may be silent for a third of the session timeout, but not suspected sooner than this.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// A stream that lived so long was a success.
const STREAM_IS_STABLE: Duration = Duration::from_secs(1);
const ATTACH_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const ATTACH_TIMEOUT_MAX: Duration = Duration::from_secs(8);

/// Keeps a session attached to some node until it ends.
///
/// Runs until the session has ended or was given up; the handles then find the reason in [`Shared`]. Aborting it (the
/// runtime shuts down) leaves the session to expire by itself.
pub(crate) struct SessionTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connector: Connector,
    pub(crate) client_name: String,
}

enum AttachError {
    /// Another attempt can help.
    Failed(Error),
    /// No attempt can.
    Ended(SessionEnd, Error),
}

impl SessionTask {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut pause = Duration::ZERO;
        while let Some(mut stream) = self.attach(pause, &mut backoff).await {
            let since = Instant::now();
            pause = match self.drive(&mut stream).await {
                Flow::Ended => return,
                Flow::AttachAgain(after) => after,
                Flow::Continue => Duration::ZERO,
            };
            self.shared.on_stream_lost();
            // A node that takes the session and loses it at once is as good as one that does not take it.
            match since.elapsed() >= STREAM_IS_STABLE {
                true => backoff = Backoff::default(),
                false => pause = pause.max(backoff.next(self.connector.endpoint_count())),
            }
        }
    }

    /// Tries the nodes in turn until one takes the session. `None`: the session has ended or was given up.
    async fn attach(&mut self, pause: Duration, backoff: &mut Backoff) -> Option<Streaming<v1::ServerFrame>> {
        let mut pause = pause;
        let (mut tries, mut complaint) = (0, Complaint::begin());
        loop {
            if self.shared.state().is_terminal() {
                return None;
            }
            if self.shared.is_given_up() {
                self.shared.give_up();
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.closing() => continue,
            }
            let patience = (ATTACH_TIMEOUT_MIN * (1 + backoff.rounds())).min(ATTACH_TIMEOUT_MAX);
            tries += 1;
            let error = match self.attach_once(patience, tries).await {
                Ok(stream) => {
                    self.connector.succeeded();
                    return Some(stream);
                }
                Err(AttachError::Failed(error)) => error,
                Err(AttachError::Ended(end, error)) => {
                    self.shared.on_attempt_failed(error);
                    self.shared.end(end);
                    return None;
                }
            };
            tracing::debug!(%error, "a node did not take the session");
            let count = self.connector.endpoint_count();
            pause = error.retry_after.unwrap_or_else(|| backoff.next(count));
            let summary = self.connector.summary().unwrap_or(error);
            complain(&mut complaint, &summary);
            self.shared.on_attempt_failed(summary);
        }
    }

    /// Tries the next node. `tries` counts the attempts since the session was attached last, this one included.
    async fn attach_once(
        &mut self,
        patience: Duration,
        tries: usize,
    ) -> Result<Streaming<v1::ServerFrame>, AttachError> {
        let (channel, node) = self.connector.dial().await.map_err(AttachError::Failed)?;
        let mut client = CoorddClient::new(channel).max_decoding_message_size(SERVER_FRAME_BYTES_MAX);
        let (stream_id, attach) = self.shared.begin_stream(&self.client_name);
        let outbound = Outbound::new(self.shared.clone(), stream_id, attach);
        let opening = async {
            let mut stream = client.session(outbound).await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, tonic::Status>((stream, first))
        };
        tokio::pin!(opening);
        let mut frames = self.shared.attach_frames();
        let opened = loop {
            let opened = tokio::time::timeout(patience, &mut opening).await;
            // Many watches take many frames, and a node that takes them is not silent.
            let frames_now = self.shared.attach_frames();
            if opened.is_ok() || std::mem::replace(&mut frames, frames_now) == frames_now {
                break opened;
            }
        };
        let opened = match opened {
            Ok(Ok((stream, first))) => self.on_first_frame(first, &node.label).map(|()| stream),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(Error::new(ErrorKind::ConnectionLoss, format!("no answer within {patience:?}"))),
        };
        opened.map_err(|error| self.judge(error, &node.name(), tries))
    }

    /// The first item must be `attached` or the end of the session; more may follow it in the same frame.
    fn on_first_frame(&self, frame: Option<v1::ServerFrame>, address: &str) -> Result<(), Error> {
        let mut frame = frame.unwrap_or_default();
        let first = (!frame.items.is_empty()).then(|| frame.items.remove(0)).and_then(|item| item.item);
        match first {
            Some(Item::Attached(attached)) => self.shared.on_attached(&attached, address)?,
            Some(Item::Ended(end)) => return Err(Error::new(ErrorKind::SessionExpired, end.detail)),
            _ => return Err(Error::new(ErrorKind::NotServing, "the node's first word was not `attached`")),
        }
        if frame.items.is_empty() {
            return Ok(());
        }
        // Nothing was asked yet on this stream, so these are events and marks, without answers.
        match self.shared.on_frame(frame, &mut Answers::new()) {
            Flow::Continue => Ok(()),
            Flow::AttachAgain(_) | Flow::Ended => {
                self.shared.on_stream_lost();
                Err(Error::new(ErrorKind::NotServing, "the stream ended as soon as it was attached"))
            }
        }
    }

    /// Whether another attempt can help, now that the node `name` has answered with an error.
    fn judge(&mut self, error: Error, name: &str, tries: usize) -> AttachError {
        self.connector.failed(name, error.clone());
        match Refusal::of(&error) {
            Refusal::Ended(reason) => {
                AttachError::Ended(SessionEnd { reason, detail: error.message.clone() }, error)
            }
            Refusal::Everywhere => refused(EndReason::Refused, error),
            // This node may take smaller frames than the one before.
            Refusal::Here if error.kind == ErrorKind::Protocol && self.shared.shrink_attach() => {
                AttachError::Failed(error)
            }
            Refusal::Here if self.was_everywhere(tries) && self.all_refuse() => {
                let is_other = |error: &Error| error.kind == ErrorKind::OtherLineage;
                let reason = match self.connector.failures().any(is_other) {
                    true => EndReason::OtherEnsemble,
                    false => EndReason::Refused,
                };
                refused(reason, self.connector.summary().unwrap_or(error))
            }
            Refusal::Here | Refusal::Passing => AttachError::Failed(error),
        }
    }

    /// Every node was tried. Two endpoints may be one node; then it takes two rounds to be sure.
    fn was_everywhere(&self, tries: usize) -> bool {
        let count = self.connector.endpoint_count();
        self.connector.failures().count() >= count || tries >= 2 * count
    }

    /// Whether every node refuses. A node that cannot be reached may still hold the session, so it is waited
    /// for, for as long as the session timeout. A session that was never opened has nothing to lose, and
    /// waits for none.
    fn all_refuse(&self) -> bool {
        let is_waiting = self.shared.suspended_for().is_some_and(|silence| silence <= self.shared.timeout());
        if is_waiting && self.connector.is_any_out_of_reach() {
            return false;
        }
        let mut failures = self.connector.failures();
        failures.all(|error| error.kind == ErrorKind::ConnectionLoss || Refusal::of(error) == Refusal::Here)
    }

    /// Reads a stream until it is lost or the session has ended.
    async fn drive(&self, stream: &mut Streaming<v1::ServerFrame>) -> Flow {
        let silence_max = (self.shared.timeout() / 3).max(SILENCE_MIN);
        let period =
            (self.shared.timeout() / 16).clamp(Duration::from_millis(20), Duration::from_millis(250));
        let mut tick = tokio::time::interval_at(Instant::now() + period, period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers = Answers::new();
        loop {
            tokio::select! {
                frame = stream.message() => match frame {
                    Ok(Some(frame)) => {
                        let flow = self.shared.on_frame(frame, &mut answers);
                        for (answer_tx, answer) in answers.drain(..) {
                            // A caller that is gone does not want to know.
                            drop(answer_tx.send(answer));
                        }
                        if !matches!(flow, Flow::Continue) {
                            return flow;
                        }
                    }
                    Ok(None) => return Flow::AttachAgain(Duration::ZERO),
                    Err(status) => return self.on_stream_failed(status),
                },
                _ = tick.tick() => match self.shared.on_tick(silence_max) {
                    Tick::Fine => {}
                    Tick::Silent => {
                        let silent_ms = silence_max.as_millis() as u64;
                        tracing::info!(silent_ms, "the node is silent; moving to another");
                        let error = Error::new(ErrorKind::ConnectionLoss, "the node was silent");
                        self.shared.on_attempt_failed(error);
                        return Flow::AttachAgain(Duration::ZERO);
                    }
                    Tick::GiveUp => {
                        self.shared.give_up();
                        return Flow::Ended;
                    }
                },
            }
        }
    }

    fn on_stream_failed(&self, status: tonic::Status) -> Flow {
        let error = Error::from(status);
        tracing::debug!(%error, "the stream broke");
        if Refusal::of_stream(&error) == Refusal::Everywhere {
            tracing::error!(%error, "the server refuses this client");
            self.shared.end(SessionEnd { reason: EndReason::Refused, detail: error.message });
            return Flow::Ended;
        }
        let after = error.retry_after.unwrap_or(Duration::ZERO);
        self.shared.on_attempt_failed(error);
        Flow::AttachAgain(after)
    }
}

fn refused(reason: EndReason, error: Error) -> AttachError {
    let end = SessionEnd { reason, detail: error.message.clone() };
    tracing::error!(%end, "no node will take the session");
    AttachError::Ended(end, error)
}

impl Drop for SessionTask {
    fn drop(&mut self) {
        self.shared.on_task_gone();
    }
}

/// Logs why no node takes the session, so that nobody waits in silence.
fn complain(complaint: &mut Complaint, error: &Error) {
    let Some(waiting) = complaint.on_failure() else { return };
    let reasons = error.message.replace("\n  ", "; ");
    let waiting_ms = waiting.as_millis() as u64;
    tracing::warn!(waiting_ms, reasons, "no node takes the session; still trying");
}
