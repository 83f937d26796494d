use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use tokio::task::AbortHandle;

use super::coordinator;
use super::layout::{ASSIGNED, ITEMS, Layout, OWNERS, REBALANCE, SETTINGS, WORKERS};
use super::records::{ItemRecord, OwnerRecord, to_bytes};
use super::roster::ItemOwner;
use super::{AssignmentSettings, AssignmentStatus, AssignmentWorker, WorkItem, WorkerProfile};
use crate::recipes::parents::check_room;
use crate::recipes::registry::{NAME_BYTES_MAX, check_name};
use crate::recipes::replace_if::{BackOff, put};
use crate::recipes::waiting_line::until_gone;
use crate::recipes::znode::{found, make_directories};
use crate::recipes::{LeaderElection, TreeCache};
use crate::{Client, CreateMode, Error, ErrorKind, ReadLevel, ReadResult, ServerLimits};

/// Items that are put in one step.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// A group of workers to whom items are assigned, each item to one worker at a time.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::{AssignmentChange, WorkAssignment, WorkItem, WorkerProfile};
///
/// let group = WorkAssignment::open(&client, "/app/flows").await?;
/// group.put("orders", &WorkItem::new().cost(2.0)).await?;
/// let mut worker = group.join(&WorkerProfile::new("host-7")).await?;
/// while let Some(change) = worker.next().await? {
///     match change {
///         AssignmentChange::Assigned(item) => println!("{} is ours in epoch {}", item.id(), item.epoch()),
///         AssignmentChange::Revoked(id) => println!("{id} is to be given back"),
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # How it works
///
/// One of the members leads (an election of its own), looks at all there is, and writes for each worker the list of its items.
/// A worker watches its own list. It takes an item by creating an ephemeral of the item's name, and nobody else can until
/// that is gone: so an item that moves is revoked, drained and confirmed before it is granted, whoever dies meanwhile, and
/// the creation zxid is the epoch of the grant. All state is in the tree: the next leader goes on from there, and what
/// the former one writes is refused.
///
/// # Guarantees
///
/// * No two owners of an item at a time; see [`Grant`](crate::recipes::Grant) for what that means to who acts on it.
/// * Items of a worker that has died are given to others as soon as its session has ended; others stay where they are until the
///   group is rebalanced, and then as few move as the strategy allows.
///
/// # Costs
///
/// A plan is one write, whatever it moves, in groups of up to 200 changed lists; each item that changes hands is a watch and a
/// share of two writes. A worker hears of its own items only.
///
/// # The session
///
/// Bound to one session. [`participate`](super::participate) outlives sessions.
///
/// Neither Curator nor kazoo has it; Helix is the system of that kind on ZooKeeper, and kazoo's `SetPartitioner` a small one.
#[derive(Clone)]
pub struct WorkAssignment {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    layout: Layout,
    coordinator: OnceLock<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(coordinator) = self.coordinator.get() {
            coordinator.abort();
        }
    }
}

impl std::fmt::Debug for WorkAssignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkAssignment").field("root", &self.inner.layout.root()).finish_non_exhaustive()
    }
}

impl WorkAssignment {
    /// The group at a path; its znodes are made if they are not there.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a malformed path; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Some of the znodes may have been made.
    pub async fn open(client: &Client, path: impl AsRef<str>) -> Result<Self, Error> {
        let layout = Layout::new(path.as_ref());
        check_room(layout.root(), ASSIGNED.len() + 1 + NAME_BYTES_MAX)?;
        make_directories(client, [ITEMS, WORKERS, ASSIGNED, OWNERS].map(|directory| layout.top(directory)))
            .await?;
        let inner = Inner { client: client.patient(), layout, coordinator: OnceLock::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// Says how the group assigns. Groups that were never told have the defaults. Nothing moves by it alone; see
    /// [`rebalance`](Self::rebalance).
    ///
    /// # Errors
    ///
    /// `BadArguments` for a threshold below 0; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn configure(&self, settings: &AssignmentSettings) -> Result<(), Error> {
        settings.check()?;
        put(self.client(), &self.layout().top(SETTINGS), to_bytes(settings)).await?;
        Ok(())
    }

    /// Adds an item, or changes it. Who owns it keeps it, and what it was told of it. To tell it anew, remove the item first: it
    /// is revoked then, drained, and assigned as another one.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an id that cannot be a name, a cost below 0, or too much data; `QuotaExceeded`; `NoAuth`; those of the
    /// session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn put(&self, id: &str, item: &WorkItem) -> Result<(), Error> {
        self.put_all([(id, item)]).await
    }

    /// Adds or changes many, some hundred in one step.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put); some may have been put then.
    ///
    /// # Cancellation
    ///
    /// Those of the steps that were sent may be put.
    pub async fn put_all<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a str, &'a WorkItem)>,
    ) -> Result<(), Error> {
        // The last of those with the same name counts.
        let limits = self.client().limits();
        let (batch_max, bytes_max) = (limits.parts(BATCH, 0), limits.batch(BATCH_BYTES));
        let (mut batch, mut bytes) = (BTreeMap::new(), 0);
        for (id, item) in items {
            check_name("an item's name", id)?;
            let WorkItem { cost, data } = item.clone();
            if !cost.is_finite() || cost < 0.0 {
                let message = format!("item {id:?} has a cost of {cost}; it is at least 0");
                return Err(Error::new(ErrorKind::BadArguments, message));
            }
            let data = to_bytes(&ItemRecord { cost, data });
            let path = self.layout().node(ITEMS, id);
            let part = ServerLimits::part_bytes(path.len() + data.len());
            if batch.len() == batch_max || (bytes + part > bytes_max && !batch.is_empty()) {
                self.put_batch(&std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += part;
            batch.insert(path, data);
        }
        self.put_batch(&batch).await
    }

    async fn put_batch(&self, batch: &BTreeMap<String, crate::Bytes>) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let (client, mut back_off) = (self.client(), BackOff::default());
        loop {
            let look = client.multi_read(ReadLevel::Local);
            let look = batch.iter().fold(look, |look, (path, _)| look.exists(path));
            let mut multi = client.multi();
            for ((path, data), there) in batch.iter().zip(look.send().await?) {
                multi = match there? {
                    ReadResult::Exists(Some(_)) => multi.set(path, data.clone(), None),
                    _ => multi.create(path, data.clone(), CreateMode::Persistent),
                };
            }
            match multi.commit().await {
                // Somebody else has put or removed one of them in between.
                Err(error) if matches!(error.kind, ErrorKind::NodeExists | ErrorKind::NoNode) => {
                    // Unless the whole group is gone, which trying again does not help.
                    if client.exists(self.layout().top(ITEMS), ReadLevel::Local).await?.is_none() {
                        return Err(error);
                    }
                    back_off.pause().await;
                }
                committed => return committed.map(drop),
            }
        }
    }

    /// Removes an item: it is revoked from its owner, and belongs to nobody. False if there was none.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an id that cannot be a name; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn remove(&self, id: &str) -> Result<bool, Error> {
        check_name("an item's name", id)?;
        Ok(found(self.client().delete(self.layout().node(ITEMS, id), None).await)?.is_some())
    }

    /// Has the group rebalanced, whatever the threshold and the window say, and waits until that is planned. Items that move
    /// then are still to be handed over.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// It is rebalanced all the same, as soon as somebody leads.
    pub async fn rebalance(&self) -> Result<(), Error> {
        let path = self.layout().top(REBALANCE);
        // Written anew where somebody has asked already: what is planned for them may be without what this caller has seen.
        put(self.client(), &path, "").await?;
        until_gone(self.client(), &path).await?;
        Ok(())
    }

    /// Who owns an item, everything considered that was acknowledged before the call.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an id that cannot be a name; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn owner(&self, id: &str) -> Result<Option<ItemOwner>, Error> {
        check_name("an item's name", id)?;
        let owner = self.client().get(self.layout().node(OWNERS, id), ReadLevel::Linearizable).await;
        Ok(found(owner)?.map(|(data, stat)| {
            let OwnerRecord { worker, .. } = serde_json::from_slice(&data).unwrap_or_default();
            ItemOwner { worker, epoch: stat.czxid }
        }))
    }

    /// The whole group, everything considered that was acknowledged before the call. It reads every znode of the group, so it
    /// is for operators and not for loops.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn status(&self) -> Result<AssignmentStatus, Error> {
        let view = TreeCache::in_session(self.client(), self.layout().root()).wait_ready().await?;
        let election = LeaderElection::new(self.client(), self.layout().election());
        Ok(AssignmentStatus::new(self.layout(), &election, &view))
    }

    /// Joins as a worker, and stands by to lead. Where the name is taken, by a worker whose session has not ended yet, it waits.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that cannot be one, a weight or a load below 0; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Leaves nothing behind.
    pub async fn join(&self, profile: &WorkerProfile) -> Result<AssignmentWorker, Error> {
        let worker = AssignmentWorker::join(self, profile).await?;
        self.coordinate(profile.id());
        Ok(worker)
    }

    /// Stands by to lead under this name, until the last clone of the group is dropped or the session ends. Joining does it by
    /// itself; this is for programs that do not work. The first call counts.
    pub fn coordinate(&self, name: &str) {
        let (layout, client) = (self.layout(), self.client());
        self.inner.coordinator.get_or_init(|| {
            tokio::spawn(coordinator::run(layout.clone(), client.clone(), name.to_owned())).abort_handle()
        });
    }
}
