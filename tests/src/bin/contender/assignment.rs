use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use coordd_client::recipes::{AssignedItem, AssignmentChange, WorkAssignment, WorkerProfile};
use coordd_client::{Client, CreateMode, Error};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::{error, report};
use crate::writes::Writes;

/// The pause between two writes of one item.
const PAUSE: Duration = Duration::from_millis(20);

/// A worker of a group. It says `assigned` and `revoked`, and appends to `LOG/ITEM` under the epoch of each item that it owns
/// until that is revoked or a write is refused. Commands: `check ITEM` asks the item here (`checked`); `append ITEM COUNT` writes
/// under it without asking here first (`wrote`), also when it is lost; `leave` leaves the group.
#[derive(Args)]
pub(crate) struct Assignment {
    #[arg(long)]
    path: String,

    /// Below it there is a znode for each item.
    #[arg(long)]
    log: String,

    /// How long after its revocation an item is given back.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    drain: Duration,
}

/// An item that was assigned, and the client whose writes carry its epoch.
struct Owned {
    item: Arc<AssignedItem>,
    guarded: Client,
    writing: JoinHandle<()>,
}

impl Assignment {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let client = connection.connect().await?;
        let group = WorkAssignment::open(&client, &self.path).await?;
        let mut worker = group.join(&WorkerProfile::new(&connection.name)).await?;
        report("joined", json!({ "epoch": worker.epoch() }));
        let mut writes = Writes::new(&connection.name);
        // Kept when they are lost, for those who want to see their late writes refused.
        let mut items = BTreeMap::<String, Owned>::new();
        loop {
            tokio::select! {
                change = worker.next() => match change {
                    Ok(Some(AssignmentChange::Assigned(item))) => {
                        let (id, epoch) = (item.id().to_owned(), item.epoch());
                        let owned = self.tend(&connection.name, item)?;
                        // When all is prepared: who reads it may stop this process at once.
                        report("assigned", json!({ "item": id, "epoch": epoch }));
                        items.insert(owned.item.id().to_owned(), owned);
                    }
                    Ok(Some(AssignmentChange::Revoked(item))) => {
                        report("revoked", json!({ "item": item }));
                        if let Some(Owned { item, writing, .. }) = items.remove(&item) {
                            let drain = self.drain;
                            tokio::spawn(async move {
                                tokio::time::sleep(drain).await;
                                writing.abort();
                                drop(writing.await);
                                report("done", json!({ "item": item.id(), "epoch": item.epoch() }));
                            });
                        }
                    }
                    Ok(None) => {
                        report("left", json!({}));
                        return client.close().await;
                    }
                    Err(failure) => {
                        report("ended", error(&failure));
                        // What it still has is of no use, which the test may want to see.
                        while let Some(words) = commands.next().await {
                            self.command(&words, &mut writes, &items).await;
                        }
                        return Ok(());
                    }
                },
                words = commands.next() => match words {
                    Some(words) if words == ["leave"] => worker.leave().await?,
                    Some(words) => self.command(&words, &mut writes, &items).await,
                    None => return client.close().await,
                },
            }
        }
    }

    async fn command(&self, words: &[String], writes: &mut Writes, items: &BTreeMap<String, Owned>) {
        match words {
            [check, item] if check == "check" => {
                let held = items.get(item).is_some_and(|owned| owned.item.check().is_ok());
                report("checked", json!({ "item": item, "held": held }));
            }
            [append, item, count] if append == "append" => {
                let owned = items.get(item).expect("an item that was assigned");
                let words = [append.clone(), format!("{}/{item}", self.log), count.clone()];
                writes.carry_out(&words, owned.item.epoch(), || Ok(owned.guarded.clone())).await;
            }
            _ => unknown(words),
        }
    }

    /// Writes for as long as it may.
    fn tend(&self, name: &str, item: AssignedItem) -> Result<Owned, Error> {
        let (guarded, item) = (item.client()?, Arc::new(item));
        let path = format!("{}/{}/", self.log, item.id());
        let value = json!({ "name": name, "epoch": item.epoch() }).to_string();
        let (id, client) = (item.id().to_owned(), guarded.clone());
        let writing = tokio::spawn(async move {
            loop {
                let written = client.create(&path, value.clone(), CreateMode::PersistentSequential).await;
                if let Err(failure) = written {
                    return report("stopped", json!({ "item": id, "kind": failure.kind.name() }));
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Owned { item, guarded, writing })
    }
}
