use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

use super::NodeFailure;
use super::claims_log::ClaimsLog;
use super::duties::Duties;
use crate::recipes::parents::check_absolute;
use crate::recipes::registry::{Layout, check_name};
use crate::recipes::{Candidate, Leadership, Sessions, lead};
use crate::{Error, ErrorKind, Multi};

const STALE_AFTER: Duration = Duration::from_secs(30);
/// The pause of a detector that has failed, before another one is elected.
const RETRY: Duration = Duration::from_secs(1);

pub(super) type Recover =
    dyn Fn(NodeFailure, Multi) -> BoxFuture<'static, Result<Multi, Error>> + Send + Sync;

/// Watches the nodes of a [`ServiceRegistry`](super::super::registry::ServiceRegistry), and handles the loss of each: counts it
/// out of its services, gives its tasks back, and raises an alert. Of all that run, one is elected and does it.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::FailureDetector;
///
/// let detector = FailureDetector::new(&sessions, "/shop", "node-1")?.queue("/shop/services/workflow/queue");
/// detector
///     .run(|failure| async move {
///         println!("{} is lost; {} tasks came back", failure.id, failure.requeued_count());
///     })
///     .await
/// # }
/// ```
///
/// # Guarantees
///
/// * Each loss of a registration is recorded once, under its epoch, and handled to the end, whatever becomes of detectors
///   meanwhile: the next one goes on where the last one was. All its writes are guarded by its leadership.
/// * A task of the lost node comes back once, and its items of groups go to other workers. What [`recover`](Self::recover) adds is written exactly once. The alert is
///   raised at least once.
/// * A node whose heartbeat is stale by the servers' clock, which is confirmed first, is removed from the registry in the step
///   that records its loss, unless a heartbeat comes before; it may register again.
/// * A node that has drained is no loss when it goes.
///
/// Curator and kazoo have nothing of the kind.
#[derive(Clone)]
pub struct FailureDetector {
    pub(super) sessions: Sessions,
    pub(super) layout: Layout,
    pub(super) id: String,
    pub(super) stale_after: Duration,
    pub(super) queues: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) recover: Option<Arc<Recover>>,
}

impl std::fmt::Debug for FailureDetector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailureDetector")
            .field("root", &self.layout.root())
            .field("id", &self.id)
            .field("stale_after", &self.stale_after)
            .field("queues", &self.queues)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

impl FailureDetector {
    /// A detector for the registry at `root`, under a name that others see. Nothing happens yet.
    ///
    /// # Errors
    ///
    /// `BadArguments` if `root` does not begin with a slash.
    pub fn new(sessions: &Sessions, root: impl Into<String>, id: impl Into<String>) -> Result<Self, Error> {
        let layout = Layout::new(root);
        check_absolute(layout.root())?;
        Ok(Self {
            sessions: sessions.clone(),
            layout,
            id: id.into(),
            stale_after: STALE_AFTER,
            queues: Vec::new(),
            groups: Vec::new(),
            recover: None,
        })
    }

    /// A node whose last heartbeat is older is lost, though its session lives. Default: 30 s; several heartbeats should fit.
    #[must_use]
    pub fn stale_after(mut self, limit: Duration) -> Self {
        self.stale_after = limit;
        self
    }

    /// A [`TaskQueue`](super::super::TaskQueue) whose tasks the nodes claim, in the session in which they register.
    #[must_use]
    pub fn queue(mut self, path: impl Into<String>) -> Self {
        self.queues.push(path.into());
        self
    }

    /// A [`WorkAssignment`](super::super::WorkAssignment) in which the nodes are workers, in the session in which they register. A
    /// silent node is struck off its list, and its items go to others; those of one whose session has ended do so by themselves.
    #[must_use]
    pub fn group(mut self, path: impl Into<String>) -> Self {
        self.groups.push(path.into());
        self
    }

    /// What else a loss asks for: writes that are added to the step which marks it as recovered, so they are made exactly once.
    /// The function may read what it needs, and is called again, perhaps by another detector, if the step is refused
    /// because something has changed meanwhile. What it refuses stays to be done, and holds up later losses.
    #[must_use]
    pub fn recover<F>(mut self, recover: impl Fn(NodeFailure, Multi) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Multi, Error>> + Send + 'static,
    {
        self.recover = Some(Arc::new(move |failure, multi| recover(failure, multi).boxed()));
        self
    }

    /// Stands by, and detects while elected, for as long as there are sessions. `alert` is called with each loss when all
    /// else has been done, and awaited before the next; a detector that dies in between makes the next one call it again.
    ///
    /// # Errors
    ///
    /// `SessionClosed` when the sessions are closed; `NoAuth` and the like, if it may not campaign.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the election; the next detector goes on.
    pub async fn run<F: Future<Output = ()>>(&self, alert: impl Fn(NodeFailure) -> F) -> Result<(), Error> {
        let claims = ClaimsLog::follow(&self.sessions, &self.queues);
        let candidate = Candidate::new(&self.id);
        lead(&self.sessions, &self.election_path(), &candidate, |leadership| {
            self.detect(leadership, &claims, &alert)
        })
        .await
    }

    /// Says that a node leaves on purpose, so that its absence is no loss: to be called when it has drained, before it
    /// deregisters. Draining alone does the same if a detector sees it.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an id that cannot be one; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn dismiss(&self, node_id: &str) -> Result<(), Error> {
        check_name("the id of an instance", node_id)?;
        match self.sessions.live().await?.delete(self.known_path(node_id), None).await {
            Err(error) if error.kind != ErrorKind::NoNode => Err(error),
            _ => Ok(()),
        }
    }

    /// Where the detector is elected: for [`LeaderElection`](super::super::LeaderElection).
    pub fn election_path(&self) -> String {
        format!("{}/failures/election", self.layout.root())
    }

    pub(super) fn known_path(&self, id: &str) -> String {
        format!("{}/failures/nodes/{id}", self.layout.root())
    }

    pub(super) fn records(&self) -> String {
        format!("{}/failures/records", self.layout.root())
    }

    async fn detect<F: Future<Output = ()>>(
        &self,
        leadership: Arc<Leadership>,
        claims: &ClaimsLog,
        alert: &impl Fn(NodeFailure) -> F,
    ) {
        let detecting = async {
            let client = leadership.client()?;
            Duties::begin(self, &client, claims).await?.run(alert).await
        };
        if let Err(error) = detecting.await {
            tracing::warn!(%error, detector = self.id, "the failure detector hands over");
            tokio::time::sleep(RETRY).await;
        }
    }
}
