use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::builder::ClusterNodeBuilder;
use super::calls::Calls;
use super::event::Step;
use super::metrics::{self, NodeMetrics, load_average, resident_bytes};
use super::parts::Parts;
use super::service::{NodeContext, NodeService};
use crate::ReadLevel;
use crate::recipes::registry::{HttpClient, InstanceStatus, Registration, ServiceInstance, http_client};
use crate::recipes::znode::name_of;
use crate::recipes::{PathCache, TreeCache};

/// A node of a cluster: connected, registered, with its services started, announced and elected, following the cluster and
/// watched over by it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use coordd_client::recipes::registry::{ServiceError, ServiceInstance};
/// use coordd_client::recipes::{ClusterNode, ClusterService, ServiceClass};
/// use serde_json::{Value, json};
///
/// struct Greeting;
///
/// impl ClusterService for Greeting {
///     async fn call(&self, method: &str, args: Vec<Value>) -> Result<Value, ServiceError> {
///         match method {
///             "greet" => Ok(json!(format!("hello {}", args[0]))),
///             _ => Err(ServiceError::NoMethod(method.to_owned())),
///         }
///     }
/// }
///
/// let node = ClusterNode::builder(ServiceInstance::new("node-1", "10.0.1.10", 3001))
///     .root("/shop")
///     .service("greeting", ServiceClass::Distributed, Greeting)
///     .on_event(|event| println!("{event}"))
///     .start(["127.0.0.1:7401"])
///     .await?;
/// let answer = node.context().proxy("greeting").await?.call("greet", [json!("you")]).await?;
/// node.shutdown().await;
/// # Ok(()) }
/// ```
///
/// # The steps
///
/// See [`Step`]. A step that fails undoes those before it in the reverse order, and so does [`shutdown`](Self::shutdown):
/// callers stop to choose the node before its services stop, and duties end before somebody else can lead.
///
/// Dropping it without `shutdown` ends all tasks, deregisters and closes the session, whoever else has it, and waits for nothing;
/// services are not told to stop.
///
/// # When the session ends
///
/// The node stays up: it is registered again in the next session, campaigns again and goes on to follow. Duties of a leadership
/// end a grace before.
///
/// Curator and kazoo have nothing of the kind.
pub struct ClusterNode {
    parts: Parts,
    view: NodeView,
}

impl std::fmt::Debug for ClusterNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterNode").field("id", &self.context().id()).finish_non_exhaustive()
    }
}

impl ClusterNode {
    /// Begins to describe a node: who it is, and where it is reached. Its services are added to those of the instance.
    pub fn builder(instance: ServiceInstance) -> ClusterNodeBuilder {
        ClusterNodeBuilder::new(instance)
    }

    pub(super) fn new(parts: Parts, view: NodeView) -> Self {
        Self { parts, view }
    }

    /// What its services work with, too: sessions, registry, proxies.
    pub fn context(&self) -> &NodeContext {
        self.view.context()
    }

    /// Its place in the registry.
    pub fn registration(&self) -> Option<&Registration> {
        self.parts.registration()
    }

    /// What `GET /health/cluster` answers.
    pub async fn health(&self) -> Value {
        self.view.health().await
    }

    /// What `GET /metrics/cluster` answers: what this node has measured of itself, and the sums of what the nodes have that answer
    /// within a second.
    pub async fn metrics(&self) -> Value {
        self.view.cluster_metrics().await
    }

    /// Undoes the steps in the reverse order, and waits for it: 5 s at most for each and for each service that stops, also
    /// where the ensemble is not in reach.
    ///
    /// # Cancellation
    ///
    /// As if it were dropped.
    pub async fn shutdown(mut self) {
        self.parts.shut_down().await;
    }
}

/// Why a node did not get ready.
#[derive(Debug, thiserror::Error)]
#[error("the node could not {step}: {source}")]
pub struct StartError {
    /// The step that failed.
    pub step: Step,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What a node sees of itself and of its cluster. Clones share it.
#[derive(Clone)]
pub(super) struct NodeView {
    inner: Arc<Inner>,
}

struct Inner {
    context: NodeContext,
    started: Instant,
    services: Vec<String>,
    nodes: PathCache,
    /// Of each of its leader-based services, the znode of who leads.
    leaders: Vec<(String, TreeCache)>,
    queues: Vec<String>,
    calls: Arc<Calls>,
    /// To ask the other nodes.
    http: HttpClient,
}

impl NodeView {
    pub(super) fn new(
        context: NodeContext,
        services: Vec<String>,
        leader_based: &[NodeService],
        queues: Vec<String>,
        calls: Arc<Calls>,
    ) -> Self {
        let (sessions, registry) = (context.sessions(), context.registry());
        let nodes = PathCache::start(sessions, registry.nodes_path());
        let leader = |NodeService { name, .. }: &NodeService| {
            let path = format!("{}/leader", registry.leader_path(name));
            (name.clone(), TreeCache::with_depth(sessions, path, 0))
        };
        let leaders = leader_based.iter().map(leader).collect();
        let (started, http) = (Instant::now(), http_client());
        let inner = Inner { context, started, services, nodes, leaders, queues, calls, http };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn context(&self) -> &NodeContext {
        &self.inner.context
    }

    pub(super) fn nodes(&self) -> &PathCache {
        &self.inner.nodes
    }

    pub(super) fn leaders(&self) -> &[(String, TreeCache)] {
        &self.inner.leaders
    }

    fn instances(&self) -> Vec<ServiceInstance> {
        let nodes = self.inner.nodes.children();
        let instances = nodes
            .iter()
            .filter_map(|znode| ServiceInstance::from_json(name_of(&znode.path), &znode.data).ok());
        instances.collect()
    }

    pub(super) fn metrics(&self) -> NodeMetrics {
        let Inner { context, started, calls, .. } = &*self.inner;
        let (total_requests, last_minute) = calls.answered();
        NodeMetrics {
            node_id: context.id().to_owned(),
            cpu_usage: load_average(),
            memory_usage: resident_bytes(),
            uptime: started.elapsed().as_secs(),
            calls_under_way: calls.under_way(),
            total_requests,
            last_minute,
        }
    }

    pub(super) async fn cluster_metrics(&self) -> Value {
        let mut others = self.instances();
        others.retain(|instance| instance.id != self.context().id());
        metrics::of_cluster(self.metrics(), others, &self.inner.http).await
    }

    pub(super) async fn health(&self) -> Value {
        let Inner { context, started, services, leaders, queues, .. } = &*self.inner;
        let instances = self.instances();
        let is_healthy = |instance: &&ServiceInstance| instance.status == InstanceStatus::Healthy;
        let own = instances.iter().find(|instance| instance.id == context.id());
        let leaders = leaders.iter().map(|(service, leader)| (service.clone(), json!(leader_id(leader))));
        json!({
            "nodeId": context.id(),
            "status": own.map_or("unregistered", |own| own.status.name()),
            "uptime": started.elapsed().as_secs(),
            "services": services,
            "cluster": {
                "totalNodes": instances.len(),
                "healthyNodes": instances.iter().filter(is_healthy).count(),
                "leaders": leaders.collect::<serde_json::Map<_, _>>(),
                "pendingTasks": pending(context, queues).await,
            },
        })
    }
}

/// Who leads, as the cache of the leader's znode shows it.
pub(super) fn leader_id(leader: &TreeCache) -> Option<String> {
    let znode = leader.view().iter().next().cloned()?;
    let proclaimed: Value = serde_json::from_slice(&znode.data).ok()?;
    Some(proclaimed["id"].as_str()?.to_owned())
}

/// How many tasks wait; `None` while no node of the ensemble can be asked.
async fn pending(context: &NodeContext, queues: &[String]) -> Option<u64> {
    let client = context.sessions().newest().ok()?;
    if client.suspended_for().is_some() {
        return None;
    }
    let mut pending = 0;
    for queue in queues {
        let stat = client.exists(format!("{queue}/pending"), ReadLevel::Local).await.ok()?;
        pending += stat.map_or(0, |stat| u64::from(stat.num_children));
    }
    Some(pending)
}
