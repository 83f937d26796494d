//! Leader-based: one scheduler schedules, so no run is scheduled twice.

use std::sync::Arc;
use std::time::Duration;

use coordd_client::recipes::registry::ServiceError;
use coordd_client::recipes::{ClusterService, Leadership, NodeContext, TaskOptions};
use coordd_client::{CreateMode, CreateOptions, ErrorKind, ReadLevel};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::workflow::open_queue;
use crate::{Config, QUEUE, get, refused, set, unavailable};

/// How many runs were scheduled since the cluster began.
const SCHEDULED_RUNS: &str = "/nooblyjs-core/services/scheduling/scheduled_runs";

pub(crate) struct Scheduling {
    pub(crate) settings: Arc<OnceCell<Config>>,
    pub(crate) node: OnceCell<NodeContext>,
}

impl Scheduling {
    /// Puts the next run into the workflow's queue, in one step with the count of runs: a scheduler that is replaced in the
    /// middle neither loses one nor schedules it again. The layout of a task is that of `TaskQueue`.
    async fn schedule(&self, leadership: &Leadership) -> Result<u64, coordd_client::Error> {
        let client = leadership.client()?;
        let (data, stat) = match client.get(SCHEDULED_RUNS, ReadLevel::Local).await {
            Err(error) if error.kind == ErrorKind::NoNode => {
                let options = CreateOptions::new(CreateMode::Persistent).parents(true);
                ("0".into(), client.create(SCHEDULED_RUNS, "0", options).await?.stat)
            }
            found => found?,
        };
        let run = 1 + String::from_utf8_lossy(&data).parse::<u64>().unwrap_or_default();
        let task = json!({ "payload": run.to_string(), "priority": 100 }).to_string();
        client
            .multi()
            .set(SCHEDULED_RUNS, run.to_string(), Some(stat.version))
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
                let runs = client.get(SCHEDULED_RUNS, ReadLevel::Linearizable).await;
                let runs =
                    runs.map(|(data, _)| String::from_utf8_lossy(&data).into_owned()).unwrap_or_default();
                Ok(
                    json!({ "answeredBy": node.id(), "scheduledRuns": runs.parse::<u64>().unwrap_or_default() }),
                )
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
                Ok(run) => println!("  scheduling: run {run} is scheduled"),
                Err(error) => println!("  scheduling: {error}"),
            }
            let interval_ms = self.settings.get().map_or(1_000, |config| config.current().job_interval_ms);
            sleep(Duration::from_millis(interval_ms)).await;
        }
    }
}
