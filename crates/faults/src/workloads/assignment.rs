use std::collections::BTreeMap;

use coordd_client::recipes::{AssignmentChange, AssignmentWorker, WorkAssignment, WorkItem, WorkerProfile};
use coordd_client::{Client, Error};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;

use super::grants::write_under;
use super::{Context, PAUSE};
use crate::history::{What, now};
use crate::recorded_client::RecordedClient;

const GROUP: &str = "/assignment";
const ITEMS: u32 = 5;

/// The items that are assigned, which are names of grants, too.
pub(crate) fn items() -> Vec<String> {
    (0..ITEMS).map(|number| format!("item-{number}")).collect()
}

/// Puts the items.
pub(crate) async fn prepare(client: &Client) -> Result<(), Error> {
    let group = WorkAssignment::open(client, GROUP).await?;
    for item in items() {
        group.put(&item, &WorkItem::new()).await?;
    }
    Ok(())
}

/// A worker: writes under the epoch of each item that it has until that is revoked or lost.
pub(crate) async fn run(context: Context) {
    while let Some(client) = context.session("assignment").await {
        if let Ok(mut worker) = join(&context, &client).await {
            tend(&context, &client, &mut worker).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn join(context: &Context, client: &RecordedClient) -> Result<AssignmentWorker, Error> {
    let group = WorkAssignment::open(&client.client, GROUP).await?;
    let name = format!("{}-{:x}", context.process, client.client.session_id());
    group.join(&WorkerProfile::new(name)).await
}

/// Until the session has ended, or the worker is struck off, or the end.
async fn tend(context: &Context, client: &RecordedClient, worker: &mut AssignmentWorker) {
    let mut writers: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
    loop {
        let change = tokio::select! {
            change = worker.next() => change,
            () = context.stopped() => Ok(None),
        };
        match change {
            Ok(Some(AssignmentChange::Assigned(item))) => {
                let (context, client) = (context.clone(), client.clone());
                let (grant, epoch) = (item.id().to_owned(), item.epoch());
                client.note(What::Granted { grant: grant.clone(), epoch });
                let name = grant.clone();
                let writer = tokio::spawn(async move {
                    let mut rng = context.rng("assignment", epoch);
                    for number in 0.. {
                        let asked = now();
                        let Ok(guarded) = item.client() else { break };
                        client.note_at(asked, What::Held { grant: grant.clone(), epoch });
                        let goes_on = write_under(&client, &guarded, &grant, epoch, number).await;
                        if !goes_on || item.is_revoked() || !context.goes_on() {
                            break;
                        }
                        context.pause(&mut rng).await;
                        context.pause(&mut rng).await;
                    }
                    client.note(What::LetGo { grant, epoch });
                    // Whether it could be given back shows in what the next worker does.
                    drop(item.done().await);
                });
                writers.insert(name, writer);
            }
            // Its writer sees it, too.
            Ok(Some(AssignmentChange::Revoked(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let mut writers: FuturesUnordered<_> = writers.into_values().collect();
    while let Some(ended) = writers.next().await {
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}
