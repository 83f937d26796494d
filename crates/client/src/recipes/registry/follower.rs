use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::directory::{Directory, Member};
use super::layout::Layout;
use super::pool::Pool;
use super::provider::View;
use super::{Mode, ServiceConfig};
use crate::Error;
use crate::recipes::health::{HealthReports, HealthView, Verdict};
use crate::recipes::{CacheView, PathCache, Sessions, TreeCache};

/// Begins to follow a service, and waits for the first view.
pub(crate) async fn follow(
    sessions: Sessions,
    layout: &Layout,
    service: &str,
    stale_after: Duration,
    pool: Arc<Pool>,
) -> Result<(watch::Receiver<Arc<View>>, AbortHandle), Error> {
    let mut follower = Follower {
        instances: PathCache::start(&sessions, layout.instances(service)),
        config: TreeCache::with_depth(&sessions, layout.config(service), 0),
        leader: TreeCache::with_depth(&sessions, layout.leader_znode(service), 0),
        health: HealthReports::start(&sessions, &layout.service(service)),
        sessions,
        stale_after,
        pool,
        seen: CacheView::default(),
        directory: Directory::default(),
        service_config: ServiceConfig::default(),
        leader_id: None,
        reports: HealthView::default(),
        view: watch::Sender::new(Arc::default()),
    };
    follower.on_config(&follower.config.wait_ready().await?);
    follower.on_leader(&follower.leader.wait_ready().await?);
    follower.reports = follower.health.wait_ready().await?;
    follower.on_instances(follower.instances.wait_ready().await?);
    follower.publish();
    let view = follower.view.subscribe();
    Ok((view, tokio::spawn(follower.run()).abort_handle()))
}

/// Makes one [`View`] of what the caches show.
struct Follower {
    sessions: Sessions,
    stale_after: Duration,
    pool: Arc<Pool>,
    instances: PathCache,
    config: TreeCache,
    leader: TreeCache,
    health: HealthReports,
    /// What the directory was made of.
    seen: CacheView,
    directory: Directory,
    service_config: ServiceConfig,
    leader_id: Option<String>,
    /// What monitors say of the instances, where there are any.
    reports: HealthView,
    view: watch::Sender<Arc<View>>,
}

/// When the question was asked, and what the instances were when everything written before it had arrived.
type Confirmation = BoxFuture<'static, Result<(Instant, CacheView), Error>>;

impl Follower {
    /// Ends with the sessions; the last view stays.
    async fn run(mut self) {
        let mut instances = self.instances.views();
        let mut config = self.config.views();
        let mut leader = self.leader.views();
        let mut reports = self.health.views();
        let look = (self.stale_after / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut look = interval(look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut confirmation: Option<Confirmation> = None;
        loop {
            tokio::select! {
                view = instances.next() => match view {
                    Some(view) => self.on_instances(view),
                    None => return,
                },
                Some(view) = config.next() => self.on_config(&view),
                Some(view) = leader.next() => self.on_leader(&view),
                Some(view) = reports.next() => self.reports = view,
                confirmed = async { confirmation.as_mut().expect("checked").await }, if confirmation.is_some() => {
                    confirmation = None;
                    match confirmed {
                        Ok((at, view)) => {
                            self.on_instances(view);
                            self.directory.confirm(at);
                        }
                        Err(error) => tracing::debug!(%error, "stale heartbeats cannot be confirmed yet"),
                    }
                }
                _ = look.tick(), if confirmation.is_none() => {
                    if self.directory.is_in_doubt(self.stale_after, Instant::now()) {
                        confirmation = Some(self.confirm());
                    }
                    continue;
                }
            }
            self.publish();
        }
    }

    /// Makes sure that a heartbeat that seems to be missing has not been written, rather than not been heard of here.
    fn confirm(&self) -> Confirmation {
        let (sessions, instances) = (self.sessions.clone(), self.instances.clone());
        let at = Instant::now();
        async move {
            let zxid = sessions.newest()?.sync().await?;
            Ok((at, instances.wait_for(zxid).await?))
        }
        .boxed()
    }

    fn on_instances(&mut self, view: CacheView) {
        self.directory.apply(&view.changes_since(&self.seen), Instant::now());
        self.seen = view;
    }

    fn on_config(&mut self, view: &CacheView) {
        let Some(znode) = view.iter().next() else {
            self.service_config = ServiceConfig::default();
            return;
        };
        match serde_json::from_slice(&znode.data) {
            Ok(config) => self.service_config = config,
            Err(error) => {
                tracing::warn!(path = &*znode.path, %error, "not a configuration of a service; the last one stays");
            }
        }
    }

    fn on_leader(&mut self, view: &CacheView) {
        /// What the first field of an election's leader says, see `LeaderElection`.
        #[derive(Deserialize)]
        struct Named {
            id: String,
        }
        let named = view.iter().next().map(|znode| serde_json::from_slice::<Named>(&znode.data));
        self.leader_id = match named {
            Some(Ok(named)) => Some(named.id),
            Some(Err(error)) => {
                tracing::warn!(%error, "the leader does not say its id");
                None
            }
            None => None,
        };
    }

    fn publish(&mut self) {
        let config = self.service_config;
        let is_condemned = |member: &Member| self.reports.verdict(&member.instance.id) == Verdict::Unhealthy;
        let (quarantined, healthy) =
            self.directory.healthy(self.stale_after).into_iter().partition(is_condemned);
        let view = View {
            healthy,
            quarantined,
            all: self.directory.all(),
            config,
            leader: self.leader_id.clone().filter(|_| config.mode == Mode::LeaderBased),
        };
        self.pool.retain(&view.all);
        self.view.send_if_modified(|last| {
            let is_new = **last != view;
            if is_new {
                *last = Arc::new(view);
            }
            is_new
        });
    }
}
