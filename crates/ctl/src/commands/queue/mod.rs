//! The commands of task queues.

mod dead;
mod entry;
mod ls;
mod put;
mod stats;
mod work;

use clap::{Args, Subcommand};
use coordd_client::recipes::{TaskQueue, TaskQueueOptions};
use coordd_client::{Client, Error, ErrorKind, ReadLevel};

use crate::context::Context;
use crate::exit::Failure;

/// Puts tasks into a queue, and works at them.
///
/// A queue is a path; the first task that is put makes it. Each task is done by one worker at a time and completed at most
/// once; the task of a worker that dies comes back.
#[derive(Args, Debug)]
pub(crate) struct Queue {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Subcommand, Debug)]
enum QueueCommand {
    /// Add a task and print its id.
    Put(put::Put),
    /// Run a command for each task, one after the other.
    Work(work::Work),
    /// List tasks.
    Ls(ls::Ls),
    /// Print how many tasks there are.
    Stats(stats::Stats),
    /// List the dead letters, make them pending again, or discard them.
    Dead(dead::Dead),
}

impl Queue {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            QueueCommand::Put(command) => command.run(context).await,
            QueueCommand::Work(command) => command.run(context).await,
            QueueCommand::Ls(command) => command.run(context).await,
            QueueCommand::Stats(command) => command.run(context).await,
            QueueCommand::Dead(command) => command.run(context).await,
        }
    }
}

/// The queue at a path where there is one. To look for tasks must not make a queue of what was mistyped.
async fn existing(client: &Client, path: &str) -> Result<TaskQueue, Error> {
    let pending = format!("{}/pending", path.trim_end_matches('/'));
    if client.exists(pending, ReadLevel::Linearizable).await?.is_none() {
        let error = Error::new(ErrorKind::NoNode, format!("there is no queue at {path:?}"));
        return Err(Error { path: path.to_owned(), ..error });
    }
    TaskQueue::open(client, path, TaskQueueOptions::new()).await
}
