use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::instance::check_load;
use super::layout::Layout;
use super::{InstanceStatus, ServiceInstance};
use crate::complaint::Complaint;
use crate::far::after;
use crate::recipes::Sessions;
use crate::recipes::parents::{is_ownerless, make_container, parent_of};
use crate::{Check, Client, CreateMode, Error, ErrorKind, MultiResult, ReadLevel};

/// Before a refused registration is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A registered instance: its record and the announcement of each of its services, as ephemerals that are made, changed
/// and removed together.
///
/// Curator's `ServiceDiscovery::registerService`. It outlives sessions: in each new session the instance is registered again.
/// Dropping the handle removes the instance; [`deregister`](Self::deregister) does it and waits.
#[derive(Debug)]
pub struct Registration {
    wanted: watch::Sender<Wanted>,
    standing: watch::Receiver<Standing>,
}

/// What the handle asks for.
#[derive(Clone, Debug)]
struct Wanted {
    instance: ServiceInstance,
    /// Raised by changes that are to be written at once.
    revision: u64,
}

/// What stands in the tree.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// The creation zxid of the instance's record while it is registered.
    epoch: Option<u64>,
    /// The newest revision that was written.
    revision: u64,
    /// Why the last attempt to register, or the last heartbeat, was refused. `None` once one has succeeded.
    refusal: Option<Error>,
}

/// How a registration writes.
#[derive(Clone, Debug)]
pub(crate) struct Registrar {
    pub(crate) sessions: Sessions,
    pub(crate) layout: Layout,
    pub(crate) heartbeat: Duration,
}

impl Registration {
    /// Registers and waits until that is done in the present session.
    pub(crate) async fn begin(registrar: Registrar, mut instance: ServiceInstance) -> Result<Self, Error> {
        instance.validate()?;
        // Fails at once if the sessions are closed.
        registrar.sessions.newest()?;
        instance.start_time = now_ms();
        let (wanted, wanted_rx) = watch::channel(Wanted { instance, revision: 0 });
        let (standing_tx, mut standing) = watch::channel(Standing::default());
        tokio::spawn(Task { registrar, wanted: wanted_rx, standing: standing_tx, made: Vec::new() }.run());
        // From here on dropping the handle removes what was made.
        let registration = Self { wanted, standing: standing.clone() };
        let decided = |standing: &Standing| standing.epoch.is_some() || standing.refusal.is_some();
        match standing.wait_for(decided).await.map(|standing| standing.clone()) {
            Ok(Standing { epoch: None, refusal: Some(refusal), .. }) => Err(refusal),
            Ok(_) => Ok(registration),
            Err(_) => Err(closed()),
        }
    }

    /// The instance as it was last asked for; `last_heartbeat` is filled in only in the tree.
    pub fn instance(&self) -> ServiceInstance {
        self.wanted.borrow().instance.clone()
    }

    /// The creation zxid of the instance's record in the present session; `None` while it is not registered, because the
    /// session has ended and the next is not there yet, or because another session holds the id.
    pub fn epoch(&self) -> Option<u64> {
        self.standing.borrow().epoch
    }

    /// Returns why the last attempt to register, or the last heartbeat, was refused: `NoAuth`,
    /// `QuotaExceeded` and the like, and `NodeExists` for a znode in the way that is not ephemeral. `None`
    /// once one has succeeded. It is tried again until the handle is dropped.
    pub fn refusal(&self) -> Option<Error> {
        self.standing.borrow().refusal.clone()
    }

    /// Waits until the instance is registered; returns its epoch.
    ///
    /// # Errors
    ///
    /// `SessionClosed` when the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn registered(&self) -> Result<u64, Error> {
        let mut standing = self.standing.clone();
        match standing.wait_for(|standing| standing.epoch.is_some()).await {
            Ok(standing) => standing.epoch.ok_or_else(closed),
            Err(_) => Err(closed()),
        }
    }

    /// The load that the next heartbeat writes.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a load that is negative or not finite.
    pub fn set_load(&self, load: f64) -> Result<(), Error> {
        check_load(load)?;
        self.wanted.send_if_modified(|wanted| {
            wanted.instance.load = load;
            false
        });
        Ok(())
    }

    /// Changes the status, and waits until it is written.
    ///
    /// # Errors
    ///
    /// `SessionClosed` when the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// The change is written also if the future is dropped after its first poll.
    pub async fn set_status(&self, status: InstanceStatus) -> Result<(), Error> {
        self.change(|instance| instance.status = status).await
    }

    /// Sets an entry of the metadata, or removes it, and waits until that is written.
    ///
    /// # Errors
    ///
    /// `SessionClosed` when the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// The entry is set all the same.
    pub async fn set_metadata(&self, key: impl Into<String>, value: Option<String>) -> Result<(), Error> {
        let key = key.into();
        self.change(|instance| {
            match value {
                Some(value) => instance.metadata.insert(key, value),
                None => instance.metadata.remove(&key),
            };
        })
        .await
    }

    /// Takes no new calls from now on: those who look stop to choose this instance, and calls under way go on.
    ///
    /// # Errors
    ///
    /// `SessionClosed` when the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// It drains all the same.
    pub async fn drain(&self) -> Result<(), Error> {
        self.set_status(InstanceStatus::Draining).await
    }

    async fn change(&self, change: impl FnOnce(&mut ServiceInstance)) -> Result<(), Error> {
        let mut revision = 0;
        self.wanted.send_modify(|wanted| {
            change(&mut wanted.instance);
            wanted.revision += 1;
            revision = wanted.revision;
        });
        let mut standing = self.standing.clone();
        let written = |standing: &Standing| standing.epoch.is_some() && standing.revision >= revision;
        standing.wait_for(written).await.map(drop).map_err(|_| closed())
    }

    /// Removes the instance and its announcements in one step, and waits until that is done.
    ///
    /// # Cancellation
    ///
    /// They are removed also if the future is dropped.
    pub async fn deregister(self) {
        let mut standing = self.standing.clone();
        drop(self);
        // The task ends when it has removed them.
        while standing.changed().await.is_ok() {}
    }

    /// Goes without failing a call: drains, gives those who call it `grace` to finish, and deregisters.
    ///
    /// # Errors
    ///
    /// `SessionClosed` when the sessions were closed; then there is nothing to deregister.
    ///
    /// # Cancellation
    ///
    /// It deregisters at once, because the handle is dropped.
    pub async fn retire(self, grace: Duration) -> Result<(), Error> {
        self.drain().await?;
        sleep(grace).await;
        self.deregister().await;
        Ok(())
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::SessionClosed, "the sessions of this registration were closed")
}

fn now_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

/// Keeps an instance registered until its handle is gone.
struct Task {
    registrar: Registrar,
    wanted: watch::Receiver<Wanted>,
    standing: watch::Sender<Standing>,
    /// What it has created in the present session: path and creation zxid. Another handle may have the same id there.
    made: Vec<(String, u64)>,
}

/// Why a registration ended.
enum End {
    /// The handle is gone.
    Unwanted,
    /// It was in a session that has ended.
    SessionEnded,
    /// Somebody else changed what is ours.
    Disturbed,
}

impl Task {
    async fn run(mut self) {
        let mut sessions = self.registrar.sessions.stream();
        let mut unwanted = self.wanted.clone();
        loop {
            let client = tokio::select! {
                biased;
                () = is_unwanted(&mut unwanted) => return,
                client = sessions.next() => client,
            };
            let Some(client) = client else { return };
            loop {
                match self.serve(&client).await {
                    End::Unwanted => return,
                    End::SessionEnded => break,
                    End::Disturbed => {
                        tracing::warn!(
                            id = self.id(),
                            "another hand has changed the registration; making it anew"
                        );
                        self.clear(&client).await;
                    }
                }
            }
            self.standing.send_modify(|standing| standing.epoch = None);
            // It has gone with its session.
            self.made.clear();
        }
    }

    fn id(&self) -> String {
        self.wanted.borrow().instance.id.clone()
    }

    /// The record first, then the announcements.
    fn paths(&self) -> Vec<String> {
        let wanted = self.wanted.borrow();
        let (layout, id) = (&self.registrar.layout, &wanted.instance.id);
        let announcements = wanted.instance.services.iter().map(|service| layout.instance(service, id));
        std::iter::once(layout.node(id)).chain(announcements).collect()
    }

    /// What is to be written, and its revision.
    fn record(&mut self) -> (Vec<u8>, u64) {
        let wanted = self.wanted.borrow_and_update();
        let instance = ServiceInstance { last_heartbeat: now_ms(), ..wanted.instance.clone() };
        (instance.to_json(), wanted.revision)
    }

    /// Registers in this session and keeps the heartbeat.
    async fn serve(&mut self, client: &Client) -> End {
        let epoch = match self.register(client).await {
            Ok(epoch) => epoch,
            Err(end) => return end,
        };
        let mut complaint = Complaint::default();
        loop {
            // Instances that started together should not write together.
            let pause = self.registrar.heartbeat.mul_f64(rand::rng().random_range(0.8..1.0));
            let due = after(pause);
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() {
                    self.remove(client, epoch).await;
                    return End::Unwanted;
                },
                () = sleep_until(due) => {}
                _ = client.ended() => return End::SessionEnded,
            }
            if let Err(end) = self.write(client, epoch, &mut complaint).await {
                return end;
            }
        }
    }

    async fn register(&mut self, client: &Client) -> Result<u64, End> {
        let mut complaint = Complaint::begin();
        loop {
            let (json, revision) = self.record();
            let multi = self
                .paths()
                .into_iter()
                .fold(client.multi(), |multi, path| multi.create(path, json.clone(), CreateMode::Ephemeral));
            let error = match multi.commit().await {
                Ok(results) => {
                    let made = results.into_iter().filter_map(|result| match result {
                        MultiResult::Create(created) => Some((created.path, created.stat.czxid)),
                        _ => None,
                    });
                    self.made = made.collect();
                    let epoch = self.made.first().map_or(0, |(_, czxid)| *czxid);
                    self.standing.send_replace(Standing { epoch: Some(epoch), revision, refusal: None });
                    return Ok(epoch);
                }
                // Nobody has offered this service for a while.
                Err(error) if error.kind == ErrorKind::NoNode => match self.make_parents(client).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match error.kind {
                _ if error.is_terminal() => return Err(End::SessionEnded),
                ErrorKind::NodeExists => self.wait_for_the_other(client).await?,
                _ => {
                    if let Some(waiting) = complaint.on_failure() {
                        let (id, waiting_ms) = (self.id(), waiting.as_millis() as u64);
                        tracing::warn!(id, %error, waiting_ms, "the registration is refused; still trying");
                    }
                    self.standing.send_modify(|standing| standing.refusal = Some(error));
                    self.unless_unwanted(client, sleep(PAUSE)).await?;
                }
            }
        }
    }

    async fn make_parents(&self, client: &Client) -> Result<(), Error> {
        for path in self.paths() {
            make_container(client, parent_of(&path)).await?;
        }
        Ok(())
    }

    /// Waits until nobody else holds one of our paths: an older session of this process that has yet to expire, another
    /// process of the same id, or another handle. What is left of what was made here is removed.
    async fn wait_for_the_other(&mut self, client: &Client) -> Result<(), End> {
        self.clear(client).await;
        for path in self.paths() {
            let (stat, watcher) = match client.exists_and_watch(path.clone(), ReadLevel::Local).await {
                Ok(found) => found,
                Err(error) if error.is_terminal() => return Err(End::SessionEnded),
                Err(error) => {
                    tracing::warn!(path, %error, "cannot see who holds it");
                    return self.unless_unwanted(client, sleep(PAUSE)).await;
                }
            };
            if let Some(stat) = stat {
                let session = stat.ephemeral_owner;
                tracing::warn!(path, session, "somebody else holds the id; waiting until it is gone");
                if is_ownerless(&stat) {
                    let message = format!(
                        "the znode {path} is not ephemeral, so it would never make room; delete it or \
                         register under another id"
                    );
                    let refusal = Error { path, ..Error::new(ErrorKind::NodeExists, message) };
                    self.standing.send_modify(|standing| standing.refusal = Some(refusal));
                }
                let changed = async { drop(watcher.changed().await) };
                return self.unless_unwanted(client, changed).await;
            }
        }
        Ok(())
    }

    async fn unless_unwanted(&mut self, client: &Client, wait: impl Future<Output = ()>) -> Result<(), End> {
        let mut unwanted = self.wanted.clone();
        tokio::select! {
            () = wait => Ok(()),
            () = is_unwanted(&mut unwanted) => Err(End::Unwanted),
            _ = client.ended() => Err(End::SessionEnded),
        }
    }

    /// A heartbeat: record and announcements in one step, if they are still those we made.
    async fn write(&mut self, client: &Client, epoch: u64, complaint: &mut Complaint) -> Result<(), End> {
        let (json, revision) = self.record();
        let paths = self.paths();
        let checked = client.multi().check(Check::epoch(paths[0].clone(), epoch));
        let multi = paths.into_iter().fold(checked, |multi, path| multi.set(path, json.clone(), None));
        match multi.commit().await {
            Ok(_) => {
                complaint.on_success();
                self.standing.send_modify(|standing| {
                    standing.revision = revision;
                    standing.refusal = None;
                });
                Ok(())
            }
            Err(error) if error.is_terminal() => Err(End::SessionEnded),
            Err(error) if matches!(error.kind, ErrorKind::NoNode | ErrorKind::BadEpoch) => {
                self.standing.send_modify(|standing| standing.epoch = None);
                Err(End::Disturbed)
            }
            Err(error) => {
                if let Some(waiting) = complaint.on_failure() {
                    let (id, waiting_ms) = (self.id(), waiting.as_millis() as u64);
                    tracing::warn!(id, %error, waiting_ms, "heartbeats are refused; still trying");
                }
                self.standing.send_modify(|standing| standing.refusal = Some(error));
                Ok(())
            }
        }
    }

    async fn remove(&mut self, client: &Client, epoch: u64) {
        // It has to go also when that is lost under which it was made.
        let client = &client.unguarded();
        let mut paths = self.paths();
        let checked = client.multi().check(Check::epoch(paths[0].clone(), epoch));
        // The announcements first: who sees the changes one by one finds no announcement without a record.
        paths.reverse();
        let multi = paths.into_iter().fold(checked, |multi, path| multi.delete(path, None));
        match multi.commit().await {
            Ok(_) => {}
            Err(error) if error.is_terminal() => {}
            Err(_) => self.clear(client).await,
        }
    }

    /// Removes what is left of what was made here, one by one: for the case that another hand has torn it apart.
    async fn clear(&mut self, client: &Client) {
        for (path, czxid) in std::mem::take(&mut self.made) {
            let guarded = client.guarded([Check::epoch(path.clone(), czxid)]);
            if let Err(error) = guarded.delete(path, None).await {
                tracing::debug!(%error, "it is gone already");
            }
        }
    }
}

/// Completes when the handle is gone.
async fn is_unwanted(wanted: &mut watch::Receiver<Wanted>) {
    while wanted.changed().await.is_ok() {}
}
