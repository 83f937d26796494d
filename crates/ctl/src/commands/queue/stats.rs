use std::fmt;

use clap::Args;
use coordd_client::recipes::TaskStats;
use serde::Serialize;

use super::existing;
use crate::context::Context;
use crate::exit::Failure;

/// Prints how many tasks there are in each state.
#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// The queue.
    path: String,
}

#[derive(Serialize)]
struct StatsOutput {
    pending: u64,
    delayed: u64,
    running: u64,
    dead: u64,
}

impl From<TaskStats> for StatsOutput {
    fn from(TaskStats { pending, delayed, running, dead }: TaskStats) -> Self {
        Self { pending, delayed, running, dead }
    }
}

impl fmt::Display for StatsOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pending  {}", self.pending)?;
        writeln!(f, "delayed  {}", self.delayed)?;
        writeln!(f, "running  {}", self.running)?;
        writeln!(f, "dead     {}", self.dead)
    }
}

impl Stats {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let stats = context.answer(async { existing(client, &self.path).await?.stats().await }).await?;
        context.output().result(&StatsOutput::from(stats))
    }
}
