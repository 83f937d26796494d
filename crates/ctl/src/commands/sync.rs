use std::fmt;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::progress::Progress;

/// Waits until the node of the session shows everything that was acknowledged, anywhere, before; prints its zxid.
#[derive(Args, Debug)]
pub(crate) struct Sync {}

#[derive(Serialize)]
struct SyncOutput {
    zxid: u64,
}

impl fmt::Display for SyncOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "zxid {}", self.zxid)
    }
}

impl Sync {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let zxid = Progress::new("catching up").during(context.answer(client.sync())).await?;
        context.output().result(&SyncOutput { zxid })
    }
}
