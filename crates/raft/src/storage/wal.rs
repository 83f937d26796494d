//! What the log needs of an engine, and no more: so that engines can be measured beside each other, and so that a
//! test can be an engine.

use std::io;
use std::time::Duration;

/// An engine failed. The state of the disk is unknown from here on: the process must stop, and must not try again
/// (a second fsync after a failed one may succeed although the data is gone).
#[derive(Debug, thiserror::Error)]
#[error("write-ahead log: {what}: {source}")]
pub struct WalError {
    /// What was being done.
    pub what: &'static str,
    /// How it failed.
    pub source: io::Error,
}

impl WalError {
    /// For `map_err`.
    pub fn at(what: &'static str) -> impl FnOnce(io::Error) -> WalError {
        move |source| WalError { what, source }
    }
}

/// Where the time of a commit went.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitTimes {
    /// Handing the record to the engine, and the engine to the kernel.
    pub write: Duration,
    /// Waiting for the disk (fdatasync).
    pub sync: Duration,
}

/// A store of records under ascending sequence numbers.
///
/// Records are committed by one thread at a time, each `seq` one more than the last; they are read by any thread. An
/// engine need not make a record atomic: a record that was not committed may be found whole, in part or not at all
/// after a crash, and carries its own checksum. What it must do:
///
/// - after [`commit`](Wal::commit) returned, the record survives a loss of power, and so does what was found when it was opened;
/// - [`acknowledged_seq`](Wal::acknowledged_seq) is never more than the last commit that returned.
pub trait Wal: Send + Sync + 'static {
    /// The lowest and the highest sequence number found, whether their records are whole or not.
    fn bounds(&self) -> Result<Option<(u64, u64)>, WalError>;

    /// The bytes found under `seq`, `None` if there are none. Of a record of this life, after it was
    /// [settled](Wal::settle).
    fn read(&self, seq: u64) -> Result<Option<Vec<u8>>, WalError>;

    /// A lower bound, kept apart from the records, of what was committed: if less is found, the engine lost some. 0 if
    /// it is not known.
    fn acknowledged_seq(&self) -> u64;

    /// Makes the record durable. One fdatasync, but for rare times when the engine has to make room. After an error of a full
    /// disk (`StorageFull`, `QuotaExceeded`), and no other, the same record may be committed again.
    fn commit(&self, seq: u64, record: &[u8]) -> Result<CommitTimes, WalError>;

    /// Called with each record after its commit and before the next one, when nobody waits for it any more: the place
    /// for work that makes the record readable and is not needed for its durability.
    fn settle(&self, _seq: u64, _record: &[u8]) -> Result<(), WalError> {
        Ok(())
    }

    /// Forgets the records up to `through` inclusive, in ascending order, about `max` pieces of them at a time. Returns
    /// whether some are left. Need not be durable.
    fn remove_prefix(&self, through: u64, max: usize) -> Result<bool, WalError>;

    /// Forgets the records from `from` on. Durable when it returns.
    fn remove_suffix(&self, from: u64) -> Result<(), WalError>;

    /// Called once, after the last commit of an orderly end.
    fn close(&self) -> Result<(), WalError>;
}
