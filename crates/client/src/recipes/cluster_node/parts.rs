use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::builder::{ClusterNodeBuilder, OnEvent};
use super::calls::Calls;
use super::event::{ClusterEvent, Step};
use super::gateway;
use super::node::{NodeView, StartError, leader_id};
use super::service::{NodeContext, NodeService, ServiceClass};
use crate::recipes::registry::{
    InstanceStatus, Registration, RegistryOptions, ServiceError, ServiceHost, ServiceInstance,
    ServiceRegistry,
};
use crate::recipes::znode::name_of;
use crate::recipes::{CacheChange, Candidate, FailureDetector, Leadership, Sessions, lead};
use crate::{Error, ErrorKind};

/// How long one step of the way down waits for the ensemble, or for calls under way; and for each service that stops.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the node campaigns again after a refusal.
const RETRY: Duration = Duration::from_secs(5);

/// What a node consists of, as far as it is there.
pub(super) struct Parts {
    on_event: Arc<OnEvent>,
    drain: Duration,
    /// The steps that have to be undone.
    steps: Vec<Step>,
    sessions: Option<Sessions>,
    registration: Option<Arc<Registration>>,
    /// Watches over the others; and told when this node leaves.
    detector: Option<FailureDetector>,
    id: String,
    started: Vec<NodeService>,
    server: Option<Server>,
    elections: JoinSet<()>,
    watches: JoinSet<()>,
    monitors: JoinSet<()>,
    calls: Arc<Calls>,
}

/// Answers by HTTP until it is told to stop.
struct Server {
    stop_tx: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Services may keep the sessions, so that they would not close by themselves.
        let Some(sessions) = self.sessions.take() else { return };
        let mut elections = std::mem::take(&mut self.elections);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Duties end before somebody else can lead.
                elections.shutdown().await;
                if let Err(error) = sessions.close().await {
                    tracing::debug!(%error, "the session had ended");
                }
            });
        }
    }
}

/// Says that duties have ended, also if they were dropped.
struct Leading<'a> {
    on_event: &'a OnEvent,
    service: &'a str,
    epoch: u64,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let (service, epoch) = (self.service.to_owned(), self.epoch);
        (self.on_event)(&ClusterEvent::LeadershipEnded { service, epoch });
    }
}

impl Parts {
    pub(super) fn new(builder: &ClusterNodeBuilder) -> Self {
        Self {
            on_event: builder.on_event.clone(),
            drain: builder.drain,
            steps: Vec::new(),
            sessions: None,
            registration: None,
            detector: None,
            id: builder.instance.id.clone(),
            started: Vec::new(),
            server: None,
            elections: JoinSet::new(),
            watches: JoinSet::new(),
            monitors: JoinSet::new(),
            calls: Calls::new(),
        }
    }

    pub(super) fn registration(&self) -> Option<&Registration> {
        self.registration.as_deref()
    }

    fn emit(&self, event: ClusterEvent) {
        (self.on_event)(&event);
    }

    fn done(&mut self, step: Step) {
        self.steps.push(step);
        self.emit(ClusterEvent::Done(step));
    }

    /// All steps. What an error leaves behind is undone by [`take_down`](Self::take_down).
    pub(super) async fn bring_up(
        &mut self,
        builder: &ClusterNodeBuilder,
        endpoints: Vec<String>,
    ) -> Result<NodeView, StartError> {
        let at = |step: Step| move |source: Error| StartError { step, source: source.into() };
        let connect = builder.connect.clone();
        let sessions = Sessions::connect(endpoints, connect).await.map_err(at(Step::Connect))?;
        self.sessions = Some(sessions.clone());
        self.done(Step::Connect);

        let options = RegistryOptions { local: Some(self.id.clone()), ..builder.registry.clone() };
        let options = options.host(self.host(&builder.services));
        let registry =
            ServiceRegistry::new(sessions.clone(), &builder.root, options).map_err(at(Step::Register))?;
        let detector =
            FailureDetector::new(&sessions, &builder.root, &self.id).map_err(at(Step::Register))?;
        let detector = detector.stale_after(builder.registry.stale_after);
        let detector = builder.queues.iter().fold(detector, |detector, queue| detector.queue(queue));
        let detector = builder.detector.iter().fold(detector, |detector, configure| configure(detector));
        self.detector = Some(detector.clone());
        // It takes no calls before its services are there.
        let instance = ServiceInstance { status: InstanceStatus::Unhealthy, ..builder.instance.clone() };
        let registration = Arc::new(registry.register(instance).await.map_err(at(Step::Register))?);
        self.registration = Some(registration.clone());
        self.done(Step::Register);

        let context =
            NodeContext::new(self.id.clone(), builder.root.clone(), sessions.clone(), registry.clone());
        let is_leader_based = |service: &&NodeService| service.class == ServiceClass::LeaderBased;
        let leader_based: Vec<_> = builder.services.iter().filter(is_leader_based).cloned().collect();
        let services = builder.services.iter().map(|service| service.name.clone()).collect();
        let view =
            NodeView::new(context, services, &leader_based, builder.queues.clone(), self.calls.clone());
        // Those that were started before one that fails have to be stopped.
        self.steps.push(Step::StartServices);
        self.start_services(builder, &view).await?;
        self.emit(ClusterEvent::Done(Step::StartServices));

        for NodeService { name, class, .. } in &builder.services {
            let configured = registry.configure_if_absent(name, &class.default_config()).await;
            configured.map_err(at(Step::Announce))?;
        }
        registration.set_status(InstanceStatus::Healthy).await.map_err(at(Step::Announce))?;
        self.done(Step::Announce);

        let address = builder.instance.address();
        for service in leader_based {
            self.elect(&registry, service, &address);
        }
        self.done(Step::Elect);

        self.watch(&view).await.map_err(at(Step::Watch))?;
        self.done(Step::Watch);

        self.monitor(builder, registration, detector);
        self.done(Step::Monitor);
        self.emit(ClusterEvent::Ready);
        Ok(view)
    }

    fn host(&self, services: &[NodeService]) -> ServiceHost {
        services.iter().fold(ServiceHost::new(), |host, NodeService { name, service, .. }| {
            // A service that keeps its context keeps the host, too.
            let (service, calls) = (Arc::downgrade(service), self.calls.clone());
            host.service(name, move |method: String, args| {
                let (service, call) = (service.upgrade(), calls.begin());
                async move {
                    let answer = match service {
                        Some(service) => service.call(&method, args).await,
                        None => Err(ServiceError::Unavailable("the node has stopped".to_owned())),
                    };
                    call.answered(matches!(answer, Err(ServiceError::Unavailable(_))));
                    answer
                }
            })
        })
    }

    async fn start_services(
        &mut self,
        builder: &ClusterNodeBuilder,
        view: &NodeView,
    ) -> Result<(), StartError> {
        let step = Step::StartServices;
        for service in &builder.services {
            let started = service.service.start(view.context()).await;
            started
                .map_err(|error| StartError { step, source: format!("{}: {error}", service.name).into() })?;
            self.started.push(service.clone());
            self.emit(ClusterEvent::ServiceStarted(service.name.clone()));
        }
        let address = builder.listen.clone().unwrap_or_else(|| format!("0.0.0.0:{}", builder.instance.port));
        let bound = TcpListener::bind(&address).await;
        let listener = bound.map_err(|error| StartError {
            step,
            source: format!("cannot listen at {address}: {error}").into(),
        })?;
        let router = self.host(&builder.services).router().merge(gateway::router(view.clone()));
        let (stop_tx, mut stop) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let stop = async move { drop(stop.wait_for(|stop| *stop).await) };
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
                tracing::warn!(%error, "the node does not answer calls any more");
            }
        });
        self.server = Some(Server { stop_tx, task });
        Ok(())
    }

    fn elect(&mut self, registry: &ServiceRegistry, service: NodeService, address: &str) {
        let (on_event, path) = (self.on_event.clone(), registry.leader_path(&service.name));
        let candidate = Candidate::new(&self.id).address(address);
        let Some(sessions) = self.sessions.clone() else { return };
        self.elections.spawn(async move {
            let on_event = &*on_event;
            let NodeService { name, service, .. } = &service;
            let duties = |leadership: Arc<Leadership>| async move {
                let epoch = leadership.epoch();
                on_event(&ClusterEvent::Leading { service: name.clone(), epoch });
                let _leading = Leading { on_event, service: name, epoch };
                service.lead(leadership).await;
            };
            while let Err(error) = lead(&sessions, &path, &candidate, duties).await {
                if error.kind == ErrorKind::SessionClosed {
                    return;
                }
                on_event(&ClusterEvent::CampaignRefused { service: name.clone(), error });
                sleep(RETRY).await;
            }
        });
    }

    async fn watch(&mut self, view: &NodeView) -> Result<(), Error> {
        view.nodes().wait_ready().await?;
        let (on_event, nodes) = (self.on_event.clone(), view.nodes().clone());
        self.watches.spawn(async move {
            let mut changes = nodes.changes();
            while let Some(change) = changes.next().await {
                let name = name_of(change.path()).to_owned();
                match change {
                    CacheChange::Added(_) => on_event(&ClusterEvent::NodeJoined(name)),
                    CacheChange::Removed(_) => on_event(&ClusterEvent::NodeLeft(name)),
                    CacheChange::Updated { old, new } if old.stat.czxid != new.stat.czxid => {
                        on_event(&ClusterEvent::NodeLeft(name.clone()));
                        on_event(&ClusterEvent::NodeJoined(name));
                    }
                    // A heartbeat.
                    CacheChange::Updated { .. } => {}
                }
            }
        });
        for (service, leader) in view.leaders() {
            leader.wait_ready().await?;
            let (on_event, service, leader) = (self.on_event.clone(), service.clone(), leader.clone());
            self.watches.spawn(async move {
                let (mut views, mut last) = (leader.views(), None);
                while let Some(_newer) = views.next().await {
                    let now = leader_id(&leader);
                    if now != last {
                        last.clone_from(&now);
                        on_event(&ClusterEvent::LeaderChanged { service: service.clone(), leader: now });
                    }
                }
            });
        }
        Ok(())
    }

    fn monitor(
        &mut self,
        builder: &ClusterNodeBuilder,
        registration: Arc<Registration>,
        detector: FailureDetector,
    ) {
        let cores = available_parallelism().map_or(1, usize::from);
        let calls = self.calls.clone();
        let load = builder.load.clone();
        let load = move || match &load {
            Some(load) => load(),
            None => calls.under_way() as f64 / cores as f64,
        };
        let mut look = interval(builder.registry.heartbeat / 2);
        self.monitors.spawn(async move {
            loop {
                look.tick().await;
                if let Err(error) = registration.set_load(load()) {
                    tracing::warn!(%error, "the load cannot be reported");
                }
            }
        });
        let on_event = self.on_event.clone();
        self.monitors.spawn(async move {
            let alert = |failure| {
                on_event(&ClusterEvent::NodeFailed(failure));
                std::future::ready(())
            };
            while let Err(error) = detector.run(alert).await {
                if error.kind == ErrorKind::SessionClosed {
                    return;
                }
                on_event(&ClusterEvent::DetectorRefused(error));
                sleep(RETRY).await;
            }
        });
    }

    pub(super) async fn shut_down(&mut self) {
        self.emit(ClusterEvent::Stopping);
        self.take_down().await;
    }

    /// Undoes the steps that were taken, the last one first.
    pub(super) async fn take_down(&mut self) {
        while let Some(step) = self.steps.pop() {
            let patience = match step {
                Step::Announce => PATIENCE + self.drain,
                // Each service has its own time.
                Step::StartServices => PATIENCE * (u32::try_from(self.started.len()).unwrap_or(u32::MAX) + 1),
                _ => PATIENCE,
            };
            if timeout(patience, self.undo(step)).await.is_err() {
                let patience_ms = patience.as_millis() as u64;
                tracing::warn!(%step, patience_ms, "a step could not be undone in time; going on");
            }
            self.emit(ClusterEvent::Undone(step));
        }
    }

    async fn undo(&mut self, step: Step) {
        match step {
            Step::Monitor => self.monitors.shutdown().await,
            Step::Watch => self.watches.shutdown().await,
            // Dropped duties first, then the candidacies, which go in the session's order.
            Step::Elect => self.elections.shutdown().await,
            Step::Announce => {
                let Some(registration) = &self.registration else { return };
                match registration.drain().await {
                    Ok(()) => sleep(self.drain).await,
                    Err(error) => tracing::debug!(%error, "nobody can be told that the node drains"),
                }
            }
            Step::StartServices => {
                if let Some(Server { stop_tx, mut task }) = self.server.take() {
                    stop_tx.send_replace(true);
                    if timeout(PATIENCE / 2, task.join_next()).await.is_err() {
                        tracing::warn!("calls are still under way, and are given up");
                    }
                }
                while let Some(NodeService { name, service, .. }) = self.started.pop() {
                    match timeout(PATIENCE, service.stop()).await {
                        Ok(()) => self.emit(ClusterEvent::ServiceStopped(name)),
                        Err(_) => {
                            tracing::warn!(service = name, "the service did not stop in time; going on");
                        }
                    }
                }
            }
            Step::Register => {
                if let Some(detector) = self.detector.take()
                    && let Err(error) = detector.dismiss(&self.id).await
                {
                    tracing::debug!(%error, "the node leaves without a word");
                }
                // The tasks that shared it are gone.
                if let Some(registration) = self.registration.take().and_then(Arc::into_inner) {
                    registration.deregister().await;
                }
            }
            Step::Connect => {
                if let Some(sessions) = self.sessions.take()
                    && let Err(error) = sessions.close().await
                {
                    tracing::debug!(%error, "the session had ended");
                }
            }
        }
    }
}
