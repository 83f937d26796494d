//! The log and the snapshots on disk.
//!
//! ```text
//! openraft ─► LogStore ─► WalQueue ─► thread "wal": one record per group ─► Wal (SledWal): journal, one fdatasync; sled
//!                │ memory                   │ callbacks, newest first
//!                └─► reads                  └─► openraft
//! ```
//!
//! - A [`DataDir`] is locked, and knows whose it is.
//! - A [`LogStore`] answers from memory and writes behind; nothing of it blocks on the disk but `save_vote`.
//! - A [`SnapshotStore`] keeps snapshots as files with a checksum over every block.

mod data_dir;
mod durable_file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod identity;
mod journal;
mod journal_file;
mod journal_reader;
mod log_memory;
mod log_storage;
mod log_store;
mod membership_on_disk;
mod recovery;
mod sled_wal;
mod snapshot_file;
mod snapshot_format;
mod snapshot_store;
mod snapshot_writer;
mod wal;
mod wal_queue;
mod wal_record;
mod wal_sizes;
mod wal_stats;
mod wal_thread;
mod watermark;

/// What to do about a node that has lost what it had acknowledged, or cannot read it any more.
pub(crate) const LOST_ADVICE: &str = "do not start this node again; the others go on while they are a majority, and \
     docs/operations.md, \"Replacing a node\", says what is possible; without others, restore a backup of the whole directory";

pub use data_dir::{DataDir, DataDirError};
pub(crate) use durable_file::{is_full_disk, private_file};
pub use identity::IdentityError;
pub use log_storage::ENTRY_BYTES_MAX;
pub use log_store::{LogOptions, LogOwner, LogStore, OpenError};
pub(crate) use membership_on_disk::{membership_on_disk, newer};
pub use sled_wal::SledWal;
pub use snapshot_file::{SnapshotChunks, SnapshotFile};
pub use snapshot_format::SnapshotDamage;
pub use snapshot_store::SnapshotStore;
pub use snapshot_writer::{SnapshotReceiver, SnapshotWriter};
pub use wal::{CommitTimes, Wal, WalError};
pub use wal_sizes::WalSizes;
pub use wal_stats::WalStats;
