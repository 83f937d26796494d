use std::time::Duration;

use crate::call::Patience;
use crate::far::bounded;
use crate::{Client, Credential, Error};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub(crate) session_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) dial_timeout: Duration,
    pub(crate) client_name: String,
    pub(crate) credentials: Vec<Credential>,
    pub(crate) watch_buffer: usize,
    pub(crate) dedicated_thread: bool,
    pub(crate) patience: Patience,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(15),
            dial_timeout: Duration::from_millis(400),
            client_name: default_client_name(),
            credentials: Vec::new(),
            watch_buffer: 4096,
            dedicated_thread: false,
            patience: Patience::default(),
        }
    }
}

/// The program's name and process id: what an operator who sees the session in a list needs to find it.
fn default_client_name() -> String {
    let exe = std::env::current_exe().ok();
    let name =
        exe.as_deref().and_then(|exe| exe.file_name()).and_then(|name| name.to_str()).unwrap_or("client");
    // The server takes 256 bytes.
    let name: String = name.chars().take(48).collect();
    format!("{name}:{}", std::process::id())
}

impl ConnectOptions {
    /// A session timeout of 10 s, 15 s to find a node, 400 ms to connect to one address.
    pub fn new() -> Self {
        Self::default()
    }

    /// After how long a silence the session ends. The server puts it between its bounds (default 1 s to 10 min).
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = bounded(timeout);
        self
    }

    /// How long [`connect`](Self::connect) looks for a node that takes the session. Once it is open, the client looks
    /// for nodes until it learns that the session has ended.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = bounded(timeout);
        self
    }

    /// How long one address may take to accept a connection before the next is tried.
    #[must_use]
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = bounded(timeout);
        self
    }

    /// What operators see in the list of sessions. At most 256 bytes. Default: the program's name and process id.
    #[must_use]
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }

    /// An identity beside the address, presented to every node.
    #[must_use]
    pub fn credential(mut self, credential: Credential) -> Self {
        self.credentials.push(credential);
        self
    }

    /// How many events may wait in one lasting watcher before it is ended with
    /// [`WatcherLagged`](crate::ErrorKind::WatcherLagged). Default 4,096; besides, at most 64 MiB of values.
    #[must_use]
    pub fn watch_buffer(mut self, events: usize) -> Self {
        self.watch_buffer = events.max(1);
        self
    }

    /// How long each call waits for its answer; see [`Call::timeout`](crate::Call::timeout). Default: as long
    /// as the session lives. Recipes do not use it: they need to know what became of their writes.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.patience.timeout = Some(timeout);
        self
    }

    /// Calls fail with `Suspended` while no node holds the session; see
    /// [`Client::failing_fast`](crate::Client::failing_fast). Default: they wait for the next node. Recipes
    /// always wait.
    #[must_use]
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.patience.fail_fast = fail_fast;
        self
    }

    /// Runs the session on a thread of its own, so that a program that stalls its runtime keeps its session. It then
    /// also keeps its locks while it stalls: guard writes ([`Client::guarded`]) where that matters. Default: false.
    #[must_use]
    pub fn dedicated_thread(mut self, dedicated: bool) -> Self {
        self.dedicated_thread = dedicated;
        self
    }

    /// Opens a session on the first of the endpoints that takes it, tried in random order: "host:port", or any other form
    /// of [`Endpoints`](crate::Endpoints).
    ///
    /// # Errors
    ///
    /// `BadArguments` for endpoints that are none; `ConnectionLoss` or `NotServing` if no node took the session in time, with a
    /// line for each endpoint and its own reason; `AuthFailed` if a credential is wrong.
    ///
    /// # Cancellation
    ///
    /// A session that is opened after the future was dropped is closed at once.
    pub async fn connect<I>(self, endpoints: I) -> Result<Client, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Client::open(endpoints.into_iter().map(Into::into).collect(), self).await
    }
}
