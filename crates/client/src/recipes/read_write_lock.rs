use std::ops::Deref;
use std::time::Duration;

use super::grant::Grant;
use super::lock_line::{LockLine, LockMode, within};
use super::participant::{Owner, Participant};
use super::waiting_line::{no_result, owned};
use crate::{Client, CreateMode, Error, ErrorKind, MultiResult};

/// A lock that one writer has alone, or readers have together.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::ReadWriteLock;
///
/// let lock = ReadWriteLock::new(&client, "/app/catalogue");
/// let writing = lock.write().await?;
/// writing.write(|client| client.set("/app/catalogue", "new", None)).await?;
/// // Nobody else writes between the two.
/// let reading = writing.downgrade().await?;
/// reading.release().await?;
/// # Ok(()) }
/// ```
///
/// # Order
///
/// In the order in which they came: a writer waits for the one before it, a reader for the nearest writer before it. So
/// readers that stand together go together, and neither kind can be starved by the other.
///
/// # Epochs
///
/// Those of writers grow from one to the next; fence with them. Readers have the lock at the same time, and a reader that was
/// a writer has a newer epoch than writers who wait: theirs are for guarded writes only.
///
/// # Znodes
///
/// Ephemeral sequential znodes `read-<number>` and `write-<number>` below the path, which is a container. Each watches the one
/// it waits for. The end of a writer wakes those it held up: the readers behind it up to the next writer, or that writer.
///
/// Curator: `InterProcessReadWriteLock`; kazoo: `ReadLock`, `WriteLock`. Those are re-entrant within a thread; this one is not,
/// and a reader cannot become a writer without letting go.
#[derive(Clone, Debug)]
pub struct ReadWriteLock {
    line: LockLine,
}

impl ReadWriteLock {
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

    /// Waits until it may read.
    ///
    /// # Errors
    ///
    /// `GrantLost` if the place in the line was deleted by somebody else; those of [`Client::create`] and of the session.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the line, and gives back a lock that was won meanwhile.
    pub async fn read(&self) -> Result<Grant, Error> {
        self.line.acquire(LockMode::Read).await
    }

    /// Reads if nobody writes or waits to write; otherwise `None`, at once.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    ///
    /// # Cancellation
    ///
    /// As [`read`](Self::read).
    pub async fn try_read(&self) -> Result<Option<Grant>, Error> {
        self.line.try_acquire(LockMode::Read).await
    }

    /// Waits for so long until it may read; `None` if that was not enough. What is free is
    /// taken however short the time is, if the ensemble answers within 5 s.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    ///
    /// # Cancellation
    ///
    /// As [`read`](Self::read).
    pub async fn read_within(&self, patience: Duration) -> Result<Option<Grant>, Error> {
        within(patience, self.try_read(), self.read()).await
    }

    /// Waits until it may write.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    ///
    /// # Cancellation
    ///
    /// As [`read`](Self::read).
    pub async fn write(&self) -> Result<WriteGrant, Error> {
        Ok(self.writing(self.line.acquire(LockMode::Write).await?))
    }

    /// Writes if nobody has the lock or waits for it; otherwise `None`, at once.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    ///
    /// # Cancellation
    ///
    /// As [`read`](Self::read).
    pub async fn try_write(&self) -> Result<Option<WriteGrant>, Error> {
        let grant = self.line.try_acquire(LockMode::Write).await?;
        Ok(grant.map(|grant| self.writing(grant)))
    }

    /// Waits for so long until it may write; `None` if that was not enough. What is free is
    /// taken however short the time is, if the ensemble answers within 5 s.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    ///
    /// # Cancellation
    ///
    /// As [`read`](Self::read).
    pub async fn write_within(&self, patience: Duration) -> Result<Option<WriteGrant>, Error> {
        within(patience, self.try_write(), self.write()).await
    }

    /// Who has the lock and who waits, in the order in which they came, everything considered that was acknowledged before
    /// the call. Whether one reads or writes is in the name of its znode.
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

    fn writing(&self, grant: Grant) -> WriteGrant {
        WriteGrant { grant, line: self.line.clone() }
    }
}

/// The [`Grant`] of a writer. Dropping it gives the lock back.
#[derive(Debug)]
pub struct WriteGrant {
    grant: Grant,
    line: LockLine,
}

impl Deref for WriteGrant {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.grant
    }
}

impl WriteGrant {
    /// Goes on as a reader, in the same place of the line: no writer comes between. The epoch is a new one, and what was guarded
    /// by the old one is refused.
    ///
    /// # Errors
    ///
    /// `GrantLost` if it writes no more; those of the session. Then the lock is given back.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives the lock back.
    pub async fn downgrade(self) -> Result<Grant, Error> {
        let Self { grant, line } = self;
        owned(async move {
            // The number of the place, so that who came later stays behind it.
            let path = match grant.path().rsplit_once(LockMode::Write.kind()) {
                Some((before, number)) => format!("{before}{}{number}", LockMode::Read.kind()),
                None => return Err(lost(&grant)),
            };
            let multi = grant.client()?.multi().delete(grant.path(), None);
            let data = line.owner().to_bytes()?;
            match multi.create(&path, data, CreateMode::Ephemeral).commit().await {
                Ok(results) => {
                    grant.forget();
                    let Some(MultiResult::Create(created)) = results.into_iter().next_back() else {
                        return Err(no_result());
                    };
                    Ok(Grant::new(line.line().client(), &path, created.stat.czxid, line.grace()))
                }
                Err(error) if error.kind == ErrorKind::GuardFailed => Err(lost(&grant)),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Gives the lock back; the future waits until the next one may have it.
    ///
    /// # Errors
    ///
    /// Those of the session. A grant that is gone already is given back.
    ///
    /// # Cancellation
    ///
    /// It is given back also if the future is dropped.
    pub fn release(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        self.grant.release()
    }
}

fn lost(grant: &Grant) -> Error {
    let message = format!("the grant of epoch {} is lost, so it cannot be downgraded", grant.epoch());
    Error { path: grant.path().to_owned(), ..Error::new(ErrorKind::GrantLost, message) }
}
