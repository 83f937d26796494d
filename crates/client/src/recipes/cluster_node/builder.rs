use std::sync::Arc;
use std::time::Duration;

use super::event::ClusterEvent;
use super::node::{ClusterNode, StartError};
use super::parts::Parts;
use super::service::{ClusterService, NodeService, ServiceClass};
use crate::ConnectOptions;
use crate::recipes::FailureDetector;
use crate::recipes::registry::{RegistryOptions, ServiceInstance};

pub(super) type OnEvent = dyn Fn(&ClusterEvent) + Send + Sync;
type Configure = dyn Fn(FailureDetector) -> FailureDetector + Send + Sync;

/// How a [`ClusterNode`] is made; see there.
#[derive(Clone)]
pub struct ClusterNodeBuilder {
    pub(super) instance: ServiceInstance,
    pub(super) root: String,
    pub(super) connect: ConnectOptions,
    pub(super) registry: RegistryOptions,
    pub(super) services: Vec<NodeService>,
    pub(super) listen: Option<String>,
    pub(super) queues: Vec<String>,
    pub(super) drain: Duration,
    pub(super) load: Option<Arc<dyn Fn() -> f64 + Send + Sync>>,
    pub(super) detector: Option<Arc<Configure>>,
    pub(super) on_event: Arc<OnEvent>,
}

impl std::fmt::Debug for ClusterNodeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterNodeBuilder")
            .field("instance", &self.instance)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl ClusterNodeBuilder {
    /// A node without services, in the cluster at `/cluster`.
    pub(super) fn new(instance: ServiceInstance) -> Self {
        Self {
            instance,
            root: "/cluster".to_owned(),
            connect: ConnectOptions::new(),
            registry: RegistryOptions::new(),
            services: Vec::new(),
            listen: None,
            queues: Vec::new(),
            drain: Duration::from_millis(500),
            load: None,
            detector: None,
            on_event: Arc::new(|_: &ClusterEvent| {}),
        }
    }

    /// The path of the cluster: the root of its registry, and of all else that the node keeps in the tree.
    #[must_use]
    pub fn root(mut self, path: impl Into<String>) -> Self {
        self.root = path.into();
        self
    }

    /// How sessions are opened.
    #[must_use]
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.connect = options;
        self
    }

    /// Heartbeat, staleness and circuit breakers. What is local is set by the node.
    #[must_use]
    pub fn registry_options(mut self, options: RegistryOptions) -> Self {
        self.registry = options;
        self
    }

    /// A service of this node. They are started in this order, and stopped in the reverse.
    #[must_use]
    pub fn service(
        mut self,
        name: impl Into<String>,
        class: ServiceClass,
        service: impl ClusterService,
    ) -> Self {
        let name = name.into();
        self.instance = self.instance.service(&name);
        self.services.push(NodeService { name, class, service: Arc::new(service) });
        self
    }

    /// Where to listen. Default: the port of the instance, on all IPv4 addresses.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// A task queue of the cluster: what a lost node has claimed of it is given back, and its pending tasks are counted in the
    /// health.
    #[must_use]
    pub fn queue(mut self, path: impl Into<String>) -> Self {
        self.queues.push(path.into());
        self
    }

    /// For how long calls are still answered after callers were told to stop choosing this node. Default 500 ms.
    #[must_use]
    pub fn drain(mut self, grace: Duration) -> Self {
        self.drain = grace;
        self
    }

    /// What the node reports as its load, 0 idle and 1 full. Default: the calls under way per processor.
    #[must_use]
    pub fn load(mut self, load: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.load = Some(Arc::new(load));
        self
    }

    /// What else the node's [`FailureDetector`] does, or when.
    #[must_use]
    pub fn failure_detector(
        mut self,
        configure: impl Fn(FailureDetector) -> FailureDetector + Send + Sync + 'static,
    ) -> Self {
        self.detector = Some(Arc::new(configure));
        self
    }

    /// Is told what happens, in order, from the first step on. It must not block.
    #[must_use]
    pub fn on_event(mut self, on_event: impl Fn(&ClusterEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Arc::new(on_event);
        self
    }

    /// Takes all steps; when it returns the node is ready.
    ///
    /// # Errors
    ///
    /// Of the step that failed; those before it have been undone in the reverse order.
    ///
    /// # Cancellation
    ///
    /// Undoes what was done, and does not wait for it; services that were started are not told to stop.
    pub async fn start<I>(self, endpoints: I) -> Result<ClusterNode, StartError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        let mut parts = Parts::new(&self);
        match parts.bring_up(&self, endpoints).await {
            Ok(view) => Ok(ClusterNode::new(parts, view)),
            Err(error) => {
                parts.take_down().await;
                Err(error)
            }
        }
    }
}
