use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{DelayedName, Record};
use crate::recipes::server_clock::ServerClock;
use crate::recipes::znode::{found, make_directories, unless_changed};
use crate::{Bytes, Check, Client, CreateMode, Error, ErrorKind, Multi, ReadLevel, Stat};

pub(super) const PENDING: &str = "pending";
pub(super) const DELAYED: &str = "delayed";
pub(super) const RUNNING: &str = "running";
pub(super) const CLAIMS: &str = "claims";
pub(super) const DEAD: &str = "dead";
const CLOCK: &str = "clock";

/// How old the stamp may be that a due time is reckoned from. Clocks drift by less than a millisecond in that time.
const STAMP_AGE: Duration = Duration::from_secs(10);

/// The queue's znodes, and the steps from one state of a task to the next; each is one multi.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) client: Client,
    pub(super) root: Arc<str>,
    pub(super) clock: Arc<ServerClock>,
}

impl Tree {
    pub(super) async fn open(client: &Client, root: &str) -> Result<Self, Error> {
        let tree = Self { client: client.clone(), root: root.into(), clock: Arc::default() };
        tree.make_directories().await?;
        Ok(tree)
    }

    pub(super) async fn make_directories(&self) -> Result<(), Error> {
        let directories = [PENDING, DELAYED, RUNNING, CLAIMS, DEAD];
        make_directories(&self.client, directories.map(|name| self.directory(name))).await
    }

    /// After a step that has failed because somebody has deleted a directory: makes them again. Another error is returned.
    pub(super) async fn mend(&self, error: Error) -> Result<(), Error> {
        if error.kind != ErrorKind::NoNode {
            return Err(error);
        }
        tracing::warn!(%error, "a queue's directories are gone and are made again");
        self.make_directories().await
    }

    pub(super) fn directory(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    pub(super) fn node(&self, directory: &str, name: &str) -> String {
        format!("{}/{directory}/{name}", self.root)
    }

    /// What time it is at the ensemble, at the earliest.
    pub(super) async fn now(&self) -> Result<u64, Error> {
        self.clock.now(&self.client, &self.directory(CLOCK), STAMP_AGE).await
    }

    /// The same, where it is only to bring names into order; asks nobody.
    pub(super) fn now_hint(&self) -> u64 {
        self.clock.at(Instant::now()).unwrap_or_default()
    }

    pub(super) fn observe(&self, stat: &Stat) {
        self.clock.observe(stat.mtime, Instant::now());
    }

    pub(super) async fn read(&self, directory: &str, name: &str) -> Result<Option<(Bytes, Stat)>, Error> {
        found(self.client.get(self.node(directory, name), ReadLevel::Local).await)
    }

    /// Adds to a multi that a task which has failed once more goes to where it belongs.
    pub(super) fn add_failed(&self, multi: Multi, id: &str, record: &Record, now_ms: u64) -> Multi {
        let delay_ms = super::record::millis(record.backoff());
        let path = match record.is_exhausted() {
            true => self.node(DEAD, id),
            false if delay_ms == 0 => self.node(PENDING, id),
            false => {
                let name = DelayedName { due_ms: now_ms.saturating_add(delay_ms), delay_ms, id };
                self.node(DELAYED, &name.to_string())
            }
        };
        multi.create(path, record.to_bytes(), CreateMode::Persistent)
    }

    /// Moves a task from one directory to another, if it is still the same. Returns whether it was.
    pub(super) async fn relocate(
        &self,
        (from, name): (&str, &str),
        stat: &Stat,
        (to, id): (&str, &str),
        data: impl Into<Bytes>,
    ) -> Result<bool, Error> {
        let old = self.node(from, name);
        let mut multi = self.client.multi().check(Check::epoch(&old, stat.czxid)).delete(old, None);
        multi = multi.create(self.node(to, id), data, CreateMode::Persistent);
        Ok(unless_changed(multi.commit().await)?.is_some())
    }
}
