use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::WatchStream;

use crate::complaint::Complaint;
use crate::{Check, Client, ConnectOptions, Error, ErrorKind, SessionState};

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One session after the other: when one has ended, for whatever reason, the next is opened.
///
/// For what has to be there for as long as the process: a registration, a candidacy, a cache. Everything that belonged to
/// the session that ended, its ephemerals, grants and watches, is gone; who uses this makes it anew in the next
/// session. Clones share the sessions; when the last one is dropped the present session is closed.
///
/// Curator's `CuratorFramework` does the same under its handle; here the change of sessions is visible, because what was
/// held has been lost.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
    /// What the writes of each session's client carry.
    guards: Arc<[Check]>,
}

struct Inner {
    /// `None` once closed.
    newest: watch::Sender<Option<Client>>,
    renewal: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("newest", &*self.inner.newest.borrow()).finish()
    }
}

impl Sessions {
    /// Opens the first session.
    ///
    /// # Errors
    ///
    /// Those of [`ConnectOptions::connect`]. Later sessions are tried for until one opens; failures are logged.
    ///
    /// # Cancellation
    ///
    /// A session that was opened meanwhile is closed.
    pub async fn connect<I>(endpoints: I, options: ConnectOptions) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let first = options.clone().connect(endpoints.clone()).await?;
        let newest = watch::Sender::new(Some(first));
        let renewal = Renewal { newest: newest.clone(), endpoints, options };
        let renewal = tokio::spawn(renewal.run()).abort_handle();
        Ok(Self { inner: Arc::new(Inner { newest, renewal }), guards: Arc::from([]) })
    }

    /// The same sessions, with clients whose writes carry these guards; see [`Client::guarded`].
    ///
    /// For recipes that are to have no effect once a leadership or a lock is lost under which they were started. What was created
    /// before that stays until it is given back or its session ends.
    #[must_use]
    pub fn guarded(&self, guards: impl IntoIterator<Item = Check>) -> Self {
        let guards = self.guards.iter().cloned().chain(guards).collect();
        Self { inner: self.inner.clone(), guards }
    }

    /// The newest session; it may have ended a moment ago. Its calls wait for their answers
    /// ([`Client::patient`]): recipes rely on that. For calls of one's own there is
    /// [`Client::with_call_timeout`].
    ///
    /// # Errors
    ///
    /// `SessionClosed` after [`close`](Self::close).
    pub fn newest(&self) -> Result<Client, Error> {
        self.inner.newest.borrow().as_ref().map(|client| with(&self.guards, client)).ok_or_else(closed)
    }

    /// A session that has not ended, as far as this client knows. Waits for one where none is in reach.
    ///
    /// # Errors
    ///
    /// `SessionClosed` after [`close`](Self::close).
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn live(&self) -> Result<Client, Error> {
        let mut newest = self.inner.newest.subscribe();
        let is_live =
            |client: &Option<Client>| client.as_ref().is_none_or(|client| !client.state().is_terminal());
        match newest.wait_for(is_live).await {
            Ok(client) => client.as_ref().map(|client| with(&self.guards, client)).ok_or_else(closed),
            Err(_) => Err(closed()),
        }
    }

    /// The present session and each that follows; ends after [`close`](Self::close). A session that ended before it was
    /// read is skipped.
    pub fn stream(&self) -> impl Stream<Item = Client> + Send + Unpin + 'static {
        let newest = WatchStream::new(self.inner.newest.subscribe());
        let guards = self.guards.clone();
        Box::pin(
            newest
                .take_while(|client| std::future::ready(client.is_some()))
                .filter_map(std::future::ready)
                .filter(|client| std::future::ready(!client.state().is_terminal()))
                .map(move |client| with(&guards, &client)),
        )
    }

    /// Closes the present session, and opens no other.
    ///
    /// # Errors
    ///
    /// Those of [`Client::close`].
    ///
    /// # Cancellation
    ///
    /// The session is closed all the same, if a node is in reach.
    pub async fn close(&self) -> Result<(), Error> {
        let last = self.inner.newest.send_replace(None);
        self.inner.renewal.abort();
        match last {
            Some(client) if !client.state().is_terminal() => client.close().await,
            _ => Ok(()),
        }
    }
}

fn with(guards: &[Check], client: &Client) -> Client {
    client.patient().guarded(guards.iter().cloned())
}

fn closed() -> Error {
    let message = "the sessions were closed by this client, or the runtime that they ran on was shut down";
    Error::new(ErrorKind::SessionClosed, message)
}

/// Opens a session whenever the last one has ended.
struct Renewal {
    newest: watch::Sender<Option<Client>>,
    endpoints: Vec<String>,
    options: ConnectOptions,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        // There is no next session: nobody is to wait for one.
        self.newest.send_replace(None);
    }
}

impl Renewal {
    /// Runs until it is aborted, or its runtime is shut down.
    async fn run(self) {
        let Self { newest, endpoints, options } = &self;
        loop {
            let Some(client) = newest.borrow().clone() else { return };
            let end = client.ended().await;
            drop(client);
            let end = match end {
                SessionState::Expired(end) => end.to_string(),
                _ => "closed by this client".to_owned(),
            };
            tracing::info!(end, "the session has ended; opening another");
            let (mut pause, mut complaint) = (PAUSE_FIRST, Complaint::begin());
            let next = loop {
                match options.clone().connect(endpoints.clone()).await {
                    Ok(client) => break client,
                    Err(error) => {
                        if let Some(waiting) = complaint.on_failure() {
                            let waiting_ms = waiting.as_millis() as u64;
                            tracing::warn!(%error, waiting_ms, "no new session; still trying");
                        }
                        // Clients that lost their sessions together should not all come back at the same moment.
                        let spread = rand::rng().random_range(0.5..1.0);
                        tokio::time::sleep(pause.mul_f64(spread)).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            };
            let replaced = newest.send_if_modified(|newest| match newest {
                Some(newest) => {
                    *newest = next;
                    true
                }
                // Closed meanwhile: the new session is dropped, and so closed.
                None => false,
            });
            if !replaced {
                return;
            }
        }
    }
}
