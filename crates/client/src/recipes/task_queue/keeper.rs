//! Returns the tasks of dead workers and brings up delayed ones. Each program that claims stands by; the first in line
//! does it. Nothing rests on there being one only: each step is a multi that two cannot do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::join_all;
use serde::Deserialize;
use tokio::time::Instant;

use super::queue::before;
use super::record::{DelayedName, Record};
use super::tree::{CLAIMS, DEAD, DELAYED, PENDING, RUNNING, Tree};
use crate::recipes::parents::{is_ownerless, parent_of, remove_ownerless};
use crate::recipes::waiting_line::WaitingLine;
use crate::recipes::znode::{found, name_of};
use crate::{
    Check, Client, Error, ErrorKind, Event, EventType, ListOptions, ReadLevel, ReadResult, Stat, WatchEvent,
    WatchMode, WatchOptions,
};

const KEEPERS: &str = "keepers";
const KEEPER: &str = "keeper-";
/// Ends of claims are gathered for so long, and looked into together.
const GATHER: Duration = Duration::from_millis(10);
/// As many as one multi-read takes.
const BATCH: usize = 1000;
/// Bytes of a task's id, at most.
const ID_BYTES: usize = 64;
const RETRY: Duration = Duration::from_secs(1);
/// All claims and running tasks are compared again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// A due time is looked at again after so long: a server's clock may have been set.
const NAP_MAX: Duration = Duration::from_secs(60);
const DELAYED_PAGE: u32 = 100;
pub(super) const DIED: &str = "its worker died or gave up";
const SILENT: &str = "its worker was silent for the claim timeout";

/// How a claim ended whose task is to come back.
#[derive(Clone, Copy, Debug)]
pub(super) enum ClaimEnd {
    /// It is gone.
    Gone,
    /// It was not renewed in time; a renewal that comes before the end keeps it.
    Silent(Held),
    /// It is taken away, whatever its worker does.
    Taken { epoch: u64 },
}

/// Keeps until the session ends, or until it is aborted.
pub(super) async fn run(tree: Tree) {
    let line = WaitingLine::new(&tree.client, tree.directory(KEEPERS));
    loop {
        let error = match keep(&tree, &line).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        if error.is_terminal() {
            return;
        }
        tracing::warn!(%error, queue = %tree.root, "the keeper begins anew");
        // What cannot be mended is met again.
        let _ = tree.mend(error).await;
        tokio::time::sleep(RETRY).await;
    }
}

async fn keep(tree: &Tree, line: &WaitingLine) -> Result<(), Error> {
    let place = line.join(KEEPER, "".into()).await?;
    place.wait_until_free(before).await?;
    loop {
        match (Keeper { tree, held: BTreeMap::new(), due: None }).serve().await {
            // What was missed is made good by reading everything again.
            Err(error) if error.kind == ErrorKind::WatcherLagged => {}
            ended => ended?,
        }
    }
}

/// A claim that its worker must renew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    epoch: u64,
    version: i32,
    until_ms: u64,
}

#[derive(Deserialize)]
struct Holder {
    claim_timeout_ms: Option<u64>,
}

struct Keeper<'a> {
    tree: &'a Tree,
    /// Claims with a timeout, by task.
    held: BTreeMap<String, Held>,
    /// When the next delayed task is to be looked at; `None`: none is delayed.
    due: Option<Instant>,
}

impl Keeper<'_> {
    /// Ends only when everything has to be read again.
    async fn serve(mut self) -> Result<(), Error> {
        let client = &self.tree.client;
        let recursive = WatchOptions::new(WatchMode::PersistentRecursive);
        // Armed before the first look, so that nothing falls between.
        let claims = client.watch(self.tree.directory(CLAIMS), recursive.with_value(true));
        let delayed = client.watch(self.tree.directory(DELAYED), recursive);
        let (mut claims, mut delayed) = (claims.await?, delayed.await?);
        self.look_at_all(true).await?;
        self.bring_up_unnamed().await?;
        self.bring_up().await?;
        let mut look_again = Instant::now() + LOOK_AGAIN;
        let mut ended: BTreeSet<String> = BTreeSet::new();
        let mut gathered = None;
        loop {
            let silent = self.next_silent().await?;
            tokio::select! {
                event = claims.next() => match event? {
                    WatchEvent::Resync { .. } => return Ok(()),
                    WatchEvent::Event(event) => if let Some(id) = self.on_claim(&event) {
                        ended.insert(id);
                        gathered.get_or_insert_with(|| Instant::now() + GATHER);
                    },
                },
                event = delayed.next() => match event? {
                    WatchEvent::Resync { .. } => return Ok(()),
                    WatchEvent::Event(event) => self.on_delayed(&event).await?,
                },
                () = at(gathered) => {
                    gathered = None;
                    self.look_at(std::mem::take(&mut ended)).await?;
                }
                () = at(self.due) => self.bring_up().await?,
                () = at(silent) => self.take_from_silent().await?,
                () = tokio::time::sleep_until(look_again) => {
                    self.look_at_all(false).await?;
                    look_again = Instant::now() + LOOK_AGAIN;
                }
            }
        }
    }

    /// Returns every running task without a claim of a session. There are some if there was no keeper when their workers died,
    /// and where somebody has copied or written znodes by hand, at any time. `with_holders`: reads what the claims say, too.
    async fn look_at_all(&mut self, with_holders: bool) -> Result<(), Error> {
        let client = &self.tree.client;
        let running = client.children(self.tree.directory(RUNNING), ReadLevel::Local).await?;
        // Read later than the running: a task whose claim is missing now had one that has ended.
        let options = ListOptions { with_stat: true, ..ListOptions::default() };
        let mut pages = client.list_pages(self.tree.directory(CLAIMS), ReadLevel::Local, options);
        let (mut claimed, mut ownerless) = (BTreeSet::new(), BTreeMap::new());
        while let Some(page) = pages.try_next().await? {
            for child in page.children {
                match child.stat.filter(is_ownerless) {
                    Some(stat) => drop(ownerless.insert(child.name, stat)),
                    None => drop(claimed.insert(child.name)),
                }
            }
        }
        if with_holders {
            let ids: Vec<_> = claimed.iter().collect();
            for ids in ids.chunks(BATCH) {
                let reads = join_all(ids.iter().map(|id| self.tree.read(CLAIMS, id))).await;
                for (id, read) in ids.iter().zip(reads) {
                    if let Some((data, stat)) = read? {
                        self.on_holder(id, &data, &stat);
                    }
                }
            }
        }
        for id in running.iter().filter(|id| !claimed.contains(*id)) {
            let end = match ownerless.remove(id) {
                Some(stat) => ClaimEnd::Taken { epoch: stat.czxid },
                None => ClaimEnd::Gone,
            };
            self.return_one(id, end).await?;
        }
        for (id, stat) in ownerless {
            pass_over(&id, remove_ownerless(client, &self.tree.node(CLAIMS, &id), &stat).await)?;
        }
        Ok(())
    }

    async fn return_one(&self, id: &str, end: ClaimEnd) -> Result<(), Error> {
        pass_over(id, give_back(self.tree, id, end).await.map(drop))
    }

    /// Returns the task whose claim has ended.
    fn on_claim(&mut self, event: &Event) -> Option<String> {
        let id = event.path.rsplit('/').next()?.to_owned();
        if event.event_type == EventType::NodeDeleted {
            self.held.remove(&id);
            return Some(id);
        }
        if let Some((data, stat)) = &event.value {
            self.on_holder(&id, data, stat);
        }
        None
    }

    fn on_holder(&mut self, id: &str, data: &[u8], stat: &Stat) {
        let holder = serde_json::from_slice(data).unwrap_or(Holder { claim_timeout_ms: None });
        if let Some(timeout_ms) = holder.claim_timeout_ms {
            let until_ms = stat.mtime.saturating_add(timeout_ms);
            self.held.insert(id.to_owned(), Held { epoch: stat.czxid, version: stat.version, until_ms });
        }
    }

    /// Completed tasks are gone; those that are still running are returned.
    async fn look_at(&self, ended: BTreeSet<String>) -> Result<(), Error> {
        let ended: Vec<_> = ended.into_iter().collect();
        let path_bytes = self.tree.node(RUNNING, "").len() + ID_BYTES;
        for batch in ended.chunks(self.tree.client.limits().parts(BATCH, path_bytes)) {
            let read = self.tree.client.multi_read(ReadLevel::Local);
            let read = batch.iter().fold(read, |read, id| read.exists(self.tree.node(RUNNING, id)));
            for (id, answer) in batch.iter().zip(read.send().await?) {
                if let ReadResult::Exists(Some(_)) = answer? {
                    self.return_one(id, ClaimEnd::Gone).await?;
                }
            }
        }
        Ok(())
    }

    async fn next_silent(&self) -> Result<Option<Instant>, Error> {
        let Some(until_ms) = self.held.values().map(|held| held.until_ms).min() else { return Ok(None) };
        Ok(Some(instant(until_ms, self.tree.now().await?)))
    }

    async fn take_from_silent(&mut self) -> Result<(), Error> {
        let now_ms = self.tree.now().await?;
        let silent = self.held.iter().filter(|(_, held)| held.until_ms <= now_ms);
        let silent: Vec<_> = silent.map(|(id, held)| (id.clone(), *held)).collect();
        for (id, held) in silent {
            self.return_one(&id, ClaimEnd::Silent(held)).await?;
            // If it was renewed meanwhile, the event of that is on its way.
            self.held.remove(&id);
        }
        Ok(())
    }

    async fn on_delayed(&mut self, event: &Event) -> Result<(), Error> {
        if event.event_type == EventType::NodeDeleted
            || parent_of(&event.path) != self.tree.directory(DELAYED)
        {
            return Ok(());
        }
        let name = name_of(&event.path);
        match DelayedName::parse(name) {
            Some(name) => {
                let due = instant(name.due_ms, self.tree.now().await?);
                self.due = Some(self.due.map_or(due, |other| other.min(due)));
                Ok(())
            }
            None => pass_over(name, bring_up_one(self.tree, name, name).await),
        }
    }

    /// Brings up what stands among the delayed under a name that no queue writes: it says of no time, so it is due.
    async fn bring_up_unnamed(&self) -> Result<(), Error> {
        for name in self.tree.client.children(self.tree.directory(DELAYED), ReadLevel::Local).await? {
            if DelayedName::parse(&name).is_none() {
                pass_over(&name, bring_up_one(self.tree, &name, &name).await)?;
            }
        }
        Ok(())
    }

    /// Makes pending what is due.
    async fn bring_up(&mut self) -> Result<(), Error> {
        let now_ms = self.tree.now().await?;
        let options = ListOptions { limit: DELAYED_PAGE, with_stat: true, ..ListOptions::default() };
        let delayed = self.tree.directory(DELAYED);
        let mut pages = self.tree.client.list_pages(delayed, ReadLevel::Local, options);
        let mut next_ms: Option<u64> = None;
        'pages: while let Some(page) = pages.try_next().await? {
            for child in page.children {
                let (Some(name), Some(stat)) = (DelayedName::parse(&child.name), child.stat) else {
                    continue;
                };
                // The writer's guess in the name may be off; the server's stamp is not.
                let due_ms = stat.ctime.saturating_add(name.delay_ms);
                if due_ms <= now_ms {
                    pass_over(name.id, bring_up_one(self.tree, &child.name, name.id).await)?;
                    continue;
                }
                next_ms = Some(next_ms.map_or(due_ms, |other| other.min(due_ms)));
                // Guesses are in order, and none is later than the truth.
                if name.due_ms > now_ms {
                    break 'pages;
                }
            }
        }
        self.due = next_ms.map(|due_ms| instant(due_ms, now_ms));
        Ok(())
    }
}

async fn bring_up_one(tree: &Tree, name: &str, id: &str) -> Result<(), Error> {
    let Some((data, stat)) = tree.read(DELAYED, name).await? else { return Ok(()) };
    let directory = if Record::parse(&data).is_some() { PENDING } else { DEAD };
    tree.relocate((DELAYED, name), &stat, (directory, id), data).await?;
    Ok(())
}

/// Returns a running task whose claim has ended, or ends with this. Exactly one of all who try succeeds, and nobody if the
/// task was completed or claimed again meanwhile; tells whether it was this one.
pub(super) async fn give_back(tree: &Tree, id: &str, end: ClaimEnd) -> Result<bool, Error> {
    let client: &Client = &tree.client;
    let (claim, running) = (tree.node(CLAIMS, id), tree.node(RUNNING, id));
    let Some((data, stat)) = found(client.get(&running, ReadLevel::Local).await)? else { return Ok(false) };
    let begin = || {
        let multi = client.multi();
        let multi = match end {
            ClaimEnd::Gone => multi.check(Check::absent(&*claim)),
            ClaimEnd::Silent(Held { epoch, version, .. }) => {
                multi.check(Check::epoch(&*claim, epoch)).delete(&*claim, Some(version))
            }
            ClaimEnd::Taken { epoch } => multi.check(Check::epoch(&*claim, epoch)).delete(&*claim, None),
        };
        Ok(multi.check(Check::epoch(&*running, stat.czxid)).delete(&*running, None))
    };
    let (directory, data) = match Record::parse(&data) {
        Some(record) => {
            let cause = if matches!(end, ClaimEnd::Silent(_)) { SILENT } else { DIED };
            let record = record.failed(cause);
            // Its worker is to blame and not the task: no pause.
            (if record.is_exhausted() { DEAD } else { PENDING }, record.to_bytes())
        }
        None => (DEAD, data),
    };
    let is_first = tree.move_to(begin, (directory, id), data).await?.is_some();
    if is_first {
        tracing::info!(queue = %tree.root, id, "a task came back");
    }
    Ok(is_first)
}

/// What cannot be done with one task must not hold up the others. It is tried again with the next look at all.
fn pass_over(id: &str, done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if !error.is_terminal() && !error.is_retryable() => {
            tracing::warn!(id, %error, "a task stays where it is for now");
            Ok(())
        }
        done => done,
    }
}

/// When it will be so late at the ensemble; in a minute at the latest.
fn instant(then_ms: u64, now_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(then_ms.saturating_sub(now_ms)).min(NAP_MAX)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
