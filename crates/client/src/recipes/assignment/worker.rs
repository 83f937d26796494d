use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::WorkAssignment;
use super::item::{AssignedItem, Ended};
use super::layout::{ASSIGNED, ITEMS, Layout, OWNERS, WORKERS};
use super::records::{ItemRecord, ListRecord, OwnerRecord, WorkerRecord, to_bytes};
use crate::recipes::grant::{Grant, Loss, wait_for_lease};
use crate::recipes::parents::remove_ownerless;
use crate::recipes::registry::check_name;
use crate::recipes::waiting_line::{Left, owned, until_left};
use crate::recipes::znode::found;
use crate::{
    Check, Client, CreateMode, CreateOptions, Error, ErrorKind, Multi, MultiResult, ReadLevel, ReadResult,
    WatchEvent,
};

/// Items that are looked at, and taken, in one step.
const BATCH: usize = 256;
/// A weight, or a load: their sums have to be numbers.
pub(super) const NUMBER_MAX: f64 = 1e9;
/// Before an item that was dropped by itself, or cannot be taken, is looked at again.
const REST: Duration = Duration::from_secs(1);

/// Who works.
#[derive(Clone, Debug)]
pub struct WorkerProfile {
    id: String,
    record: WorkerRecord,
    grace: Option<Duration>,
}

impl WorkerProfile {
    /// A worker under a name that no other worker of the group has: of weight 1, without load.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), record: WorkerRecord::default(), grace: None }
    }

    /// Its share of the items, relative to the others'; at least 0. With 0 it is given nothing.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.record.weight = weight;
        self
    }

    /// What it bears beside the items, in units of their cost.
    #[must_use]
    pub fn load(mut self, load: f64) -> Self {
        self.record.load = load;
        self
    }

    /// Whatever else others should know. With the rest at most 1 MiB as JSON.
    #[must_use]
    pub fn data(mut self, data: impl Into<Value>) -> Self {
        self.record.data = data.into();
        self
    }

    /// How long before its deadline an item counts as lost; see [`Grant::lost`].
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

fn check_number(what: &str, number: f64) -> Result<(), Error> {
    if (0.0..=NUMBER_MAX).contains(&number) {
        return Ok(());
    }
    let message = format!("a {what} of {number}; it is at least 0 and at most {NUMBER_MAX}");
    Err(Error::new(ErrorKind::BadArguments, message))
}

/// What a worker is told.
#[derive(Debug)]
// Each is moved a few times in its life; a box would be in everybody's way.
#[allow(clippy::large_enum_variant)]
pub enum AssignmentChange {
    /// It owns this item from now on.
    Assigned(AssignedItem),
    /// It is to give the item of this name back: to finish what is under way and drop it. [`AssignedItem::revoked`] says
    /// the same.
    Revoked(String),
}

/// A member of a group that takes items. Dropping it leaves the group; items that are still held are given to others when they
/// are dropped.
#[derive(Debug)]
pub struct AssignmentWorker {
    group: WorkAssignment,
    membership: Grant,
    record: Mutex<WorkerRecord>,
    changes_rx: mpsc::UnboundedReceiver<Result<AssignmentChange, Error>>,
    leaving: watch::Sender<bool>,
    task: AbortHandle,
}

impl Drop for AssignmentWorker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AssignmentWorker {
    pub(super) async fn join(group: &WorkAssignment, profile: &WorkerProfile) -> Result<Self, Error> {
        check_name("a worker's name", &profile.id)?;
        check_number("weight", profile.record.weight)?;
        check_number("load", profile.record.load)?;
        let (client, layout) = (group.client().clone(), group.layout().clone());
        let WorkerProfile { id, record, grace } = profile.clone();
        let path = layout.node(WORKERS, &id);
        let data = to_bytes(&record);
        let membership = loop {
            // With the directory, which somebody may have deleted since the group was opened.
            let options = CreateOptions::new(CreateMode::Ephemeral).parents(true);
            let creating = client.create(&path, data.clone(), options);
            let (session, path) = (client.clone(), path.clone());
            let joined = owned(async move {
                let created = creating.await?;
                Grant::begin(&session, &created.path, created.stat.czxid, grace).await
            });
            match joined.await {
                // The one before this has not been missed yet.
                Err(error) if error.kind == ErrorKind::NodeExists => {
                    if let Left::Ownerless(stat) = until_left(&client, &path).await? {
                        remove_ownerless(&client, &path, &stat).await?;
                    }
                }
                joined => break joined?,
            }
        };
        let (changes_tx, changes_rx) = mpsc::unbounded_channel();
        let (ended_tx, ended_rx) = mpsc::unbounded_channel();
        let leaving = watch::Sender::new(false);
        let task = WorkerTask {
            claimant: Claimant { client, layout, membership: membership.as_check(), id, grace },
            loss: membership.loss(),
            leaving: leaving.subscribe(),
            held: BTreeMap::new(),
            changes_tx,
            ended_tx,
            ended_rx,
            blocked: FuturesUnordered::new(),
            blocked_items: BTreeSet::new(),
            resting: FuturesUnordered::new(),
            resting_items: BTreeSet::new(),
            batch: BATCH,
        };
        let task = tokio::spawn(task.run()).abort_handle();
        let record = Mutex::new(record);
        Ok(Self { group: group.clone(), membership, record, changes_rx, leaving, task })
    }

    /// The group.
    pub fn group(&self) -> &WorkAssignment {
        &self.group
    }

    /// The epoch of the membership.
    pub fn epoch(&self) -> u64 {
        self.membership.epoch()
    }

    /// What is assigned or revoked next; `None` when the worker has [left](Self::leave) and has given everything back. Read
    /// it as long as the worker is there: what is not read is not given back.
    ///
    /// # Errors
    ///
    /// Those of the session, and `GrantLost` if somebody has struck the worker from the list. Then all is over: join again.
    ///
    /// # Cancellation
    ///
    /// Safe: what was not returned is returned by the next call.
    pub async fn next(&mut self) -> Result<Option<AssignmentChange>, Error> {
        self.changes_rx.recv().await.transpose()
    }

    /// Reports what the worker bears beside the items, in units of their cost. Each report is a write; only who leads hears of
    /// it.
    ///
    /// # Errors
    ///
    /// `BadArguments` for less than 0; `GuardFailed` if somebody has struck the worker from the list; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn set_load(&self, load: f64) -> Result<(), Error> {
        check_number("load", load)?;
        self.publish(|record| record.load = load).await
    }

    /// Changes its share of the items. With 0 it loses what it has, when the group is rebalanced next.
    ///
    /// # Errors
    ///
    /// As [`set_load`](Self::set_load).
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn set_weight(&self, weight: f64) -> Result<(), Error> {
        check_number("weight", weight)?;
        self.publish(|record| record.weight = weight).await
    }

    async fn publish(&self, change: impl FnOnce(&mut WorkerRecord)) -> Result<(), Error> {
        let call = {
            // Submitted while it is held: the last one that changes it is the last one that is written.
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut record);
            let guarded = self.group.client().guarded([self.membership.as_check()]);
            guarded.set(self.membership.path(), to_bytes(&*record), None)
        };
        call.await.map(drop)
    }

    /// Leaves the group in good order: everything is revoked, and given to others when it is given back. Go on with
    /// [`next`](Self::next) until it returns `None`.
    ///
    /// # Errors
    ///
    /// Those of the session.
    ///
    /// # Cancellation
    ///
    /// It leaves also if the future is dropped.
    pub async fn leave(&self) -> Result<(), Error> {
        self.leaving.send_replace(true);
        self.membership.release().await
    }
}

/// What the worker was told to own, and what must hold while it takes any of it.
struct List {
    items: BTreeSet<String>,
    checks: Vec<Check>,
    changed: BoxFuture<'static, Result<WatchEvent, Error>>,
}

/// An item as it was put.
struct PutItem {
    id: String,
    record: ItemRecord,
    /// Its creation zxid.
    epoch: u64,
}

/// What became of an attempt to take items.
enum Taken {
    Items(Vec<(PutItem, Grant)>),
    /// Somebody else has one of them by now.
    Beaten,
    /// The list is another one by now, or the worker is no member.
    Outdated,
}

/// Finds and takes items for a worker.
#[derive(Clone)]
struct Claimant {
    client: Client,
    layout: Layout,
    membership: Check,
    id: String,
    grace: Option<Duration>,
}

impl Claimant {
    async fn list(&self) -> Result<List, Error> {
        let path = self.layout.node(ASSIGNED, &self.id);
        loop {
            match self.client.get_and_watch(&path, ReadLevel::Local).await {
                Ok((data, stat, watcher)) => {
                    let list: ListRecord = serde_json::from_slice(&data).unwrap_or_default();
                    // The version alone would take a list that was deleted and written anew for the same.
                    let checks = vec![
                        self.membership.clone(),
                        Check::epoch(&path, stat.czxid),
                        Check::version(&path, stat.version),
                    ];
                    // Somebody else may have written it.
                    let is_name = |item: &String| check_name("an item's name", item).is_ok();
                    let items = list.items.into_iter().filter(is_name).collect();
                    return Ok(List { items, checks, changed: watcher.changed().boxed() });
                }
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) => return Err(error),
            }
            let (stat, watcher) = self.client.exists_and_watch(&path, ReadLevel::Local).await?;
            if stat.is_none() {
                let changed = watcher.changed().boxed();
                return Ok(List { items: BTreeSet::new(), checks: Vec::new(), changed });
            }
        }
    }

    /// Which of the items somebody owns.
    async fn owned_by_somebody(&self, items: &[String]) -> Result<Vec<bool>, Error> {
        let read = self.client.multi_read(ReadLevel::Local);
        let read = items.iter().fold(read, |read, item| read.exists(self.layout.node(OWNERS, item)));
        let answers = read.send().await?;
        answers.into_iter().map(|answer| Ok(matches!(answer?, ReadResult::Exists(Some(_))))).collect()
    }

    /// The items as they were put; those are left out that were removed.
    async fn read(&self, items: Vec<String>) -> Result<Vec<PutItem>, Error> {
        let reads = items.into_iter().map(|item| {
            // All are sent before the first is awaited.
            let reading = self.client.get(self.layout.node(ITEMS, &item), ReadLevel::Local);
            async move {
                let read = found(reading.await)?;
                Ok(read.map(|(data, stat)| PutItem {
                    id: item,
                    record: serde_json::from_slice(&data).unwrap_or_default(),
                    epoch: stat.czxid,
                }))
            }
        });
        let items: Result<Vec<_>, Error> = join_all(reads).await.into_iter().collect();
        Ok(items?.into_iter().flatten().collect())
    }

    /// Takes all of the items or none. Runs to its end also if nobody waits: what was taken is given back then.
    async fn take(&self, items: Vec<PutItem>, checks: Vec<Check>) -> Result<Taken, Error> {
        wait_for_lease(&self.client, self.grace).await?;
        let (claimant, conditions) = (self.clone(), checks.len());
        owned(async move {
            let Claimant { client, layout, id, grace, .. } = claimant;
            let multi = checks.into_iter().fold(client.multi(), Multi::check);
            let multi = items.iter().fold(multi, |multi, item| {
                let owner = to_bytes(&OwnerRecord { worker: id.clone(), item: item.epoch });
                let options = CreateOptions::new(CreateMode::Ephemeral).parents(true);
                multi.create(layout.node(OWNERS, &item.id), owner, options)
            });
            let results = match multi.commit().await {
                Ok(results) => results,
                Err(error) if error.op_index.is_some_and(|index| (index as usize) < conditions) => {
                    return Ok(Taken::Outdated);
                }
                Err(error) if error.kind == ErrorKind::NodeExists => return Ok(Taken::Beaten),
                Err(error) => return Err(error),
            };
            // The answer may have been long under way.
            wait_for_lease(&client, grace).await?;
            let grants = results.into_iter().filter_map(|result| match result {
                MultiResult::Create(created) => {
                    Some(Grant::new(&client, &created.path, created.stat.czxid, grace))
                }
                _ => None,
            });
            Ok(Taken::Items(items.into_iter().zip(grants).collect()))
        })
        .await
    }
}

/// An item in the hands of the worker, or on the way to it.
struct Held {
    epoch: u64,
    revoked: watch::Sender<bool>,
    loss: watch::Receiver<Option<Loss>>,
}

/// The task behind the handle: takes what the list names as soon as it is free, and revokes what it does not name any more.
///
/// Its channels have no limit, and need none: an item is not taken again before its last grant has been dropped, which the
/// worker can do only after it was told of it, so there are at most two changes and one end of an item under way.
struct WorkerTask {
    claimant: Claimant,
    /// Of the membership.
    loss: watch::Receiver<Option<Loss>>,
    leaving: watch::Receiver<bool>,
    held: BTreeMap<String, Held>,
    changes_tx: mpsc::UnboundedSender<Result<AssignmentChange, Error>>,
    ended_tx: mpsc::UnboundedSender<Ended>,
    ended_rx: mpsc::UnboundedReceiver<Ended>,
    /// Items that others own; each watched by this worker alone, because only one list names an item.
    blocked: FuturesUnordered<BoxFuture<'static, String>>,
    blocked_items: BTreeSet<String>,
    /// Items that are left alone for a while.
    resting: FuturesUnordered<BoxFuture<'static, String>>,
    resting_items: BTreeSet<String>,
    /// So many items are taken in one step.
    batch: usize,
}

impl WorkerTask {
    async fn run(mut self) {
        if let Err(error) = self.work().await {
            // Who has dropped the worker does not want to know.
            let _ = self.changes_tx.send(Err(error));
        }
    }

    async fn work(&mut self) -> Result<(), Error> {
        let (mut loss, mut leaving) = (self.loss.clone(), self.leaving.clone());
        let is_over = |loss: &Option<Loss>| matches!(loss, Some(Loss::Deleted | Loss::SessionEnded));
        tokio::select! {
            biased;
            _ = leaving.wait_for(|is_leaving| *is_leaving) => {}
            loss = loss.wait_for(is_over) => return Err(match loss.ok().and_then(|loss| *loss) {
                Some(Loss::Deleted) => {
                    Error::new(ErrorKind::GrantLost, "the worker was struck from the list by somebody else")
                }
                _ => Error::new(ErrorKind::SessionExpired, "the session of the worker has ended"),
            }),
            ended = self.follow() => return ended,
        }
        self.revoke_but(&BTreeSet::new());
        while !self.held.is_empty()
            && let Some(ended) = self.ended_rx.recv().await
        {
            self.on_ended(&ended);
        }
        Ok(())
    }

    /// Ends only by an error.
    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            let List { items, checks, mut changed } = match self.claimant.list().await {
                Ok(list) => list,
                Err(error) if error.is_terminal() => return Err(error),
                // What it has it keeps: nobody else takes that before it has let go of it.
                Err(error) => {
                    tracing::warn!(%error, worker = self.claimant.id, "the list of the items cannot be read; trying again");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            self.revoke_but(&items);
            loop {
                let is_current = self.take_free(&items, &checks).await?;
                tokio::select! {
                    biased;
                    event = &mut changed => {
                        event?;
                        break;
                    }
                    Some(ended) = self.ended_rx.recv(), if is_current => self.on_ended(&ended),
                    Some(item) = self.blocked.next(), if is_current => self.on_free(&item),
                    Some(item) = self.resting.next(), if is_current => {
                        self.resting_items.remove(&item);
                    }
                }
            }
        }
    }

    fn revoke_but(&mut self, listed: &BTreeSet<String>) {
        for (item, held) in &self.held {
            if !listed.contains(item) && !held.revoked.send_replace(true) {
                let _ = self.changes_tx.send(Ok(AssignmentChange::Revoked(item.clone())));
            }
        }
    }

    /// An item is free, and those that have become free with it: they are taken in one step.
    fn on_free(&mut self, item: &str) {
        self.blocked_items.remove(item);
        while let Some(Some(item)) = self.blocked.next().now_or_never() {
            self.blocked_items.remove(&item);
        }
    }

    fn on_ended(&mut self, ended: &Ended) {
        if self.held.get(&ended.id).is_none_or(|held| held.epoch != ended.epoch) {
            return;
        }
        let Some(held) = self.held.remove(&ended.id) else { return };
        // Who gives an item up by itself, because it cannot do it, is not asked to do it again and again.
        if !*held.revoked.borrow() && held.loss.borrow().is_none() {
            self.rest(ended.id.clone());
        }
    }

    fn rest(&mut self, item: String) {
        self.resting_items.insert(item.clone());
        self.resting.push(tokio::time::sleep(REST).map(|()| item).boxed());
    }

    /// Takes all listed items that are free, and watches the others. Returns whether the list is still current.
    async fn take_free(&mut self, listed: &BTreeSet<String>, checks: &[Check]) -> Result<bool, Error> {
        loop {
            let is_due = |item: &&String| {
                !self.held.contains_key(*item)
                    && !self.blocked_items.contains(*item)
                    && !self.resting_items.contains(*item)
            };
            let due: Vec<String> = listed.iter().filter(is_due).take(self.batch).cloned().collect();
            if due.is_empty() {
                self.batch = BATCH;
                return Ok(true);
            }
            match self.take_due(&due, checks).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if error.is_terminal() => return Err(error),
                // One of them is at fault, and must not keep the others from being taken.
                Err(_) if due.len() > 1 => self.batch = 1,
                Err(error) => {
                    tracing::warn!(%error, worker = self.claimant.id, item = due[0], "an item cannot be taken; trying again");
                    self.rest(due[0].clone());
                }
            }
        }
    }

    /// Takes those of the items that are free, and watches the others. Returns whether the list is still current.
    async fn take_due(&mut self, due: &[String], checks: &[Check]) -> Result<bool, Error> {
        let mut free = Vec::new();
        for (item, is_owned) in due.iter().zip(self.claimant.owned_by_somebody(due).await?) {
            if !is_owned || !self.wait_for(item).await? {
                free.push(item.clone());
            }
        }
        let items = self.claimant.read(free.clone()).await?;
        for item in free.iter().filter(|item| items.iter().all(|there| there.id != **item)) {
            // Removed a moment ago, and about to leave the list.
            self.rest(item.clone());
        }
        if items.is_empty() {
            return Ok(true);
        }
        match self.claimant.take(items, checks.to_vec()).await? {
            Taken::Items(taken) => taken.into_iter().for_each(|(item, grant)| self.hand_out(item, grant)),
            Taken::Beaten => {}
            Taken::Outdated => return Ok(false),
        }
        Ok(true)
    }

    /// Watches an item that somebody owns. Returns whether somebody does.
    async fn wait_for(&mut self, item: &str) -> Result<bool, Error> {
        let path = self.claimant.layout.node(OWNERS, item);
        let (stat, watcher) = self.claimant.client.exists_and_watch(path, ReadLevel::Local).await?;
        if stat.is_none() {
            return Ok(false);
        }
        let item = item.to_owned();
        self.blocked_items.insert(item.clone());
        // Whatever it was, the next look shows it.
        self.blocked.push(watcher.changed().map(|_| item).boxed());
        Ok(true)
    }

    fn hand_out(&mut self, PutItem { id, record, .. }: PutItem, grant: Grant) {
        let revoked = watch::Sender::new(false);
        let held = Held { epoch: grant.epoch(), loss: grant.loss(), revoked };
        let item =
            AssignedItem::new(id.clone(), record, grant, held.revoked.subscribe(), self.ended_tx.clone());
        self.held.insert(id, held);
        // If the worker was dropped meanwhile, the item goes with it.
        let _ = self.changes_tx.send(Ok(AssignmentChange::Assigned(item)));
    }
}
