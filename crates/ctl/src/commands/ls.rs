use clap::Args;
use coordd_client::{Child, ListOptions};
use coordd_process::plain;
use futures::TryStreamExt as _;
use serde::Serialize;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{StatOutput, time};

/// Lists the children of a znode, one a line, in byte order.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// The path.
    #[arg(default_value = "/")]
    path: String,

    /// With version, children, bytes, time of change and owner of each.
    #[arg(short, long)]
    long: bool,

    #[command(flatten)]
    freshness: Freshness,
}

#[derive(Serialize)]
struct ChildOutput {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stat: Option<StatOutput>,
}

impl Ls {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let options = ListOptions { with_stat: self.long, ..ListOptions::default() };
        let mut pages = client.list_pages(&self.path, self.freshness.level(), options);
        let output = context.output();
        while let Some(page) = context.answer(pages.try_next()).await? {
            let mut lines = String::new();
            for child in page.children {
                if output.is_json() {
                    output.json(&ChildOutput { name: child.name, stat: child.stat.map(StatOutput::from) })?;
                } else {
                    lines += &line(&child);
                    lines.push('\n');
                }
            }
            if !lines.is_empty() {
                output.line(lines.trim_end_matches('\n'))?;
            }
        }
        Ok(())
    }
}

fn line(child: &Child) -> String {
    let Some(stat) = child.stat else { return plain(&child.name).into_owned() };
    let owner =
        if stat.ephemeral_owner == 0 { String::new() } else { format!("  {:#x}", stat.ephemeral_owner) };
    format!(
        "{:>6} {:>6} {:>8}  {}  {}{owner}",
        stat.version,
        stat.num_children,
        stat.data_length,
        time(stat.mtime),
        plain(&child.name)
    )
}
