//! The processors of a data-flow engine, distributed over its nodes, which are processes of their own. Each node says what it
//! starts and stops; each batch that a processor has done is a write under the epoch of its node's grant.
//!
//! The whole story by itself: every strategy in turn, rebalancing on demand and by load, a node that is ill, nodes that join,
//! leave, are killed, and the leader among them. It begins with the deletion of `/databridge` and ends with it:
//!
//! `cargo run -p coordd-client --example work_assignment -- story`
//!
//! Or node by node, each in a terminal of its own:
//!
//! `cargo run -p coordd-client --example work_assignment -- node node-1 --weight 2 --http 127.0.0.1:8091`
//!
//! A node takes commands, a line each: `metrics CPU MEMORY QUEUED` (what it measures, such as `metrics 0.9 0.7 40`), `unhealthy`
//! and `healthy` (an unhealthy one receives no work, and gives away what it has), `leave`. It leaves at the end of its input,
//! too, and when it is interrupted or terminated. Any node answers for the whole cluster:
//!
//! | Route | |
//! |---|---|
//! | `GET /api/cluster/status` | the cluster in numbers: healthy nodes of all, average load, moves |
//! | `GET /api/cluster/nodes`, `/nodes/{id}` | who is there, with its health and its processors |
//! | `GET /api/cluster/leader` | who plans |
//! | `GET /api/cluster/assignments` | each processor: to whom it is assigned, who owns it, in which epoch |
//! | `POST /api/cluster/rebalance` | rebalances now |
//! | `POST /api/cluster/join` | the node that is asked joins again, if it was removed |
//! | `DELETE /api/cluster/nodes/{id}` | removes a node: its processors go to others, and it stays out until it is asked to join |
//!
//! `--endpoints`, or else `COORDD_ENDPOINTS`, says where the ensemble is. Wrong arguments are refused with exit code 2.

mod api;
mod cluster;
mod node;
mod story;

use std::error::Error;

use clap::{Parser, Subcommand};
use coordd_client::recipes::{WorkAssignment, WorkItem, WorkerShare};
use coordd_client::{Client, CreateMode, CreateOptions, ErrorKind};

pub(crate) const ROOT: &str = "/databridge";
pub(crate) const GROUP: &str = "/databridge/assignment";
pub(crate) const FLOWS: &str = "/databridge/flows";
const PROCESSORS: usize = 24;

/// The processors of a data-flow engine, distributed over its nodes.
#[derive(Parser)]
struct Options {
    /// Where the nodes of the ensemble are.
    #[arg(
        long,
        global = true,
        env = "COORDD_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"
    )]
    endpoints: Vec<String>,

    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Starts nodes, tells and kills them, and prints what becomes of the processors. Deletes /databridge first.
    Story,
    /// Runs one node until it is told to leave.
    Node(node::NodeOptions),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Options { endpoints, role } = Options::parse();
    match role {
        Role::Story => story::tell(&endpoints).await,
        Role::Node(options) => node::run(&endpoints, options).await,
    }
}

/// The group, and the processors if there are none yet.
pub(crate) async fn open_group(client: &Client) -> Result<WorkAssignment, coordd_client::Error> {
    let group = WorkAssignment::open(client, GROUP).await?;
    if group.status().await?.items.is_empty() {
        for number in 0..PROCESSORS {
            let id = format!("p{number:02}");
            let options = CreateOptions::new(CreateMode::Persistent).parents(true);
            match client.create(format!("{FLOWS}/{id}"), "", options).await {
                // Nodes that start together all do this, and whoever is first has done it for all.
                Err(error) if error.kind != ErrorKind::NodeExists => return Err(error),
                _ => {}
            }
            // Every sixth is a heavy one.
            group.put(&id, &WorkItem::new().cost(if number % 6 == 0 { 3.0 } else { 1.0 })).await?;
        }
    }
    Ok(group)
}

/// A node that is not healthy has set its weight to 0, so that it is given nothing.
pub(crate) fn is_healthy(node: &WorkerShare) -> bool {
    node.weight > 0.0
}
