use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::TaskQueue;
use super::record::{Record, holder};
use super::tree::{ATTEMPTS, CLAIMS, DEAD, PENDING, RUNNING};
use crate::recipes::parents::clear_below;
use crate::recipes::{Grant, Json};
use crate::{Call, CreateMode, Error, ErrorKind, Multi, MultiResult};

/// How often it is looked whether an end that is under way was refused.
const ANSWER: Duration = Duration::from_millis(20);

/// A task that this session has claimed: a [`Grant`] whose znode is the claim.
///
/// Every end of it is one multi guarded by the claim's epoch. When the claim is gone (the session ended, or the claim
/// timeout has passed) it fails with `GrantLost` or `GuardFailed`, and somebody else may have the task.
///
/// Dropping it gives the claim up, and one more attempt counts: a worker that panics must not be given its task for ever.
#[derive(Debug)]
pub struct Claim {
    queue: TaskQueue,
    id: String,
    record: Record,
    payload: Bytes,
    grant: Grant,
    end: Arc<End>,
}

/// How far the end of a claim by its own worker is.
#[derive(Debug, Default)]
struct End {
    /// It is under way: that the znode goes is no loss.
    is_under_way: AtomicBool,
    /// It was ended, or dropped: there is nothing left to lose.
    is_reached: AtomicBool,
}

/// While it lives an end is under way.
struct Ending<'a>(&'a End);

impl<'a> Ending<'a> {
    fn begin(end: &'a End) -> Self {
        end.is_under_way.store(true, Ordering::Release);
        Self(end)
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.is_under_way.store(false, Ordering::Release);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.end.is_reached.store(true, Ordering::Release);
    }
}

impl Deref for Claim {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.grant
    }
}

impl Claim {
    pub(super) fn new(queue: TaskQueue, id: String, record: Record, payload: Bytes, grant: Grant) -> Self {
        Self { queue, id, record, payload, grant, end: Arc::default() }
    }

    /// The task's id: what [`TaskQueue::put`] returned.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What was put.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How many earlier attempts came to nothing.
    pub fn attempts(&self) -> u32 {
        self.record.attempts
    }

    /// After how many attempts the task goes to the dead letters.
    pub fn max_attempts(&self) -> u32 {
        self.record.max_attempts
    }

    /// Why the last attempt came to nothing.
    pub fn last_error(&self) -> Option<&str> {
        self.record.last_error.as_deref()
    }

    /// Says that the work goes on, and how far it is: `progress`, a value or a [`Json`] whose text is kept,
    /// is shown to who lists tasks.
    ///
    /// # Errors
    ///
    /// `GrantLost`, `GuardFailed`; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn heartbeat(&self, progress: impl Into<Json>) -> Result<(), Error> {
        let data = holder(self.queue.worker(), &self.record, Some(&progress.into()));
        let stat = self.grant.write(|client| client.set(self.grant.path(), data, None)).await?;
        self.queue.tree().observe(&stat);
        Ok(())
    }

    /// The task is done, and gone.
    ///
    /// # Errors
    ///
    /// `GrantLost`, `GuardFailed`: it is not done by this claim, and may be claimed by somebody else. Those of the session; then
    /// [`Client::outcome`](crate::Client::outcome) tells.
    ///
    /// # Cancellation
    ///
    /// Once polled, the task may be completed.
    pub async fn complete(self) -> Result<(), Error> {
        self.complete_with(|multi| multi).await?;
        Ok(())
    }

    /// The same in one step with other writes: they are done if and only if the task is completed, so exactly once.
    /// Returns the results of these writes. If one of them is refused the claim goes on.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete); that of the first of the writes that cannot be done.
    ///
    /// # Cancellation
    ///
    /// Once polled, the task may be completed.
    pub async fn complete_with(&self, add: impl FnOnce(Multi) -> Multi) -> Result<Vec<MultiResult>, Error> {
        let multi = self.end(add(self.grant.client()?.multi()));
        let mut results = self.ended(self.commit(multi)).await?;
        results.truncate(results.len().saturating_sub(2));
        Ok(results)
    }

    /// The attempt came to nothing. The task comes back after its pause, or goes to the dead letters if this was the last
    /// attempt.
    ///
    /// # Errors
    ///
    /// `GrantLost`, `GuardFailed`: the attempt is counted by whoever returns the task. Those of the session.
    ///
    /// # Cancellation
    ///
    /// The attempt is counted, once, in any case.
    pub async fn fail(self, error: &str) -> Result<(), Error> {
        let record = self.record.clone().failed(error);
        let tree = self.queue.tree();
        let (directory, name) = tree.after_failure(&self.id, &record, tree.now_hint());
        self.ended(self.move_to((directory, &name), &record)).await
    }

    /// The task cannot be done by anybody: to the dead letters at once.
    ///
    /// # Errors
    ///
    /// As [`fail`](Self::fail).
    ///
    /// # Cancellation
    ///
    /// As [`fail`](Self::fail).
    pub async fn reject(self, error: &str) -> Result<(), Error> {
        let record = self.record.clone().failed(error);
        self.ended(self.move_to((DEAD, &self.id), &record)).await
    }

    /// The attempt is not made: the task is pending again, in its old place, and no attempt is counted.
    ///
    /// # Errors
    ///
    /// As [`fail`](Self::fail).
    ///
    /// # Cancellation
    ///
    /// Once polled, the task may be pending.
    pub async fn release(self) -> Result<(), Error> {
        self.ended(self.move_to((PENDING, &self.id), &self.record)).await
    }

    async fn move_to(&self, to: (&str, &str), record: &Record) -> Result<(), Error> {
        let begin = || Ok(self.end(self.grant.client()?.multi()));
        match self.queue.tree().move_to(begin, to, record.to_bytes()).await? {
            Some(_) => Ok(()),
            None => Err(self.removed()),
        }
    }

    /// Commits a multi that ends with [`end`](Self::end).
    async fn commit(&self, multi: Multi) -> Result<Vec<MultiResult>, Error> {
        let tree = self.queue.tree();
        let running = tree.node(RUNNING, &self.id);
        for _ in 1..ATTEMPTS {
            match multi.clone().commit().await {
                Err(error) if error.kind == ErrorKind::NotEmpty && error.path == running => {
                    clear_below(&tree.client, &running).await?;
                }
                Err(error) if error.kind == ErrorKind::NoNode && error.path == running => {
                    return Err(self.removed());
                }
                committed => return committed,
            }
        }
        multi.commit().await
    }

    /// The task was deleted by somebody else.
    fn removed(&self) -> Error {
        let message = format!("the task {} was deleted by somebody else while it was claimed", self.id);
        let path = self.queue.tree().node(RUNNING, &self.id);
        Error { path, ..Error::new(ErrorKind::GrantLost, message) }
    }

    /// Submitted when this returns.
    fn put_back(&self) -> Result<Call<Vec<MultiResult>>, Error> {
        let multi = self.end(self.grant.client()?.multi());
        let path = self.queue.tree().node(PENDING, &self.id);
        Ok(multi.create(path, self.record.to_bytes(), CreateMode::Persistent).commit())
    }

    async fn ended<T>(&self, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let ending = Ending::begin(&self.end);
        let results = step.await?;
        self.end.is_reached.store(true, Ordering::Release);
        self.grant.forget();
        drop(ending);
        Ok(results)
    }

    /// Completes when the claim is lost, and never once it has been ended or dropped by its worker.
    pub(super) fn taken_away(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut loss, end) = (self.grant.loss(), self.end.clone());
        async move {
            let is_lost = loss.wait_for(Option::is_some).await.is_ok();
            while is_lost && end.is_under_way.load(Ordering::Acquire) {
                // The answer tells how it ended.
                tokio::time::sleep(ANSWER).await;
            }
            if !is_lost || end.is_reached.load(Ordering::Acquire) {
                std::future::pending().await
            }
        }
    }

    /// The claim and the running task go. The claim goes first: who watches it sees both or neither.
    fn end(&self, multi: Multi) -> Multi {
        let tree = self.queue.tree();
        multi.delete(tree.node(CLAIMS, &self.id), None).delete(tree.node(RUNNING, &self.id), None)
    }
}

/// A claim that nobody has seen. Dropped, it is given back as if it had never been made.
pub(super) struct Undelivered(Option<Claim>);

impl Undelivered {
    pub(super) fn new(claim: Claim) -> Self {
        Self(Some(claim))
    }

    pub(super) fn deliver(mut self) -> Claim {
        self.0.take().expect("it is there until it is delivered or dropped")
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(claim) = self.0.take() {
            // It has its place in the session's order. If it is refused, the end of the grant behind it does its work.
            drop(claim.put_back());
        }
    }
}
