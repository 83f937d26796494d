use std::time::Duration;

use futures::future::{join_all, select_all};

use super::grant::{Grant, Loss, check_grace};
use super::lock_line::{LockLine, LockMode, blocker, within};
use super::participant::Owner;
use super::waiting_line::{Place, WaitingLine};
use crate::{Check, Client, Error, ErrorKind};

/// So many guards a write may carry.
const PATHS_MAX: usize = 64;

/// Several locks, all or none.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::MultiLock;
///
/// let both = MultiLock::new(&client, ["/accounts/7/lock", "/accounts/9/lock"])?;
/// let grant = both.lock().await?;
/// grant.write(|client| client.multi().set("/accounts/7", "-5", None).set("/accounts/9", "+5", None).commit()).await?;
/// # Ok(()) }
/// ```
///
/// It takes its places in all lines in one step, in whatever order the paths are given. So of two that want some of the same
/// locks one is before the other in all of those lines, and they cannot wait for each other in a circle. (One who has a
/// [`Lock`](super::Lock) and then asks for another can, as ever.)
///
/// To others each is a [`Lock`](super::Lock). Curator: `InterProcessMultiLock`, which takes one lock after the other.
#[derive(Clone, Debug)]
pub struct MultiLock {
    client: Client,
    lines: Vec<LockLine>,
    owner: Owner,
    grace: Option<Duration>,
}

impl MultiLock {
    /// The locks at these paths. Nothing happens yet.
    ///
    /// # Errors
    ///
    /// `BadArguments` for no path, more than 64 together with the guards of the client, or one that is given twice.
    pub fn new<I>(client: &Client, paths: I) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let mut paths: Vec<String> = paths.into_iter().map(Into::into).collect();
        // One order for all, so that who looks whether the locks are free looks at them alike.
        paths.sort();
        let refused = |message: String| Err(Error::new(ErrorKind::BadArguments, message));
        // Its writes are guarded by each of the locks.
        let most = PATHS_MAX.saturating_sub(client.guards.len());
        if !(1..=most).contains(&paths.len()) {
            return refused(format!("a multi-lock is of 1 to {most} locks here, not {}", paths.len()));
        }
        if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return refused(format!("the lock {:?} is given twice, and would wait for itself", twice[0]));
        }
        let lines = paths.into_iter().map(|path| LockLine::new(client, path)).collect();
        Ok(Self { client: client.patient(), lines, owner: Owner::default(), grace: None })
    }

    /// Who asks for them, as others see it in [`Lock::queue`](super::Lock::queue). Default: nobody by name.
    #[must_use]
    pub fn owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// How long before its deadline a grant counts as lost ([`Grant::lost`]). Default: a quarter of the session timeout.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace: Some(grace), ..self }
    }

    /// Waits until it has all the locks. Those it has already while it waits for the others nobody else can have.
    ///
    /// # Errors
    ///
    /// `GrantLost` if a place in a line was deleted by somebody else; those of [`Client::create`] and of the session. Then it has
    /// none of them.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves all lines, and gives back what was won meanwhile.
    pub async fn lock(&self) -> Result<MultiGrant, Error> {
        let places = self.join().await?;
        for place in &places {
            place.wait_until_free(blocker).await?;
        }
        self.grant(places).await
    }

    /// Takes the locks if nobody has or waits for any of them; otherwise `None`, at once.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock).
    ///
    /// # Cancellation
    ///
    /// As [`lock`](Self::lock).
    pub async fn try_lock(&self) -> Result<Option<MultiGrant>, Error> {
        for line in &self.lines {
            if line.is_taken(LockMode::Write).await? {
                return Ok(None);
            }
        }
        let places = self.join().await?;
        for place in &places {
            if place.is_blocked(blocker).await? {
                return Ok(None);
            }
        }
        self.grant(places).await.map(Some)
    }

    /// Waits for the locks for so long; `None` if that was not enough. What is free is
    /// taken however short the time is, if the ensemble answers within 5 s.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock).
    ///
    /// # Cancellation
    ///
    /// As [`lock`](Self::lock).
    pub async fn lock_within(&self, patience: Duration) -> Result<Option<MultiGrant>, Error> {
        within(patience, self.try_lock(), self.lock()).await
    }

    async fn join(&self) -> Result<Vec<Place>, Error> {
        check_grace(&self.client, self.grace)?;
        let lines: Vec<_> = self.lines.iter().map(|line| line.line().clone()).collect();
        WaitingLine::join_all(&lines, LockMode::Write.kind(), self.owner.to_bytes()?).await
    }

    async fn grant(&self, places: Vec<Place>) -> Result<MultiGrant, Error> {
        let mut grants = Vec::with_capacity(places.len());
        for place in places {
            grants.push(place.into_grant(self.grace).await?);
        }
        let guarded = self.client.guarded(grants.iter().map(Grant::as_check));
        Ok(MultiGrant { grants, guarded })
    }
}

/// What one has of a [`MultiLock`]: a [`Grant`] of each lock, all of one epoch. Dropping it gives all of them back.
#[derive(Debug)]
pub struct MultiGrant {
    grants: Vec<Grant>,
    /// The writes of this one carry the epoch of each lock.
    guarded: Client,
}

impl MultiGrant {
    /// The grants of the locks, by their paths.
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// The fencing token, the same for all of the locks.
    pub fn epoch(&self) -> u64 {
        self.grants.first().map_or(0, Grant::epoch)
    }

    /// That all of the grants hold, as conditions of a write or of a multi.
    pub fn as_checks(&self) -> impl Iterator<Item = Check> {
        self.grants.iter().map(Grant::as_check)
    }

    /// Whether nobody else can have any of the locks at this moment, as far as can be known here; asks nobody.
    ///
    /// # Errors
    ///
    /// `GrantLost`.
    pub fn check(&self) -> Result<(), Error> {
        self.grants.iter().try_for_each(Grant::check)
    }

    /// A client of the same session whose writes are refused with `GuardFailed` once any of the locks is gone.
    ///
    /// # Errors
    ///
    /// `GrantLost`, as [`check`](Self::check).
    pub fn client(&self) -> Result<Client, Error> {
        self.check()?;
        Ok(self.guarded.clone())
    }

    /// One guarded write; see [`Grant::write`].
    ///
    /// # Errors
    ///
    /// `GrantLost`, as [`check`](Self::check); `GuardFailed` if the server knows that a lock is gone; those of the write.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn write<F: Future<Output = Result<T, Error>>, T>(
        &self,
        write: impl FnOnce(&Client) -> F,
    ) -> Result<T, Error> {
        self.check()?;
        write(&self.guarded).await
    }

    /// Waits until one of the locks is lost, or may be lost within the grace; see [`Grant::lost`].
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn lost(&self) -> Loss {
        let (loss, ..) = select_all(self.grants.iter().map(|grant| Box::pin(grant.lost()))).await;
        loss
    }

    /// Gives all of them back; the future waits for it.
    ///
    /// # Errors
    ///
    /// Those of the session. What is gone already is given back.
    ///
    /// # Cancellation
    ///
    /// They are given back also if the future is dropped.
    pub fn release(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let going = join_all(self.grants.iter().map(Grant::release));
        async { going.await.into_iter().collect() }
    }
}
