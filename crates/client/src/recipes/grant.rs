use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::detached::detach;
use super::parents::create_in_container;
use super::waiting_line::owned;
use crate::{
    Call, Check, Client, CreateMode, CreateOptions, Error, ErrorKind, EventType, Lineage, ReadLevel,
    SessionState,
};

/// How often a lease that is short is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How often one that is long is looked at.
const NAP_MAX: Duration = Duration::from_millis(250);
/// A watch that could not be made is tried again after so long. The lease is looked at meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// What a recipe gives to one holder: a znode of its session whose creation zxid is the grant's *epoch*.
///
/// # What keeps two holders apart
///
/// * **The server.** A write through [`client`](Grant::client) or [`write`](Grant::write) carries the epoch and is refused with
///   `GuardFailed` once the znode is gone, however late it arrives. Nothing else is safe from a holder that stood still
///   between a check and its action.
/// * **The holder itself.** [`check`](Grant::check) refuses, without asking anybody, when the session may have ended:
///   from its timeout on, less a tenth, counted on a clock that goes on while the machine sleeps from the last ping
///   that the leader has confirmed ([`Client::alive_for`]). No other holder can have the grant before that, unless an
///   operator took it away.
///
/// [`lost`](Grant::lost) completes a *grace* before that, so that there is time to stop.
///
/// # The end
///
/// [`release`](Grant::release) gives it back and waits for it; dropping the grant gives it back and does not wait. It ends
/// with its session in any case.
pub struct Grant {
    client: Client,
    /// The writes of this one carry the epoch.
    guarded: Client,
    path: Arc<str>,
    epoch: u64,
    loss: watch::Receiver<Option<Loss>>,
    watchman: AbortHandle,
    is_released: AtomicBool,
}

/// How a grant was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// No sign that the session is alive for so long that it may end within the grace.
    Doubtful,
    /// The znode was deleted: by an operator, or because the holder released it.
    Deleted,
    /// The session has ended.
    SessionEnded,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Doubtful => "the ensemble was not heard for so long that the session may end",
            Loss::Deleted => "its znode was deleted",
            Loss::SessionEnded => "the session has ended",
        })
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("path", &self.path).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Grant {
    /// Takes charge of a znode that this session has just created. `grace`: how long before the deadline `lost` completes;
    /// `None`: a quarter of the session timeout.
    pub(crate) fn new(client: &Client, path: &str, epoch: u64, grace: Option<Duration>) -> Self {
        let (loss_tx, loss) = watch::channel(None);
        let grace = grace.unwrap_or_else(|| default_grace(client));
        let watchman = tokio::spawn(watch_over(client.clone(), path.to_owned(), epoch, grace, loss_tx));
        Self {
            client: client.clone(),
            guarded: client.guarded([Check::epoch(path, epoch)]),
            path: path.into(),
            epoch,
            loss,
            watchman: watchman.abort_handle(),
            is_released: AtomicBool::new(false),
        }
    }

    /// The same, once the lease is long enough: if the answer was long under way it may not be yet, and the grant would be lost
    /// as soon as it is had. To be called where it comes to its end: until then nobody has charge of the znode.
    ///
    /// # Errors
    ///
    /// `SessionExpired` or `SessionClosed`.
    pub(crate) async fn begin(
        client: &Client,
        path: &str,
        epoch: u64,
        grace: Option<Duration>,
    ) -> Result<Self, Error> {
        wait_for_lease(client, grace).await?;
        Ok(Self::new(client, path, epoch, grace))
    }

    /// Creates an ephemeral, whose missing parents become containers, and takes charge of it. Dropping the future leaves none.
    ///
    /// # Errors
    ///
    /// `NodeExists` if somebody else has it; those of [`wait_for_lease`] and of a create.
    pub(crate) async fn create(
        client: &Client,
        path: String,
        data: Bytes,
        grace: Option<Duration>,
    ) -> Result<Self, Error> {
        wait_for_lease(client, grace).await?;
        let client = client.clone();
        owned(async move {
            let options = CreateOptions::new(CreateMode::Ephemeral);
            let created = create_in_container(&client, &path, data, &options).await?;
            Self::begin(&client, &created.path, created.stat.czxid, grace).await
        })
        .await
    }

    /// The znode of the grant.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The fencing token: the zxid that created the znode. A later grant of the same thing has a higher one.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The history that the epoch belongs to.
    pub(crate) fn lineage(&self) -> Option<Lineage> {
        self.client.lineage()
    }

    /// That this is the grant, as a condition of a write or of a multi.
    pub fn as_check(&self) -> Check {
        Check::epoch(&*self.path, self.epoch).in_lineage(self.lineage())
    }

    /// Whether nobody else can have the grant at this moment, as far as can be known here; asks nobody.
    ///
    /// # Errors
    ///
    /// `GrantLost`.
    pub fn check(&self) -> Result<(), Error> {
        let refused = |why: &dyn fmt::Display| {
            let message = format!("the grant of epoch {} is lost: {why}", self.epoch);
            Err(Error { path: self.path.to_string(), ..Error::new(ErrorKind::GrantLost, message) })
        };
        match *self.loss.borrow() {
            Some(loss @ (Loss::Deleted | Loss::SessionEnded)) => return refused(&loss),
            // There is still the grace.
            Some(Loss::Doubtful) | None => {}
        }
        if self.is_released.load(Ordering::Acquire) {
            return refused(&"it was released");
        }
        match self.client.alive_for() {
            Duration::ZERO => refused(&Loss::Doubtful),
            _ => Ok(()),
        }
    }

    /// A client of the same session whose writes are refused with `GuardFailed` once the grant is gone.
    ///
    /// # Errors
    ///
    /// `GrantLost`, as [`check`](Self::check).
    pub fn client(&self) -> Result<Client, Error> {
        self.check()?;
        Ok(self.guarded.clone())
    }

    /// One guarded write: `grant.write(|client| client.set("/job", "done", None)).await`.
    ///
    /// # Errors
    ///
    /// `GrantLost`, as [`check`](Self::check); `GuardFailed` if the server knows that the grant is gone; those of the write.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn write<F: Future<Output = Result<T, Error>>, T>(
        &self,
        write: impl FnOnce(&Client) -> F,
    ) -> Result<T, Error> {
        self.check()?;
        write(&self.guarded).await
    }

    /// Waits until the grant is lost, or may be lost within the grace. Once that is so it stays so, also if the ensemble is
    /// heard again: stop, let go of the grant, and ask for another.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn lost(&self) -> Loss {
        let mut loss = self.loss.clone();
        match loss.wait_for(Option::is_some).await {
            Ok(loss) => loss.unwrap_or(Loss::SessionEnded),
            // The runtime that watched is gone, and the session with it.
            Err(_) => Loss::SessionEnded,
        }
    }

    /// Whether [`lost`](Self::lost) would complete at once.
    pub fn is_lost(&self) -> bool {
        self.loss.borrow().is_some()
    }

    /// Gives the grant back; the future waits until the next one may have it. From the call on the grant refuses, for everybody
    /// who shares it.
    ///
    /// # Errors
    ///
    /// Those of the session. A grant that is gone already is given back.
    ///
    /// # Cancellation
    ///
    /// It is given back also if the future is dropped.
    pub fn release(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let going = owned(self.let_go());
        async {
            match going.await {
                Ok(_) => Ok(()),
                Err(error) if matches!(error.kind, ErrorKind::GuardFailed | ErrorKind::NoNode) => Ok(()),
                Err(error) => Err(error),
            }
        }
    }

    /// The znode was deleted in one step with something else.
    pub(crate) fn forget(&self) {
        self.is_released.store(true, Ordering::Release);
        self.watchman.abort();
    }

    /// How it was lost, once it is. Closed when the grant has been dropped or forgotten.
    pub(crate) fn loss(&self) -> watch::Receiver<Option<Loss>> {
        self.loss.clone()
    }

    fn let_go(&self) -> Call<u64> {
        self.is_released.store(true, Ordering::Release);
        // Under its own epoch, because the path may be somebody else's by now; and under nothing else, because it has to go also
        // when what the caller's handle is guarded by is lost.
        self.client.unguarded().guarded([self.as_check()]).delete(&*self.path, None)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.watchman.abort();
        drop(GiveBack(self));
    }
}

/// Gives a grant back when it is dropped, unless that has been done, whoever else has a share in it.
pub(crate) struct GiveBack<'a>(pub(crate) &'a Grant);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        if !self.0.is_released.load(Ordering::Acquire) {
            detach(self.0.let_go());
        }
    }
}

pub(crate) fn default_grace(client: &Client) -> Duration {
    client.session_timeout() / 4
}

/// Refuses a grace that leaves no time to hold anything. Asked before somebody goes to the end of a line, where all others would
/// wait for it in vain.
///
/// # Errors
///
/// `BadArguments`.
pub(crate) fn check_grace(client: &Client, grace: Option<Duration>) -> Result<(), Error> {
    let longest = client.session_timeout() / 2;
    match grace {
        Some(grace) if grace > longest => {
            let message =
                format!("a grace of {grace:?}; with this session's timeout it is at most {longest:?}");
            Err(Error::new(ErrorKind::BadArguments, message))
        }
        _ => Ok(()),
    }
}

/// Waits until the session's lease is long enough for a grant to be of use; after a reconnect it may not be known yet.
///
/// # Errors
///
/// `BadArguments` for a grace over half the session timeout; `SessionExpired` or `SessionClosed`.
pub(crate) async fn wait_for_lease(client: &Client, grace: Option<Duration>) -> Result<(), Error> {
    check_grace(client, grace)?;
    let grace = grace.unwrap_or_else(|| default_grace(client));
    while client.alive_for() <= grace {
        match client.state() {
            SessionState::Expired(end) => {
                return Err(Error::new(ErrorKind::SessionExpired, end.to_string()));
            }
            SessionState::Closed => {
                return Err(Error::new(ErrorKind::SessionClosed, "the session was closed by this client"));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
    Ok(())
}

/// Tells when the grant is lost; runs until then, or until it is aborted.
async fn watch_over(
    client: Client,
    path: String,
    epoch: u64,
    grace: Duration,
    loss: watch::Sender<Option<Loss>>,
) {
    let lost = tokio::select! {
        lost = until_deleted(&client, &path, epoch) => lost,
        () = until_doubtful(&client, grace) => match client.state().is_terminal() {
            true => Loss::SessionEnded,
            false => Loss::Doubtful,
        },
    };
    loss.send_replace(Some(lost));
    // What is in doubt may turn out to be gone.
    if lost == Loss::Doubtful {
        let end = until_deleted(&client, &path, epoch).await;
        loss.send_replace(Some(end));
    }
}

async fn until_deleted(client: &Client, path: &str, epoch: u64) -> Loss {
    loop {
        let (stat, watcher) = match client.exists_and_watch(path, ReadLevel::Local).await {
            Ok(armed) => armed,
            Err(error) if error.is_terminal() => return Loss::SessionEnded,
            Err(error) => {
                tracing::warn!(%error, path, "a grant cannot be watched");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        if stat.is_none_or(|stat| stat.czxid != epoch) {
            return Loss::Deleted;
        }
        match watcher.changed().await {
            Ok(event) if event.event().is_some_and(|event| event.event_type == EventType::NodeDeleted) => {
                return Loss::Deleted;
            }
            Ok(_) => {}
            Err(_) => return Loss::SessionEnded,
        }
    }
}

async fn until_doubtful(client: &Client, grace: Duration) {
    loop {
        let left = client.alive_for().saturating_sub(grace);
        if left.is_zero() {
            return;
        }
        // In short naps: the timer stands still while the machine sleeps, and the lease does not.
        tokio::time::sleep(left.clamp(LOOK, NAP_MAX)).await;
    }
}
