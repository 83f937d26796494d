use clap::Args;
use coordd_client::Error;
use coordd_client::recipes::{self, DoubleBarrier};
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::{error, report};

/// One who sets a barrier, waits at it, or takes part in the rounds of a double one. Commands: `set` (answered by `set`), `wait`
/// (`passed`), `enter` (`entered`), `leave` (`left`). What fails is `refused`.
#[derive(Args)]
pub(crate) struct Barrier {
    #[arg(long)]
    path: String,

    #[arg(long, default_value_t = 1)]
    parties: usize,
}

impl Barrier {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let client = connection.connect().await?;
        let single = recipes::Barrier::new(&client, &self.path);
        let double = DoubleBarrier::new(&client, &self.path, self.parties)?;
        let mut inside = None;
        while let Some(words) = commands.next().await {
            let done = match words[0].as_str() {
                "set" => single.set().await.map(|_| "set"),
                "wait" => single.wait().await.map(|()| "passed"),
                "enter" => double.enter().await.map(|entered| {
                    inside = Some(entered);
                    "entered"
                }),
                "leave" => inside.take().expect("it has entered").leave().await.map(|()| "left"),
                _ => unknown(&words),
            };
            match done {
                Ok(event) => report(event, json!({})),
                Err(failure) => report("refused", error(&failure)),
            }
        }
        client.close().await
    }
}
