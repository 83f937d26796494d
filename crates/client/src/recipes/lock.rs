use std::time::Duration;

use super::grant::Grant;
use super::lock_line::{LockLine, LockMode, within};
use super::participant::{Owner, Participant};
use crate::{Client, Error};

/// A lock: of all who ask for it under one path, one has it at a time, in the order in which they came.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::{Lock, Owner};
///
/// let lock = Lock::new(&client, "/app/schema").owner(Owner::new("host-7"));
/// let grant = lock.lock().await?;
/// grant.write(|client| client.set("/app/schema/version", "8", None)).await?;
/// grant.release().await?;
/// # Ok(()) }
/// ```
///
/// What one has is a [`Grant`]: its epoch, guarded writes, [`check`](Grant::check) and [`lost`](Grant::lost). Dropping it gives the
/// lock back.
///
/// # Who is the owner
///
/// Nobody but the grant: two calls of [`lock`](Self::lock) wait for each other also through the same handle. Where one owner
/// locks again what it has, use a [`ReentrantLock`](super::ReentrantLock).
///
/// # Znodes
///
/// Ephemeral sequential znodes `write-<number>` below the path, which is a container. The first has the lock, each of the
/// others watches the one before it, so an end wakes one. It is the write half of a
/// [`ReadWriteLock`](super::ReadWriteLock) at the same path.
///
/// Curator: `InterProcessMutex` (re-entrant), `InterProcessSemaphoreMutex` (not); kazoo: `Lock`. None has an epoch.
#[derive(Clone, Debug)]
pub struct Lock {
    line: LockLine,
}

impl Lock {
    /// The lock at a path. Nothing happens yet.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { line: LockLine::new(client, path) }
    }

    /// Who asks for it, as others see it in [`queue`](Self::queue). Default: nobody by name.
    #[must_use]
    pub fn owner(self, owner: Owner) -> Self {
        Self { line: self.line.with_owner(owner) }
    }

    /// How long before its deadline a grant counts as lost ([`Grant::lost`]). Default: a quarter of the session timeout.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { line: self.line.with_grace(grace) }
    }

    /// Waits until it has the lock.
    ///
    /// # Errors
    ///
    /// `GrantLost` if the place in the line was deleted by somebody else; those of [`Client::create`] and of the session.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the line, and gives back a lock that was won meanwhile.
    pub async fn lock(&self) -> Result<Grant, Error> {
        self.line.acquire(LockMode::Write).await
    }

    /// Takes the lock if nobody has it or waits for it; otherwise `None`, at once.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock).
    ///
    /// # Cancellation
    ///
    /// As [`lock`](Self::lock).
    pub async fn try_lock(&self) -> Result<Option<Grant>, Error> {
        self.line.try_acquire(LockMode::Write).await
    }

    /// Waits for the lock for so long; `None` if that was not enough. What is free is
    /// taken however short the time is, if the ensemble answers within 5 s.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock).
    ///
    /// # Cancellation
    ///
    /// As [`lock`](Self::lock).
    pub async fn lock_within(&self, patience: Duration) -> Result<Option<Grant>, Error> {
        within(patience, self.try_lock(), self.lock()).await
    }

    /// Who has the lock and who waits, in the order in which they came, everything considered that was acknowledged before
    /// the call.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn queue(&self) -> Result<Vec<Participant>, Error> {
        self.line.queue().await
    }
}
