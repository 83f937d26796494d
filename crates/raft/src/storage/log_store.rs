//! The log as openraft uses it: answered from memory, written by the WAL thread.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::LOST_ADVICE;
use super::data_dir::{DataDir, DataDirError};
use super::journal::is_journal;
use super::log_memory::LogMemory;
use super::recovery::{Recovered, recover};
use super::sled_wal::{SledWal, WATERMARK_FILE};
use super::wal::{Wal, WalError};
use super::wal_queue::{Op, WalQueue};
use super::wal_sizes::WalSizes;
use super::wal_stats::{WalCounters, WalStats};
use super::wal_thread::WalThread;
use super::watermark::Watermark;
use crate::type_config::NodeId;
use crate::type_config::types::{LogId, Membership};

/// Why the log cannot be opened. The node must not start: it would forget what it promised.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The engine failed.
    #[error("{0}{advice}", advice = advice_for(.0))]
    Wal(#[from] WalError),
    /// The data directory failed.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The disk lost something that this node had acknowledged, and that others may count on.
    #[error(
        "record {seq} of the log{found_in} is lost ({cause}), and it had been acknowledged (the log was durable up to \
         {acknowledged} at least); {LOST_ADVICE}", found_in = within(place)
    )]
    AcknowledgedDataLost {
        /// The first record that is lost.
        seq: u64,
        /// What was durable, if the watermark knows; 0 if it does not.
        acknowledged: u64,
        /// What was found.
        cause: String,
        /// The file that should have it, or the directory.
        place: String,
    },
    /// The file that says how far the log was acknowledged is not what it was, so a lost end of the log would not be noticed.
    #[error(
        "{file}: {cause}, and without it this node cannot know whether its log is all that it acknowledged; restore the \
         file from a copy that was made after the node was stopped last; without one, {LOST_ADVICE}"
    )]
    WatermarkLost {
        /// The file.
        file: PathBuf,
        /// What was found.
        cause: &'static str,
    },
    /// A whole record that this version cannot read.
    #[error(
        "record {seq} of the log{found_in} cannot be read: {cause}; was it written by another version of coordd?",
        found_in = within(place)
    )]
    Unreadable {
        /// The record.
        seq: u64,
        /// What was found.
        cause: String,
        /// The file that has it, or the directory.
        place: String,
    },
    /// The log is of another node or ensemble than the directory it is in.
    #[error(
        "the log belongs to {found}, the data directory to {wanted}; the directory's parts were mixed up"
    )]
    Foreign {
        /// Whose log.
        found: String,
        /// Whose directory.
        wanted: String,
    },
}

fn within(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" in {place}") }
}

/// A file whose content is not what was written is not to be tried again.
fn advice_for(error: &WalError) -> String {
    match error.source.kind() {
        std::io::ErrorKind::InvalidData => format!("; {LOST_ADVICE}"),
        _ => String::new(),
    }
}

impl OpenError {
    /// The same, with the place in which a record was looked for.
    fn at(mut self, find: impl FnOnce(u64) -> PathBuf) -> OpenError {
        if let OpenError::AcknowledgedDataLost { seq, place, .. } | OpenError::Unreadable { seq, place, .. } =
            &mut self
        {
            *place = find(*seq).display().to_string();
        }
        self
    }
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of entries that are kept in memory. Older ones, once durable, are read from disk when a lagging follower
    /// needs them.
    pub cached_bytes_max: usize,
    /// How large the files on disk are.
    pub sizes: WalSizes,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { cached_bytes_max: 8 << 20, sizes: WalSizes::default() }
    }
}

/// Whose log it is; in every record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOwner {
    /// The node.
    pub node_id: NodeId,
    /// The ensemble; empty until one is formed.
    pub cluster_id: String,
}

/// What the handles and the WAL thread share.
pub(super) struct Shared {
    /// Held for look-ups and in-memory changes, never over I/O or an await. Taken before the queue's lock.
    memory: Mutex<LogMemory>,
    pub(super) queue: WalQueue,
    pub(super) wal: Box<dyn Wal>,
    pub(super) counters: WalCounters,
    pub(super) room: RoomWait,
    cluster_id: Mutex<String>,
}

/// Since when the WAL thread waits for room on the disk, if it does.
#[derive(Default)]
pub(super) struct RoomWait(Mutex<Option<Instant>>);

impl RoomWait {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait_begins(&self) {
        self.since().get_or_insert_with(Instant::now);
    }

    pub(super) fn wait_ends(&self) {
        *self.since() = None;
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, LogMemory> {
        // A panic ends the process (`panic = "abort"`), so nobody meets what it left behind.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cluster_id(&self) -> MutexGuard<'_, String> {
        self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Raft log, the vote and the committed index of one node. Clones are handles of the same log.
///
/// Implements openraft's `RaftLogStorage` and `RaftLogReader`:
///
/// - `append` returns when the entries can be read; the callback comes from the thread `wal` when they are durable.
/// - `save_vote` returns when the vote is durable.
/// - `truncate_after` and `purge` take effect at once, and on disk in the order of the calls; `save_committed` goes with
///   the next record.
///
/// An error of the disk aborts the process. Dropping all handles without [`close`](LogStore::close) leaves the thread
/// and the files open until the process ends; nothing durable is lost by that.
#[derive(Clone)]
pub struct LogStore {
    pub(super) shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl LogStore {
    /// Opens the log of a data directory, or makes it. Blocks on the disk: reads and checks the whole log.
    pub fn open(dir: &mut DataDir, options: LogOptions) -> Result<LogStore, OpenError> {
        let watermark = dir.wal_dir().join(WATERMARK_FILE);
        if dir.log_started() && has_journal(&dir.wal_dir())? {
            let damage = Watermark::damage(&watermark, dir.has_watermark());
            if let Some(cause) = damage.map_err(WalError::at("read the watermark"))? {
                return Err(OpenError::WatermarkLost { file: watermark, cause });
            }
        }
        let wal = SledWal::open(&dir.wal_dir(), options.sizes)?;
        let owner =
            LogOwner { node_id: dir.node_id(), cluster_id: dir.cluster_id().unwrap_or_default().to_owned() };
        let place = dir.wal_dir().display().to_string();
        if dir.log_started() && wal.bounds()?.is_none() {
            return Err(OpenError::AcknowledgedDataLost {
                seq: 1,
                acknowledged: wal.acknowledged_seq(),
                cause: "the log is empty".into(),
                place,
            });
        }
        let recovered = recover(&wal, options.cached_bytes_max);
        let recovered = recovered.map_err(|error| error.at(|seq| wal.place_of(seq)))?;
        // Marked only when the first record was durable, so that one is not unfinished: it is lost.
        if dir.log_started() && recovered.seq == 0 {
            return Err(OpenError::AcknowledgedDataLost {
                seq: 1,
                acknowledged: wal.acknowledged_seq(),
                cause: "it was the only one, and is damaged".into(),
                place,
            });
        }
        let log = LogStore::start(Box::new(wal), owner, recovered)?;
        if !dir.log_started() || !dir.has_watermark() {
            // From here on there is something in it, whatever a loss of power takes.
            let sync = || File::open(&watermark)?.sync_all();
            sync().map_err(WalError::at("sync the watermark"))?;
            dir.mark_log_started()?;
        }
        Ok(log)
    }

    /// Opens the log that is in `wal`. Blocks on it. For engines under test; a node uses [`open`](LogStore::open).
    pub fn with_wal(wal: Box<dyn Wal>, owner: LogOwner, options: LogOptions) -> Result<LogStore, OpenError> {
        let recovered = recover(wal.as_ref(), options.cached_bytes_max)?;
        LogStore::start(wal, owner, recovered)
    }

    fn start(wal: Box<dyn Wal>, owner: LogOwner, recovered: Recovered) -> Result<LogStore, OpenError> {
        let Recovered { memory, seq, mut state } = recovered;
        if seq > 0 {
            check_owner(&owner, state.node_id, &state.cluster_id)?;
        }
        state.node_id = owner.node_id;
        let purged = memory.purged();
        let shared = Arc::new(Shared {
            memory: Mutex::new(memory),
            queue: WalQueue::default(),
            wal,
            counters: WalCounters::default(),
            room: RoomWait::default(),
            cluster_id: Mutex::new(owner.cluster_id),
        });
        let mut writer = WalThread::new(Arc::clone(&shared), seq, state, purged);
        // A new log has a record from the start; one that was read is followed by one that says how far it was whole.
        writer.commit_group();
        let thread = std::thread::Builder::new().name("wal".into()).spawn(move || writer.run());
        let thread = thread.map_err(WalError::at("start the thread"))?;
        Ok(LogStore { shared, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// The newest membership in the entries that are not purged, and its entry.
    pub fn membership(&self) -> Option<(LogId, Membership)> {
        self.shared.lock().membership().cloned()
    }

    /// It holds anything of Raft: an entry or a vote.
    pub fn has_begun(&self) -> bool {
        let memory = self.shared.lock();
        memory.last_log_id().is_some() || memory.vote.is_some()
    }

    /// The last entry, or what was purged last if there is none.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.shared.lock().last_log_id()
    }

    /// The log id at `index`, if that entry is in memory.
    pub fn cached_log_id(&self, index: u64) -> Option<LogId> {
        self.shared.lock().cached_log_id(index)
    }

    /// Charged bytes of the entries that are not purged: what a restart has to read, and the measure for when to take a
    /// snapshot.
    pub fn log_bytes_since_purge(&self) -> u64 {
        self.shared.lock().log_bytes()
    }

    /// The last entry that was removed from the front of the log.
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.shared.lock().purged().map(|id| id.index)
    }

    /// Charged bytes of the entries in memory.
    pub fn cached_bytes(&self) -> usize {
        self.shared.lock().cached_bytes()
    }

    /// What the WAL thread did so far.
    pub fn stats(&self) -> WalStats {
        self.shared.counters.read()
    }

    /// How long nothing has become durable for want of room on the disk; `None` if that is not so.
    pub fn waits_for_room(&self) -> Option<Duration> {
        self.shared.room.since().map(|since| since.elapsed())
    }

    /// The ensemble that the following records are marked with. Call it after
    /// [`DataDir::set_cluster_id`](super::DataDir::set_cluster_id).
    pub fn set_cluster_id(&self, cluster_id: &str) {
        cluster_id.clone_into(&mut self.shared.cluster_id());
    }

    /// Waits until all that was called before is durable.
    pub async fn sync(&self) -> std::io::Result<()> {
        let (durable, wait) = oneshot::channel();
        self.push(Op::Barrier(durable))?;
        wait.await.map_err(|_| closed())
    }

    /// Later writes fail. What was called before becomes durable, if there is room for it on the disk; otherwise, what waits for it is
    /// given up, as if the process had been killed.
    pub fn stop_writing(&self) {
        self.shared.queue.close();
    }

    /// [Stops writing](Self::stop_writing), and waits for the end of the thread. The files are closed when the last handle is dropped.
    /// Blocks on the disk.
    pub fn close(self) {
        self.stop_writing();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the WAL thread panicked");
        }
    }

    /// Adds to the queue. The caller holds the memory's lock if the operation changed it, so that the disk sees changes
    /// in the order in which readers do.
    pub(super) fn push(&self, op: Op) -> std::io::Result<()> {
        self.shared.queue.push(op).map_err(std::io::Error::other)
    }
}

/// Whether there is anything of a log. If not, that is what is to be said of a log that has begun.
fn has_journal(wal_dir: &Path) -> Result<bool, OpenError> {
    let has = || match std::fs::read_dir(wal_dir) {
        Ok(mut files) => files.try_fold(false, |has, file| Ok(has || is_journal(&file?.file_name()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    Ok(has().map_err(WalError::at("look for the journal"))?)
}

pub(super) fn closed() -> std::io::Error {
    std::io::Error::other(super::wal_queue::Closed)
}

fn check_owner(owner: &LogOwner, node_id: NodeId, cluster_id: &str) -> Result<(), OpenError> {
    // The directory learns the ensemble's name before the log does, so an empty name in the log is no contradiction.
    if node_id == owner.node_id && (cluster_id.is_empty() || cluster_id == owner.cluster_id) {
        return Ok(());
    }
    let name = |node_id: NodeId, cluster_id: &str| format!("node {node_id} of ensemble {cluster_id:?}");
    Err(OpenError::Foreign {
        found: name(node_id, cluster_id),
        wanted: name(owner.node_id, &owner.cluster_id),
    })
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.shared.lock();
        f.debug_struct("LogStore")
            .field("indexes", &memory.indexes())
            .field("last_log_id", &memory.last_log_id())
            .finish_non_exhaustive()
    }
}
