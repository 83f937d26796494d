use std::time::Duration;

use clap::Args;
use coordd_client::Error;
use coordd_client::recipes::Sessions;
use coordd_client::recipes::health::{HealthCheck, HealthMonitor, HealthOptions, HealthPolicy, HealthTarget};
use futures::StreamExt as _;
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::report;

/// A monitor of health, which says each change it sees. Commands: `watch ID CHECK`, `remove ID`, `check ID`.
#[derive(Args)]
pub(crate) struct Health {
    #[arg(long, default_value = "/grid")]
    root: String,

    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    interval: Duration,

    #[arg(long, default_value = "300ms", value_parser = humantime::parse_duration)]
    timeout: Duration,

    #[arg(long, default_value_t = 2)]
    failures: u32,

    #[arg(long, default_value = "300ms", value_parser = humantime::parse_duration)]
    quarantine: Duration,
}

impl Health {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let sessions = Sessions::connect(connection.endpoints.clone(), connection.options()).await?;
        let policy =
            HealthPolicy { failures: self.failures, quarantine: self.quarantine, ..HealthPolicy::default() };
        let options = HealthOptions::new().interval(self.interval).timeout(self.timeout).policy(policy);
        let monitor = HealthMonitor::start(&sessions, &self.root, &connection.name, options).await?;
        report("monitors", json!({}));
        let mut changes = monitor.changes();
        tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                let (old, new) = (change.old.name(), change.new.name());
                report(
                    "change",
                    json!({ "target": change.target, "old": old, "new": new, "why": change.why }),
                );
            }
        });
        while let Some(words) = commands.next().await {
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["watch", id, check] => {
                    monitor.watch(HealthTarget::new(id, check.parse::<HealthCheck>()?))?
                }
                ["remove", id] => drop(monitor.remove(id)),
                ["check", id] => {
                    let checked = monitor.check_now(id).await?;
                    report("checked", json!({ "target": id, "status": checked.status.name() }));
                }
                _ => unknown(&words),
            }
        }
        monitor.stop().await;
        report("stopped", json!({}));
        sessions.close().await
    }
}
