use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::task::{Id, JoinHandle, JoinSet};

use super::copy::CopyTask;
use super::layout::{self, AgentRecord, Layout};
use super::leader::lead;
use super::runner::Runner;
use super::spec::HealerSpec;
use crate::recipes::znode::to_json;
use crate::recipes::{CacheView, PersistentEphemeral, Sessions, TreeCache};
use crate::{Client, Error, ErrorKind};

/// Who an agent is.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    id: String,
    capacity: Option<u32>,
}

impl AgentOptions {
    /// An agent of this name, usually that of its host, which takes any number of copies.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), capacity: None }
    }

    /// It takes at most so many copies.
    #[must_use]
    pub fn capacity(mut self, copies: u32) -> Self {
        self.capacity = Some(copies);
        self
    }
}

/// One host's part in an [`AutoHealer`](super::AutoHealer): runs the copies that are placed on it, and stands for election.
///
/// * **When its session may end** it ends its copies, before anybody else can run them; in the next session it takes part again.
/// * **An id that is taken**, such as that of this host's agent before, whose session has not expired yet, is waited for.
/// * **Dropping it** tells its copies to end, gives them their grace, and leaves; [`stop`](Self::stop) waits for that.
#[derive(Debug)]
pub struct Agent {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Error>>,
}

impl Agent {
    /// Joins, and returns when the others can see it.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an id that cannot be the name of a znode; those of creating one; `SessionClosed` if the sessions
    /// were closed.
    ///
    /// # Cancellation
    ///
    /// It has not joined then.
    pub async fn start(
        sessions: &Sessions,
        path: impl AsRef<str>,
        options: AgentOptions,
        runner: impl Runner,
    ) -> Result<Self, Error> {
        let AgentOptions { id, capacity } = options;
        if id.is_empty() || id.contains('/') {
            let message = format!("an agent cannot be called {id:?}: it is the name of a znode");
            return Err(Error::new(ErrorKind::BadArguments, message));
        }
        let root = path.as_ref();
        let record = to_json(&AgentRecord { capacity })?;
        let member =
            PersistentEphemeral::create(sessions, format!("{}/{id}", layout::agents(root)), record).await?;
        let (stop, told) = watch::channel(false);
        let host = Host { root: root.into(), id: id.into(), runner: Arc::new(runner), told };
        let task = tokio::spawn(host.run(sessions.clone(), member));
        Ok(Self { stop, task })
    }

    /// Waits until it has ended by itself, because the sessions were closed.
    ///
    /// # Errors
    ///
    /// Why it cannot see what it is to run, and has left: `NoAuth` and the like.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn ended(&mut self) -> Result<(), Error> {
        // A task that was aborted, as by the end of its runtime, has nothing to say.
        (&mut self.task).await.unwrap_or(Ok(()))
    }

    /// Leaves: the copies are told to end, and placed elsewhere. Returns when none of them is left here.
    ///
    /// # Cancellation
    ///
    /// It leaves all the same.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // It has been told to, whatever else may have befallen it.
        let _ = self.ended().await;
    }
}

/// The task behind the handle.
struct Host<R> {
    root: Arc<str>,
    id: Arc<str>,
    runner: Arc<R>,
    /// Closed when the handle has been dropped.
    told: watch::Receiver<bool>,
}

/// The copies that run here, in one session.
struct Copies {
    /// Dropping what tells a copy to end does so.
    stops: BTreeMap<u32, (watch::Sender<bool>, Id)>,
    tasks: JoinSet<u32>,
    spec: watch::Sender<Arc<HealerSpec>>,
}

/// Why an agent takes part no longer.
enum End {
    /// It goes on in the next session.
    Session,
    /// The handle says so.
    Told,
    /// It cannot see what it is to run.
    Failed(Error),
}

impl<R: Runner> Host<R> {
    async fn run(mut self, sessions: Sessions, member: PersistentEphemeral) -> Result<(), Error> {
        let mut members = member.changes();
        loop {
            let present = tokio::select! {
                biased;
                _ = self.told.wait_for(|is_told| *is_told) => break,
                present = members.next() => present,
            };
            // Somebody else may have the id in the meantime, and then the copies that are placed on it.
            let Some(present) = present else { break };
            let Some(client) = present.and_then(|present| {
                let client = sessions.newest().ok()?;
                (client.session_id() == present.stat.ephemeral_owner).then_some(client)
            }) else {
                continue;
            };
            let (mut copies, end) = self.live_in(&client).await;
            let result = match end {
                End::Session => {
                    copies.end().await;
                    continue;
                }
                End::Told => Ok(()),
                End::Failed(error) => Err(error),
            };
            // The others may place the copies anew while they end here.
            tokio::join!(member.close(), copies.end());
            return result;
        }
        member.close().await;
        Ok(())
    }

    /// Takes part until the session has ended, or it is to leave.
    async fn live_in(&mut self, client: &Client) -> (Copies, End) {
        let cache = TreeCache::in_session(client, &self.root);
        let mut leading = JoinSet::new();
        leading.spawn(lead(client.clone(), self.root.clone(), self.id.clone(), cache.clone()));
        // Nothing runs before there is a real one.
        let (spec, _) = watch::channel(Arc::new(HealerSpec::new(0, [""])));
        let mut copies = Copies { stops: BTreeMap::new(), tasks: JoinSet::new(), spec };
        let mut views = cache.views();
        loop {
            tokio::select! {
                biased;
                _ = self.told.wait_for(|is_told| *is_told) => return (copies, End::Told),
                Some(ended) = copies.tasks.join_next_with_id() => copies.forget(ended.ok()),
                view = views.next() => if view.is_none() {
                    return (copies, match cache.end() {
                        Some(error) if !error.is_terminal() => End::Failed(error),
                        _ => End::Session,
                    });
                },
            }
            self.adjust(client, &mut copies, &cache.view());
        }
    }

    /// Starts and ends copies as they are placed.
    fn adjust(&self, client: &Client, copies: &mut Copies, view: &CacheView) {
        let layout = Layout::of(view, &self.root);
        // One that cannot be read leaves everything as it is; one that was deleted ends it.
        let own = match (&layout.spec, view.get(&layout::spec(&self.root))) {
            (None, Some(_)) => return,
            _ => layout.copies_of(&self.id),
        };
        if let Some(spec) = layout.spec {
            copies.spec.send_if_modified(|newest| {
                let is_other = **newest != spec;
                *newest = Arc::new(spec);
                is_other
            });
        }
        for (copy, (stop, _)) in &copies.stops {
            if !own.contains(copy) {
                stop.send_replace(true);
            }
        }
        for copy in own {
            // One that is ending is started again when it has ended, if it is still to run then.
            if copies.stops.contains_key(&copy) {
                continue;
            }
            let (stop, told) = watch::channel(false);
            let task = CopyTask {
                client: client.clone(),
                root: self.root.clone(),
                agent: self.id.clone(),
                copy,
                spec: copies.spec.subscribe(),
                stop: told,
                runner: self.runner.clone(),
            };
            let task = copies.tasks.spawn(async move {
                task.run().await;
                copy
            });
            copies.stops.insert(copy, (stop, task.id()));
        }
    }
}

impl Copies {
    /// A copy has come to its end here; one that panicked has no number.
    fn forget(&mut self, ended: Option<(Id, u32)>) {
        match ended {
            Some((_, copy)) => drop(self.stops.remove(&copy)),
            None => self.stops.retain(|_, (stop, _)| stop.receiver_count() > 0),
        }
    }

    /// Tells all to end, and waits for it.
    async fn end(&mut self) {
        self.stops.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}
