use clap::Args;
use serde::Serialize;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{StatOutput, ValueOutput};

/// Prints the data of a znode: byte for byte as it is into a pipe or a file.
///
/// On a terminal, control characters other than newlines and tabs are escaped, and so are bytes that are not UTF-8; a newline is
/// added at the end.
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
        output.value(&data)
    }
}
