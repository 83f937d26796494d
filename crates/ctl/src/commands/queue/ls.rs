use clap::{Args, ValueEnum};
use coordd_client::recipes::{TaskQueue, TaskState};

use super::entry::EntryOutput;
use super::existing;
use crate::context::Context;
use crate::exit::Failure;

/// Lists tasks in the order in which they go.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// The queue.
    path: String,

    /// Only tasks of this state; may be repeated. Default: all.
    #[arg(long, value_enum)]
    state: Vec<State>,

    /// At most so many of each state.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    Pending,
    Delayed,
    Running,
    Dead,
}

impl From<State> for TaskState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => TaskState::Pending,
            State::Delayed => TaskState::Delayed,
            State::Running => TaskState::Running,
            State::Dead => TaskState::Dead,
        }
    }
}

impl Ls {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let queue = context.answer(existing(client, &self.path)).await?;
        let states: Vec<TaskState> = match self.state.is_empty() {
            true => TaskState::ALL.to_vec(),
            false => self.state.into_iter().map(TaskState::from).collect(),
        };
        for state in states {
            print_tasks(context, &queue, state, self.limit).await?;
        }
        Ok(())
    }
}

/// Prints the tasks of one state, at most `limit`.
pub(super) async fn print_tasks(
    context: &Context,
    queue: &TaskQueue,
    state: TaskState,
    limit: u32,
) -> Result<(), Failure> {
    const PAGE: u32 = 100;
    let (mut last, mut left) = (None, limit);
    while left > 0 {
        let page = context.answer(queue.list(state, last.as_ref(), left.min(PAGE))).await?;
        // One that was read as it went is missing from its page, so a page says nothing about the next.
        let Some(end) = page.last().cloned() else { break };
        left = left.saturating_sub(u32::try_from(page.len()).unwrap_or(u32::MAX));
        for entry in page {
            context.output().result(&EntryOutput::from(entry))?;
        }
        last = Some(end);
    }
    Ok(())
}
