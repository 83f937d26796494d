use std::fmt;
use std::time::Duration;

use clap::Args;
use coordd_client::recipes::{TaskOptions, TaskQueue, TaskQueueOptions};
use coordd_process::plain;
use serde::Serialize;

use crate::context::Context;
use crate::durations::duration;
use crate::exit::Failure;
use crate::value::Value;

/// Adds a task and prints its id.
#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The queue.
    path: String,

    #[command(flatten)]
    value: Value,

    /// 0 to 999; the lowest goes first.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=999))]
    priority: u16,

    /// Not to be claimed before so long from now.
    #[arg(long, default_value = "0s", value_parser = duration)]
    delay: Duration,

    /// After so many attempts that came to nothing it is a dead letter.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,

    /// The pause after the first failure; it doubles each time, up to 5 minutes.
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "DURATION")]
    backoff: Duration,

    /// Take the task from a worker that has not finished it in this time, and stop its command.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    claim_timeout: Option<Duration>,
}

/// The longest pause, unless the first one is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(300);

#[derive(Serialize)]
struct PutOutput {
    id: String,
}

impl fmt::Display for PutOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", plain(&self.id))
    }
}

impl Put {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let payload = self.value.read()?.unwrap_or_default();
        let options = TaskOptions::new()
            .priority(self.priority)
            .delay(self.delay)
            .max_attempts(self.max_attempts)
            .backoff(self.backoff, self.backoff.max(BACKOFF_MAX))
            .claim_timeout(self.claim_timeout);
        let client = context.writer().await?;
        let id = context
            .answer(async {
                let queue = TaskQueue::open(&client, &self.path, TaskQueueOptions::new()).await?;
                queue.put(payload, &options).await
            })
            .await?;
        context.output().result(&PutOutput { id })
    }
}
