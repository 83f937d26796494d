//! Leader-based: one engine works at the queue. What it had claimed when it died is done by the next one.

use std::sync::Arc;
use std::time::Duration;

use coordd_client::recipes::registry::ServiceError;
use coordd_client::recipes::{
    Claim, ClusterService, Leadership, NodeContext, Sessions, TaskQueue, TaskQueueOptions,
};
use coordd_client::{CreateMode, CreateOptions};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::{QUEUE, get, set, unavailable};

/// Each run that was done.
const DONE: &str = "/nooblyjs-core/services/workflow/done";
/// How long a task takes.
const WORK: Duration = Duration::from_millis(300);

#[derive(Default)]
pub(crate) struct Workflow {
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
                Ok(json!({
                    "answeredBy": node.id(),
                    "pendingTasks": stats.pending,
                    "runningTasks": stats.running,
                    "deadTasks": stats.dead,
                }))
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

pub(crate) async fn open_queue(sessions: &Sessions, worker: &str) -> Result<TaskQueue, coordd_client::Error> {
    TaskQueue::open(&sessions.live().await?, QUEUE, TaskQueueOptions::new().worker(worker)).await
}
