use bytes::Bytes;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::Value;

use super::TaskQueue;
use super::record::{DelayedName, Record};
use super::tree::{CLAIMS, DEAD, DELAYED, PENDING, RUNNING};
use crate::recipes::Json;
use crate::recipes::znode::found;
use crate::{Error, ErrorKind, ListOptions, ReadLevel, ReadResult};

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// It can be claimed.
    Pending,
    /// It was put with a delay, or failed: it will be pending when it is due.
    Delayed,
    /// A worker has it; or had it, and it is about to come back.
    Running,
    /// It is a dead letter: its attempts are used up, or it was rejected, or is no task.
    Dead,
}

impl TaskState {
    /// All of them.
    pub const ALL: [TaskState; 4] =
        [TaskState::Pending, TaskState::Delayed, TaskState::Running, TaskState::Dead];

    /// The name, which is that of the directory.
    pub fn name(self) -> &'static str {
        match self {
            TaskState::Pending => PENDING,
            TaskState::Delayed => DELAYED,
            TaskState::Running => RUNNING,
            TaskState::Dead => DEAD,
        }
    }
}

/// How many tasks there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskStats {
    /// That can be claimed.
    pub pending: u64,
    /// That will be pending when they are due.
    pub delayed: u64,
    /// That workers have.
    pub running: u64,
    /// Dead letters.
    pub dead: u64,
}

/// A task of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskEntry {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub state: TaskState,
    /// What was put. Of something that is no task: what stands there.
    pub payload: Bytes,
    /// The lowest goes first.
    pub priority: u16,
    /// How many attempts came to nothing.
    pub attempts: u32,
    /// How many it has.
    pub max_attempts: u32,
    /// Why the last one came to nothing.
    pub last_error: Option<String>,
    /// When it came into this state: milliseconds since the Unix epoch by the ensemble's clock.
    pub since_ms: u64,
    /// When it is due, if it is delayed.
    pub due_ms: Option<u64>,
    /// Who has it, if it is running.
    pub worker: Option<String>,
    /// What that said last of how far it is.
    pub progress: Option<Json>,
    /// The epoch of its claim.
    pub epoch: Option<u64>,
    /// Of its znode.
    name: String,
}

/// The data of a claim's znode, as far as a listing shows it. Any program may have written it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Holder {
    worker: Value,
    progress: Option<Json>,
}

impl TaskQueue {
    /// How many tasks there are in each state: one request, whatever the numbers.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn stats(&self) -> Result<TaskStats, Error> {
        let read = self.tree().client.multi_read(ReadLevel::Linearizable);
        let read =
            TaskState::ALL.iter().fold(read, |read, state| read.exists(self.tree().directory(state.name())));
        let mut counts = [0; 4];
        for (count, answer) in counts.iter_mut().zip(read.send().await?) {
            if let ReadResult::Exists(Some(stat)) = answer? {
                *count = u64::from(stat.num_children);
            }
        }
        let [pending, delayed, running, dead] = counts;
        Ok(TaskStats { pending, delayed, running, dead })
    }

    /// Some tasks of one state, in the order in which they go (dead ones by id): those after `after`, an entry
    /// of such a list, or the first ones; at most `limit`, which is at most 1,000.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn list(
        &self,
        state: TaskState,
        after: Option<&TaskEntry>,
        limit: u32,
    ) -> Result<Vec<TaskEntry>, Error> {
        let tree = self.tree();
        let after = after.map_or_else(String::new, |entry| entry.name.clone());
        let options = ListOptions { after, limit: limit.clamp(1, 1000), with_stat: false };
        // With everything that was acknowledged; the reads after it see at least as much.
        let page =
            tree.client.list_page(tree.directory(state.name()), ReadLevel::Linearizable, options).await?;
        if page.children.is_empty() {
            return Ok(Vec::new());
        }
        // One by one, because the answers of one request have a limit that a few large tasks exceed; sent together.
        let reads = page.children.iter().map(|child| tree.read(state.name(), &child.name));
        let mut entries = Vec::with_capacity(page.children.len());
        for (child, answer) in page.children.iter().zip(join_all(reads).await) {
            if let Some((data, stat)) = answer? {
                let mut entry = entry(state, &child.name, data, stat.ctime);
                if state == TaskState::Running {
                    self.add_holder(&mut entry).await?;
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    async fn add_holder(&self, entry: &mut TaskEntry) -> Result<(), Error> {
        if let Some((data, stat)) = self.tree().read(CLAIMS, &entry.id).await? {
            let Holder { worker, progress } = serde_json::from_slice(&data).unwrap_or_default();
            entry.worker = Some(worker.as_str().unwrap_or_default().to_owned());
            entry.progress = progress;
            entry.epoch = Some(stat.czxid);
        }
        Ok(())
    }

    /// Makes a dead letter pending again, with all its attempts. Returns whether there was one of this id.
    ///
    /// # Errors
    ///
    /// `BadArguments` for one that is no task; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn requeue(&self, id: &str) -> Result<bool, Error> {
        let tree = self.tree();
        let Some((data, stat)) = found(tree.client.get(tree.node(DEAD, id), ReadLevel::Linearizable).await)?
        else {
            return Ok(false);
        };
        let Some(mut record) = Record::parse(&data).filter(|record| record.payload().is_some()) else {
            return Err(Error::new(ErrorKind::BadArguments, format!("the dead letter {id} is no task")));
        };
        (record.attempts, record.last_error) = (0, None);
        tree.relocate((DEAD, id), &stat, (PENDING, id), record.to_bytes()).await
    }

    /// Removes a task that no worker has, for good. Returns whether there was one of this id in this state.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a running task; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn discard(&self, state: TaskState, id: &str) -> Result<bool, Error> {
        let tree = self.tree();
        let path = match state {
            TaskState::Running => {
                let message = format!("the task {id} is running: its worker completes or fails it");
                return Err(Error::new(ErrorKind::BadArguments, message));
            }
            TaskState::Delayed => match self.delayed_name(id).await? {
                Some(name) => tree.node(DELAYED, &name),
                None => return Ok(false),
            },
            TaskState::Pending | TaskState::Dead => tree.node(state.name(), id),
        };
        Ok(found(tree.client.delete(path, None).await)?.is_some())
    }

    async fn delayed_name(&self, id: &str) -> Result<Option<String>, Error> {
        let names =
            self.tree().client.children(self.tree().directory(DELAYED), ReadLevel::Linearizable).await?;
        let is_it = |name: &String| DelayedName::parse(name).is_some_and(|name| name.id == id);
        Ok(names.into_iter().find(is_it))
    }
}

fn entry(state: TaskState, name: &str, data: Bytes, ctime: u64) -> TaskEntry {
    let delayed = DelayedName::parse(name).filter(|_| state == TaskState::Delayed);
    let record = Record::parse(&data);
    TaskEntry {
        id: delayed.as_ref().map_or(name, |delayed| delayed.id).to_owned(),
        state,
        payload: record.as_ref().and_then(Record::payload).unwrap_or(data),
        priority: record.as_ref().map_or(0, |record| record.priority),
        attempts: record.as_ref().map_or(0, |record| record.attempts),
        max_attempts: record.as_ref().map_or(0, |record| record.max_attempts),
        last_error: match record {
            Some(record) => record.last_error,
            None => Some("this is no task".into()),
        },
        since_ms: ctime,
        due_ms: delayed.map(|delayed| ctime.saturating_add(delayed.delay_ms)),
        worker: None,
        progress: None,
        epoch: None,
        name: name.to_owned(),
    }
}
