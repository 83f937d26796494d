use std::fmt;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::StatOutput;
use crate::value::Value;

/// Replaces the data of a znode and prints its new version.
#[derive(Args, Debug)]
pub(crate) struct Set {
    /// The path.
    path: String,

    #[command(flatten)]
    value: Value,

    /// The version it must have.
    #[arg(long)]
    version: Option<i32>,
}

#[derive(Serialize)]
struct SetOutput {
    path: String,
    version: i32,
    stat: StatOutput,
}

impl fmt::Display for SetOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "version {}", self.version)
    }
}

impl Set {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(data) = self.value.read()? else {
            return Err(Failure::Usage(
                "no value given: DATA, --file FILE, or `-` for the standard input".into(),
            ));
        };
        let client = context.writer().await?;
        let stat = context.answer(client.set(&self.path, data, self.version)).await?;
        context.output().result(&SetOutput { path: self.path, version: stat.version, stat: stat.into() })
    }
}
