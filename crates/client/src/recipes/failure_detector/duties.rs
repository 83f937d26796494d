use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::time::{MissedTickBehavior, interval};

use super::FailureDetector;
use super::claims_log::ClaimsLog;
use super::failure::{FailureCause, FailureState, Known, NodeFailure, ServiceHealth};
use crate::recipes::assignment::strike_out;
use crate::recipes::parents::{clear_below, delete_all};
use crate::recipes::registry::{Directory, InstanceStatus, Member, ServiceInstance};
use crate::recipes::replace_if::put;
use crate::recipes::waiting_line::no_result;
use crate::recipes::znode::{found, get_all, is_changed, name_of, unless_changed};
use crate::recipes::{CacheView, CachedZnode, PathCache, TaskQueue, TaskQueueOptions};
use crate::{
    Check, Client, CreateMode, CreateOptions, Error, ErrorKind, Multi, MultiResult, ReadLevel, ReadResult,
    Stat,
};

/// So many records of failures are kept.
const RECORDS_MAX: usize = 100;
/// How often a step is tried again at once that was refused because something has changed meanwhile.
const ATTEMPTS: usize = 5;

/// What the elected detector does, and what it knows. Every write of its client is guarded by its leadership.
pub(super) struct Duties<'a> {
    detector: &'a FailureDetector,
    client: Client,
    claims: &'a ClaimsLog,
    queues: Vec<(String, TaskQueue)>,
    nodes: PathCache,
    /// The state up to which it has looked.
    seen: CacheView,
    directory: Directory,
    known: BTreeMap<String, Known>,
    health: BTreeMap<String, ServiceHealth>,
    /// Records that are over, the oldest first.
    reported: VecDeque<String>,
}

/// A node as its record shows it.
struct Present {
    instance: ServiceInstance,
    epoch: u64,
    session_id: u64,
    version: i32,
}

impl<'a> Duties<'a> {
    pub(super) async fn begin(
        detector: &'a FailureDetector,
        client: &Client,
        claims: &'a ClaimsLog,
    ) -> Result<Self, Error> {
        let nodes = PathCache::in_session(client, detector.layout.nodes());
        let mut queues = Vec::with_capacity(detector.queues.len());
        for path in &detector.queues {
            let queue = TaskQueue::open(client, path, TaskQueueOptions::new().worker(&detector.id)).await?;
            // Tasks of the dead come back also if nobody is left who claims any.
            queue.keep();
            queues.push((path.clone(), queue));
        }
        let root = detector.layout.root();
        let known =
            read_all(client, &format!("{root}/failures/nodes"), |name| detector.known_path(name)).await?;
        let health_path = |service: &str| detector.layout.health(service);
        let health = read_all(client, &detector.layout.services(), health_path).await?;
        Ok(Self {
            detector,
            client: client.patient(),
            claims,
            queues,
            nodes,
            seen: CacheView::default(),
            directory: Directory::default(),
            known: known.into_iter().map(|(id, (known, _))| (id, known)).collect(),
            health: health.into_iter().map(|(service, (health, _))| (service, health)).collect(),
            reported: VecDeque::new(),
        })
    }

    /// Runs until it fails, as it does when the leadership or the session is lost.
    pub(super) async fn run<F: Future<Output = ()>>(
        mut self,
        alert: &impl Fn(NodeFailure) -> F,
    ) -> Result<(), Error> {
        let records = self.detector.records();
        let path = |name: &str| format!("{records}/{name}");
        let failures: BTreeMap<String, (NodeFailure, Stat)> = read_all(&self.client, &records, path).await?;
        for (name, (failure, stat)) in failures {
            self.handle(path(&name), failure, stat.czxid, alert).await?;
        }
        let mut views = self.nodes.views();
        let limit = self.detector.stale_after;
        let mut look = interval((limit / 10).clamp(Duration::from_millis(20), Duration::from_secs(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                view = views.next() => match view {
                    Some(view) => self.on_view(view, alert).await?,
                    None => return Err(self.nodes.end().unwrap_or_else(ended)),
                },
                // Before the first view there is nothing to judge.
                _ = look.tick() => {
                    if self.directory.is_in_doubt(limit, Instant::now()) {
                        // It may only not have been heard here.
                        let at = Instant::now();
                        let view = self.nodes.wait_for(self.client.sync().await?).await?;
                        self.on_view(view, alert).await?;
                        self.directory.confirm(at);
                    }
                    // Also those for which it was refused the last time, because something had changed.
                    for member in self.directory.stale(limit) {
                        self.evict(&member, alert).await?;
                    }
                }
            }
        }
    }

    async fn on_view<F: Future<Output = ()>>(
        &mut self,
        view: CacheView,
        alert: &impl Fn(NodeFailure) -> F,
    ) -> Result<(), Error> {
        if view.zxid() < self.seen.zxid() {
            return Ok(());
        }
        self.directory.apply(&view.changes_since(&self.seen), Instant::now());
        self.seen = view;
        let present = self.present();
        self.count_services(&present).await?;
        let lost = |(id, known): (&String, &Known)| {
            present.get(id).is_none_or(|present| present.epoch != known.epoch).then(|| id.clone())
        };
        let lost: Vec<_> = self.known.iter().filter_map(lost).collect();
        for id in lost {
            self.on_lost(&id, alert).await?;
        }
        for (id, present) in &present {
            self.remember(id, present).await?;
        }
        Ok(())
    }

    /// The nodes of the newest view. What is no record of a node is none.
    fn present(&self) -> BTreeMap<String, Present> {
        let present = |znode: &CachedZnode| {
            let name = name_of(&znode.path);
            let instance = ServiceInstance::from_json(name, &znode.data).ok()?;
            let Stat { czxid: epoch, ephemeral_owner: session_id, version, .. } = znode.stat;
            Some((name.to_owned(), Present { instance, epoch, session_id, version }))
        };
        self.seen.iter().filter_map(|znode| present(znode)).collect()
    }

    /// Says at each service how many offer it, where that has changed.
    async fn count_services(&mut self, present: &BTreeMap<String, Present>) -> Result<(), Error> {
        let mut counts: BTreeMap<String, usize> =
            self.health.keys().map(|service| (service.clone(), 0)).collect();
        for Present { instance, .. } in present.values() {
            for service in &instance.services {
                let count = counts.entry(service.clone()).or_default();
                *count += usize::from(instance.status == InstanceStatus::Healthy);
            }
        }
        for (service, count) in counts {
            let health = ServiceHealth::of(count);
            if self.health.get(&service) != Some(&health) {
                put(&self.client, &self.detector.layout.health(&service), json(&health)).await?;
                self.health.insert(service, health);
            }
        }
        Ok(())
    }

    /// Keeps a record of a node that is there, so that its loss is noticed whoever is elected then.
    async fn remember(&mut self, id: &str, present: &Present) -> Result<(), Error> {
        let path = self.detector.known_path(id);
        let known = Known::new(&present.instance, present.epoch, present.session_id);
        if present.instance.status == InstanceStatus::Draining {
            if self.known.remove(id).is_some() {
                found(delete_all(&self.client, &path).await)?;
            }
            return Ok(());
        }
        if self.known.get(id) == Some(&known) {
            return Ok(());
        }
        // The very state that was seen: a node that has drained since must not be remembered, because nobody would forget it.
        let node = self.detector.layout.node(id);
        let mut is_there = self.known.contains_key(id);
        loop {
            let multi = self.client.multi().check(Check::epoch(&node, present.epoch));
            let multi = multi.check(Check::version(&*node, present.version));
            let options = CreateOptions::new(CreateMode::Persistent).parents(true);
            let multi = match is_there {
                true => multi.set(&*path, json(&known), None),
                false => multi.create(&*path, json(&known), options),
            };
            match multi.commit().await {
                Ok(_) => {
                    self.known.insert(id.to_owned(), known);
                    return Ok(());
                }
                // Somebody else has written what was no record, or has deleted ours.
                Err(error) if error.op_index == Some(2) && is_changed(&error) => {
                    is_there = error.kind == ErrorKind::NodeExists;
                }
                // The next view shows what it is.
                Err(error) if is_changed(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn on_lost<F: Future<Output = ()>>(
        &mut self,
        id: &str,
        alert: &impl Fn(NodeFailure) -> F,
    ) -> Result<(), Error> {
        let Some(known) = self.known.get(id).cloned() else { return Ok(()) };
        self.record(id, &known, FailureCause::Gone, self.client.multi(), alert).await?;
        // If it was not recorded, it has been dismissed.
        self.known.remove(id);
        Ok(())
    }

    /// Removes a node whose heartbeat is too old, in the step that records its loss; none if a heartbeat comes before. Also one
    /// that is draining, and so not watched: it has stopped before it had given back what it has.
    async fn evict<F: Future<Output = ()>>(
        &mut self,
        member: &Member,
        alert: &impl Fn(NodeFailure) -> F,
    ) -> Result<(), Error> {
        let id = &member.instance.id;
        let layout = &self.detector.layout;
        let node = layout.node(id);
        let Some(stat) = self.seen.get(&node).map(|znode| znode.stat) else { return Ok(()) };
        let known = self.known.get(id).cloned();
        let known = known.unwrap_or_else(|| Known::new(&member.instance, member.epoch, stat.ephemeral_owner));
        let announced = member.instance.services.iter().map(|service| layout.instance(service, id));
        let announced: Vec<_> = announced.collect();
        let read =
            announced.iter().fold(self.client.multi_read(ReadLevel::Local), |read, path| read.exists(path));
        let answers = if announced.is_empty() { Vec::new() } else { read.send().await? };
        // Announcements first, as when it deregisters.
        let mut multi = self.client.multi().check(Check::epoch(&node, member.epoch));
        for (path, answer) in announced.into_iter().zip(answers) {
            if let ReadResult::Exists(Some(found)) = answer?
                && found.ephemeral_owner == stat.ephemeral_owner
            {
                multi = multi.delete(path, None);
            }
        }
        let multi = multi.delete(node, Some(stat.version));
        let limit_ms = u64::try_from(self.detector.stale_after.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(id, limit_ms, "no heartbeat for so long; the node is removed");
        if self.record(id, &known, FailureCause::Silent, multi, alert).await? {
            self.known.remove(id);
        }
        Ok(())
    }

    /// Records a loss in one step with what `multi` does, and handles it. `false`: something has changed meanwhile, for one
    /// that the node has been dismissed, and nothing was done.
    async fn record<F: Future<Output = ()>>(
        &mut self,
        id: &str,
        known: &Known,
        cause: FailureCause,
        multi: Multi,
        alert: &impl Fn(NodeFailure) -> F,
    ) -> Result<bool, Error> {
        let mut failure = known.failure(id, cause, &self.detector.id);
        let others = self.present();
        let is_offered = |service: &String| {
            others.iter().any(|(other, Present { instance, .. })| {
                (other != id || cause == FailureCause::Gone)
                    && instance.status == InstanceStatus::Healthy
                    && instance.services.contains(service)
            })
        };
        failure.unavailable =
            failure.services.iter().filter(|service| !is_offered(service)).cloned().collect();
        let path = format!("{}/{:020}", self.detector.records(), failure.epoch);
        let options = CreateOptions::new(CreateMode::Persistent).parents(true);
        let multi = match self.known.contains_key(id) {
            true => multi.delete(self.detector.known_path(id), None),
            false => multi,
        };
        let last = multi.len() as u32;
        let (mut is_there, mut attempt) = (false, 1);
        let results = loop {
            let multi = match is_there {
                true => multi.clone().set(&path, json(&failure), None),
                false => multi.clone().create(&path, json(&failure), options.clone()),
            };
            let error = match multi.commit().await {
                Ok(results) => break results,
                Err(error) => error,
            };
            attempt += 1;
            match error.kind {
                _ if attempt > ATTEMPTS => return Err(error),
                // A record that somebody else has written, which is no reason to leave the loss unhandled.
                _ if error.op_index == Some(last) && is_changed(&error) => {
                    is_there = error.kind == ErrorKind::NodeExists;
                }
                ErrorKind::NotEmpty => clear_below(&self.client, &error.path).await?,
                _ if is_changed(&error) => return Ok(false),
                _ => return Err(error),
            }
        };
        let zxid = match results.into_iter().next_back() {
            Some(MultiResult::Create(created)) => created.stat.czxid,
            Some(MultiResult::Set(stat)) => stat.mzxid,
            _ => return Err(no_result()),
        };
        self.handle(path, failure, zxid, alert).await?;
        Ok(true)
    }

    /// Takes a recorded loss to its end, from wherever a former detector has left it.
    async fn handle<F: Future<Output = ()>>(
        &mut self,
        path: String,
        mut failure: NodeFailure,
        zxid: u64,
        alert: &impl Fn(NodeFailure) -> F,
    ) -> Result<(), Error> {
        if failure.state == FailureState::Recovering {
            self.give_tasks_back(&mut failure, zxid).await?;
            self.take_items(&mut failure, zxid).await?;
            self.recover(&path, &mut failure).await?;
        }
        if failure.state == FailureState::Recovered {
            alert(failure.clone()).await;
            failure.state = FailureState::Reported;
            unless_changed(self.client.set(&path, json(&failure), None).await)?;
        }
        self.reported.push_back(path);
        while self.reported.len() > RECORDS_MAX {
            let Some(oldest) = self.reported.pop_front() else { break };
            found(delete_all(&self.client, &oldest).await)?;
        }
        Ok(())
    }

    async fn give_tasks_back(&self, failure: &mut NodeFailure, zxid: u64) -> Result<(), Error> {
        for (path, queue) in &self.queues {
            let ended = self.claims.ended(path, failure.session_id, zxid).await?;
            let back: BTreeSet<_> = queue.take_back(failure.session_id, zxid, ended).await?;
            if !back.is_empty() {
                failure.requeued.insert(path.clone(), back.into_iter().collect());
            }
        }
        Ok(())
    }

    async fn take_items(&self, failure: &mut NodeFailure, zxid: u64) -> Result<(), Error> {
        for group in &self.detector.groups {
            let items = strike_out(&self.client, group, failure.session_id, zxid).await?;
            if !items.is_empty() {
                failure.reassigned.insert(group.clone(), items);
            }
        }
        Ok(())
    }

    /// The step that marks it as recovered, with what the program adds.
    async fn recover(&self, path: &str, failure: &mut NodeFailure) -> Result<(), Error> {
        failure.state = FailureState::Recovered;
        failure.detector.clone_from(&self.detector.id);
        let mut attempt = 1;
        loop {
            let multi = self.client.multi().set(path, json(failure), None);
            let multi = match &self.detector.recover {
                Some(recover) => recover(failure.clone(), multi).await?,
                None => multi,
            };
            match multi.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if is_changed(&error) && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

fn json(record: &impl serde::Serialize) -> Vec<u8> {
    // Structs of strings and numbers always have a JSON form.
    serde_json::to_vec(record).unwrap_or_default()
}

fn ended() -> Error {
    Error::new(ErrorKind::SessionClosed, "the cache of the nodes has ended")
}

/// The children of a znode by name, read at the path that each stands for, everything considered that was acknowledged
/// before. What is not there, or is something else, is left out.
async fn read_all<T: DeserializeOwned>(
    client: &Client,
    directory: &str,
    path: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, (T, Stat)>, Error> {
    let names = found(client.children(directory, ReadLevel::Linearizable).await)?.unwrap_or_default();
    let mut records = BTreeMap::new();
    let paths = names.iter().map(|name| path(name)).collect();
    for (name, (path, answer)) in names.iter().zip(get_all(client, paths, || {}).await?) {
        let (data, stat) = match answer {
            Ok(read) => read,
            Err(error) if error.kind == ErrorKind::NoNode => continue,
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&data) {
            Ok(record) => drop(records.insert(name.clone(), (record, stat))),
            Err(error) => tracing::warn!(path, %error, "this is no record; it is left alone"),
        }
    }
    Ok(records)
}
