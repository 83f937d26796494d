use std::time::Duration;

use super::{Claim, TaskQueue, TaskQueueOptions};
use crate::Error;
use crate::recipes::Sessions;

/// The pause after a refusal that will pass.
const RETRY: Duration = Duration::from_secs(1);

/// Works at a queue for as long as there are sessions: claims a task, hands it to `handle`, waits for that, claims the next.
/// For several at a time, run several of it.
///
/// `handle` ends the claim: completes or fails it. When the claim is lost its future is dropped, a grace before anybody else
/// can have the task; but only when somebody else may have it, if its claim timeout has passed or an operator has deleted the
/// claim. Work that it has spawned must end with it.
///
/// # Errors
///
/// `SessionClosed` when the sessions are closed; `BadArguments`, `NoAuth` and the like, which trying again cannot help.
///
/// # Cancellation
///
/// The task that is being handled comes back with an attempt counted.
pub async fn work<F: Future<Output = ()>>(
    sessions: &Sessions,
    path: &str,
    options: &TaskQueueOptions,
    mut handle: impl FnMut(Claim) -> F,
) -> Result<(), Error> {
    loop {
        let client = sessions.live().await?;
        match TaskQueue::open(&client, path, options.clone()).await {
            Err(error) => pause_or_fail(error).await?,
            Ok(queue) => loop {
                match queue.claim().await {
                    Ok(claim) => {
                        let lost = claim.taken_away();
                        tokio::select! {
                            biased;
                            () = lost => {}
                            () = handle(claim) => {}
                        }
                    }
                    Err(error) if error.is_terminal() => break,
                    Err(error) => pause_or_fail(error).await?,
                }
            },
        }
    }
}

async fn pause_or_fail(error: Error) -> Result<(), Error> {
    match error {
        error if error.is_terminal() => Ok(()),
        error if error.is_retryable() => {
            tokio::time::sleep(error.retry_after.unwrap_or(RETRY)).await;
            Ok(())
        }
        error => Err(error),
    }
}
