use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::watch;

use super::breather::Breather;
use super::election::{Candidate, LeaderElection, Leadership};
use super::grant::{GiveBack, Grant};
use super::json::Json;
use super::parents::{check_room, is_ownerless, owned_part, remove_ownerless};
use super::participant::Owner;
use super::registry::check_name;
use super::tree_cache::{CacheChange, CachedZnode};
use super::waiting_line::{Left, until_left};
use super::znode::name_of;
use super::{PathCache, Sessions};
use crate::{Check, Client, Error, ErrorKind, Lineage};

const LONGEST_OF_ELECTION: &str = "election/candidate-00-0123456789";

/// The pause after a refusal that will pass.
const RETRY: Duration = Duration::from_secs(1);

/// Nodes of which one is the master, and all others are its workers: a worker is found in the registry of workers, where the
/// master looks for them; the master is not.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::{Candidate, MasterWorker};
///
/// let node = MasterWorker::new(&sessions, "/crunch", Candidate::new("host-7").address("10.0.0.7:9000"))?;
/// node.run(
///     |registration| async move {
///         println!("a worker, of epoch {}", registration.epoch());
///         std::future::pending().await
///     },
///     |master| async move {
///         println!("the master of {:?}", master.workers());
///         std::future::pending().await
///     },
/// )
/// .await
/// # }
/// ```
///
/// # Guarantees
///
/// * At most one master, as of a [`LeaderElection`]: [`Master`] is its leadership.
/// * A worker is a [`Grant`], whose znode is its registration. The duties of a worker end a grace before the master, or
///   anybody, can see it gone, and writes guarded by its epoch are refused from then on.
/// * The master's duties begin when its own registration is gone and the workers have been read, those of before the
///   election included.
///
/// Curator: `LeaderSelector` together with `GroupMember`; kazoo: `Election` together with `Party`.
#[derive(Clone, Debug)]
pub struct MasterWorker {
    sessions: Sessions,
    path: String,
    candidate: Candidate,
    data: Bytes,
}

impl MasterWorker {
    /// A node of those at `path`, as its candidate describes it; id and address are what the master finds of a worker.
    /// Nothing happens yet.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an id that cannot be the name of a znode, and for a path that has no room for the names below it.
    pub fn new(sessions: &Sessions, path: impl Into<String>, candidate: Candidate) -> Result<Self, Error> {
        check_name("the id of a worker", &candidate.proclamation().id)?;
        let (path, data) = (path.into(), candidate.proclamation().to_bytes()?);
        let below = LONGEST_OF_ELECTION.len().max("workers/".len() + candidate.proclamation().id.len());
        check_room(&path, below)?;
        Ok(Self { sessions: sessions.clone(), path, candidate, data })
    }

    /// Where the master is elected: for [`LeaderElection`], to ask or to observe who that is.
    pub fn election_path(&self) -> String {
        format!("{}/election", self.path)
    }

    /// The parent of the workers' znodes.
    pub fn workers_path(&self) -> String {
        format!("{}/workers", self.path)
    }

    fn worker_path(&self) -> String {
        format!("{}/{}", self.workers_path(), self.candidate.proclamation().id)
    }

    /// Takes part for as long as there are sessions: as a worker while it waits to be elected, as the master from then on
    /// until that is lost, then as a worker again.
    ///
    /// `work` is called with each registration, `lead` with each leadership; their futures are the duties, and are dropped
    /// when the registration or leadership is lost, a grace before others can know it, and `work`'s also when this node is
    /// elected. Duties that end by themselves give up what they stood for: the worker registers anew, the master resigns and is
    /// a worker again; after a pause, of up to a second, if they had begun less than a second before. What the duties have spawned must end with them.
    ///
    /// If the id is taken by another session, the node campaigns while it waits for that to go.
    ///
    /// # Errors
    ///
    /// `SessionClosed` when the sessions are closed; `BadArguments`, `NoAuth` and the like, which trying again cannot help.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the registry and the election.
    pub async fn run<W, M>(
        &self,
        mut work: impl FnMut(Arc<Grant>) -> W,
        mut lead: impl FnMut(Arc<Master>) -> M,
    ) -> Result<(), Error>
    where
        W: Future<Output = ()>,
        M: Future<Output = ()>,
    {
        let mut breather = Breather::new();
        loop {
            let client = self.sessions.live().await?;
            breather.begin();
            match self.round(&client, &mut work, &mut lead).await {
                Ok(()) => breather.breathe().await,
                // The next session begins anew, and so does who was struck from the list.
                Err(error) if error.is_terminal() || error.kind == ErrorKind::GrantLost => {}
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(error.retry_after.unwrap_or(RETRY)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A worker, until elected; then the master, until that is over.
    async fn round<W: Future<Output = ()>, M: Future<Output = ()>>(
        &self,
        client: &Client,
        work: &mut impl FnMut(Arc<Grant>) -> W,
        lead: &mut impl FnMut(Arc<Master>) -> M,
    ) -> Result<(), Error> {
        let (elected_tx, elected) = watch::channel(false);
        let election = LeaderElection::new(client, self.election_path());
        let campaign = async {
            let leadership = election.campaign(&self.candidate).await?;
            elected_tx.send_replace(true);
            Ok(leadership)
        };
        // Both to their ends, so that the worker's registration is gone when the master begins.
        let (leadership, ()) = tokio::try_join!(campaign, self.be_worker(client, work, elected))?;
        let workers = PathCache::in_session(client, self.workers_path());
        let master = Arc::new(Master { leadership, workers });
        // Also if the duties leave a clone of it somewhere, and this future is dropped.
        let _give_back = GiveBack(&master);
        tokio::select! {
            biased;
            _ = master.lost() => {}
            ready = master.workers.wait_ready() => drop(ready?),
        }
        tokio::select! {
            biased;
            _ = master.lost() => {}
            () = lead(master.clone()) => {}
        }
        master.resign().await
    }

    async fn be_worker<W: Future<Output = ()>>(
        &self,
        client: &Client,
        work: &mut impl FnMut(Arc<Grant>) -> W,
        mut elected: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let path = self.worker_path();
        let mut breather = Breather::new();
        loop {
            tokio::select! {
                biased;
                _ = elected.wait_for(|elected| *elected) => return Ok(()),
                left = until_left(client, &path) => if let Left::Ownerless(stat) = left? {
                    remove_ownerless(client, &path, &stat).await?;
                },
            }
            // Not given up half-way: whatever it makes is given back below.
            let Some(registration) = self.register(client).await? else { continue };
            let registration = Arc::new(registration);
            let _give_back = GiveBack(&registration);
            breather.begin();
            let is_over = tokio::select! {
                biased;
                _ = elected.wait_for(|elected| *elected) => return registration.release().await,
                _ = registration.lost() => false,
                () = work(registration.clone()) => true,
            };
            registration.release().await?;
            if is_over {
                tokio::select! {
                    biased;
                    _ = elected.wait_for(|elected| *elected) => return Ok(()),
                    () = breather.breathe() => {}
                }
            }
        }
    }

    /// `None`: somebody else has the id.
    async fn register(&self, client: &Client) -> Result<Option<Grant>, Error> {
        let grace = self.candidate.grace_before_loss();
        match Grant::create(client, self.worker_path(), self.data.clone(), grace).await {
            Ok(registration) => Ok(Some(registration)),
            Err(error) if error.kind == ErrorKind::NodeExists => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A leadership, with the workers as they come and go.
#[derive(Debug)]
pub struct Master {
    leadership: Leadership,
    workers: PathCache,
}

impl Deref for Master {
    type Target = Leadership;

    fn deref(&self) -> &Leadership {
        &self.leadership
    }
}

impl Master {
    /// The workers that are registered, in byte order of their ids: as of now, less the time of an event.
    pub fn workers(&self) -> Vec<Worker> {
        let lineage = self.leadership.lineage();
        let workers = self.workers.children();
        let workers = workers.iter().filter(|znode| !is_ownerless(&znode.stat));
        workers.map(|znode| Worker::of(znode, lineage.clone())).collect()
    }

    /// The workers as they come and go, beginning with those that are there. Who is slow misses no difference, but may miss
    /// a worker that came and went between two looks. Ends with the session.
    pub fn changes(&self) -> impl Stream<Item = WorkerChange> + Send + Unpin + 'static {
        let lineage = self.leadership.lineage();
        let changes = self.workers.changes().filter_map(|change| std::future::ready(owned_part(change)));
        Box::pin(changes.flat_map(move |change| {
            let worker = |znode: &CachedZnode| Worker::of(znode, lineage.clone());
            futures::stream::iter(match change {
                CacheChange::Added(znode) => vec![WorkerChange::Joined(worker(&znode))],
                CacheChange::Removed(znode) => vec![WorkerChange::Left(worker(&znode))],
                CacheChange::Updated { old, new } if old.stat.czxid == new.stat.czxid => {
                    vec![WorkerChange::Updated(worker(&new))]
                }
                // It came back before anybody looked.
                CacheChange::Updated { old, new } => {
                    vec![WorkerChange::Left(worker(&old)), WorkerChange::Joined(worker(&new))]
                }
            })
        }))
    }
}

/// A worker as its master sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its name.
    pub id: String,
    /// Where it is reached; empty if it did not say.
    pub address: String,
    /// Whatever else it says; `null` if nothing.
    pub data: Json,
    /// The epoch of its registration; a worker that comes back has another.
    pub epoch: u64,
    path: Arc<str>,
    lineage: Option<Lineage>,
}

impl Worker {
    fn of(znode: &CachedZnode, lineage: Option<Lineage>) -> Self {
        // Whoever registered with something else is a worker all the same, under the name of the znode.
        let Owner { address, data, .. } = Owner::parse(&znode.data);
        let id = name_of(&znode.path).to_owned();
        Self { id, address, data, epoch: znode.stat.czxid, path: znode.path.clone(), lineage }
    }

    /// That it is still registered, as a condition of a write or of a multi: what is handed to a worker that has gone
    /// meanwhile is refused.
    pub fn as_check(&self) -> Check {
        Check::epoch(&*self.path, self.epoch).in_lineage(self.lineage.clone())
    }
}

/// What became of a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerChange {
    /// It is there now.
    Joined(Worker),
    /// It says something else of itself.
    Updated(Worker),
    /// It is gone, and its duties have ended: it died, was silent for too long, has left, or leads. If an operator deleted its
    /// registration or ended its session, its duties end about now.
    Left(Worker),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stat;

    fn znode(data: &'static str, epoch: u64) -> CachedZnode {
        let stat = Stat { czxid: epoch, ..Stat::default() };
        CachedZnode { path: "/crunch/workers/host-7".into(), data: Bytes::from(data), stat }
    }

    #[test]
    fn a_worker_is_named_by_its_znode_whatever_it_says() {
        let worker =
            Worker::of(&znode(r#"{"id": "host-7", "address": "h:1", "data": {"cores": 8}}"#, 7), None);
        assert_eq!((worker.id.as_str(), worker.address.as_str(), worker.epoch), ("host-7", "h:1", 7));
        assert_eq!(worker.data.value()["cores"], 8);
        let odd = Worker::of(&znode("10.0.0.7:9000", 8), None);
        assert_eq!((odd.id.as_str(), odd.address.as_str(), odd.epoch), ("host-7", "", 8));
    }
}
