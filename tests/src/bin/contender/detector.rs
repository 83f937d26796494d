use std::time::Duration;

use clap::{Args, ValueEnum};
use coordd_client::recipes::registry::{RegistryOptions, ServiceInstance, ServiceRegistry};
use coordd_client::recipes::{
    AssignmentChange, Claim, FailureDetector, Sessions, TaskQueue, TaskQueueOptions, WorkAssignment,
    WorkerProfile,
};
use coordd_client::{CreateMode, Error};
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::{error, report};

/// A node of a registry that detects failures. Says `registered`, `recovering` for each attempt to recover from a loss, which
/// creates a znode below `--log`, and `alert`. Commands: `claim` takes a task and keeps it (`claimed`), `complete` completes all it
/// has (`done` or `refused` each), `join` becomes a worker of the group (`owns`, `struck out`), `drain` begins to leave (`drained`), `retire` leaves on purpose.
#[derive(Args)]
pub(crate) struct Detector {
    #[arg(long, default_value = "/registry")]
    root: String,

    #[arg(long, default_value = "/registry/queue")]
    queue: String,

    #[arg(long, default_value = "/registry/group")]
    group: String,

    #[arg(long, default_value = "/log")]
    log: String,

    #[arg(long, value_delimiter = ',')]
    services: Vec<String>,

    #[arg(long, default_value = "300ms", value_parser = humantime::parse_duration)]
    heartbeat: Duration,

    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    stale_after: Duration,

    /// Where it gets stuck.
    #[arg(long)]
    stall: Option<Stall>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stall {
    Recover,
    Alert,
}

impl Detector {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let sessions = Sessions::connect(connection.endpoints.clone(), connection.options()).await?;
        let options = RegistryOptions::new().heartbeat(self.heartbeat);
        let registry = ServiceRegistry::new(sessions.clone(), &self.root, options)?;
        let instance = ServiceInstance::new(&connection.name, "127.0.0.1", 1);
        let services = self.services.iter();
        let instance = services.fold(instance, |instance, service| instance.service(service));
        let registration = registry.register(instance).await?;
        report("registered", json!({ "epoch": registration.epoch() }));

        let (log, stall) = (self.log.clone(), self.stall);
        let detector = FailureDetector::new(&sessions, &self.root, &connection.name)?
            .stale_after(self.stale_after)
            .queue(&self.queue)
            .group(&self.group)
            .recover(move |failure, multi| {
                let path = format!("{log}/{}-", failure.id);
                async move {
                    report("recovering", json!({ "id": failure.id }));
                    if stall == Some(Stall::Recover) {
                        std::future::pending::<()>().await;
                    }
                    Ok(multi.create(path, "", CreateMode::PersistentSequential))
                }
            });
        let detecting = {
            let detector = detector.clone();
            tokio::spawn(async move {
                let alert = |failure: coordd_client::recipes::NodeFailure| async move {
                    let fields = serde_json::to_value(&failure).unwrap_or_default();
                    report("alert", fields);
                    if stall == Some(Stall::Alert) {
                        std::future::pending::<()>().await;
                    }
                };
                if let Err(failure) = detector.run(alert).await {
                    report("detector ended", error(&failure));
                }
            })
        };

        let mut claims: Vec<Claim> = Vec::new();
        while let Some(words) = commands.next().await {
            match words.join(" ").as_str() {
                "claim" => {
                    let options = TaskQueueOptions::new().worker(&connection.name);
                    let queue = TaskQueue::open(&sessions.live().await?, &self.queue, options).await?;
                    let claim = queue.claim().await?;
                    report("claimed", json!({ "id": claim.id(), "attempts": claim.attempts() }));
                    claims.push(claim);
                }
                "complete" => {
                    for claim in claims.drain(..) {
                        match claim.complete().await {
                            Ok(()) => report("done", json!({})),
                            Err(failure) => report("refused", error(&failure)),
                        }
                    }
                }
                "join" => {
                    let group = WorkAssignment::open(&sessions.live().await?, &self.group).await?;
                    let mut worker = group.join(&WorkerProfile::new(&connection.name)).await?;
                    tokio::spawn(async move {
                        // Held whatever is said of them.
                        let mut items = Vec::new();
                        loop {
                            match worker.next().await {
                                Ok(Some(AssignmentChange::Assigned(item))) => {
                                    report("owns", json!({ "id": item.id() }));
                                    items.push(item);
                                }
                                Ok(Some(AssignmentChange::Revoked(_))) => {}
                                Ok(None) => return,
                                Err(failure) => {
                                    let lost = items.iter().filter(|item| item.check().is_err()).count();
                                    report("struck out", json!({ "why": error(&failure), "lost": lost }));
                                    return std::future::pending().await;
                                }
                            }
                        }
                    });
                }
                "drain" => {
                    registration.drain().await?;
                    report("drained", json!({}));
                }
                "retire" => {
                    registration.drain().await?;
                    detector.dismiss(&connection.name).await?;
                    registration.deregister().await;
                    report("retired", json!({}));
                    break;
                }
                _ => unknown(&words),
            }
        }
        detecting.abort();
        sessions.close().await
    }
}
