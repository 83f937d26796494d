//! A node of a cluster that runs five services: caching on all nodes, with the load spread; logging on each for itself;
//! notifying on all of them at once; scheduling and workflow on one node each, which is elected. Calls to any node are routed,
//! what a dead node had claimed is done by another, what is to be done once when a cluster begins is done under a lock, and the
//! configuration changes while all run.
//!
//! In three terminals, with names and ports of their own:
//!
//! `cargo run -p coordd-client --example cluster_node -- node-1 3001`
//!
//! then, through whichever node, `POST /cluster/services/{service}/api/{method}`:
//!
//! ```text
//! call() { curl -H 'Content-Type: application/json' -d "$3" "127.0.0.1:3002/cluster/services/$1/api/$2"; echo; }
//! call caching put '{"args": ["greeting", "hello"]}'
//! call caching get '{"args": ["greeting"], "key": "greeting"}'
//! call logging info '{"args": ["something has happened"]}'
//! call notifying publish '{"args": ["news", "heard by all nodes"]}'
//! call scheduling status '{}'
//! call scheduling schedule '{"args": ["a job of its own"]}'
//! call workflow status '{}'
//! curl 127.0.0.1:3001/health/cluster
//! curl 127.0.0.1:3001/metrics/cluster
//! coordctl config set /nooblyjs-core/config/global job_interval_ms 250
//! ```
//!
//! The `key` matters only where a service is configured to be called by consistent hashing or to stick to a node.
//! `COORDD_ENDPOINTS` says where the ensemble is; a third argument is the session timeout in seconds.

mod caching;
mod logging;
mod notifying;
mod scheduling;
mod workflow;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use coordd_client::ConnectOptions;
use coordd_client::recipes::config::ConfigManager;
use coordd_client::recipes::registry::{ServiceError, ServiceInstance};
use coordd_client::recipes::{ClusterEvent, ClusterNode, NodeContext, ServiceClass};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::OnceCell;

use crate::caching::Caching;
use crate::logging::Logging;
use crate::notifying::Notifying;
use crate::scheduling::Scheduling;
use crate::workflow::Workflow;

const ROOT: &str = "/nooblyjs-core";
pub(crate) const QUEUE: &str = "/nooblyjs-core/services/workflow/queue";

/// What stands in the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// How often the scheduler schedules a job.
    pub(crate) job_interval_ms: u64,
    /// Whether what is logged is printed.
    pub(crate) print_logs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { job_interval_ms: 1_000, print_logs: true }
    }
}

pub(crate) type Config = ConfigManager<Settings>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(id), Some(port)) = (args.next(), args.next()) else {
        return Err("usage: cluster_node NODE_ID PORT [SESSION_TIMEOUT_SECONDS]".into());
    };
    let (port, seconds) = (port.parse()?, args.next().map_or(Ok(10), |seconds| seconds.parse())?);
    let endpoints = std::env::var("COORDD_ENDPOINTS")
        .unwrap_or_else(|_| "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".into());
    let mut terminate = signal(SignalKind::terminate())?;
    println!("Cluster node {id} starts: port {port}, ensemble {endpoints}");

    let settings = Arc::<OnceCell<Config>>::default();
    let node = ClusterNode::builder(ServiceInstance::new(&id, "127.0.0.1", port))
        .root(ROOT)
        .connect_options(ConnectOptions::new().session_timeout(Duration::from_secs(seconds)).client_name(&id))
        .listen(format!("127.0.0.1:{port}"))
        .service("caching", ServiceClass::Distributed, Caching::default())
        .service("logging", ServiceClass::Stateless, Logging { settings: settings.clone() })
        .service("notifying", ServiceClass::Replicated, Notifying)
        .service("scheduling", ServiceClass::LeaderBased, Scheduling { settings, node: OnceCell::new() })
        .service("workflow", ServiceClass::LeaderBased, Workflow::default())
        .queue(QUEUE)
        .on_event(|event| match event {
            ClusterEvent::Done(_) | ClusterEvent::Leading { .. } => println!("✓ {event}"),
            ClusterEvent::Undone(_) | ClusterEvent::LeadershipEnded { .. } => println!("✗ {event}"),
            _ => println!("  {event}"),
        })
        .start(endpoints.split(','))
        .await?;
    println!("CLUSTER NODE READY: {id} at http://127.0.0.1:{port}, {}", node.health().await);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    node.shutdown().await;
    println!("Cluster node {id} has left");
    Ok(())
}

pub(crate) fn set(cell: &OnceCell<NodeContext>, context: &NodeContext) -> Result<(), ServiceError> {
    cell.set(context.clone()).map_err(|_| ServiceError::Unavailable("it was started before".into()))
}

pub(crate) fn get<T>(cell: &OnceCell<T>) -> Result<&T, ServiceError> {
    cell.get().ok_or_else(|| ServiceError::Unavailable("it is not started yet".into()))
}

/// Another node may do better.
pub(crate) fn unavailable(error: coordd_client::Error) -> ServiceError {
    ServiceError::Unavailable(error.to_string())
}

/// No node would do better.
pub(crate) fn refused(error: coordd_client::Error) -> ServiceError {
    ServiceError::Refused(error.to_string())
}
