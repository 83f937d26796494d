//! A lock that all connections want: how long it takes from the moment in which one gives it back until another has it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context as _;
use coordd_client::recipes::Lock;
use coordd_client::{Client, Error};
use futures::future::try_join_all;

use crate::load::{Schedule, merge};
use crate::recorder::Recorder;

/// When the lock was given back last. All connections are in this process, so its clock will do.
type Released = Arc<Mutex<Option<Instant>>>;

/// Each connection takes the lock and gives it back at once, in turn with all others, until the end.
pub(crate) async fn run(
    clients: Vec<Client>,
    path: &str,
    schedule: Schedule,
) -> anyhow::Result<(Recorder, u64)> {
    let released = Released::default();
    let tasks = clients.into_iter().map(|client| {
        let lock = Lock::new(&client, path);
        tokio::spawn(take_turns(lock, released.clone(), schedule))
    });
    let recorders = try_join_all(tasks).await.context("a connection's task failed")?;
    Ok(merge(&recorders, schedule))
}

async fn take_turns(lock: Lock, released: Released, schedule: Schedule) -> Recorder {
    let mut recorder = Recorder::new(schedule.duration());
    while Instant::now() < schedule.until {
        if let Err(error) = take_turn(&lock, &released, schedule, &mut recorder).await {
            recorder.on_error(error.kind);
            if error.is_terminal() {
                note!("a session ended: {error}");
                break;
            }
        }
    }
    recorder
}

async fn take_turn(
    lock: &Lock,
    released: &Released,
    schedule: Schedule,
    recorder: &mut Recorder,
) -> Result<(), Error> {
    let grant = lock.lock().await?;
    let now = Instant::now();
    // A panic ends the run, so nobody meets what it left behind.
    let before = released.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).replace(now);
    if let (Some(before), Some(at)) = (before, now.checked_duration_since(schedule.measure_from)) {
        recorder.on_success(at, now - before);
    }
    // Given back as soon as it is had; the next turn does not wait for the answer.
    drop(grant);
    Ok(())
}
