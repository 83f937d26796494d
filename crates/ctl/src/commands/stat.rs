use std::fmt;

use clap::Args;
use coordd_client::{Error, ErrorKind};
use serde::Serialize;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::StatOutput;

/// Prints the stat of a znode.
#[derive(Args, Debug)]
pub(crate) struct StatCommand {
    /// The path.
    path: String,

    /// Print how many znodes are below it, too.
    #[arg(long)]
    count: bool,

    #[command(flatten)]
    freshness: Freshness,
}

#[derive(Serialize)]
struct StatResult {
    path: String,
    stat: StatOutput,
    #[serde(skip_serializing_if = "Option::is_none")]
    descendants: Option<u64>,
}

impl fmt::Display for StatResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stat)?;
        match self.descendants {
            Some(count) => writeln!(f, "descendants     {count}"),
            None => Ok(()),
        }
    }
}

impl StatCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let (client, level) = (context.client().await?, self.freshness.level());
        let Some(stat) = context.answer(client.exists(&self.path, level)).await? else {
            let message = format!("there is no znode {}", self.path);
            let error = Error::new(ErrorKind::NoNode, message);
            return Err(Failure::Operation(Error { path: self.path, ..error }));
        };
        let descendants = match self.count {
            true => Some(context.answer(client.count_descendants(&self.path, level)).await?),
            false => None,
        };
        context.output().result(&StatResult { path: self.path, stat: stat.into(), descendants })
    }
}
