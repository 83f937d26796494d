//! The write-ahead log: a journal that keeps it, and sled, from which it is read. The one file that knows sled.
//!
//! # Durability
//!
//! sled is not believed. Its `flush` is not durable on Linux: it waits with `sync_file_range`, which covers neither the
//! file's size and extents nor the disk's cache. It uses segments of its file again on the word of that call, so a loss
//! of power can take what was written long before. What it then finds at its start it answers with an error, with a panic,
//! or with a part of the data. So the log is what the journal has: a commit writes the record there, does the one
//! fdatasync, and is done. Afterwards the record is inserted into sled, where followers that lag and the replay find it by
//! its number; and at each start sled's database is made anew from the journal.
//!
//! # Layout of the database
//!
//! The default tree holds nothing but records. Key: `be_u64(seq) ++ be_u16(chunk)`; value: a chunk of the record, at most
//! 64 KiB, so that a leaf (up to 17 values) stays far below the size where sled would put it into a file of its own. Keys
//! are added at the end and removed at the front.
//!
//! Never used here: `Batch` and transactions (they take a lock over the whole process), `flush_async` (deadlocks).

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use coordd_tree::planted::Bug;

use super::durable_file::{sync_dir, sync_parent};
use super::journal::Journal;
use super::wal::{CommitTimes, Wal, WalError};
use super::wal_sizes::WalSizes;
use super::watermark::Watermark;

const KEY_BYTES: usize = 10;
/// sled's default is 1 GiB. The log is read from memory; this serves the replay and lagging followers only.
const CACHE_BYTES: u64 = 4 << 20;
/// sled collects its garbage in this thread only.
const GC_EVERY_MS: u64 = 200;
const DB_PREFIX: &str = "db-";
const WATERMARK_FILE: &str = "watermark";

/// The write-ahead log in a directory.
#[derive(Debug)]
pub struct SledWal {
    db: sled::Db,
    /// For the WAL thread only; the lock is never waited for.
    journal: Mutex<Journal>,
    watermark: Watermark,
    acknowledged: u64,
    sizes: WalSizes,
}

impl SledWal {
    /// Opens the log in `dir` or makes it, with everything that a later fdatasync does not cover made durable. Blocks
    /// on the disk: reads the whole journal, and writes it to a new database.
    pub fn open(dir: &Path, sizes: WalSizes) -> Result<SledWal, WalError> {
        std::fs::create_dir_all(dir).map_err(WalError::at("create the directory"))?;
        remove_databases(dir).map_err(WalError::at("remove the database of the last start"))?;
        let db = open_sled(dir, sizes)?;
        let watermark =
            Watermark::open(&dir.join(WATERMARK_FILE)).map_err(WalError::at("open the watermark"))?;
        let take = |seq, record: Vec<u8>| insert(&db, sizes, seq, &record).map_err(Failed::Db);
        let journal = Journal::open(dir, sizes.journal_bytes, take);
        let journal = journal.map_err(|failed| match failed {
            Failed::Db(error) => error,
            Failed::Journal(error) => WalError::at("read the journal")(error),
        })?;
        let sync_names = || {
            watermark.sync()?;
            sync_dir(dir)?;
            sync_parent(dir)
        };
        sync_names().map_err(WalError::at("sync the new files"))?;
        let acknowledged = watermark.at_open().max(journal.durable_before());
        Ok(SledWal { db, journal: Mutex::new(journal), watermark, acknowledged, sizes })
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can fail while the journal is read into the database.
enum Failed {
    Db(WalError),
    Journal(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Journal(error)
    }
}

impl Wal for SledWal {
    fn bounds(&self) -> Result<Option<(u64, u64)>, WalError> {
        let at = |e| from_sled("find the first and the last record", e);
        match (self.db.first().map_err(at)?, self.db.last().map_err(at)?) {
            (Some((first, _)), Some((last, _))) => Ok(Some((decode_key(&first)?.0, decode_key(&last)?.0))),
            _ => Ok(None),
        }
    }

    fn read(&self, seq: u64) -> Result<Option<Vec<u8>>, WalError> {
        let mut record = None;
        for (expected, chunk) in self.db.scan_prefix(seq.to_be_bytes()).enumerate() {
            let (key, value) = chunk.map_err(|e| from_sled("read a record", e))?;
            let record = record.get_or_insert_with(Vec::new);
            if usize::from(decode_key(&key)?.1) != expected {
                break; // A chunk is missing: the record's checksum will say so.
            }
            record.extend_from_slice(&value);
        }
        Ok(record)
    }

    fn acknowledged_seq(&self) -> u64 {
        self.acknowledged
    }

    fn commit(&self, seq: u64, record: &[u8]) -> Result<CommitTimes, WalError> {
        let start = Instant::now();
        let mut journal = self.journal();
        journal.append(seq, record).map_err(WalError::at("write the journal"))?;
        let written = Instant::now();
        if !Bug::SkippedFdatasync.is_planted() {
            journal.sync().map_err(WalError::at("fdatasync of the journal"))?;
        }
        let synced = Instant::now();
        self.watermark.advance(seq).map_err(WalError::at("advance the watermark"))?;
        Ok(CommitTimes { write: written - start, sync: synced - written })
    }

    fn settle(&self, seq: u64, record: &[u8]) -> Result<(), WalError> {
        insert(&self.db, self.sizes, seq, record)
    }

    fn remove_prefix(&self, through: u64, max: usize) -> Result<bool, WalError> {
        let at = |e| from_sled("remove old records", e);
        self.journal().remove_through(through).map_err(WalError::at("remove an old part of the journal"))?;
        let end = encode_key(through.saturating_add(1), 0);
        let mut old = self.db.range(..end).keys();
        for _ in 0..max {
            match old.next() {
                Some(key) => self.db.remove(key.map_err(at)?).map_err(at)?,
                None => return Ok(false),
            };
        }
        Ok(old.next().is_some())
    }

    fn remove_suffix(&self, from: u64) -> Result<(), WalError> {
        let at = |e| from_sled("remove a torn record", e);
        for key in self.db.range(encode_key(from, 0)..).keys() {
            self.db.remove(key.map_err(at)?).map_err(at)?;
        }
        self.journal().remove_suffix(from);
        Ok(())
    }

    fn close(&self) -> Result<(), WalError> {
        self.watermark.sync().map_err(WalError::at("sync the watermark"))
    }
}

fn insert(db: &sled::Db, sizes: WalSizes, seq: u64, record: &[u8]) -> Result<(), WalError> {
    for (number, chunk) in record.chunks(sizes.chunk_bytes).enumerate() {
        let number = u16::try_from(number)
            .map_err(|_| WalError::at("write a record")(io::Error::other("a record of more than 4 GiB")))?;
        db.insert(encode_key(seq, number), chunk).map_err(|e| from_sled("write a record", e))?;
    }
    Ok(())
}

/// A database under a name of its own: one that was just closed in this process may still be writing to its files.
fn open_sled(dir: &Path, sizes: WalSizes) -> Result<sled::Db, WalError> {
    let number = RandomState::new().hash_one(0);
    sled::Config::new()
        .path(dir.join(format!("{DB_PREFIX}{number:016x}")))
        // Not synced, and removed when it is closed.
        .temporary(true)
        .segment_size(sizes.segment_bytes)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(GC_EVERY_MS))
        .mode(sled::Mode::HighThroughput)
        .open()
        .map_err(|e| from_sled("open", e))
}

/// The process ended without closing them, or is still closing them.
fn remove_databases(dir: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(DB_PREFIX) {
            match std::fs::remove_dir_all(file.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn from_sled(what: &'static str, error: sled::Error) -> WalError {
    let source = match error {
        sled::Error::Io(e) => e,
        other => io::Error::other(other.to_string()),
    };
    WalError { what, source }
}

fn encode_key(seq: u64, chunk: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&seq.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn decode_key(key: &[u8]) -> Result<(u64, u16), WalError> {
    match key.split_at_checked(8) {
        Some((seq, chunk)) if chunk.len() == 2 => {
            let seq = u64::from_be_bytes(seq.try_into().expect("split at 8"));
            Ok((seq, u16::from_be_bytes([chunk[0], chunk[1]])))
        }
        _ => Err(WalError::at("read a key")(io::Error::other("a key that coordd does not write"))),
    }
}
