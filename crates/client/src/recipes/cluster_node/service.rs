use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, FutureExt as _};
use serde_json::Value;

use crate::recipes::registry::{Mode, ServiceConfig, ServiceError, ServiceProxy, ServiceRegistry};
use crate::recipes::{Leadership, Sessions, Strategy};
use crate::{Error, ErrorKind};

/// How a service behaves in a cluster, and so how it is called unless its configuration says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceClass {
    /// Any node does as well as any other: called on the caller's own node, else anywhere ([`Mode::LocalFirst`]).
    Stateless,
    /// One leads, and the others stand by: called on the node that leads ([`Mode::LeaderBased`]).
    LeaderBased,
    /// Its load is spread over the nodes: called on the least loaded one ([`Mode::Distributed`]).
    Distributed,
    /// All nodes have all of it: called on each of them ([`Mode::Replicated`]).
    Replicated,
}

impl ServiceClass {
    /// How such a service is called as long as nobody has configured it.
    pub fn default_config(self) -> ServiceConfig {
        match self {
            ServiceClass::Stateless => ServiceConfig::new(Mode::LocalFirst),
            ServiceClass::LeaderBased => ServiceConfig::new(Mode::LeaderBased),
            ServiceClass::Distributed => {
                ServiceConfig::new(Mode::Distributed).strategy(Strategy::LeastLoaded)
            }
            ServiceClass::Replicated => ServiceConfig::new(Mode::Replicated),
        }
    }
}

/// A service that a [`ClusterNode`](super::ClusterNode) runs. All that is not needed has a default.
pub trait ClusterService: Send + Sync + 'static {
    /// Gets ready to be called. Awaited before callers may choose the node; a refusal undoes what the node has done so far.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from working.
    fn start(&self, context: &NodeContext) -> impl Future<Output = Result<(), ServiceError>> + Send {
        let _ = context;
        std::future::ready(Ok(()))
    }

    /// Answers a call of one of its methods.
    ///
    /// # Errors
    ///
    /// What the caller is answered instead.
    fn call(
        &self,
        method: &str,
        args: Vec<Value>,
    ) -> impl Future<Output = Result<Value, ServiceError>> + Send;

    /// The duties of the node that leads the service, if it is [leader-based](ServiceClass::LeaderBased). The future is dropped when
    /// the leadership is lost, a grace before another node can lead. When it ends by itself the leadership is resigned.
    fn lead(&self, leadership: Arc<Leadership>) -> impl Future<Output = ()> + Send {
        async move {
            leadership.lost().await;
        }
    }

    /// Ends: no call comes any more, and no duties run.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// The same behind a pointer.
pub(super) trait DynService: Send + Sync {
    fn start<'a>(&'a self, context: &'a NodeContext) -> BoxFuture<'a, Result<(), ServiceError>>;
    fn call<'a>(&'a self, method: &'a str, args: Vec<Value>) -> BoxFuture<'a, Result<Value, ServiceError>>;
    fn lead(&self, leadership: Arc<Leadership>) -> BoxFuture<'_, ()>;
    fn stop(&self) -> BoxFuture<'_, ()>;
}

impl<S: ClusterService> DynService for S {
    fn start<'a>(&'a self, context: &'a NodeContext) -> BoxFuture<'a, Result<(), ServiceError>> {
        ClusterService::start(self, context).boxed()
    }

    fn call<'a>(&'a self, method: &'a str, args: Vec<Value>) -> BoxFuture<'a, Result<Value, ServiceError>> {
        ClusterService::call(self, method, args).boxed()
    }

    fn lead(&self, leadership: Arc<Leadership>) -> BoxFuture<'_, ()> {
        ClusterService::lead(self, leadership).boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        ClusterService::stop(self).boxed()
    }
}

/// A service and what the node has to know of it.
#[derive(Clone)]
pub(super) struct NodeService {
    pub(super) name: String,
    pub(super) class: ServiceClass,
    pub(super) service: Arc<dyn DynService>,
}

/// What the services of a node work with. Clones share it.
#[derive(Clone, Debug)]
pub struct NodeContext {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    root: String,
    sessions: Sessions,
    registry: ServiceRegistry,
    /// Of each service that was called from here.
    proxies: Mutex<HashMap<String, ServiceProxy>>,
}

impl NodeContext {
    pub(super) fn new(id: String, root: String, sessions: Sessions, registry: ServiceRegistry) -> Self {
        Self { inner: Arc::new(Inner { id, root, sessions, registry, proxies: Mutex::default() }) }
    }

    /// The node's id.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The path of the cluster.
    pub fn root(&self) -> &str {
        &self.inner.root
    }

    /// The sessions of the node: what is made in them goes when the node does.
    pub fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    /// The services of the cluster.
    pub fn registry(&self) -> &ServiceRegistry {
        &self.inner.registry
    }

    /// Calls a service of the cluster, as its configuration says. What was followed once is followed as long as the node.
    ///
    /// # Errors
    ///
    /// Those of [`ServiceRegistry::proxy`]; `NoNode` if no node has ever offered a service of this name.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn proxy(&self, service: &str) -> Result<ServiceProxy, Error> {
        if let Some(proxy) = self.known_proxy(service) {
            return Ok(proxy);
        }
        // Whoever asks may ask for anything, and each that is followed costs memory.
        if !self.inner.registry.services().await?.iter().any(|name| name == service) {
            let message = format!("no node has ever offered a service {service:?}");
            return Err(Error::new(ErrorKind::NoNode, message));
        }
        let proxy = self.inner.registry.proxy(service).await?;
        let mut proxies = self.inner.proxies.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(proxies.entry(service.to_owned()).or_insert(proxy).clone())
    }

    fn known_proxy(&self, service: &str) -> Option<ServiceProxy> {
        let proxies = self.inner.proxies.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        proxies.get(service).cloned()
    }
}
