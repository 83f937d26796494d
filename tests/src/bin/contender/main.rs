//! A client in a process of its own, for tests that kill, stop or cut off the owner of something. One subcommand per
//! recipe.
//!
//! It takes commands from its standard input, one a line, and prints one JSON object per line for all that happens, with
//! `at_ns`, the machine's monotonic clock, and `event`. When the input ends, or on SIGTERM, it gives up what it holds, closes its
//! session and ends; `Contender` in `tests/src/contender.rs` is the other end.

mod assignment;
mod barrier;
mod commands;
mod copy;
mod counter;
mod detector;
mod election;
mod follower;
mod health;
mod holding;
mod instance;
mod lock;
mod member;
mod queue;
mod report;
mod session;
mod writes;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use coordd_client::{Client, ConnectOptions, Error};

use crate::commands::Commands;
use crate::report::report;

/// A client that a test commands.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    recipe: Recipe,
}

/// How to reach the ensemble.
#[derive(Args)]
pub(crate) struct Connection {
    /// Where the nodes are: host:port, separated by commas.
    #[arg(
        long,
        global = true,
        env = "COORDD_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401"
    )]
    pub(crate) endpoints: Vec<String>,

    #[arg(long, global = true, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) session_timeout: Duration,

    /// What this contender is called in what it writes.
    #[arg(long, global = true, default_value = "contender")]
    pub(crate) name: String,
}

#[derive(Subcommand)]
enum Recipe {
    /// A candidate.
    Election(election::Election),
    /// One who asks for a lock, or for a permit.
    Lock(lock::Lock),
    /// A worker of a task queue.
    Queue(queue::Queue),
    /// A node that detects the failures of others.
    Detector(detector::Detector),
    /// A worker to whom items are assigned.
    Assignment(assignment::Assignment),
    /// An instance of services.
    Instance(instance::Instance),
    /// A monitor of health.
    Health(health::Health),
    /// A copy of what an auto-healer keeps running.
    Copy(copy::Copy),
    /// One who waits at a barrier.
    Barrier(barrier::Barrier),
    /// One who adds to a counter or a shared value.
    Counter(counter::Counter),
    /// A cache, or one who follows a configuration.
    Follower(follower::Follower),
    /// A member of a group.
    Member(member::Member),
    /// A session that owns an ephemeral and writes under its epoch.
    Session(session::Session),
}

impl Connection {
    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions::new().session_timeout(self.session_timeout).client_name(&self.name)
    }

    /// Opens a session, says so, and says every change of its state from then on.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let client = self.options().connect(self.endpoints.clone()).await?;
        report("connected", serde_json::json!({ "session_id": client.session_id() }));
        tokio::spawn(report::states(client.states()));
        Ok(client)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let commands = Commands::read();
    let result = match cli.recipe {
        Recipe::Election(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Lock(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Queue(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Detector(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Assignment(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Instance(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Health(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Copy(recipe) => recipe.run(&cli.connection).await,
        Recipe::Barrier(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Counter(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Follower(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Member(recipe) => recipe.run(&cli.connection, commands).await,
        Recipe::Session(recipe) => recipe.run(&cli.connection, commands).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report("failed", report::error(&error));
            ExitCode::FAILURE
        }
    }
}
