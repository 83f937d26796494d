use bytes::Bytes;

use super::parents::create_in_container;
use super::znode::found;
use crate::{Client, CreateMode, CreateOptions, Error, ErrorKind, ReadLevel};

/// A barrier that is there or not: who waits goes on when it is removed.
///
/// Curator's `DistributedBarrier`, kazoo's `Barrier`. It belongs to no session: it stays until somebody removes it, also when
/// whoever set it has died. When the session ends, [`wait`](Self::wait) fails.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::Barrier;
///
/// let barrier = Barrier::new(&client, "/deploy/barrier");
/// barrier.set().await?;
/// // ... elsewhere `barrier.wait().await?` ...
/// barrier.remove().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Barrier {
    client: Client,
    path: String,
}

impl Barrier {
    /// A barrier at a path; whether it stands is decided by [`set`](Self::set) and [`remove`](Self::remove) of anybody.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { client: client.patient(), path: path.into() }
    }

    /// Sets the barrier. Missing parents become containers. True if it was not set before.
    ///
    /// # Errors
    ///
    /// Those of [`Client::create`] but `NodeExists`.
    ///
    /// # Cancellation
    ///
    /// It may be set all the same.
    pub async fn set(&self) -> Result<bool, Error> {
        let options = CreateOptions::new(CreateMode::Persistent);
        match create_in_container(&self.client, &self.path, Bytes::new(), &options).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NodeExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the barrier: everybody who waits goes on. True if it was set before.
    ///
    /// # Errors
    ///
    /// Those of [`Client::delete`] but `NoNode`.
    ///
    /// # Cancellation
    ///
    /// It may be removed all the same.
    pub async fn remove(&self) -> Result<bool, Error> {
        Ok(found(self.client.delete(self.path.clone(), None).await)?.is_some())
    }

    /// Whether the barrier is set.
    ///
    /// # Errors
    ///
    /// Those of [`Client::exists`].
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn is_set(&self) -> Result<bool, Error> {
        Ok(self.client.exists(self.path.clone(), ReadLevel::Linearizable).await?.is_some())
    }

    /// Waits until the barrier is removed; returns at once if it is not set. A barrier whose `set` was answered before the
    /// call, to whomever, is waited for.
    ///
    /// # Errors
    ///
    /// Those of [`Client::exists_and_watch`]; `SessionExpired` and `SessionClosed` if the session ends meanwhile.
    ///
    /// # Cancellation
    ///
    /// Leaves nothing behind.
    pub async fn wait(&self) -> Result<(), Error> {
        // Linearizable, because a node that has not seen the barrier yet would let pass who must wait. After that the
        // session's own past is enough.
        let mut level = ReadLevel::Linearizable;
        loop {
            let (stat, watcher) = self.client.exists_and_watch(self.path.clone(), level).await?;
            if stat.is_none() {
                return Ok(());
            }
            watcher.changed().await?;
            level = ReadLevel::Local;
        }
    }
}
