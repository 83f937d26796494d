//! A node's data directory: who it belongs to, and that one process at a time has it.
//!
//! ```text
//! <dir>/LOCK        held (flock) for the life of the process
//! <dir>/IDENTITY    whose directory this is; see `identity.rs`. IDENTITY.tmp has the room for the next one
//! <dir>/wal/        the log, see `sled_wal.rs`
//! <dir>/snapshots/  see `snapshot_store.rs`
//! ```

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::durable_file::{
    create_private_dir, make_private, private_file, replace_file, sync_ancestors, sync_dir,
};
use super::identity::{Identity, IdentityError};
use crate::type_config::NodeId;

const LOCK: &str = "LOCK";
const IDENTITY: &str = "IDENTITY";
const IDENTITY_NEXT: &str = "IDENTITY.tmp";
const WAL: &str = "wal";
const SNAPSHOTS: &str = "snapshots";
/// What may be in a directory that is still "empty": our own beginnings, and what mkfs leaves in a mount point.
const IGNORED_WHEN_EMPTY: [&str; 3] = [LOCK, IDENTITY_NEXT, "lost+found"];

/// Why a data directory cannot be used. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("{dir} is in use by another process; stop that one, or give this node its own data directory")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It belongs to another node.
    #[error(
        "{dir} belongs to node {found}, not to node {wanted}; correct the node id or the data directory \
         (a node id is never given to another disk)"
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        wanted: NodeId,
    },
    /// It belongs to another ensemble.
    #[error("{dir} belongs to ensemble {found:?}, not to {wanted:?}; give this node an empty data directory")]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// It holds files, and none that says it is ours.
    #[error(
        "{dir} is not empty and has no IDENTITY file (found {found:?}); use an empty directory, \
         or restore IDENTITY if this is a coordd data directory"
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// The first file found there.
        found: String,
    },
    /// Its identity cannot be read.
    #[error("{file}: {cause}")]
    Identity {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: IdentityError,
    },
    /// The value is not one that can be kept.
    #[error("{0}")]
    BadValue(String),
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
}

/// An open data directory. It is locked against other processes until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    /// Released by the kernel when the process ends, however it ends.
    lock: File,
}

impl DataDir {
    /// [Looks at](Self::inspect) the directory of `node_id`, and [begins](Self::begin) to use it.
    pub fn open(path: impl Into<PathBuf>, node_id: NodeId) -> Result<DataDir, DataDirError> {
        let mut dir = DataDir::inspect(path, node_id)?;
        dir.begin()?;
        Ok(dir)
    }

    /// Locks the directory of `node_id`, and makes it if there is none. One that has an identity is not changed. Blocks on the
    /// disk.
    pub fn inspect(path: impl Into<PathBuf>, node_id: NodeId) -> Result<DataDir, DataDirError> {
        let path = path.into();
        if node_id == 0 {
            return Err(DataDirError::BadValue("a node id is from 1; 0 is no node".into()));
        }
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        create_private_dir(&path).map_err(io_at(&path))?;

        let lock_path = path.join(LOCK);
        let lock = private_file().truncate(false).open(&lock_path);
        let lock = lock.map_err(io_at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse { dir: path }),
            Err(TryLockError::Error(source)) => return Err(DataDirError::Io { path: lock_path, source }),
        }

        let identity_path = path.join(IDENTITY);
        let identity = match std::fs::read(&identity_path) {
            Ok(bytes) => Identity::decode(&bytes)
                .map_err(|cause| DataDirError::Identity { file: identity_path.clone(), cause })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                refuse_foreign_files(&path)?;
                refuse_lost_identity(&path)?;
                // Before the first promise: without its name the whole directory would be an empty one after a power loss.
                sync_ancestors(&path).map_err(io_at(&path))?;
                Identity::new(node_id)
            }
            Err(e) => return Err(io_at(&identity_path)(e)),
        };
        if identity.node_id != node_id {
            return Err(DataDirError::OtherNode { dir: path, found: identity.node_id, wanted: node_id });
        }

        Ok(DataDir { path, identity, lock })
    }

    /// Counts a new incarnation, durable before this returns. Blocks on the disk.
    pub fn begin(&mut self) -> Result<(), DataDirError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        make_private(&self.path);
        for linked in [self.path.join(WAL), self.path.join(SNAPSHOTS)].iter().filter(|sub| sub.is_symlink()) {
            make_private(linked);
        }
        let incarnation = self.identity.incarnation + 1;
        self.save(Identity { incarnation, ..self.identity.clone() })?;
        for sub in [self.wal_dir(), self.snapshot_dir()] {
            create_private_dir(&sub).map_err(io_at(&sub))?;
        }
        sync_dir(&self.path).map_err(io_at(&self.path))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose directory this is.
    pub fn node_id(&self) -> NodeId {
        self.identity.node_id
    }

    /// The ensemble this node belongs to; `None` until one is formed or joined.
    pub fn cluster_id(&self) -> Option<&str> {
        Some(self.identity.cluster_id.as_str()).filter(|id| !id.is_empty())
    }

    /// The nodes that the ensemble was formed with, ascending; empty if that is not known.
    pub fn formed_with(&self) -> &[NodeId] {
        &self.identity.formed_with
    }

    /// How often this directory has been opened, from 1: differs between any two lives of the node.
    pub fn incarnation(&self) -> u64 {
        self.identity.incarnation
    }

    /// Where the log is.
    pub fn wal_dir(&self) -> PathBuf {
        self.path.join(WAL)
    }

    /// Where the snapshots are.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Joins the directory to an ensemble for ever. Durable when it returns; the same id again is fine, another is refused.
    pub fn set_cluster_id(&mut self, cluster_id: &str) -> Result<(), DataDirError> {
        self.join(cluster_id, &[])
    }

    /// The same, and keeps which nodes the ensemble is formed with, if these are some.
    pub fn join(&mut self, cluster_id: &str, formed_with: &[NodeId]) -> Result<(), DataDirError> {
        if !Identity::is_cluster_id(cluster_id) {
            return Err(DataDirError::BadValue(format!(
                "cluster id {cluster_id:?} is not 1 to 64 of the characters a-z A-Z 0-9 . _ -"
            )));
        }
        if let Some(found) = self.cluster_id()
            && found != cluster_id
        {
            return Err(DataDirError::OtherCluster {
                dir: self.path.clone(),
                found: found.to_owned(),
                wanted: cluster_id.to_owned(),
            });
        }
        let mut next = Identity { cluster_id: cluster_id.to_owned(), ..self.identity.clone() };
        if !formed_with.is_empty() {
            next.formed_with = formed_with.to_vec();
        }
        if next == self.identity { Ok(()) } else { self.save(next) }
    }

    /// Whether a log was once made durable here. From then on an empty log is a lost log.
    pub(super) fn log_started(&self) -> bool {
        self.identity.log_started
    }

    /// Whether something was durable in the log's watermark.
    pub(super) fn has_watermark(&self) -> bool {
        self.identity.has_watermark
    }

    /// The log's first record is durable, and so is the watermark. Must be durable itself before anything is acknowledged.
    pub(super) fn mark_log_started(&mut self) -> Result<(), DataDirError> {
        self.save(Identity { log_started: true, has_watermark: true, ..self.identity.clone() })
    }

    fn save(&mut self, identity: Identity) -> Result<(), DataDirError> {
        let path = self.path.join(IDENTITY);
        replace_file(&path, &identity.encode()).map_err(|source| DataDirError::Io { path, source })?;
        self.identity = identity;
        Ok(())
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Not left to the closing of the file: a child process that is being started has a copy of it for a moment.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "the data directory stays locked until the process ends");
        }
    }
}

/// The room for the next identity holds a copy of the last one. Where that had joined an ensemble, an identity was there.
fn refuse_lost_identity(dir: &Path) -> Result<(), DataDirError> {
    let path = dir.join(IDENTITY_NEXT);
    let last = std::fs::read(&path).ok().and_then(|bytes| Identity::decode(&bytes).ok());
    match last {
        Some(last) if !last.cluster_id.is_empty() => {
            Err(DataDirError::NotOurs { dir: dir.to_owned(), found: IDENTITY_NEXT.to_owned() })
        }
        _ => Ok(()),
    }
}

fn refuse_foreign_files(dir: &Path) -> Result<(), DataDirError> {
    let io = |source| DataDirError::Io { path: dir.to_owned(), source };
    for file in std::fs::read_dir(dir).map_err(io)? {
        let name = file.map_err(io)?.file_name().to_string_lossy().into_owned();
        if !IGNORED_WHEN_EMPTY.contains(&name.as_str()) {
            return Err(DataDirError::NotOurs { dir: dir.to_owned(), found: name });
        }
    }
    Ok(())
}
