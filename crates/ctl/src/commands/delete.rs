use std::fmt;
use std::time::Duration;

use clap::Args;
use coordd_client::{Client, ErrorKind};
use serde::Serialize;
use tokio::time::Instant;

use crate::context::Context;
use crate::exit::Failure;
use crate::notes::note;
use crate::progress::Progress;

/// Deletes a znode, or a subtree.
///
/// A subtree goes in one step. If it is too large for that (the servers refuse to be held up by it), it goes in many, children before
/// their parents: then others see it get smaller, and the same command goes on if it was interrupted.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The path.
    path: String,

    /// The version it must have.
    #[arg(long, conflicts_with = "recursive")]
    version: Option<i32>,

    /// Delete all below it too.
    #[arg(short, long)]
    recursive: bool,

    /// Delete only if so many znodes would go, the top included: in one step, or not at all.
    #[arg(long, requires = "recursive", value_name = "COUNT")]
    expect: Option<u64>,

    /// Delete the subtree in many steps also if one would do: others are held up less.
    #[arg(long, requires = "recursive", conflicts_with = "expect")]
    gradually: bool,
}

#[derive(Serialize)]
struct DeleteOutput {
    path: String,
    /// How many znodes went.
    count: u64,
}

impl fmt::Display for DeleteOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "deleted {} znodes", self.count)
    }
}

impl Delete {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.writer().await?;
        if !self.recursive {
            context.answer(client.delete(&self.path, self.version)).await?;
            return context.output().quiet_result(&DeleteOutput { path: self.path, count: 1 });
        }
        let count = match self.gradually {
            true => in_batches(context, &client, &self.path, None).await?,
            false => self.in_one_step(context, &client).await?,
        };
        context.output().result(&DeleteOutput { path: self.path, count })
    }

    async fn in_one_step(&self, context: &Context, client: &Client) -> Result<u64, Failure> {
        let deleting = context.answer(client.delete_tree(&self.path, self.expect));
        match Progress::new(format!("deleting {}", self.path)).during(deleting).await {
            Err(Failure::Operation(error))
                if error.kind == ErrorKind::LimitExceeded && self.expect.is_none() =>
            {
                in_batches(context, client, &self.path, Some(&error.message)).await
            }
            result => result,
        }
    }
}

/// How often it is said how far it is where there is no terminal to show it.
const NOTE: Duration = Duration::from_secs(5);

/// `refused`: why it does not go in one step.
async fn in_batches(
    context: &Context,
    client: &Client,
    path: &str,
    mut refused: Option<&str>,
) -> Result<u64, Failure> {
    let mut progress = Progress::new(format!("deleting {path}"));
    let (mut noted_at, mut gone) = (Instant::now(), 0);
    let mut is_due = false;
    let shown = progress.is_visible();
    let deleting = client.delete_tree_in_batches(path, |count| {
        if let Some(why) = refused.take() {
            note!("not in one step: {why}; deleting in many, children first");
            is_due = true;
        }
        gone = count;
        progress.at(count, None);
        if !shown && (std::mem::take(&mut is_due) || noted_at.elapsed() >= NOTE) {
            noted_at = Instant::now();
            note!("{count} znodes below {path} are deleted");
        }
    });
    let result = context.answer(deleting).await;
    drop(progress);
    if result.is_err() && gone > 0 {
        note!("{gone} znodes are deleted; the same command goes on from there");
    }
    result
}
