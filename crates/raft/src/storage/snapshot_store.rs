//! The directory of snapshots.
//!
//! ```text
//! snap-<term>-<node>-<index>   a snapshot up to that log id, complete; `snap-empty` before the first entry
//! <number>.tmp                 one on its way
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::durable_file::{create_private_dir, sync_dir};
use super::snapshot_file::{SnapshotFile, named};
use super::snapshot_writer::{SnapshotReceiver, SnapshotWriter};
use crate::type_config::types::{LeaderId, LogId, SnapshotMeta};

const EMPTY: &str = "snap-empty";
const TMP: &str = "tmp";

/// The snapshots of one node. Clones are handles of the same directory. All methods but [`latest`](Self::latest) block on
/// the disk.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Held for a look or an exchange, never over I/O.
    latest: Mutex<Option<SnapshotFile>>,
    tmp_count: AtomicU64,
}

impl SnapshotStore {
    /// Opens the directory, or makes it, and removes what was not finished. Fails if the newest snapshot is damaged: an
    /// older one would not do, because the log between the two is purged.
    pub fn open(dir: &Path) -> io::Result<SnapshotStore> {
        create_private_dir(dir)?;
        for file in std::fs::read_dir(dir)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == TMP) {
                std::fs::remove_file(&path)?;
            }
        }
        let latest = match newest(dir)? {
            Some((last_log_id, path)) => {
                // The last process may have been killed before it did that, and the log is purged up to here from now on.
                sync_dir(dir)?;
                let file = SnapshotFile::open(&path).map_err(|e| named(&path, e))?;
                if file.meta.last_log_id != last_log_id {
                    let other =
                        io::Error::new(io::ErrorKind::InvalidData, "the content is of another snapshot");
                    return Err(named(&path, other));
                }
                Some(file)
            }
            None => None,
        };
        let inner = Inner { dir: dir.to_owned(), latest: Mutex::new(latest), tmp_count: AtomicU64::new(0) };
        Ok(SnapshotStore { inner: Arc::new(inner) })
    }

    /// The newest complete snapshot.
    pub fn latest(&self) -> Option<SnapshotFile> {
        self.lock().clone()
    }

    /// Begins a snapshot of this node's tree.
    pub fn writer(&self, meta: &SnapshotMeta) -> io::Result<SnapshotWriter> {
        SnapshotWriter::create(self.clone(), self.tmp_path(), meta)
    }

    /// Begins to receive the leader's snapshot file of `file_bytes` bytes.
    pub fn receive(&self, meta: &SnapshotMeta, file_bytes: u64) -> io::Result<SnapshotReceiver> {
        SnapshotReceiver::create(self.clone(), self.tmp_path(), meta, file_bytes)
    }

    /// Deletes the snapshots that are older than `keep`. What is being read of them stays readable; one that is newer,
    /// finished by another task meanwhile, stays.
    pub fn keep_only(&self, keep: &SnapshotFile) -> io::Result<()> {
        let mut deleted = false;
        for file in std::fs::read_dir(&self.inner.dir)? {
            let path = file?.path();
            if log_id_of(&path).is_some_and(|last_log_id| last_log_id < keep.meta.last_log_id) {
                match std::fs::remove_file(&path) {
                    Ok(()) => deleted = true,
                    // Somebody else keeps only the newest, too.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        match deleted {
            true => sync_dir(&self.inner.dir),
            false => Ok(()),
        }
    }

    /// Makes `file` the latest if it is at least as new.
    pub(super) fn offer(&self, file: &SnapshotFile) {
        let mut latest = self.lock();
        if latest.as_ref().is_none_or(|latest| latest.meta.last_log_id <= file.meta.last_log_id) {
            *latest = Some(file.clone());
        }
    }

    pub(super) fn path_of(&self, meta: &SnapshotMeta) -> PathBuf {
        self.inner.dir.join(match meta.last_log_id {
            Some(id) => format!("snap-{}-{}-{}", id.leader_id.term, id.leader_id.node_id, id.index),
            None => EMPTY.to_owned(),
        })
    }

    fn tmp_path(&self) -> PathBuf {
        let number = self.inner.tmp_count.fetch_add(1, Ordering::Relaxed);
        self.inner.dir.join(format!("{number}.{TMP}"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        // Exchanged in one step: a panic elsewhere cannot leave it half done.
        self.inner.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest snapshot in `dir`, by its name.
fn newest(dir: &Path) -> io::Result<Option<(Option<LogId>, PathBuf)>> {
    let mut newest: Option<(Option<LogId>, PathBuf)> = None;
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if let Some(last_log_id) = log_id_of(&path)
            && newest.as_ref().is_none_or(|(newest, _)| *newest < last_log_id)
        {
            newest = Some((last_log_id, path));
        }
    }
    Ok(newest)
}

/// What the newest snapshot in `dir` says that it covers. Nothing is changed there.
pub(super) fn newest_meta(dir: &Path) -> io::Result<Option<SnapshotMeta>> {
    match newest(dir)? {
        Some((_, path)) => Ok(Some(SnapshotFile::open(&path).map_err(|e| named(&path, e))?.meta)),
        None => Ok(None),
    }
}

/// What a snapshot's name says it covers; `None` for another file.
fn log_id_of(path: &Path) -> Option<Option<LogId>> {
    let name = path.file_name()?.to_str()?;
    if name == EMPTY {
        return Some(None);
    }
    let mut numbers = name.strip_prefix("snap-")?.split('-').map(|number| number.parse::<u64>().ok());
    let (term, node_id, index) = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(Some(LogId { leader_id: LeaderId { term, node_id }, index }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_what_the_snapshot_covers() {
        let id = |term, node_id, index| Some(Some(LogId { leader_id: LeaderId { term, node_id }, index }));
        assert_eq!(log_id_of(Path::new("/d/snap-3-1-99")), id(3, 1, 99));
        assert_eq!(log_id_of(Path::new("/d/snap-empty")), Some(None));
        for other in ["snap-3-1", "snap-3-1-99-1", "snap-3-1-x", "0.tmp", "snap-"] {
            assert_eq!(log_id_of(Path::new(other)), None, "{other}");
        }
    }
}
