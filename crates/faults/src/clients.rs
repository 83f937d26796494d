//! A process of clients: runs all workloads until it is told to stop on its standard input.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use coordd_process::print;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::watch;

use crate::history::Writer;
use crate::workloads::{self, Context};

/// What it prints when all workloads have had their last answers.
pub(crate) const STOPPED: &str = "stopped";

/// What is run on each host of clients; for `coordfault run`, which starts it.
#[derive(Args, Debug)]
pub(crate) struct ClientsOptions {
    /// Where the nodes are.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) endpoints: Vec<String>,
    /// Number of this process.
    #[arg(long)]
    pub(crate) process: u32,
    /// The file that the history is written to.
    #[arg(long)]
    pub(crate) history: PathBuf,
    /// Where random choices begin.
    #[arg(long)]
    pub(crate) seed: u64,
    /// Of all sessions.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) session_timeout: Duration,
    /// The mean pause between two operations of one task.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) pace: Duration,
}

/// Runs until the standard input says so: a line stops the workloads, its end the process. Between the two the sessions are
/// alive, so that somebody can look at what is theirs.
pub(crate) async fn run(options: ClientsOptions) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let context = Context {
        endpoints: options.endpoints,
        process: options.process,
        seed: options.seed,
        timeout: options.session_timeout,
        pace: options.pace,
        writer: Arc::new(Writer::create(&options.history)?),
        stop: stopped,
    };
    let working = tokio::spawn(workloads::run(context));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    lines.next_line().await?;
    stop.send_replace(true);
    working.await?;
    print(format_args!("{STOPPED}\n"))?;
    lines.next_line().await?;
    Ok(())
}
