//! Watches over the head servers of a distributed file grid: every monitor checks all of them, what most monitors say counts,
//! and of those that are healthy the one with the lowest id leads.
//!
//! Run several, each in its own terminal, and kill whatever you like:
//!
//! ```text
//! cargo run -p coordd-client --example head_server_monitor -- -i --id monitor-1
//! register head_server_1 127.0.0.1:9669
//! status
//! ```
//!
//! `register` makes a persistent znode: the head server stays in the list, healthy or not, until it is unregistered. A head
//! server can also announce itself; then it is in the list for as long as it is there, and has to send heartbeats. This
//! is one that does nothing else:
//!
//! ```text
//! cargo run -p coordd-client --example head_server_monitor -- announce head_server_2 127.0.0.1:9670 --heartbeat 5s
//! ```
//!
//! Killed, it vanishes when its session has ended (`--session-timeout`). Stopped, with SIGSTOP, its port still takes connections,
//! because the kernel does that; but its heartbeat gets older than the monitors' `--stale-after`, and it cannot lead any more.
//!
//! One of the monitors acts: it is elected, and writes who leads the head servers into the tree under the epoch of its
//! leadership, so that a monitor that stood still and goes on later changes nothing.
//!
//! ```text
//! /distributed_file_grid/
//! ├── head_servers/ID             {"host", "port"}; of `register`: persistent; of `announce`: ephemeral, and written again
//! │                               with each heartbeat
//! ├── monitors/MONITOR            ephemeral
//! ├── acting/                     the election of the monitor that acts
//! ├── leader                      {"server_id", "address", "elected_by", "epoch"}: who leads the head servers
//! └── health_reports/ID/MONITOR   ephemeral, see docs/recipes/health.md
//! ```

mod acting;
mod announcing;
mod console;
mod head_servers;

use std::error::Error;
use std::time::Duration;

use clap::{Parser, Subcommand};
use coordd_client::ConnectOptions;
use coordd_client::recipes::health::{HealthMonitor, HealthOptions, HealthPolicy, HealthReports};
use coordd_client::recipes::{Candidate, PathCache, Sessions, TreeCache, lead};
use futures::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::acting::{Elected, act};
use crate::announcing::{Announcement, announce};
use crate::console::Console;
use crate::head_servers::follow;

/// Leaving is a courtesy where no node is in reach.
pub(crate) const GOODBYE: Duration = Duration::from_secs(3);

/// A monitor of head servers, or a head server that announces itself.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,

    /// The monitor's name; others wait while one of the same name is there.
    #[arg(long, default_value = "monitor-1")]
    id: String,

    /// Take commands: register, unregister, status, leader, health, check, quit.
    #[arg(short, long)]
    interactive: bool,

    /// Where the nodes of the ensemble are.
    #[arg(
        long,
        global = true,
        env = "COORDD_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401"
    )]
    endpoints: Vec<String>,

    /// Where the grid has its znodes.
    #[arg(long, global = true, default_value = "/distributed_file_grid")]
    root: String,

    /// From one check of a head server to the next.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    interval: Duration,

    /// A head server that takes longer to accept a connection has failed.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// So many failures in a row take a head server out.
    #[arg(long, default_value_t = 2)]
    failures: u32,

    /// It is out for at least so long.
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    quarantine: Duration,

    /// So many successes in a row bring it back.
    #[arg(long, default_value_t = 2)]
    successes: u32,

    /// A head server that announces itself fails while its heartbeat is older.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    stale_after: Duration,

    /// A monitor, or a head server that announces itself, is gone when it was silent for so long.
    #[arg(long, global = true, default_value = "5s", value_parser = humantime::parse_duration)]
    session_timeout: Duration,
}

#[derive(Subcommand)]
enum Role {
    /// Be a head server that announces itself.
    Announce(Announcement),
}

impl Options {
    fn health(&self) -> HealthOptions {
        let Self { failures, quarantine, successes, .. } = *self;
        HealthOptions::new()
            .interval(self.interval)
            .timeout(self.timeout)
            .stale_after(self.stale_after)
            .policy(HealthPolicy { failures, quarantine, successes })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::parse();
    let role = options.role.take();
    let name = match &role {
        Some(Role::Announce(announcement)) => &announcement.id,
        None => &options.id,
    };
    let connect = ConnectOptions::new().session_timeout(options.session_timeout).client_name(name);
    let sessions = Sessions::connect(options.endpoints.clone(), connect).await?;
    let root = options.root.trim_end_matches('/');
    match role {
        Some(Role::Announce(announcement)) => announce(&sessions, root, announcement).await?,
        None => monitor(&sessions, root, &options).await?,
    }
    // While no node is in reach it is the end of the session that tells the others.
    Ok(tokio::time::timeout(GOODBYE, sessions.close()).await.unwrap_or(Ok(()))?)
}

async fn monitor(sessions: &Sessions, root: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let monitor = HealthMonitor::start(sessions, root, &options.id, options.health()).await?;
    println!("{} is a monitor of {root}", options.id);
    let heads = PathCache::start(sessions, format!("{root}/head_servers"));
    let reports = HealthReports::start(sessions, root);
    let leader = TreeCache::with_depth(sessions, format!("{root}/leader"), 0);
    let console = Console { sessions, root, monitor: &monitor, heads: &heads, reports: &reports };

    let candidate = Candidate::new(&options.id);
    let acting_path = format!("{root}/acting");
    let acts = lead(sessions, &acting_path, &candidate, |leadership| {
        act(leadership, root, &options.id, &heads, &reports, &leader)
    });
    let tells_health = async {
        let mut changes = monitor.changes();
        while let Some(change) = changes.next().await {
            println!("{} is {}, was {}: {}", change.target, change.new, change.old, change.why);
        }
    };
    let tells_leader = async {
        let (mut views, mut told) = (leader.views(), None);
        while let Some(view) = views.next().await {
            let elected = Elected::of(&view);
            if told.as_ref() != Some(&elected) {
                println!("{elected}");
                told = Some(elected);
            }
        }
    };
    tokio::select! {
        ended = acts => ended?,
        () = follow(&heads, &monitor) => {}
        () = tells_health => {}
        () = tells_leader => {}
        () = console.run(options.interactive) => {}
        () = terminated() => {}
    }
    // Where no node is in reach its reports go with the session.
    let _ = tokio::time::timeout(GOODBYE, monitor.stop()).await;
    println!("{} has left", options.id);
    Ok(())
}

pub(crate) async fn terminated() {
    // Where there is no handler the signal ends the program at once.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
