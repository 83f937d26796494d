use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use rand::Rng as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::WatchStream;

use super::Sessions;
use super::parents::create_in_container;
use crate::complaint::Complaint;
use crate::{AclEntry, Check, Client, CreateMode, CreateOptions, Created, Error, ErrorKind, ReadLevel};

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a [`PersistentEphemeral`] is made.
#[derive(Clone, Debug, Default)]
pub struct PersistentEphemeralOptions {
    sequential: bool,
    acl: Vec<AclEntry>,
}

impl PersistentEphemeralOptions {
    /// Under the path as it is given, open to the world.
    pub fn new() -> Self {
        Self::default()
    }

    /// The path is a prefix, and a ten-digit number is appended once: each znode that follows has the same name.
    #[must_use]
    pub fn sequential(mut self, sequential: bool) -> Self {
        self.sequential = sequential;
        self
    }

    /// Who may do what with the znode; empty: everybody everything.
    #[must_use]
    pub fn acl(mut self, acl: impl IntoIterator<Item = AclEntry>) -> Self {
        self.acl = acl.into_iter().collect();
        self
    }
}

/// An ephemeral znode that is there for as long as this handle: it is created again in each new session, and when
/// somebody deletes it. Missing parents become containers, with the same ACL.
///
/// Curator's `PersistentNode`; kazoo has none.
///
/// * **A path that is taken** by another ephemeral, such as that of this program's last life, whose session has not
///   expired yet, is waited for. A znode that is no ephemeral would never go: it is `NodeExists` at first, and waited for
///   later.
/// * **When the session ends** the znode goes with it, and comes back in the next session of the [`Sessions`]. Each znode
///   has its own czxid ([`created`](Self::created)), so what was guarded by the former one is refused.
/// * **Dropping the handle** deletes the znode, and nobody waits for it; [`close`](Self::close) waits.
/// * **Data that somebody else sets** stay until the next [`set_data`](Self::set_data) or the next creation.
#[derive(Debug)]
pub struct PersistentEphemeral {
    path: String,
    sets_tx: mpsc::Sender<Set>,
    created: watch::Receiver<Option<Created>>,
    /// Dropped to end the keeper.
    alive_tx: watch::Sender<()>,
    keeper: JoinHandle<()>,
}

#[derive(Debug)]
struct Set {
    data: Bytes,
    answer_tx: oneshot::Sender<Result<(), Error>>,
}

impl PersistentEphemeral {
    /// Creates the znode, and returns when it is there.
    ///
    /// # Errors
    ///
    /// Those of [`Client::create`], `NodeExists` only for a znode that is no ephemeral; `SessionClosed` if the sessions were
    /// closed.
    ///
    /// # Cancellation
    ///
    /// Leaves no znode behind.
    pub async fn create(
        sessions: &Sessions,
        path: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Self, Error> {
        Self::create_with(sessions, path, data, PersistentEphemeralOptions::new()).await
    }

    /// The same with options.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create).
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn create_with(
        sessions: &Sessions,
        path: impl Into<String>,
        data: impl Into<Bytes>,
        options: PersistentEphemeralOptions,
    ) -> Result<Self, Error> {
        let (alive_tx, gone) = watch::channel(());
        // One set at a time: who comes later waits in the channel.
        let (sets_tx, sets_rx) = mpsc::channel(1);
        let (first_tx, first_rx) = oneshot::channel();
        let created = watch::Sender::new(None);
        let created_rx = created.subscribe();
        let keeper = Keeper {
            path: path.into(),
            data: data.into(),
            options,
            gone,
            sets_rx,
            pending: None,
            first_tx: Some(first_tx),
            created,
        };
        let keeper = tokio::spawn(keeper.run(sessions.clone()));
        let path = first_rx.await.unwrap_or_else(|_| Err(closed()))?.path;
        Ok(Self { path, sets_tx, created: created_rx, alive_tx, keeper })
    }

    /// The full path, with the number of a sequential one. It never changes.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The present znode, with its stat when it was created; `None` while there is none.
    pub fn created(&self) -> Option<Created> {
        self.created.borrow().clone()
    }

    /// The present znode and each that follows; `None` when it was lost. What was replaced before it was read is skipped.
    /// Ends when the sessions are closed or the handle is dropped.
    pub fn changes(&self) -> impl Stream<Item = Option<Created>> + Send + Unpin + 'static {
        WatchStream::new(self.created.clone())
    }

    /// Replaces the data, now and in each znode that follows. While there is none it waits for the next.
    ///
    /// # Errors
    ///
    /// Those of [`Client::set`] but `NoNode`: then the former data stay. `SessionClosed` if the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// The data may be replaced all the same.
    pub async fn set_data(&self, data: impl Into<Bytes>) -> Result<(), Error> {
        let (answer_tx, answer_rx) = oneshot::channel();
        let set = Set { data: data.into(), answer_tx };
        self.sets_tx.send(set).await.map_err(|_| closed())?;
        answer_rx.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Deletes the znode, and returns when it is gone.
    ///
    /// # Cancellation
    ///
    /// The znode goes all the same.
    pub async fn close(self) {
        drop(self.alive_tx);
        // It ends by itself, and has nothing to say.
        let _ = self.keeper.await;
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::SessionClosed, "the sessions of the persistent ephemeral were closed")
}

/// The task behind the handle. It is not aborted but told, so that it never leaves while a create is under way whose znode
/// nobody would delete.
struct Keeper {
    path: String,
    data: Bytes,
    options: PersistentEphemeralOptions,
    /// Closed when the handle has been dropped.
    gone: watch::Receiver<()>,
    sets_rx: mpsc::Receiver<Set>,
    /// A set that met the end of a znode or a session.
    pending: Option<Set>,
    /// Taken when the first znode is there.
    first_tx: Option<oneshot::Sender<Result<Created, Error>>>,
    created: watch::Sender<Option<Created>>,
}

/// Why the keeper stopped what it did.
enum Stop {
    /// The znode is gone: create it again.
    Deleted,
    /// The session has ended: go on in the next.
    SessionEnded,
    /// The handle was dropped, or the first znode could not be created.
    Done,
}

impl Keeper {
    async fn run(mut self, sessions: Sessions) {
        let mut stream = sessions.stream();
        loop {
            let client = tokio::select! {
                biased;
                _ = self.gone.changed() => return,
                client = stream.next() => client,
            };
            let Some(client) = client else { return };
            let stop = self.live_in(&client).await;
            self.created.send_replace(None);
            match stop {
                Stop::Deleted | Stop::SessionEnded => {}
                Stop::Done => return,
            }
        }
    }

    /// Keeps the znode in one session.
    async fn live_in(&mut self, client: &Client) -> Stop {
        loop {
            let created = match self.create(client).await {
                Ok(created) => created,
                Err(stop) => return stop,
            };
            self.path.clone_from(&created.path);
            self.options.sequential = false;
            self.created.send_replace(Some(created.clone()));
            if let Some(first_tx) = self.first_tx.take() {
                // Nobody waits any more: the handle is gone, and that is noticed next.
                let _ = first_tx.send(Ok(created.clone()));
            }
            match self.hold(client, &created).await {
                Stop::Deleted => {
                    tracing::info!(path = self.path, "the ephemeral was deleted; creating it again");
                    self.created.send_replace(None);
                }
                stop => return stop,
            }
        }
    }

    async fn create(&mut self, client: &Client) -> Result<Created, Stop> {
        let (mut pause, mut complaint) = (PAUSE_FIRST, Complaint::begin());
        loop {
            if self.is_gone() {
                return Err(Stop::Done);
            }
            let mode = match self.options.sequential {
                true => CreateMode::EphemeralSequential,
                false => CreateMode::Ephemeral,
            };
            let options = CreateOptions::new(mode).acl(self.options.acl.iter().cloned());
            // Not given up when the handle is dropped: what it makes has to be deleted.
            let error = match create_in_container(client, &self.path, self.data.clone(), &options).await {
                Ok(created) => return Ok(created),
                Err(error) => error,
            };
            let error = match error.kind {
                _ if error.is_terminal() => return Err(Stop::SessionEnded),
                ErrorKind::NodeExists => match self.wait_until_free(client, error).await {
                    Ok(()) => continue,
                    Err(error) if error.is_terminal() => return Err(Stop::SessionEnded),
                    Err(error) => error,
                },
                _ => error,
            };
            if let Some(first_tx) = self.first_tx.take() {
                let _ = first_tx.send(Err(error));
                return Err(Stop::Done);
            }
            if let Some(waiting) = complaint.on_failure() {
                let (path, waiting_ms) = (&self.path, waiting.as_millis() as u64);
                tracing::warn!(path, %error, waiting_ms, "the ephemeral cannot be created; still trying");
            }
            let spread = rand::rng().random_range(0.5..1.0);
            self.sleep(pause.mul_f64(spread)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits until whoever has the path has left it, or the handle is dropped. `taken` is returned if that has no prospect.
    async fn wait_until_free(&mut self, client: &Client, taken: Error) -> Result<(), Error> {
        loop {
            // The session has seen the znode that is in the way, so a local read shows it.
            let (stat, watcher) = client.exists_and_watch(self.path.clone(), ReadLevel::Local).await?;
            let Some(stat) = stat else { return Ok(()) };
            match stat.ephemeral_owner {
                0 if self.first_tx.is_some() => {
                    let message = format!(
                        "the znode {} is not ephemeral, so it would never make room; delete it or use \
                         another path",
                        self.path
                    );
                    return Err(Error { message, ..taken });
                }
                0 => tracing::warn!(
                    path = self.path,
                    "a znode that is not ephemeral has the path; waiting until somebody deletes it"
                ),
                owner => {
                    tracing::info!(path = self.path, owner, "the path is taken; waiting until it is free")
                }
            }
            tokio::select! {
                biased;
                _ = self.gone.changed() => return Ok(()),
                event = watcher.changed() => event?,
            };
        }
    }

    /// Watches over the znode and sets its data, until it is gone or is to go.
    async fn hold(&mut self, client: &Client, created: &Created) -> Stop {
        let epoch = created.stat.czxid;
        let own = Check::epoch(created.path.clone(), epoch);
        let guarded = client.guarded([own.clone()]);
        // It has to go also when that is lost under which it was made.
        let undoing = client.unguarded().guarded([own]);
        loop {
            let armed = tokio::select! {
                biased;
                _ = self.gone.changed() => return self.delete(&undoing).await,
                armed = client.exists_and_watch(self.path.clone(), ReadLevel::Local) => armed,
            };
            let mut changed = match armed {
                Ok((Some(stat), watcher)) if stat.czxid == epoch => Box::pin(watcher.changed()),
                Ok(_) => return Stop::Deleted,
                Err(error) if error.is_terminal() => return Stop::SessionEnded,
                Err(error) => {
                    tracing::warn!(path = self.path, %error, "the ephemeral cannot be watched; trying again");
                    self.sleep(PAUSE_FIRST).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    biased;
                    _ = self.gone.changed() => return self.delete(&undoing).await,
                    // Whatever it was, the next look shows it.
                    _ = &mut changed => break,
                    Some(set) = next_set(&mut self.pending, &mut self.sets_rx) => {
                        if let Some(stop) = self.set(&guarded, set).await {
                            return stop;
                        }
                    }
                }
            }
        }
    }

    async fn set(&mut self, guarded: &Client, set: Set) -> Option<Stop> {
        let answer = guarded.set(self.path.clone(), set.data.clone(), None).await;
        let stop = match &answer {
            Err(error) if error.is_terminal() => Some(Stop::SessionEnded),
            // Another guard than that of the znode is one of the sessions', and this znode is still there.
            Err(error) if error.kind == ErrorKind::GuardFailed && error.path == self.path => {
                Some(Stop::Deleted)
            }
            _ => None,
        };
        if stop.is_some() {
            self.pending = Some(set);
            return stop;
        }
        if answer.is_ok() {
            self.data = set.data;
        }
        // Who asked may have stopped waiting.
        let _ = set.answer_tx.send(answer.map(drop));
        None
    }

    async fn delete(&self, undoing: &Client) -> Stop {
        // If it fails the znode is gone already, or goes with its session.
        if let Err(error) = undoing.delete(self.path.clone(), None).await {
            tracing::debug!(path = self.path, %error, "the ephemeral was gone before it was deleted");
        }
        Stop::Done
    }

    fn is_gone(&self) -> bool {
        self.gone.has_changed().is_err()
    }

    async fn sleep(&mut self, pause: Duration) {
        tokio::select! {
            biased;
            _ = self.gone.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn next_set(pending: &mut Option<Set>, sets_rx: &mut mpsc::Receiver<Set>) -> Option<Set> {
    match pending.take() {
        Some(set) => Some(set),
        None => sets_rx.recv().await,
    }
}
