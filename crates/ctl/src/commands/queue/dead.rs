use std::fmt;

use clap::Args;
use coordd_client::recipes::{TaskQueue, TaskState};
use coordd_client::{Error, ErrorKind};
use coordd_process::plain;
use serde::Serialize;

use super::existing;
use super::ls::print_tasks;
use crate::context::Context;
use crate::exit::Failure;
use crate::notes::note;

/// Lists the dead letters: tasks whose attempts are used up, or that are no tasks.
#[derive(Args, Debug)]
pub(crate) struct Dead {
    /// The queue.
    path: String,

    /// Make the dead letter of this id pending again, with all its attempts; may be repeated.
    #[arg(long, value_name = "ID")]
    retry: Vec<String>,

    /// Make all of them pending again.
    #[arg(long, conflicts_with_all = ["retry", "discard"])]
    retry_all: bool,

    /// Remove the dead letter of this id for good; may be repeated.
    #[arg(long, value_name = "ID")]
    discard: Vec<String>,

    /// List at most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum DeadOutput {
    Retried(String),
    Discarded(String),
}

impl fmt::Display for DeadOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeadOutput::Retried(id) => writeln!(f, "{} is pending again", plain(id)),
            DeadOutput::Discarded(id) => writeln!(f, "{} is gone", plain(id)),
        }
    }
}

impl Dead {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.writer().await?;
        let queue = context.answer(existing(&client, &self.path)).await?;
        if self.retry_all {
            return retry_all(context, &queue).await;
        }
        if self.retry.is_empty() && self.discard.is_empty() {
            return print_tasks(context, &queue, TaskState::Dead, self.limit).await;
        }
        for id in self.retry {
            found(context.answer(queue.requeue(&id)).await?, &id)?;
            context.output().result(&DeadOutput::Retried(id))?;
        }
        for id in self.discard {
            found(context.answer(queue.discard(TaskState::Dead, &id)).await?, &id)?;
            context.output().result(&DeadOutput::Discarded(id))?;
        }
        Ok(())
    }
}

/// Those that are no tasks stay where they are, and are named on the standard error.
async fn retry_all(context: &Context, queue: &TaskQueue) -> Result<(), Failure> {
    const PAGE: u32 = 100;
    let mut last = None;
    loop {
        let page = context.answer(queue.list(TaskState::Dead, last.as_ref(), PAGE)).await?;
        let Some(end) = page.last().cloned() else { return Ok(()) };
        for entry in page {
            match context.answer(queue.requeue(&entry.id)).await {
                Ok(true) => context.output().result(&DeadOutput::Retried(entry.id))?,
                // Somebody else was faster.
                Ok(false) => {}
                Err(Failure::Operation(error)) if error.kind == ErrorKind::BadArguments => {
                    note!("{}", error.message);
                }
                Err(failure) => return Err(failure),
            }
        }
        last = Some(end);
    }
}

fn found(is_found: bool, id: &str) -> Result<(), Failure> {
    match is_found {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::NoNode, format!("there is no dead letter {id:?}")).into()),
    }
}
