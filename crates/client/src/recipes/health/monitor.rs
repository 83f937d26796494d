use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::Stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::check::bad;
use super::publisher::Publisher;
use super::reports::Layout;
use super::roster::{Roster, Targets};
use super::service_follower::follow;
use super::{HealthCheck, HealthOptions, HealthReport, HealthStatus};
use crate::Error;
use crate::recipes::registry::{AbortOnDrop, ServiceInstance, check_name};
use crate::recipes::{PathCache, PersistentEphemeral, Sessions};

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthTarget {
    pub(super) id: String,
    pub(super) check: HealthCheck,
    pub(super) heartbeat: Option<String>,
}

impl HealthTarget {
    /// A target under a name, which is one element of a path.
    pub fn new(id: impl Into<String>, check: impl Into<HealthCheck>) -> Self {
        Self { id: id.into(), check: check.into(), heartbeat: None }
    }

    /// A znode that the target writes from time to time. While it is not there, or was written too long ago by the servers'
    /// clock, the target's checks fail. Where the ensemble is out of reach it is not judged.
    #[must_use]
    pub fn heartbeat(mut self, path: impl Into<String>) -> Self {
        self.heartbeat = Some(path.into());
        self
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Checks targets again and again, and reports in the tree how they are.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::health::{HealthCheck, HealthMonitor, HealthOptions, HealthTarget};
/// use futures::StreamExt as _;
///
/// let monitor = HealthMonitor::start(&sessions, "/grid", "monitor-1", HealthOptions::new()).await?;
/// monitor.watch(HealthTarget::new("head-1", HealthCheck::tcp("10.0.0.1:9669")?))?;
/// let mut changes = monitor.changes();
/// while let Some(change) = changes.next().await {
///     println!("{}: {} -> {}: {}", change.target, change.old, change.new, change.why);
/// }
/// # Ok(()) }
/// ```
///
/// Several monitors of one root check the same targets from different machines; what a majority of them says is in
/// [`HealthReports`](super::HealthReports), so that a monitor that is cut off from the targets condemns nobody.
///
/// It outlives sessions: its reports are ephemeral, and are written again in each new session. Dropping it ends the checks
/// and removes the reports; [`stop`](Self::stop) waits for that.
///
/// Curator and kazoo have nothing of the kind.
#[derive(Debug)]
pub struct HealthMonitor {
    roster: Arc<Roster>,
    /// Dropped to end the publisher.
    alive_tx: watch::Sender<()>,
    publisher: JoinHandle<()>,
    /// Follows a service, if it does.
    follower: Option<AbortOnDrop>,
}

/// A change of a target's status in the eyes of one monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// The target's name.
    pub target: String,
    /// How it was: unknown when it was not there.
    pub old: HealthStatus,
    /// How it is.
    pub new: HealthStatus,
    /// For people.
    pub why: String,
}

/// How the targets of a monitor are, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthStatistics {
    /// All of them.
    pub targets: usize,
    /// Those that pass their checks.
    pub healthy: usize,
    /// Those that may soon be out.
    pub suspect: usize,
    /// Those that are out.
    pub quarantined: usize,
    /// Those of which nothing is known yet.
    pub unknown: usize,
    /// How many checks were made of them.
    pub checks: u64,
    /// How many of those failed.
    pub failures: u64,
}

impl HealthMonitor {
    /// Joins the monitors of `root` under a name, and returns when it is one of them. Where another session has that name, such
    /// as this program's last life, it waits until that has ended.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that is not one element of a path, or options that cannot work; `NoAuth`; `SessionClosed` if the
    /// sessions were closed.
    ///
    /// # Cancellation
    ///
    /// Leaves nothing behind.
    pub async fn start(
        sessions: &Sessions,
        root: &str,
        id: impl Into<String>,
        options: HealthOptions,
    ) -> Result<Self, Error> {
        let id = id.into();
        check_name("the name of a monitor", &id)?;
        options.validate()?;
        let layout = Layout::new(root);
        let data = json!({ "id": id }).to_string();
        let presence = PersistentEphemeral::create(sessions, layout.monitor(&id), data).await?;
        let roster = Arc::new(Roster::new(id, options, sessions.clone()));
        let (alive_tx, gone) = watch::channel(());
        let publisher = Publisher::new(roster.state().clone(), layout, presence, gone);
        Ok(Self { roster, alive_tx, publisher: tokio::spawn(publisher.run()), follower: None })
    }

    /// Makes the instances that are announced there its targets, as they come and go.
    pub(crate) fn follow(
        &mut self,
        instances: PathCache,
        check: impl Fn(&ServiceInstance) -> Result<HealthCheck, Error> + Send + 'static,
    ) {
        let follower = follow(self.roster.clone(), instances, check);
        self.follower = Some(AbortOnDrop(tokio::spawn(follower).abort_handle()));
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.roster.state().id
    }

    /// Checks a target from now on. One of the same name is replaced, and nothing is known of the new one; if it is the same in
    /// all, nothing happens.
    ///
    /// # Errors
    ///
    /// `BadArguments` if its name is not one element of a path.
    pub fn watch(&self, target: HealthTarget) -> Result<(), Error> {
        self.roster.watch(target)
    }

    /// Checks a target no more, and removes its report. Returns whether it was checked.
    pub fn remove(&self, id: &str) -> bool {
        self.roster.remove(id)
    }

    /// The targets, in the order of their names.
    pub fn targets(&self) -> Vec<HealthTarget> {
        self.roster.state().targets.borrow().values().map(|watched| watched.target.clone()).collect()
    }

    /// How a target is, in the eyes of this monitor. `None` if it is not checked.
    pub fn report(&self, id: &str) -> Option<HealthReport> {
        self.roster.state().report(id)
    }

    /// How all are, by their names.
    pub fn reports(&self) -> BTreeMap<String, HealthReport> {
        let targets = self.roster.state().targets.borrow();
        targets.iter().map(|(id, watched)| (id.clone(), self.roster.state().report_of(watched))).collect()
    }

    /// How they are, in numbers.
    pub fn statistics(&self) -> HealthStatistics {
        let mut statistics = HealthStatistics::default();
        for watched in self.roster.state().targets.borrow().values() {
            let health = &watched.health;
            statistics.targets += 1;
            statistics.checks += health.checks();
            statistics.failures += health.failures();
            *match health.status() {
                HealthStatus::Healthy => &mut statistics.healthy,
                HealthStatus::Suspect => &mut statistics.suspect,
                HealthStatus::Quarantined => &mut statistics.quarantined,
                HealthStatus::Unknown => &mut statistics.unknown,
            } += 1;
        }
        statistics
    }

    /// Checks a target now, whenever its turn would be, and returns how it is after that. The check counts like any other.
    ///
    /// # Errors
    ///
    /// `BadArguments` if the target is not checked, or was removed meanwhile.
    ///
    /// # Cancellation
    ///
    /// The check may be made all the same.
    pub async fn check_now(&self, id: &str) -> Result<HealthReport, Error> {
        let unknown = || bad(format!("no target {id:?} is checked by this monitor"));
        self.roster.check_now(id).ok_or_else(unknown)?.await.ok_or_else(unknown)
    }

    /// What changes, beginning with everything that is known, as a change from unknown.
    ///
    /// Who is slow may miss how a status came about, never the newest; nothing piles up. A target that is removed tells nothing.
    /// Ends when the monitor does.
    pub fn changes(&self) -> impl Stream<Item = HealthChange> + Send + Unpin + 'static {
        let mut targets = self.roster.state().targets.subscribe();
        targets.mark_changed();
        let first = (targets, Targets::new(), VecDeque::new());
        Box::pin(futures::stream::unfold(first, |(mut targets, mut seen, mut pending)| async move {
            loop {
                if let Some(change) = pending.pop_front() {
                    return Some((change, (targets, seen, pending)));
                }
                targets.changed().await.ok()?;
                let newest = targets.borrow_and_update().clone();
                pending.extend(differences(&seen, &newest));
                seen = newest;
            }
        }))
    }

    /// Ends the checks, and returns when the reports are gone from the tree.
    ///
    /// # Cancellation
    ///
    /// The checks end all the same, and the reports go.
    pub async fn stop(self) {
        drop((self.follower, self.roster, self.alive_tx));
        // It ends by itself, and has nothing to say.
        let _ = self.publisher.await;
    }
}

fn differences(seen: &Targets, newest: &Targets) -> Vec<HealthChange> {
    let changes = newest.iter().filter_map(|(id, watched)| {
        let old = seen.get(id).filter(|seen| seen.generation == watched.generation);
        let old = old.map_or(HealthStatus::Unknown, |seen| seen.health.status());
        let new = watched.health.status();
        let why = watched.health.why().to_owned();
        (old != new).then(|| HealthChange { target: id.clone(), old, new, why })
    });
    changes.collect()
}
