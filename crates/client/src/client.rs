use std::sync::Arc;
use std::time::Duration;

use coordd_proto::v1;
use coordd_proto::v1::request::Op;
use futures::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::call::{Call, Patience};
use crate::connector::Connector;
use crate::session::pending::Answer;
use crate::session::shared::Shared;
use crate::session::task::SessionTask;
use crate::{ConnectOptions, Error, ErrorKind, Lineage, ServerLimits, SessionState, SessionToken};

/// A handle on a session. Clones share the session; when the last one is dropped the session is closed, which nobody
/// waits for (see [`close`](Client::close)). Watchers and calls do not keep the session open.
///
/// # Every operation
///
/// * **Ordering.** Requests take effect, and are answered, in the order of the calls; see [`Call`](crate::Call).
/// * **Cancellation.** Dropping the call does not withdraw the request.
/// * **On connection loss** it keeps waiting, and is sent again to the next node; a write takes effect exactly once.
/// * **Errors** beside those named at the method: `SessionExpired` and `SessionClosed` when the session has ended;
///   `BadArguments` for a malformed path or a request over a limit; `Throttled` for a watch over the limit of the
///   server.
#[derive(Clone)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
    /// Sent with every write of this handle.
    pub(crate) guards: Arc<[v1::Check]>,
    /// How long calls of this handle wait.
    pub(crate) patience: Patience,
}

pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) endpoints: Vec<String>,
    pub(crate) options: ConnectOptions,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.on_last_handle_dropped();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("session_id", &self.session_id())
            .field("state", &self.state())
            .finish()
    }
}

impl Client {
    /// Opens a session with the default options; see [`ConnectOptions::connect`].
    pub async fn connect<I>(endpoints: I) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        ConnectOptions::new().connect(endpoints).await
    }

    pub(crate) async fn open(endpoints: Vec<String>, options: ConnectOptions) -> Result<Self, Error> {
        let connector = Connector::new(endpoints.clone(), options.dial_timeout)?;
        let shared = Arc::new(Shared::new(options.credentials.clone(), options.session_timeout));
        let task =
            SessionTask { shared: shared.clone(), connector, client_name: options.client_name.clone() };
        match options.dedicated_thread {
            true => spawn_thread(task)?,
            false => drop(tokio::spawn(task.run())),
        }
        let mut states = shared.subscribe();
        let connect_timeout = options.connect_timeout;
        let patience = options.patience;
        // From here on dropping the handle closes the session, also if this future is dropped.
        let client =
            Self { handle: Arc::new(Handle { shared, endpoints, options }), guards: Arc::from([]), patience };
        let decided = states.wait_for(|state| *state != SessionState::Connecting);
        let state = match tokio::time::timeout(connect_timeout, decided).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => SessionState::Connecting,
        };
        match state {
            SessionState::Connecting | SessionState::Expired(_) | SessionState::Closed => {
                let unreached = || {
                    Error::new(ErrorKind::ConnectionLoss, format!("no node answered in {connect_timeout:?}"))
                };
                Err(client.handle.shared.last_failure().unwrap_or_else(unreached))
            }
            SessionState::Connected { .. } | SessionState::Suspended => Ok(client),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// A handle on the same session whose writes carry these guards: all must hold, checked in the same step as the
    /// write, or nothing is done and the write fails with `GuardFailed`. At most 64, those of this handle included.
    ///
    /// With [`Check::epoch`](crate::Check::epoch) of a grant (a lock, an election, an assignment) a write is refused once
    /// the grant is gone, however late it arrives.
    #[must_use]
    pub fn guarded(&self, guards: impl IntoIterator<Item = crate::Check>) -> Self {
        let guards = self.guards.iter().cloned().chain(guards.into_iter().map(Into::into)).collect();
        Self { handle: self.handle.clone(), guards, patience: self.patience }
    }

    /// A handle on the same session whose writes carry no guards.
    ///
    /// For what is given back: it has to go also when that is lost under which it was taken.
    #[must_use]
    pub fn unguarded(&self) -> Self {
        Self { handle: self.handle.clone(), guards: Default::default(), patience: self.patience }
    }

    /// A handle on the same session whose calls fail with `DeadlineExceeded` when they are not answered in
    /// time; see [`Call::timeout`].
    #[must_use]
    pub fn with_call_timeout(&self, timeout: Duration) -> Self {
        Self { patience: Patience { timeout: Some(timeout), ..self.patience }, ..self.clone() }
    }

    /// A handle on the same session whose calls fail with `Suspended` while no node holds the session: those
    /// that are made then at once, without being sent, and those under way as soon as the connection is lost.
    /// Of a write under way it is not known whether it took effect, and it stays queued; [`Error::write_seq`]
    /// is its number to ask [`outcome`](Self::outcome) about.
    #[must_use]
    pub fn failing_fast(&self) -> Self {
        Self { patience: Patience { fail_fast: true, ..self.patience }, ..self.clone() }
    }

    /// A handle on the same session whose calls wait for their answers as long as the session lives, whatever
    /// the options say.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self { patience: Patience::default(), ..self.clone() }
    }

    pub(crate) fn submit<T: 'static>(
        &self,
        op: Op,
        arms_watch: Option<u64>,
        map: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Call<T> {
        Call::submit(self.shared(), op, arms_watch, self.patience, map)
    }

    /// The session's id.
    pub fn session_id(&self) -> u64 {
        self.shared().session().map_or(0, |token| token.session_id)
    }

    /// What proves that the session is one's own, for [`outcome`](Client::outcome) after its end. `None` never after
    /// `connect` has returned.
    pub fn session_token(&self) -> Option<SessionToken> {
        self.shared().session()
    }

    /// The session timeout in force.
    pub fn session_timeout(&self) -> Duration {
        self.shared().timeout()
    }

    /// The newest zxid this session has seen. No read of it will show an older state.
    pub fn last_zxid(&self) -> u64 {
        self.shared().seen_zxid()
    }

    /// Which history the zxids and epochs of this session belong to. Never another one in the life of a
    /// session: when the nodes turn out to be of another ensemble, the session ends with
    /// [`EndReason::OtherEnsemble`](crate::EndReason::OtherEnsemble). `None` never after `connect` has
    /// returned.
    pub fn lineage(&self) -> Option<Lineage> {
        self.shared().lineage()
    }

    /// Returns the limits of the node that the session is attached to, or was attached to last.
    pub fn limits(&self) -> ServerLimits {
        self.shared().limits()
    }

    /// Requests without an answer, those included that are not sent yet.
    pub fn unanswered(&self) -> usize {
        self.shared().unanswered()
    }

    /// Where the session stands now.
    pub fn state(&self) -> SessionState {
        self.shared().state()
    }

    /// Where the session stands, now and after every change. States that were left before they were read are skipped;
    /// the newest never is. It goes on after the terminal state, without items; end it there.
    pub fn states(&self) -> impl Stream<Item = SessionState> + Send + Unpin + 'static {
        WatchStream::new(self.shared().subscribe())
    }

    /// Waits until the session has ended; returns its terminal state.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn ended(&self) -> SessionState {
        let mut states = self.shared().subscribe();
        match states.wait_for(SessionState::is_terminal).await {
            Ok(state) => state.clone(),
            // The sender lives in `Shared`, which this handle holds.
            Err(_) => self.state(),
        }
    }

    /// How long no node has been heard; `None` while attached. Only the servers know whether the session is alive, but
    /// who is suspended for longer than [`session_timeout`](Client::session_timeout) should act as if it were not.
    pub fn suspended_for(&self) -> Option<Duration> {
        self.shared().suspended_for()
    }

    /// Why no node takes the session: a line for each endpoint that was tried since it was attached last. `None` while it is
    /// attached, and before the first attempt has failed.
    pub fn connection_failure(&self) -> Option<Error> {
        self.shared().last_failure()
    }

    /// For how long from now no server can have expired the session, whatever happens; zero if that is not known, and after
    /// the end. It counts on a clock that goes on while this machine sleeps, from the moment in which the last ping was
    /// sent that the leader has confirmed. Pings go out every quarter of the session timeout, so in quiet times this is
    /// between 65 and 90 hundredths of it.
    ///
    /// Who holds something that goes with the session must stop acting on it before this is zero. An operator can end a
    /// session at any time ([`Admin::kill_session`](crate::Admin::kill_session)); only guarded writes are safe from that.
    pub fn alive_for(&self) -> Duration {
        self.shared().alive_for()
    }

    /// Closes the session behind all requests made before; its ephemerals go in the same step. Later calls fail with
    /// `SessionClosed`.
    ///
    /// # Errors
    ///
    /// `SessionExpired` if it has ended already. If no node was in reach for the session's timeout, `SessionClosed`:
    /// the session then expires by itself.
    ///
    /// # Cancellation
    ///
    /// The session is closed also if the future is dropped after its first poll.
    pub async fn close(&self) -> Result<(), Error> {
        let submitted = match self.shared().submit_close() {
            Ok(submitted) => submitted,
            // Somebody else closes it: wait for that.
            Err(error) if error.kind == ErrorKind::SessionClosed => return self.closed().await,
            Err(error) => return Err(error),
        };
        match submitted.answer_rx.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind == ErrorKind::SessionClosed => self.closed().await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(ErrorKind::SessionExpired, "the runtime of the session was shut down")),
        }
    }

    async fn closed(&self) -> Result<(), Error> {
        match self.ended().await {
            SessionState::Expired(end) => Err(Error::new(ErrorKind::SessionExpired, end.to_string())),
            _ => self.shared().closed(),
        }
    }
}

fn spawn_thread(task: SessionTask) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::new(ErrorKind::ConnectionLoss, format!("no thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("coordd-session".into());
    thread.spawn(move || runtime.block_on(task.run())).map_err(failed)?;
    Ok(())
}
