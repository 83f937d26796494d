use coordd_client::{Error, EventType, ListOptions, OneshotWatcher, ReadLevel, WatchEvent, WatchMode};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::task::unconstrained;

use super::{Context, PAUSE};
use crate::history::{Answer, Level, Mode, SetOne, Told, WatchKind, What};
use crate::recorded_client::RecordedClient;

pub(crate) const ROOT: &str = "/watched";
const ZNODES: u32 = 8;
/// Watches of one session that wait at the same time.
const WAITING: usize = 24;

fn random_path(rng: &mut StdRng) -> String {
    format!("{ROOT}/{}", rng.random_range(0..ZNODES))
}

/// Random creates, sets, deletes, multis and linearizable reads of a few znodes that all share.
pub(crate) async fn write(context: Context) {
    let mut rng = context.rng("watches", 0);
    let mut count = 0u64;
    while let Some(client) = context.session("watched").await {
        while context.goes_on() && !client.is_over() {
            count += 1;
            let path = random_path(&mut rng);
            let value = format!("{}-{count}", context.process);
            match rng.random_range(0..10) {
                0..2 => drop(client.create(&path, value, Mode::Persistent).await),
                2..7 => drop(client.set(&path, value, None).await),
                // Of all that are read so, these are the only ones that may be gone.
                7 => drop(client.get(&path, Level::Linearizable).await),
                8 => drop(client.delete(&path).await),
                _ => {
                    let other = random_path(&mut rng);
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

/// Watches all of it, or its znodes one by one, reads, and writes down what it is told in the order in which it could know it.
pub(crate) async fn subscribe(context: Context, mode: WatchMode) {
    let is_recursive = mode == WatchMode::PersistentRecursive;
    let (name, task) = if is_recursive { ("watching", 1) } else { ("one-shot", 2) };
    let mut rng = context.rng("watches", task);
    while let Some(client) = context.session(name).await {
        let mut watches = Watches { client: client.clone(), last: 0, waiting: Vec::new() };
        let znode = (!is_recursive).then(|| random_path(&mut rng));
        for path in [ROOT.to_owned()].into_iter().chain(znode) {
            watches.stay(path, mode).await;
        }
        let marker = |end: &str| format!("{ROOT}/marker-{:x}-{end}", client.client.session_id());
        // All that comes behind it is told.
        if !mark(&client, &marker("begin")).await {
            continue;
        }
        while context.goes_on() && !client.is_over() {
            context.pause(&mut rng).await;
            watches.note_told();
            if !is_recursive && watches.waiting.len() < WAITING && rng.random() {
                watches.read_and_arm(&mut rng).await;
            } else {
                client.get(&random_path(&mut rng), Level::Local).await;
            }
            watches.note_told();
            client.note(What::Drained);
        }
        if !context.goes_on() {
            // A last change: all events up to it come before its answer.
            mark(&client, &marker("end")).await;
            watches.note_told();
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes a marker, also if there is no room for it at first. False if the session has ended.
async fn mark(client: &RecordedClient, path: &str) -> bool {
    loop {
        match client.create(path, "", Mode::Persistent).await {
            Answer::Created { .. } => return true,
            Answer::Refused(_) => tokio::time::sleep(PAUSE).await,
            _ => return false,
        }
    }
}

/// The watches of one session.
struct Watches {
    client: RecordedClient,
    /// The number of the last one.
    last: u64,
    /// Those that are to tell something. The events of a one-shot watch end with the first one.
    waiting: Vec<(u64, BoxStream<'static, Result<WatchEvent, Error>>)>,
}

impl Watches {
    fn add(
        &mut self,
        path: String,
        kind: WatchKind,
        read: Option<(u64, u64)>,
        events: BoxStream<'static, Result<WatchEvent, Error>>,
    ) {
        self.last += 1;
        self.client.note(What::Watching { watch: self.last, path, kind, read });
        self.waiting.push((self.last, events));
    }

    /// Arms a watch that stays.
    async fn stay(&mut self, path: String, mode: WatchMode) {
        let kind = match mode {
            WatchMode::Persistent => WatchKind::Persistent,
            WatchMode::PersistentRecursive => WatchKind::PersistentRecursive,
        };
        // Without its session there is no marker, either.
        let Ok(watcher) = self.client.client.watch(&path, mode).await else { return };
        let events =
            stream::unfold(watcher, async |mut watcher| Some((watcher.next().await, watcher))).boxed();
        self.add(path, kind, None, events);
    }

    /// Reads something, and arms a one-shot watch with that.
    async fn read_and_arm(&mut self, rng: &mut StdRng) {
        let client = &self.client.client;
        let mut path = random_path(rng);
        let level = if rng.random() { ReadLevel::Local } else { ReadLevel::Linearizable };
        let seen = client.last_zxid();
        // The last change that was shown of what is watched, if something was there.
        let read: Result<(WatchKind, Option<u64>, OneshotWatcher), Error> = match rng.random_range(0..4) {
            0 => {
                let read = client.get_and_watch(&path, level).await;
                read.map(|(_, stat, watcher)| (WatchKind::Data, Some(stat.mzxid), watcher))
            }
            1 => {
                let read = client.exists_and_watch(&path, level).await;
                read.map(|(stat, watcher)| match stat {
                    Some(stat) => (WatchKind::Data, Some(stat.mzxid), watcher),
                    None => (WatchKind::Missing, None, watcher),
                })
            }
            of => {
                if of == 2 {
                    path = ROOT.to_owned();
                }
                let options = ListOptions { limit: 1, ..ListOptions::default() };
                let read = client.list_and_watch(&path, level, options).await;
                read.map(|(page, watcher)| (WatchKind::Children, Some(page.stat.pzxid), watcher))
            }
        };
        // There is no such znode, or no session.
        let Ok((kind, shown, watcher)) = read else { return };
        let read = shown.map_or_else(|| (seen, client.last_zxid()), |shown| (shown, shown));
        self.add(path, kind, Some(read), stream::once(watcher.changed()).boxed());
    }

    /// Writes down the events that are here already: those that came before the last answer are among them.
    fn note_told(&mut self) {
        let client = &self.client;
        self.waiting.retain_mut(|(watch, events)| {
            // Unconstrained, because tokio has a task that took many events rest before it gets the next one, which looks like the
            // end.
            while let Some(next) = unconstrained(events.next()).now_or_never() {
                let Some(Ok(event)) = next else { return false };
                note_event(client, *watch, event);
            }
            true
        });
    }
}

fn note_event(client: &RecordedClient, watch: u64, event: WatchEvent) {
    match event {
        WatchEvent::Event(event) => {
            let change = match event.event_type {
                EventType::NodeCreated => "created",
                EventType::NodeDeleted => "deleted",
                EventType::NodeDataChanged => "changed",
                EventType::NodeChildrenChanged => "children",
            };
            let told = Told { zxid: event.zxid, change: change.to_owned(), path: event.path };
            client.note(What::Told { watch, told });
        }
        WatchEvent::Resync { zxid } => client.note(What::Resync { watch, zxid }),
    }
}
