use clap::Args;
use serde::Serialize;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{StatOutput, ValueOutput};

/// Prints the data of a znode, byte by byte as it is; a newline is added only on a terminal.
#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The path.
    path: String,

    #[command(flatten)]
    freshness: Freshness,
}

#[derive(Serialize)]
struct GetOutput {
    path: String,
    #[serde(flatten)]
    value: ValueOutput,
    stat: StatOutput,
}

impl Get {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let (data, stat) = context.answer(client.get(&self.path, self.freshness.level())).await?;
        let output = context.output();
        if output.is_json() {
            return output.json(&GetOutput { path: self.path, value: data.into(), stat: stat.into() });
        }
        output.raw(&data)
    }
}
