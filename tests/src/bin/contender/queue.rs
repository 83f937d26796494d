use clap::Args;
use coordd_client::recipes::{Claim, TaskQueue, TaskQueueOptions};
use coordd_client::{CreateMode, Error};
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::{error, report};
use crate::writes::Writes;

/// A worker of a task queue. Commands: `claim` waits for a task (`claimed`); `complete`, `fail` end it (`done` or `refused`);
/// `set PATH COUNT` and `append PATH COUNT` write under the claim; `check` asks the claim here (`checked`). With `--auto` it
/// claims and completes for as long as its session lives.
#[derive(Args)]
pub(crate) struct Queue {
    #[arg(long)]
    path: String,

    /// Completing a task creates a znode of its id below this one, in the same step.
    #[arg(long)]
    done: String,

    #[arg(long)]
    auto: bool,
}

impl Queue {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let client = connection.connect().await?;
        let options = TaskQueueOptions::new().worker(&connection.name);
        let queue = TaskQueue::open(&client, &self.path, options).await?;
        if self.auto {
            let working = async {
                loop {
                    match queue.claim().await {
                        Ok(claim) => self.complete(claim).await,
                        Err(failure) => return report("ended", error(&failure)),
                    }
                }
            };
            tokio::select! {
                () = working => {}
                _ = commands.next() => {}
            }
            return client.close().await;
        }
        let mut writes = Writes::new(&connection.name);
        let mut claim: Option<Claim> = None;
        while let Some(words) = commands.next().await {
            match (&words.iter().map(String::as_str).collect::<Vec<_>>()[..], claim.take()) {
                (["claim"], None) => {
                    let taken = queue.claim().await?;
                    let (id, attempts, epoch) = (taken.id(), taken.attempts(), taken.epoch());
                    report("claimed", json!({ "id": id, "attempts": attempts, "epoch": epoch }));
                    claim = Some(taken);
                }
                (["complete"], Some(taken)) => self.complete(taken).await,
                (["fail"], Some(taken)) => match taken.fail("as it was told").await {
                    Ok(()) => report("done", json!({})),
                    Err(failure) => report("refused", error(&failure)),
                },
                (["check"], Some(taken)) => {
                    report("checked", json!({ "held": taken.check().is_ok() }));
                    claim = Some(taken);
                }
                (_, Some(taken)) if writes.carry_out(&words, taken.epoch(), || taken.client()).await => {
                    claim = Some(taken);
                }
                _ => unknown(&words),
            }
        }
        client.close().await
    }

    async fn complete(&self, claim: Claim) {
        let (id, attempts, path) =
            (claim.id().to_owned(), claim.attempts(), format!("{}/{}", self.done, claim.id()));
        match claim.complete_with(|multi| multi.create(path, "", CreateMode::Persistent)).await {
            Ok(_) => report("done", json!({ "id": id, "attempts": attempts })),
            Err(failure) => report("refused", error(&failure)),
        }
    }
}
