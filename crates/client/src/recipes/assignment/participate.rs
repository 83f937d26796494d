use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::{AssignedItem, AssignmentChange, WorkAssignment, WorkerProfile};
use crate::recipes::Sessions;
use crate::{Client, Error, ErrorKind};

/// The pause after a refusal that will pass.
const RETRY: Duration = Duration::from_secs(1);

/// Works in a group for as long as there are sessions: `tend` is called with each item that is assigned, and its future runs,
/// beside those of the other items, on the task of the caller.
///
/// When the item is [revoked](AssignedItem::revoked) `tend` has to come to its end; the item goes to the next owner then. When
/// the item is lost its future is dropped, a grace before anybody else can own it: work that it has spawned must end with it.
/// An item whose future has ended by itself is assigned again after a second.
///
/// # Errors
///
/// `SessionClosed` when the sessions are closed; `BadArguments`, `NoAuth` and the like, which trying again cannot help.
///
/// # Cancellation
///
/// Leaves the group and gives all items back.
pub async fn participate<F: Future<Output = ()>>(
    sessions: &Sessions,
    path: &str,
    profile: &WorkerProfile,
    mut tend: impl FnMut(Arc<AssignedItem>) -> F,
) -> Result<(), Error> {
    loop {
        let client = sessions.live().await?;
        let error = match work(&client, path, profile, &mut tend).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        match error.kind {
            _ if error.is_terminal() => {}
            ErrorKind::GrantLost => {}
            _ if error.is_retryable() => tokio::time::sleep(error.retry_after.unwrap_or(RETRY)).await,
            _ => return Err(error),
        }
    }
}

async fn work<F: Future<Output = ()>>(
    client: &Client,
    path: &str,
    profile: &WorkerProfile,
    tend: &mut impl FnMut(Arc<AssignedItem>) -> F,
) -> Result<(), Error> {
    let mut worker = WorkAssignment::open(client, path).await?.join(profile).await?;
    let mut tended = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            change = worker.next() => match change? {
                Some(AssignmentChange::Assigned(item)) => {
                    let item = Arc::new(item);
                    tended.push(until_lost(item.clone(), tend(item)));
                }
                // The item says so itself.
                Some(AssignmentChange::Revoked(_)) => {}
                None => return Ok(()),
            },
            Some(()) = tended.next() => {}
        }
    }
}

async fn until_lost(item: Arc<AssignedItem>, tending: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        _ = item.lost() => {}
        () = tending => {}
    }
    // Also if a clone of it was left somewhere.
    if let Err(error) = item.give_back().await {
        tracing::debug!(%error, item = item.id(), "the item ended with its session");
    }
}
