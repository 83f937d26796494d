use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{DelayedName, Record};
use crate::recipes::parents::{NUMBER_BYTES, check_room, clear_below};
use crate::recipes::server_clock::ServerClock;
use crate::recipes::waiting_line::no_result;
use crate::recipes::znode::{found, is_changed, make_directories, name_of, unless_changed};
use crate::{Bytes, Check, Client, CreateMode, Error, ErrorKind, Multi, MultiResult, ReadLevel, Stat};

pub(super) const PENDING: &str = "pending";
pub(super) const DELAYED: &str = "delayed";
pub(super) const RUNNING: &str = "running";
pub(super) const CLAIMS: &str = "claims";
pub(super) const DEAD: &str = "dead";
const CLOCK: &str = "clock";

/// How old the stamp may be that a due time is reckoned from. Clocks drift by less than a millisecond in that time.
const STAMP_AGE: Duration = Duration::from_secs(10);
/// A step is tried so often while the tree is put right for it.
pub(super) const ATTEMPTS: u32 = 6;
/// The longest path below a queue: a delayed task that was renamed.
const LONGEST: &str = "delayed/012345678901234.01234567890123456789.100-p0123456789.0123456789";

/// The queue's znodes, and the steps from one state of a task to the next; each is one multi.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) client: Client,
    pub(super) root: Arc<str>,
    pub(super) clock: Arc<ServerClock>,
}

impl Tree {
    pub(super) async fn open(client: &Client, root: &str) -> Result<Self, Error> {
        check_room(root, LONGEST.len())?;
        let tree = Self { client: client.patient(), root: root.into(), clock: Arc::default() };
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

    /// Directory and name of a task that has failed once more.
    pub(super) fn after_failure(&self, id: &str, record: &Record, now_ms: u64) -> (&'static str, String) {
        let delay_ms = super::record::millis(record.backoff());
        match record.is_exhausted() {
            true => (DEAD, id.to_owned()),
            false if delay_ms == 0 => (PENDING, id.to_owned()),
            false => {
                let name = DelayedName { due_ms: now_ms.saturating_add(delay_ms), delay_ms, id };
                (DELAYED, name.to_string())
            }
        }
    }

    /// Commits a step that ends with the creation of a task's znode. `begin` makes the operations before the creation.
    /// `None`: one of those found another tree than it was made for, so somebody else was faster; nothing was changed.
    ///
    /// Hands can make trees that no queue makes, and none of them loses the task. Where the name is taken by another task,
    /// this one gets a new name. A directory that is gone is made again. What somebody has put below a task is deleted.
    ///
    /// # Errors
    ///
    /// That of the creation, or of an operation before it for another reason; those of the session.
    pub(super) async fn move_to(
        &self,
        begin: impl Fn() -> Result<Multi, Error>,
        (directory, name): (&str, &str),
        data: impl Into<Bytes>,
    ) -> Result<Option<Vec<MultiResult>>, Error> {
        let (mut path, mut mode) = (self.node(directory, name), CreateMode::Persistent);
        let (data, mut attempt) = (data.into(), 1);
        loop {
            let multi = begin()?;
            let last = multi.len() as u32;
            let error = match multi.create(&*path, data.clone(), mode).commit().await {
                Ok(results) => return Ok(Some(results)),
                Err(error) => error,
            };
            let is_creation = error.op_index == Some(last);
            attempt += 1;
            match error.kind {
                _ if attempt > ATTEMPTS => return Err(error),
                ErrorKind::NodeExists if is_creation => {
                    // The operations before this one have found the task itself in its old place.
                    tracing::warn!(path, "another task has this name; the task gets a new one");
                    (path, mode) = (self.renamed(directory, name), CreateMode::PersistentSequential);
                }
                ErrorKind::NoNode if is_creation => self.mend(error).await?,
                ErrorKind::NotEmpty => clear_below(&self.client, &error.path).await?,
                _ if !is_creation && is_changed(&error) => return Ok(None),
                _ => return Err(error),
            }
        }
    }

    /// Gives a pending task a new name, because another one has its name. Returns the new name and creation zxid, or `None` if
    /// somebody else was faster. It stays just behind its former place.
    pub(super) async fn rename_pending(
        &self,
        name: &str,
        czxid: u64,
    ) -> Result<Option<(String, u64)>, Error> {
        let Some((data, _)) = self.read(PENDING, name).await? else { return Ok(None) };
        let old = self.node(PENDING, name);
        let multi = self.client.multi().check(Check::epoch(&old, czxid)).delete(old, None);
        let multi = multi.create(self.renamed(PENDING, name), data, CreateMode::PersistentSequential);
        let Some(results) = unless_changed(multi.commit().await)? else { return Ok(None) };
        let Some(MultiResult::Create(created)) = results.into_iter().next_back() else {
            return Err(no_result());
        };
        tracing::warn!(
            path = created.path,
            "another task of this name is claimed; the pending one is renamed"
        );
        Ok(Some((name_of(&created.path).to_owned(), created.stat.czxid)))
    }

    /// The prefix of a sequential znode that stands for the task from now on.
    fn renamed(&self, directory: &str, name: &str) -> String {
        format!("{}.", self.node(directory, without_suffix(name)))
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
        let begin = || {
            let multi = self.client.multi().check(Check::epoch(&old, stat.czxid));
            Ok(multi.delete(&*old, None))
        };
        Ok(self.move_to(begin, (to, id), data).await?.is_some())
    }
}

/// A task's name without the number that it got because another task had its name.
fn without_suffix(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((name, number))
            if number.len() == NUMBER_BYTES && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            name
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names do not grow with each rename.
    #[test]
    fn renamed_twice() {
        for (name, expected) in [
            ("100-p0000000042", "100-p0000000042"),
            ("100-p0000000042.0000000050", "100-p0000000042"),
            ("by-hand.txt", "by-hand.txt"),
        ] {
            assert_eq!(without_suffix(name), expected);
        }
    }
}
