use std::collections::VecDeque;
use std::fmt;

use clap::Args;
use coordd_client::{Call, Client, ErrorKind, ListOptions, ReadLevel};
use futures::TryStreamExt as _;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::progress::Progress;

/// Deletes a znode, or a subtree.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The path.
    path: String,

    /// The version it must have.
    #[arg(long, conflicts_with = "recursive")]
    version: Option<i32>,

    /// Delete all below it too, in one step.
    #[arg(short, long)]
    recursive: bool,

    /// Delete only if so many znodes would go, the top included.
    #[arg(long, requires = "recursive", value_name = "COUNT")]
    expect: Option<u64>,

    /// Delete the subtree znode by znode, from the bottom, instead of in one step: for subtrees so large that one step
    /// would hold up everybody.
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
        let count = if self.gradually {
            delete_gradually(context, &client, &self.path).await?
        } else {
            let deleting = context.answer(client.delete_tree(&self.path, self.expect));
            Progress::new(format!("deleting {}", self.path)).during(deleting).await?
        };
        context.output().result(&DeleteOutput { path: self.path, count })
    }
}

/// How many deletes are in flight at once.
const DEPTH: usize = 500;

/// Children before parents: the order of the calls is the order of the effects, so they need not be waited for one by
/// one.
async fn delete_gradually(context: &Context, client: &Client, top: &str) -> Result<u64, Failure> {
    let mut progress = Progress::new(format!("listing {top}"));
    let mut paths = vec![top.to_owned()];
    let mut listed = 0;
    while listed < paths.len() {
        let parent = paths[listed].clone();
        let prefix = if parent == "/" { String::new() } else { parent.clone() };
        let mut pages = client.list_pages(parent, ReadLevel::Local, ListOptions::default());
        loop {
            match context.answer(pages.try_next()).await {
                Ok(Some(page)) => {
                    paths.extend(page.children.iter().map(|child| format!("{prefix}/{}", child.name)));
                }
                Ok(None) => break,
                // Somebody else was quicker; only the top must be there.
                Err(Failure::Operation(error)) if error.kind == ErrorKind::NoNode && listed > 0 => break,
                Err(failure) => return Err(failure),
            }
        }
        listed += 1;
        progress.at(paths.len() as u64, None);
    }
    drop(progress);

    let mut progress = Progress::new(format!("deleting {top}"));
    let total = paths.len() as u64;
    let mut in_flight: VecDeque<Call<u64>> = VecDeque::with_capacity(DEPTH);
    let mut count = 0;
    let mut rest = paths.iter().rev();
    loop {
        while in_flight.len() < DEPTH
            && let Some(path) = rest.next()
        {
            in_flight.push_back(client.delete(path, None));
        }
        let Some(oldest) = in_flight.pop_front() else { return Ok(count) };
        match context.answer(oldest).await {
            Ok(_) => count += 1,
            Err(Failure::Operation(error)) if error.kind == ErrorKind::NoNode => {}
            Err(failure) => return Err(failure),
        }
        progress.at(count, Some(total));
    }
}
