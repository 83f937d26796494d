use std::time::Duration;

use coordd_client::{EventType, PersistentWatcher, WatchEvent, WatchMode};
use futures::FutureExt as _;
use rand::Rng as _;
use tokio::task::unconstrained;

use super::{Context, PAUSE};
use crate::history::{Answer, Level, Mode, SetOne, Told, What};
use crate::recorded_client::RecordedClient;

pub(crate) const ROOT: &str = "/watched";
const ZNODES: u32 = 8;
/// Longer than any fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// Random creates, sets, deletes, multis and linearizable reads of a few znodes that all share.
pub(crate) async fn write(context: Context) {
    let mut rng = context.rng("watches", 0);
    let mut count = 0u64;
    while let Some(client) = context.session("watched").await {
        while context.goes_on() && !client.is_over() {
            count += 1;
            let path = format!("{ROOT}/{}", rng.random_range(0..ZNODES));
            let value = format!("{}-{count}", context.process);
            match rng.random_range(0..10) {
                0..2 => drop(client.create(&path, value, Mode::Persistent).await),
                2..7 => drop(client.set(&path, value, None).await),
                // Of all that are read so, these are the only ones that may be gone.
                7 => drop(client.get(&path, Level::Linearizable).await),
                8 => drop(client.delete(&path).await),
                _ => {
                    let other = format!("{ROOT}/{}", rng.random_range(0..ZNODES));
                    if other == path {
                        continue;
                    }
                    let mut sets = Vec::new();
                    for path in [path, other] {
                        if let Answer::Got { version, .. } = client.get(&path, Level::Local).await {
                            sets.push(SetOne { path, value: value.clone(), version });
                        }
                    }
                    if sets.len() == 2 {
                        client.multi(sets).await;
                    }
                }
            }
            context.pause(&mut rng).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Watches all of it, reads now and then, and writes down what it is told in the order in which it could know it.
pub(crate) async fn subscribe(context: Context) {
    let mut rng = context.rng("watches", 1);
    while let Some(client) = context.session("watching").await {
        let Ok(mut watcher) = client.client.watch(ROOT, WatchMode::PersistentRecursive).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        client.note(What::Watching { path: ROOT.to_owned() });
        let marker = |end: &str| format!("{ROOT}/marker-{:x}-{end}", client.client.session_id());
        // All that comes behind it is told.
        if mark(&client, &marker("begin")).await.is_none() {
            continue;
        }
        while context.goes_on() && !client.is_over() {
            tokio::select! {
                event = watcher.next() => match event {
                    Ok(event) => note_event(&client, event),
                    Err(_) => break,
                },
                () = context.pause(&mut rng) => {
                    let path = format!("{ROOT}/{}", rng.random_range(0..ZNODES));
                    client.get(&path, Level::Local).await;
                    note_waiting(&client, &mut watcher);
                }
            }
        }
        if !context.goes_on() {
            note_until_end(&client, &mut watcher, &marker("end")).await;
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes a marker, also if there is no room for it at first. `None` if the session has ended.
async fn mark(client: &RecordedClient, path: &str) -> Option<u64> {
    loop {
        match client.create(path, "", Mode::Persistent).await {
            Answer::Created { zxid, .. } => return Some(zxid),
            Answer::Refused(_) => tokio::time::sleep(PAUSE).await,
            _ => return None,
        }
    }
}

/// Writes down the events that are here already: those that came before the last answer are among them.
fn note_waiting(client: &RecordedClient, watcher: &mut PersistentWatcher) {
    // Unconstrained, because tokio has a task that took many events rest before it gets the next one, which looks like the end.
    while let Some(Ok(event)) = unconstrained(watcher.next()).now_or_never() {
        note_event(client, event);
    }
    client.note(What::Drained);
}

/// Makes a last change, and writes down all events up to it.
async fn note_until_end(client: &RecordedClient, watcher: &mut PersistentWatcher, marker: &str) {
    let Some(end) = mark(client, marker).await else { return };
    let until_end = async {
        while let Ok(event) = watcher.next().await {
            let zxid = event.zxid();
            note_event(client, event);
            if zxid >= end {
                return;
            }
        }
    };
    drop(tokio::time::timeout(PATIENCE, until_end).await);
}

fn note_event(client: &RecordedClient, event: WatchEvent) {
    match event {
        WatchEvent::Event(event) => {
            let change = match event.event_type {
                EventType::NodeCreated => "created",
                EventType::NodeDeleted => "deleted",
                EventType::NodeDataChanged => "changed",
                EventType::NodeChildrenChanged => "children",
            };
            let told = Told { zxid: event.zxid, change: change.to_owned(), path: event.path };
            client.note(What::Told(told));
        }
        WatchEvent::Resync { zxid } => client.note(What::Resync { zxid }),
    }
}
