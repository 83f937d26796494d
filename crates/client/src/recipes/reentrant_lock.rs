use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::grant::Grant;
use super::lock::Lock;
use super::lock_line::within;
use super::participant::{Owner, Participant};
use crate::{Client, Error, ErrorKind};

/// A [`Lock`] that its owner may lock again while it has it. It is given back with the last of the grants.
///
/// *The owner* is the handle and its clones: what is to be kept apart needs handles of its own, made by [`new`](Self::new) each.
/// There is no way to tell by thread or task who asks, because both change under an async function.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::ReentrantLock;
///
/// let lock = ReentrantLock::new(&client, "/app/schema");
/// let outer = lock.lock().await?;
/// let inner = lock.lock().await?; // At once, and with the same epoch.
/// assert_eq!(inner.epoch(), outer.epoch());
/// # Ok(()) }
/// ```
///
/// Others see a `Lock`. Curator: `InterProcessMutex`, whose owner is a thread.
#[derive(Clone, Debug)]
pub struct ReentrantLock {
    lock: Lock,
    /// What the owner has, if it has it. Locked by who asks for it, so that an owner asks once at a time.
    held: Arc<Mutex<Weak<Grant>>>,
}

impl ReentrantLock {
    /// A new owner's handle on the lock at a path. Nothing happens yet.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { lock: Lock::new(client, path), held: Arc::default() }
    }

    /// Who asks for it, as others see it in [`queue`](Self::queue). Default: nobody by name.
    #[must_use]
    pub fn owner(self, owner: Owner) -> Self {
        Self { lock: self.lock.owner(owner), ..self }
    }

    /// How long before its deadline a grant counts as lost ([`Grant::lost`]). Default: a quarter of the session timeout.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { lock: self.lock.grace(grace), ..self }
    }

    /// Waits until the owner has the lock; at once if it has it already.
    ///
    /// # Errors
    ///
    /// `GrantLost` if the owner had the lock, has lost it, and has not let go of all its grants; those of [`Lock::lock`].
    ///
    /// # Cancellation
    ///
    /// As [`Lock::lock`].
    pub async fn lock(&self) -> Result<ReentrantGrant, Error> {
        let mut held = self.held.lock().await;
        match again(&held)? {
            Some(grant) => Ok(grant),
            None => Ok(keep(&mut held, self.lock.lock().await?)),
        }
    }

    /// Takes the lock if the owner has it, or nobody has it or waits for it; otherwise `None`, at once. While the owner waits for
    /// the lock in another call, `None`.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock).
    ///
    /// # Cancellation
    ///
    /// As [`Lock::lock`].
    pub async fn try_lock(&self) -> Result<Option<ReentrantGrant>, Error> {
        let Ok(mut held) = self.held.try_lock() else { return Ok(None) };
        match again(&held)? {
            Some(grant) => Ok(Some(grant)),
            None => Ok(self.lock.try_lock().await?.map(|grant| keep(&mut held, grant))),
        }
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
    /// As [`Lock::lock`].
    pub async fn lock_within(&self, patience: Duration) -> Result<Option<ReentrantGrant>, Error> {
        within(patience, self.try_lock(), self.lock()).await
    }

    /// See [`Lock::queue`]. An owner stands there once, however often it has locked.
    ///
    /// # Errors
    ///
    /// Those of [`Lock::queue`].
    pub async fn queue(&self) -> Result<Vec<Participant>, Error> {
        self.lock.queue().await
    }
}

/// What the owner has already.
fn again(held: &Weak<Grant>) -> Result<Option<ReentrantGrant>, Error> {
    match held.upgrade() {
        Some(grant) if grant.is_lost() => {
            let message =
                format!("the owner has lost the grant of epoch {} and not let go of it", grant.epoch());
            Err(Error { path: grant.path().to_owned(), ..Error::new(ErrorKind::GrantLost, message) })
        }
        grant => Ok(grant.map(|grant| ReentrantGrant { grant })),
    }
}

fn keep(held: &mut MutexGuard<'_, Weak<Grant>>, grant: Grant) -> ReentrantGrant {
    let grant = Arc::new(grant);
    **held = Arc::downgrade(&grant);
    ReentrantGrant { grant }
}

/// One of the grants of an owner: all of them are one [`Grant`]. The lock is given back when the last one is dropped.
#[derive(Debug)]
pub struct ReentrantGrant {
    grant: Arc<Grant>,
}

impl Deref for ReentrantGrant {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.grant
    }
}

impl ReentrantGrant {
    /// Lets go of it; if it was the owner's last one, gives the lock back and waits until the next one may have it.
    ///
    /// # Errors
    ///
    /// Those of the session. A grant that is gone already is given back.
    ///
    /// # Cancellation
    ///
    /// It is given back also if the future is dropped.
    pub async fn release(self) -> Result<(), Error> {
        match Arc::into_inner(self.grant) {
            Some(grant) => grant.release().await,
            None => Ok(()),
        }
    }
}
