use std::sync::{Arc, OnceLock};

use rand::Rng as _;
use serde_json::json;
use tokio::task::AbortHandle;

use super::claim::{Claim, Undelivered};
use super::keeper;
use super::record::{DelayedName, Record, holder, millis};
use super::tree::{ATTEMPTS, CLAIMS, DEAD, DELAYED, PENDING, RUNNING, Tree};
use super::{TaskOptions, TaskQueueOptions};
use crate::recipes::grant::{Grant, wait_for_lease};
use crate::recipes::parents::clear_below;
use crate::recipes::waiting_line::{Position, WaitingLine, no_result, owned};
use crate::recipes::znode::{is_changed, name_of};
use crate::{Check, Client, CreateMode, Error, ErrorKind, ListOptions, ListPage, MultiResult, ReadLevel};

/// From how many of the first tasks a claimer chooses once it has been beaten to the very first.
const PAGE: u32 = 32;
const WAITERS: &str = "waiters";
const WAITER: &str = "waiter-";

/// A queue of tasks under one path, worked at by any number of workers.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::{TaskOptions, TaskQueue, TaskQueueOptions};
///
/// let queue = TaskQueue::open(&client, "/app/mails", TaskQueueOptions::new().worker("host-7")).await?;
/// queue.put("to: me", &TaskOptions::new()).await?;
/// let claim = queue.claim().await?;
/// println!("{:?}, attempt {}", claim.payload(), claim.attempts() + 1);
/// claim.complete().await?;
/// # Ok(()) }
/// ```
///
/// # Guarantees
///
/// * A task that was put is pending, delayed, running or dead until it is completed; it is never lost. Each step is one
///   multi.
/// * It is completed at most once. It may be *begun* several times: a worker can die after its work and before the
///   completion. Writes that go with the completion ([`Claim::complete_with`]), or through the claim, are not done twice.
/// * A claim is an ephemeral whose creation zxid is its epoch. When its worker dies the task is pending again, with one
///   more attempt counted, exactly once, whoever and however many notice it.
/// * The lowest priority number first; of equals, who was put first. With several workers "first" is not exact: who is
///   beaten to a task takes one of the next 31.
///
/// # Costs
///
/// A put is one write. A claim is a listing of 32 names, a read and a write, however many tasks there are, and a watch that
/// ends with it. Who waits for tasks stands in a line, so a put wakes one. One of the programs that claim, the *keeper*,
/// watches the claims, and returns those of the dead; for each claim that ends it asks once whether its task is still
/// running.
///
/// # The session
///
/// Bound to one session; claims end with it. [`work`](super::work) outlives sessions.
///
/// Curator: `DistributedPriorityQueue`, `DistributedDelayQueue`; kazoo: `Queue`, `LockingQueue`. Theirs have no attempts, no dead letters
/// and no fencing, and list all their elements.
#[derive(Clone)]
pub struct TaskQueue {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Tree,
    options: TaskQueueOptions,
    waiters: WaitingLine,
    keeper: OnceLock<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
    }
}

impl std::fmt::Debug for TaskQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskQueue").field("root", &self.inner.tree.root).finish_non_exhaustive()
    }
}

impl TaskQueue {
    /// The queue at a path; its znodes are made if they are not there. Where they are there, the right to create is not needed.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a malformed path; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Some of the znodes may have been made.
    pub async fn open(
        client: &Client,
        path: impl AsRef<str>,
        options: TaskQueueOptions,
    ) -> Result<Self, Error> {
        let tree = Tree::open(client, path.as_ref()).await?;
        let waiters = WaitingLine::new(client, tree.directory(WAITERS));
        Ok(Self { inner: Arc::new(Inner { tree, options, waiters, keeper: OnceLock::new() }) })
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.inner.tree
    }

    /// Adds a task. Returns its id.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a payload over 700,000 bytes, a priority over 999, or no attempts; `QuotaExceeded`; `NoAuth`; those of
    /// the session.
    ///
    /// # Cancellation
    ///
    /// Once polled, the task may have been put.
    pub async fn put(&self, payload: impl AsRef<[u8]>, options: &TaskOptions) -> Result<String, Error> {
        let record = Record::new(payload.as_ref(), options)?;
        let (tree, delay_ms) = (self.tree(), millis(options.delay));
        let path = match delay_ms {
            0 => tree.node(PENDING, &format!("{:03}-p", record.priority)),
            _ => {
                let (due_ms, id) =
                    (tree.now().await?.saturating_add(delay_ms), format!("{:03}-d", record.priority));
                tree.node(DELAYED, &DelayedName { due_ms, delay_ms, id: &id }.to_string())
            }
        };
        let create = || tree.client.create(&*path, record.to_bytes(), CreateMode::PersistentSequential);
        let created = match create().await {
            Ok(created) => created,
            Err(error) => {
                tree.mend(error).await?;
                create().await?
            }
        };
        tree.observe(&created.stat);
        let name = name_of(&created.path);
        Ok(DelayedName::parse(name).map_or(name, |name| name.id).to_owned())
    }

    /// Claims the next task; waits for one.
    ///
    /// Waiting workers stand in a line; the first of them is woken by a new task. One that stands still (SIGSTOP) while it
    /// is the first delays those that wait behind it until its session ends.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Leaves the line. A task that was claimed meanwhile is pending again, and no attempt is counted.
    pub async fn claim(&self) -> Result<Claim, Error> {
        self.keep();
        loop {
            match self.wait_for_first().await {
                Ok(claim) => return Ok(claim),
                Err(error) => self.tree().mend(error).await?,
            }
        }
    }

    async fn wait_for_first(&self) -> Result<Claim, Error> {
        if let Some(claim) = self.first(ReadLevel::Local).await? {
            return Ok(claim);
        }
        let name = json!({ "worker": self.inner.options.worker }).to_string();
        let place = self.inner.waiters.join(WAITER, name.into()).await?;
        place.wait_until_free(before).await?;
        loop {
            let (client, pending) = (&self.tree().client, self.tree().directory(PENDING));
            let (page, watcher) = client.list_and_watch(pending, ReadLevel::Local, after("")).await?;
            if let Some(claim) = self.first_from(page, ReadLevel::Local).await? {
                return Ok(claim);
            }
            watcher.changed().await?;
        }
    }

    /// Claims the next task if there is one, everything considered that was acknowledged before the call.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim).
    ///
    /// # Cancellation
    ///
    /// As [`claim`](Self::claim).
    pub async fn try_claim(&self) -> Result<Option<Claim>, Error> {
        self.keep();
        let first = match self.first(ReadLevel::Local).await {
            Ok(first) => first,
            Err(error) => {
                self.tree().mend(error).await?;
                None
            }
        };
        match first {
            Some(claim) => Ok(Some(claim)),
            None => self.first(ReadLevel::Linearizable).await,
        }
    }

    /// Stands by to return tasks of dead workers and to make delayed ones pending, until the last clone of the queue is
    /// dropped or the session ends. Claiming does it by itself; this is for programs that only put, where workers come
    /// and go.
    pub fn keep(&self) {
        let tree = self.tree();
        self.inner.keeper.get_or_init(|| tokio::spawn(keeper::run(tree.clone())).abort_handle());
    }

    async fn first(&self, level: ReadLevel) -> Result<Option<Claim>, Error> {
        let page = self.tree().client.list_page(self.tree().directory(PENDING), level, after("")).await?;
        self.first_from(page, level).await
    }

    /// Claims one of a page, or of those behind it. None is tried twice, because there may be some that nobody can claim.
    async fn first_from(&self, mut page: ListPage, level: ReadLevel) -> Result<Option<Claim>, Error> {
        loop {
            let last = page.children.last().filter(|_| page.more).map(|child| child.name.clone());
            if let Some(claim) = self.one_of(page).await? {
                return Ok(Some(claim));
            }
            let Some(last) = last else { return Ok(None) };
            let pending = self.tree().directory(PENDING);
            page = self.tree().client.list_page(pending, level, after(&last)).await?;
        }
    }

    /// Claims the first of a page; where others are faster, any other of it.
    async fn one_of(&self, page: ListPage) -> Result<Option<Claim>, Error> {
        let mut names: Vec<_> = page.children.into_iter().map(|child| child.name).collect();
        let mut at = 0;
        while !names.is_empty() {
            if let Some(claim) = self.take(names.remove(at)).await? {
                return Ok(Some(claim));
            }
            at = if names.is_empty() { 0 } else { rand::rng().random_range(0..names.len()) };
        }
        Ok(None)
    }

    /// Claims one task, unless somebody else has.
    async fn take(&self, id: String) -> Result<Option<Claim>, Error> {
        let tree = self.tree().clone();
        let Some((data, stat)) = tree.read(PENDING, &id).await? else { return Ok(None) };
        let record = Record::parse(&data);
        let Some((record, payload)) = record.and_then(|record| Some((record.clone(), record.payload()?)))
        else {
            tracing::warn!(path = tree.node(PENDING, &id), "this is no task; it goes to the dead letters");
            tree.relocate((PENDING, &id), &stat, (DEAD, &id), data).await?;
            return Ok(None);
        };
        wait_for_lease(&tree.client, self.inner.options.grace).await?;
        let (queue, name, mut id) = (self.clone(), self.inner.options.worker.clone(), id);
        let undelivered = owned(async move {
            let holder = holder(&name, &record, None);
            let (mut czxid, mut attempt) = (stat.czxid, 1);
            let created = loop {
                let pending = tree.node(PENDING, &id);
                let multi = tree.client.multi().check(Check::epoch(&pending, czxid)).delete(&*pending, None);
                let multi = multi.create(tree.node(RUNNING, &id), data.clone(), CreateMode::Persistent);
                let multi = multi.create(tree.node(CLAIMS, &id), holder.clone(), CreateMode::Ephemeral);
                let error = match multi.commit().await {
                    Ok(results) => break results.into_iter().next_back(),
                    Err(error) => error,
                };
                attempt += 1;
                match (error.op_index, error.kind) {
                    _ if attempt > ATTEMPTS => return Err(error),
                    // The task was in its place, and another one of its name is running, or was.
                    (Some(2 | 3), ErrorKind::NodeExists) => {
                        let Some(renamed) = tree.rename_pending(&id, czxid).await? else { return Ok(None) };
                        (id, czxid) = renamed;
                    }
                    (Some(2 | 3), ErrorKind::NoNode) => tree.mend(error).await?,
                    (_, ErrorKind::NotEmpty) => clear_below(&tree.client, &pending).await?,
                    (Some(0 | 1), _) if is_changed(&error) => return Ok(None),
                    _ => return Err(error),
                }
            };
            let Some(MultiResult::Create(created)) = created else {
                return Err(no_result());
            };
            tree.observe(&created.stat);
            let grace = queue.inner.options.grace;
            let grant = Grant::begin(&tree.client, &created.path, created.stat.czxid, grace).await?;
            Ok(Some(Undelivered::new(Claim::new(queue, id, record, payload, grant))))
        });
        Ok(undelivered.await?.map(Undelivered::deliver))
    }

    pub(super) fn worker(&self) -> &str {
        &self.inner.options.worker
    }
}

fn after(name: &str) -> ListOptions {
    ListOptions { after: name.to_owned(), limit: PAGE, ..ListOptions::default() }
}

/// Everybody waits for the one before.
pub(super) fn before(positions: &[Position], index: usize) -> Option<String> {
    index.checked_sub(1).map(|index| positions[index].name.clone())
}
