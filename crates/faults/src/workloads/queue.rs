use coordd_client::recipes::{TaskOptions, TaskQueue, TaskQueueOptions, TaskState};
use coordd_client::{Client, CreateMode, Error, ErrorKind};

use super::{Context, PAUSE};
use crate::history::What;

const QUEUE: &str = "/queue";
/// Below it is a znode for each task that was completed, made in the same step.
pub(crate) const DONE_ROOT: &str = "/completed";

/// Puts tasks.
pub(crate) async fn produce(context: Context) {
    let mut rng = context.rng("queue", 0);
    let mut count = 0u64;
    while let Some(client) = context.session("producer").await {
        let Ok(queue) = TaskQueue::open(&client.client, QUEUE, TaskQueueOptions::new()).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Many attempts: a worker that is killed with a task in hand is no reason to give the task up.
        let options = TaskOptions::new().max_attempts(1000);
        while context.goes_on() && !client.is_over() {
            count += 1;
            let task = format!("{}-{count}", context.process);
            client.note(What::Putting { task: task.clone() });
            if queue.put(&task, &options).await.is_ok() {
                client.note(What::Put { task });
            }
            context.pause(&mut rng).await;
            context.pause(&mut rng).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Claims tasks and completes them.
pub(crate) async fn consume(context: Context) {
    while let Some(client) = context.session("worker").await {
        if let Ok(queue) = TaskQueue::open(&client.client, QUEUE, TaskQueueOptions::new()).await {
            while context.goes_on() && !client.is_over() {
                let claim = tokio::select! {
                    claim = queue.claim() => claim,
                    () = context.stopped() => return,
                };
                let Ok(claim) = claim else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let task = String::from_utf8_lossy(claim.payload()).into_owned();
                client.note(What::Claimed { task: task.clone(), attempt: claim.attempts() });
                let done = format!("{DONE_ROOT}/{task}");
                let completed =
                    claim.complete_with(|multi| multi.create(done, "", CreateMode::Persistent)).await;
                match completed {
                    Ok(_) => client.note(What::Completed { task }),
                    // What a completion makes was there.
                    Err(error) if error.kind == ErrorKind::NodeExists => {
                        client.note(What::CompletedAgain { task })
                    }
                    Err(_) => {}
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The payloads of all tasks that are not completed.
pub(crate) async fn remaining_tasks(client: &Client) -> Result<Vec<String>, Error> {
    let queue = TaskQueue::open(client, QUEUE, TaskQueueOptions::new()).await?;
    let mut tasks = Vec::new();
    for state in [TaskState::Pending, TaskState::Delayed, TaskState::Running, TaskState::Dead] {
        let mut after = None;
        loop {
            let entries = queue.list(state, after.as_ref(), 1000).await?;
            tasks.extend(entries.iter().map(|entry| String::from_utf8_lossy(&entry.payload).into_owned()));
            match entries.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
    }
    Ok(tasks)
}
