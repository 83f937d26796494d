//! A node of a cluster that runs four services: caching on all nodes, with the load spread; logging on each for itself;
//! scheduling and workflow on one node each, which is elected. Calls to any node are routed, what a dead node had claimed is
//! done by another, and the configuration changes while all run.
//!
//! In three terminals:
//!
//! `cargo run -p coordd-client --example cluster_node -- node-1 3001`
//!
//! then, through whichever node:
//!
//! `curl -d '{"args": ["greeting", "hello"]}' -H 'Content-Type: application/json' 127.0.0.1:3002/cluster/services/caching/api/put`
//! `curl -d '{"args": []}' -H 'Content-Type: application/json' 127.0.0.1:3003/cluster/services/scheduling/api/status`
//! `curl 127.0.0.1:3001/health/cluster` or `/metrics/cluster`
//! `coordctl config set /nooblyjs-core/config/global job_interval_ms 250`
//!
//! `COORDD_ENDPOINTS` says where the ensemble is; a third argument is the session timeout in seconds.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use coordd_client::recipes::config::{ConfigManager, ConfigOptions};
use coordd_client::recipes::registry::{ServiceError, ServiceInstance};
use coordd_client::recipes::{
    Claim, ClusterEvent, ClusterNode, ClusterService, Leadership, NodeContext, ServiceClass, Sessions,
    TaskOptions, TaskQueue, TaskQueueOptions,
};
use coordd_client::{ConnectOptions, CreateMode, CreateOptions, ErrorKind, ReadLevel};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::OnceCell;
use tokio::time::sleep;

const ROOT: &str = "/nooblyjs-core";
const CONFIG: &str = "/nooblyjs-core/config/global";
const QUEUE: &str = "/nooblyjs-core/services/workflow/queue";
const DONE: &str = "/nooblyjs-core/services/workflow/done";
const ENTRIES: &str = "/nooblyjs-core/services/caching/entries";
const ACTIVE_JOBS: &str = "/nooblyjs-core/services/scheduling/active_jobs";
/// How long a task takes.
const WORK: Duration = Duration::from_millis(300);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Settings {
    /// How often the scheduler schedules a job.
    job_interval_ms: u64,
    /// Whether what is logged is printed.
    print_logs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { job_interval_ms: 1_000, print_logs: true }
    }
}

type Config = ConfigManager<Settings>;

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

/// Distributed: whichever node is called, the entries are those of all, because they are not in its memory.
#[derive(Default)]
struct Caching {
    node: OnceCell<NodeContext>,
}

impl ClusterService for Caching {
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        set(&self.node, context)
    }

    async fn call(&self, method: &str, args: Vec<Value>) -> Result<Value, ServiceError> {
        let node = get(&self.node)?;
        let client = node.sessions().live().await.map_err(unavailable)?;
        let path = |key: &str| format!("{ENTRIES}/{key}");
        match (method, &args[..]) {
            ("put", [Value::String(key), value]) => {
                let options = CreateOptions::new(CreateMode::Persistent).parents(true);
                match client.create(path(key), value.to_string(), options).await {
                    Err(error) if error.kind == ErrorKind::NodeExists => {
                        client.set(path(key), value.to_string(), None).await.map_err(refused)?;
                    }
                    created => drop(created.map_err(refused)?),
                }
                Ok(json!({ "stored": key, "node": node.id() }))
            }
            ("get", [Value::String(key)]) => match client.get(path(key), ReadLevel::Linearizable).await {
                Ok((data, _)) => {
                    let value: Value = serde_json::from_slice(&data).unwrap_or_default();
                    Ok(json!({ "value": value, "node": node.id() }))
                }
                Err(error) if error.kind == ErrorKind::NoNode => Ok(Value::Null),
                Err(error) => Err(refused(error)),
            },
            ("put" | "get", _) => Err(ServiceError::Refused("put takes a key and a value, get a key".into())),
            _ => Err(ServiceError::NoMethod(method.into())),
        }
    }
}

/// Stateless: every node has its own.
struct Logging {
    settings: Arc<OnceCell<Config>>,
}

impl ClusterService for Logging {
    /// Whatever follows the configuration says so here.
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        let options =
            ConfigOptions::new(Settings::default()).author(context.id()).validate(|settings: &Settings| {
                if settings.job_interval_ms == 0 {
                    Err("job_interval_ms is 0, the least is 1")
                } else {
                    Ok(())
                }
            });
        let config = ConfigManager::start(context.sessions(), CONFIG, options).await.map_err(unavailable)?;
        println!("  configuration loaded: {:?}", config.current());
        let mut changes = config.changes();
        tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                match change {
                    Ok(change) => change.keys().iter().for_each(|key| {
                        let shown = |value: &Option<Value>| value.clone().unwrap_or_default();
                        println!(
                            "✓ configuration updated: {} {} -> {}",
                            key.key,
                            shown(&key.old),
                            shown(&key.new)
                        );
                    }),
                    Err(error) => println!("✗ configuration refused: {error}"),
                }
            }
        });
        self.settings.set(config).map_err(|_| ServiceError::Unavailable("it was started before".into()))
    }

    async fn call(&self, method: &str, args: Vec<Value>) -> Result<Value, ServiceError> {
        match (method, &args[..]) {
            ("info", [Value::String(message)]) => {
                if get(&self.settings)?.current().print_logs {
                    println!("  log: {message}");
                }
                Ok(Value::Null)
            }
            _ => Err(ServiceError::NoMethod(method.into())),
        }
    }
}

/// Leader-based: one scheduler schedules, so no job is scheduled twice.
struct Scheduling {
    settings: Arc<OnceCell<Config>>,
    node: OnceCell<NodeContext>,
}

impl Scheduling {
    /// Puts the next run into the workflow's queue, in one step with the count of runs: a scheduler that is replaced in the
    /// middle neither loses one nor schedules it again. The layout of a task is that of `TaskQueue`.
    async fn schedule(&self, leadership: &Leadership) -> Result<u64, coordd_client::Error> {
        let client = leadership.client()?;
        let (data, stat) = match client.get(ACTIVE_JOBS, ReadLevel::Local).await {
            Err(error) if error.kind == ErrorKind::NoNode => {
                let options = CreateOptions::new(CreateMode::Persistent).parents(true);
                ("0".into(), client.create(ACTIVE_JOBS, "0", options).await?.stat)
            }
            found => found?,
        };
        let run = 1 + String::from_utf8_lossy(&data).parse::<u64>().unwrap_or_default();
        let task = json!({ "payload": run.to_string(), "priority": 100 }).to_string();
        client
            .multi()
            .set(ACTIVE_JOBS, run.to_string(), Some(stat.version))
            .create(format!("{QUEUE}/pending/100-p"), task, CreateMode::PersistentSequential)
            .commit()
            .await?;
        Ok(run)
    }
}

impl ClusterService for Scheduling {
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        set(&self.node, context)?;
        // The queue's znodes are there before anything is scheduled.
        open_queue(context.sessions(), context.id()).await.map(drop).map_err(unavailable)
    }

    async fn call(&self, method: &str, args: Vec<Value>) -> Result<Value, ServiceError> {
        let node = get(&self.node)?;
        match (method, &args[..]) {
            ("status", _) => {
                let client = node.sessions().live().await.map_err(unavailable)?;
                let runs = client.get(ACTIVE_JOBS, ReadLevel::Linearizable).await;
                let runs =
                    runs.map(|(data, _)| String::from_utf8_lossy(&data).into_owned()).unwrap_or_default();
                Ok(json!({ "node": node.id(), "runs": runs.parse::<u64>().unwrap_or_default() }))
            }
            ("schedule", [Value::String(job)]) => {
                let queue = open_queue(node.sessions(), node.id()).await.map_err(unavailable)?;
                Ok(json!(queue.put(job, &TaskOptions::new()).await.map_err(refused)?))
            }
            _ => Err(ServiceError::NoMethod(method.into())),
        }
    }

    async fn lead(&self, leadership: Arc<Leadership>) {
        loop {
            match self.schedule(&leadership).await {
                Ok(run) => println!("  scheduling: run {run} is due"),
                Err(error) => println!("  scheduling: {error}"),
            }
            let interval_ms = self.settings.get().map_or(1_000, |config| config.current().job_interval_ms);
            sleep(Duration::from_millis(interval_ms)).await;
        }
    }
}

/// Leader-based: one engine works at the queue. What it had claimed when it died is done by the next one.
#[derive(Default)]
struct Workflow {
    node: OnceCell<NodeContext>,
}

impl Workflow {
    /// Ends with the session.
    async fn work_at_queue(node: &NodeContext) -> Result<(), coordd_client::Error> {
        let queue = open_queue(node.sessions(), node.id()).await?;
        loop {
            let claim = queue.claim().await?;
            if let Err(error) = Self::work(&claim).await {
                println!("  workflow: {} failed: {error}", claim.id());
            }
        }
    }

    /// Done once, because it is noted in the step that completes the task.
    async fn work(claim: &Claim) -> Result<(), coordd_client::Error> {
        let run = String::from_utf8_lossy(claim.payload()).into_owned();
        println!("  workflow: run {run} begins, attempt {}", claim.attempts() + 1);
        sleep(WORK).await;
        let options = CreateOptions::new(CreateMode::Persistent).parents(true);
        claim.complete_with(|multi| multi.create(format!("{DONE}/{run}"), "", options)).await?;
        println!("  workflow: run {run} is done");
        Ok(())
    }
}

impl ClusterService for Workflow {
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        set(&self.node, context)
    }

    async fn call(&self, method: &str, _args: Vec<Value>) -> Result<Value, ServiceError> {
        let node = get(&self.node)?;
        match method {
            "status" => {
                let queue = open_queue(node.sessions(), node.id()).await.map_err(unavailable)?;
                let stats = queue.stats().await.map_err(unavailable)?;
                Ok(
                    json!({ "node": node.id(), "pending": stats.pending, "running": stats.running, "dead": stats.dead }),
                )
            }
            _ => Err(ServiceError::NoMethod(method.into())),
        }
    }

    async fn lead(&self, leadership: Arc<Leadership>) {
        let Some(node) = self.node.get() else { return };
        while !leadership.is_lost() {
            if let Err(error) = Self::work_at_queue(node).await {
                println!("  workflow: {error}");
                sleep(WORK).await;
            }
        }
    }
}

async fn open_queue(sessions: &Sessions, worker: &str) -> Result<TaskQueue, coordd_client::Error> {
    TaskQueue::open(&sessions.live().await?, QUEUE, TaskQueueOptions::new().worker(worker)).await
}

fn set(cell: &OnceCell<NodeContext>, context: &NodeContext) -> Result<(), ServiceError> {
    cell.set(context.clone()).map_err(|_| ServiceError::Unavailable("it was started before".into()))
}

fn get<T>(cell: &OnceCell<T>) -> Result<&T, ServiceError> {
    cell.get().ok_or_else(|| ServiceError::Unavailable("it is not started yet".into()))
}

/// Another node may do better.
fn unavailable(error: coordd_client::Error) -> ServiceError {
    ServiceError::Unavailable(error.to_string())
}

/// No node would do better.
fn refused(error: coordd_client::Error) -> ServiceError {
    ServiceError::Refused(error.to_string())
}
