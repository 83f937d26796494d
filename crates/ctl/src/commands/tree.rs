use clap::Args;
use coordd_client::{Child, Client, ErrorKind, ListOptions, ReadLevel};
use coordd_process::plain;
use futures::TryStreamExt as _;
use serde::Serialize;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::StatOutput;

/// Prints a subtree, a znode a line. It is read level by level, so it is not one state of the tree if others write.
#[derive(Args, Debug)]
pub(crate) struct Tree {
    /// The top.
    #[arg(default_value = "/")]
    path: String,

    /// How many levels below the top.
    #[arg(short, long)]
    depth: Option<usize>,

    #[command(flatten)]
    freshness: Freshness,
}

#[derive(Serialize)]
struct TreeLine<'a> {
    path: &'a str,
    stat: StatOutput,
}

impl Tree {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let level = self.freshness.level();
        let output = context.output();
        let children = children(context, client, &self.path, level).await?;
        if !output.is_json() {
            output.line(plain(&self.path))?;
        }
        let depth_max = self.depth.unwrap_or(usize::MAX);
        // Depth first without recursion: a tree may be deeper than a stack. Each level is what is left of its children.
        let mut levels = vec![(self.path, children.into_iter())];
        while let Some((parent, rest)) = levels.last_mut() {
            let Some(child) = rest.next() else {
                levels.pop();
                continue;
            };
            let path =
                if parent == "/" { format!("/{}", child.name) } else { format!("{parent}/{}", child.name) };
            let is_last = rest.len() == 0;
            let stat = child.stat.unwrap_or_default();
            if output.is_json() {
                output.json(&TreeLine { path: &path, stat: stat.into() })?;
            } else {
                let indent: String = levels[..levels.len() - 1]
                    .iter()
                    .map(|(_, rest)| if rest.len() == 0 { "   " } else { "│  " })
                    .collect();
                let branch = if is_last { "└─ " } else { "├─ " };
                let mark = if stat.ephemeral_owner != 0 { " (ephemeral)" } else { "" };
                output.line(format_args!("{indent}{branch}{}{mark}", plain(&child.name)))?;
            }
            if stat.num_children > 0 && levels.len() < depth_max {
                match self::children(context, client, &path, level).await {
                    Ok(children) => levels.push((path, children.into_iter())),
                    // It went, or is not for these eyes: the rest is still worth printing.
                    Err(Failure::Operation(error))
                        if matches!(error.kind, ErrorKind::NoNode | ErrorKind::NoAuth) => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(())
    }
}

async fn children(
    context: &Context,
    client: &Client,
    path: &str,
    level: ReadLevel,
) -> Result<Vec<Child>, Failure> {
    let options = ListOptions { with_stat: true, ..ListOptions::default() };
    let mut pages = client.list_pages(path, level, options);
    let mut children = Vec::new();
    while let Some(page) = context.answer(pages.try_next()).await? {
        children.extend(page.children);
    }
    Ok(children)
}
