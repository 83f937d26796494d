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
//! # Full disks
//!
//! A file of the journal has its room from the begin, and the room of the next one is taken beforehand. When that is full,
//! too, a commit fails and can be tried again. sled's database cannot be grown beforehand. When it has failed, at the start or
//! later, records are looked for in the journal; some seconds later, if there is room, a new database has those that come.
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
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use coordd_tree::planted::Bug;

use super::durable_file::{create_private_dir, is_full_disk, sync_dir, sync_parent};
use super::journal::Journal;
use super::journal_file::has_room;
use super::journal_reader::JournalReader;
use super::wal::{CommitTimes, Wal, WalError};
use super::wal_sizes::WalSizes;
use super::watermark::Watermark;

const KEY_BYTES: usize = 10;
/// sled's default is 1 GiB. The log is read from memory; this serves the replay and lagging followers only.
const CACHE_BYTES: u64 = 4 << 20;
/// sled collects its garbage in this thread only.
const GC_EVERY_MS: u64 = 200;
/// The room that is free when a database has failed is mostly what the failed one had.
const BEGIN_AGAIN: Duration = Duration::from_secs(10);
const DB_PREFIX: &str = "db-";
pub(super) const WATERMARK_FILE: &str = "watermark";

/// The write-ahead log in a directory.
#[derive(Debug)]
pub struct SledWal {
    dir: PathBuf,
    sizes: WalSizes,
    copy: JournalCopy,
    /// The WAL thread's, which holds the lock while it commits; readers need it for a look at the names of files.
    journal: Mutex<Journal>,
    /// For records that the copy does not have.
    reader: Mutex<Option<JournalReader>>,
    watermark: Watermark,
    acknowledged: u64,
    /// The first and the last record that were found.
    bounds: Option<(u64, u64)>,
}

impl SledWal {
    /// Opens the log in `dir` or makes it, with everything that a later fdatasync does not cover made durable. Blocks
    /// on the disk: reads the whole journal, and writes it to a new database.
    pub fn open(dir: &Path, sizes: WalSizes) -> Result<SledWal, WalError> {
        create_private_dir(dir).map_err(WalError::at("create the directory"))?;
        remove_databases(dir).map_err(WalError::at("remove the database of the last start"))?;
        let watermark =
            Watermark::open(&dir.join(WATERMARK_FILE)).map_err(WalError::at("open the watermark"))?;
        let copy = JournalCopy::default();
        copy.begin(dir, sizes, 0);
        let mut bounds: Option<(u64, u64)> = None;
        let take = |seq: u64, record: &[u8]| {
            let (first, last) = bounds.unwrap_or((seq, seq));
            bounds = Some((first.min(seq), last.max(seq)));
            copy.with(|database| database.insert(sizes, seq, record));
        };
        let journal =
            Journal::open(dir, sizes.journal_bytes, take).map_err(WalError::at("read the journal"))?;
        let sync_names = || {
            watermark.sync()?;
            sync_dir(dir)?;
            sync_parent(dir)
        };
        sync_names().map_err(WalError::at("sync the new files"))?;
        let acknowledged = watermark.at_open().max(journal.durable_before());
        Ok(SledWal {
            dir: dir.to_owned(),
            sizes,
            copy,
            journal: Mutex::new(journal),
            reader: Mutex::default(),
            watermark,
            acknowledged,
            bounds,
        })
    }

    /// The file that should have a record, or the directory of the log.
    pub(super) fn place_of(&self, seq: u64) -> PathBuf {
        self.journal().file_with(seq).unwrap_or_else(|| self.dir.clone())
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_journal(&self, seq: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = self.journal().file_with(seq) else { return Ok(None) };
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = reader.as_ref().filter(|reader| reader.path() == path)
            && let Some(record) = reader.record(seq)?
        {
            return Ok(Some(record));
        }
        *reader = JournalReader::open(&path)?;
        reader.as_ref().map_or(Ok(None), |reader| reader.record(seq))
    }
}

/// The database with a copy of the journal. Empty after it has failed, until it is begun anew; changed by the WAL thread only.
#[derive(Debug, Default)]
struct JournalCopy {
    database: RwLock<Option<Database>>,
    /// When one has failed last.
    failed: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Database {
    db: sled::Db,
    /// Records before this one are in the journal only.
    from: u64,
}

impl JournalCopy {
    fn get(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, database: Option<Database>) {
        let mut current = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, database);
        // sled ends its threads and removes its files, for which no reader has to wait.
        drop(current);
        drop(before);
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the database with record `from`, if there is none, the disk has the room for it, and the last one has not failed just now.
    fn begin(&self, dir: &Path, sizes: WalSizes, from: u64) {
        let has_just_failed = || self.failed().is_some_and(|at| at.elapsed() < BEGIN_AGAIN);
        if self.get().is_some() || has_just_failed() || !has_room(dir, sizes.journal_bytes).unwrap_or(false) {
            return;
        }
        match open_sled(dir, sizes) {
            Ok(db) => {
                tracing::debug!(from, "the log is copied to a new database");
                self.set(Some(Database { db, from }));
            }
            Err(error) => tracing::debug!(%error, "the log is read from its journal"),
        }
    }

    /// Does something with the database, and without it from there on if that fails.
    fn with<T: Default>(&self, work: impl FnOnce(&Database) -> Result<T, WalError>) -> T {
        let Some(done) = self.get().as_ref().map(work) else { return T::default() };
        done.unwrap_or_else(|error| {
            tracing::warn!(%error, "the log is read from its journal for now");
            *self.failed() = Some(Instant::now());
            self.set(None);
            T::default()
        })
    }

    /// `None` if the database does not have such records, or has failed: the WAL thread meets the same error.
    fn read(&self, seq: u64) -> Option<Option<Vec<u8>>> {
        let database = self.get();
        let database = database.as_ref().filter(|database| seq >= database.from)?;
        database.read(seq).inspect_err(|error| tracing::debug!(%error, seq, "read from the journal")).ok()
    }
}

impl Wal for SledWal {
    fn bounds(&self) -> Result<Option<(u64, u64)>, WalError> {
        Ok(self.bounds)
    }

    fn read(&self, seq: u64) -> Result<Option<Vec<u8>>, WalError> {
        match self.copy.read(seq) {
            Some(found) => Ok(found),
            None => self.read_journal(seq).map_err(WalError::at("read the journal")),
        }
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
            journal.sync().map_err(|e| WalError::at("fdatasync of the journal")(not_again(e)))?;
        }
        drop(journal);
        let synced = Instant::now();
        match self.watermark.advance(seq) {
            // It says less than it could, which is no less true.
            Err(error) if is_full_disk(&error) => {}
            other => other.map_err(WalError::at("advance the watermark"))?,
        }
        Ok(CommitTimes { write: written - start, sync: synced - written })
    }

    fn settle(&self, seq: u64, record: &[u8]) -> Result<(), WalError> {
        self.copy.begin(&self.dir, self.sizes, seq);
        self.copy.with(|database| database.insert(self.sizes, seq, record));
        match self.journal().reserve_file() {
            // Then the next file needs room, or waits for it.
            Err(error) if is_full_disk(&error) => Ok(()),
            other => other.map_err(WalError::at("reserve a part of the journal")),
        }
    }

    fn remove_prefix(&self, through: u64, max: usize) -> Result<bool, WalError> {
        self.journal().remove_through(through).map_err(WalError::at("remove an old part of the journal"))?;
        Ok(self.copy.with(|database| database.remove_prefix(through, max)))
    }

    fn remove_suffix(&self, from: u64) -> Result<(), WalError> {
        self.copy.with(|database| database.remove_suffix(from));
        self.journal().remove_suffix(from);
        Ok(())
    }

    fn close(&self) -> Result<(), WalError> {
        self.watermark.sync().map_err(WalError::at("sync the watermark"))
    }
}

impl Database {
    fn insert(&self, sizes: WalSizes, seq: u64, record: &[u8]) -> Result<(), WalError> {
        for (number, chunk) in record.chunks(sizes.chunk_bytes).enumerate() {
            let number = u16::try_from(number).map_err(|_| {
                WalError::at("write a record")(io::Error::other("a record of more than 4 GiB"))
            })?;
            self.db.insert(encode_key(seq, number), chunk).map_err(|e| from_sled("write a record", e))?;
        }
        Ok(())
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

    fn remove_prefix(&self, through: u64, max: usize) -> Result<bool, WalError> {
        let at = |e| from_sled("remove old records", e);
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
        Ok(())
    }
}

/// Whatever it was, a full disk or another, it must not be tried again: a second fdatasync would say that all is well, whatever the
/// first one lost.
fn not_again(error: io::Error) -> io::Error {
    io::Error::other(error)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(wal: &SledWal, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            wal.commit(seq, &record(seq)).unwrap();
            wal.settle(seq, &record(seq)).unwrap();
        }
    }

    /// A hundred and some fit into a file of the small sizes.
    fn record(seq: u64) -> Vec<u8> {
        vec![seq as u8; 15_000]
    }

    /// sled fails, and there is no room for a new database.
    fn fail(wal: &mut SledWal) {
        wal.sizes.journal_bytes = u64::MAX;
        let full = || WalError::at("write a record")(io::ErrorKind::StorageFull.into());
        wal.copy.with(|_| Err::<(), _>(full()));
    }

    fn first_in_copy(wal: &SledWal) -> Option<u64> {
        wal.copy.get().as_ref().map(|database| database.from)
    }

    #[test]
    fn without_its_database_the_log_is_read_from_the_journal_until_there_is_room_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut wal = SledWal::open(dir.path(), WalSizes::small()).unwrap();
        commit(&wal, 1..=10);
        fail(&mut wal);
        // Through more than one file.
        commit(&wal, 11..=150);
        assert_eq!(first_in_copy(&wal), None);
        for seq in [1, 10, 11, 20, 150, 5] {
            assert_eq!(wal.read(seq).unwrap(), Some(record(seq)), "record {seq}");
        }
        assert_eq!(wal.read(151).unwrap(), None);
        assert!(!wal.remove_prefix(5, 100).unwrap());

        wal.sizes = WalSizes::small();
        commit(&wal, 151..=151);
        assert_eq!(first_in_copy(&wal), None, "not at once");
        *wal.copy.failed() = Instant::now().checked_sub(BEGIN_AGAIN);
        commit(&wal, 152..=300);
        assert_eq!(first_in_copy(&wal), Some(152));
        for seq in [1, 20, 151, 152, 300] {
            assert_eq!(wal.read(seq).unwrap(), Some(record(seq)), "record {seq}");
        }
        // The first file goes, and what was in it.
        wal.remove_prefix(150, 100).unwrap();
        assert_eq!(wal.read(1).unwrap(), None);
        assert_eq!(wal.read(151).unwrap(), Some(record(151)));

        drop(wal);
        let wal = SledWal::open(dir.path(), WalSizes::small()).unwrap();
        let (first, last) = wal.bounds().unwrap().expect("records");
        assert!(first > 1 && first <= 151 && last == 300, "{first} to {last}");
        for seq in [first, 300] {
            assert_eq!(wal.read(seq).unwrap(), Some(record(seq)));
        }
    }

    #[test]
    fn a_log_is_opened_without_room_for_a_copy_of_it() {
        let dir = tempfile::tempdir().unwrap();
        commit(&SledWal::open(dir.path(), WalSizes::small()).unwrap(), 1..=10);
        let sizes = WalSizes { journal_bytes: u64::MAX, ..WalSizes::small() };
        let wal = SledWal::open(dir.path(), sizes).unwrap();
        assert_eq!(first_in_copy(&wal), None);
        assert_eq!(wal.bounds().unwrap(), Some((1, 10)));
        for seq in 1..=10 {
            assert_eq!(wal.read(seq).unwrap(), Some(record(seq)));
        }
    }
}
