//! The write-ahead log in sled: the one file that knows sled.
//!
//! # Layout
//!
//! The default tree holds nothing but records. Key: `be_u64(seq) ++ be_u16(chunk)`; value: at most 64 KiB of the record,
//! so that a leaf (up to 17 values) stays far below the size where sled would put it into a blob file, which it never
//! syncs. Keys are added at the end and removed at the front.
//!
//! # Durability
//!
//! sled's `flush` is not durable on Linux: it waits with `sync_file_range`, which covers neither the file's size and
//! extents nor the disk's cache. It is also dear: each one wakes all threads of sled's pool. So a commit does not flush.
//! It writes the record to a journal file, does the one fdatasync there, and is done; then the record is inserted into
//! sled, which writes it out in its own time. When the journal is full, sled is flushed, its file is synced on an own
//! descriptor, and the journal begins anew. That descriptor is opened before the first write: the kernel reports a
//! failed write-back once per descriptor, and this one must see it. At the start the journal's records are put back
//! into sled wherever sled has lost them.
//!
//! A power loss can still reorder what sled wrote before (it reuses its segments on the word of `sync_file_range`). The
//! records' sequence and checksums and the watermark file find that, and the node refuses to start.
//!
//! Never used here: `Batch` and transactions (they take a lock over the whole process), `flush_async` (deadlocks).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::durable_file::{sync_dir, sync_parent};
use super::journal::{JOURNALED_BYTES_MAX, Journal};
use super::wal::{CommitTimes, Wal, WalError};
use super::watermark::Watermark;

const CHUNK_BYTES: usize = 64 << 10;
const KEY_BYTES: usize = 10;
/// Fixed for the life of a database. Large, because a value over a quarter of it would become a blob.
const SEGMENT_BYTES: usize = 8 << 20;
/// sled's default is 1 GiB. The log is read from memory; this serves the replay and lagging followers only.
const CACHE_BYTES: u64 = 4 << 20;
/// sled collects its garbage in this thread only.
const GC_EVERY_MS: u64 = 200;
const DB_FILE: &str = "db";
const JOURNAL_FILE: &str = "journal";
const WATERMARK_FILE: &str = "watermark";
/// A dropped database gives up its lock only when its last thread is done. Other processes are kept out by the data
/// directory's own lock, so a lock found here is one that is about to go.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The write-ahead log on sled.
#[derive(Debug)]
pub struct SledWal {
    db: sled::Db,
    /// Our own descriptor of sled's file.
    file: File,
    /// For the WAL thread only; the lock is never waited for.
    journal: Mutex<Journal>,
    watermark: Watermark,
    blob_dir: PathBuf,
}

impl SledWal {
    /// Opens the log in `dir` or makes it, with everything that a later fdatasync does not cover made durable. Blocks
    /// on the disk; the time grows with the size of the database.
    pub fn open(dir: &Path) -> Result<SledWal, WalError> {
        std::fs::create_dir_all(dir).map_err(WalError::at("create the directory"))?;
        remove_half_written_indexes(dir).map_err(WalError::at("remove sled's half-written files"))?;
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(dir.join(DB_FILE));
        let file = file.map_err(WalError::at("open the database file"))?;
        let watermark =
            Watermark::open(&dir.join(WATERMARK_FILE)).map_err(WalError::at("open the watermark"))?;
        let journal = Journal::open(&dir.join(JOURNAL_FILE)).map_err(WalError::at("open the journal"))?;
        let journaled = journal.records().map_err(WalError::at("read the journal"))?;
        let journal = Mutex::new(journal);
        let wal = SledWal { db: open_sled(dir)?, file, journal, watermark, blob_dir: dir.join("blobs") };
        wal.refuse_blobs()?;
        for (seq, record) in journaled {
            if wal.read(seq)?.as_ref() != Some(&record) {
                wal.insert(seq, &record)?;
            }
        }
        wal.checkpoint()?;
        wal.sync_names(dir).map_err(WalError::at("sync the new files"))?;
        Ok(wal)
    }

    fn insert(&self, seq: u64, record: &[u8]) -> Result<(), WalError> {
        for (number, chunk) in record.chunks(CHUNK_BYTES).enumerate() {
            let number = u16::try_from(number).map_err(|_| {
                WalError::at("write a record")(io::Error::other("a record of more than 4 GiB"))
            })?;
            self.db.insert(encode_key(seq, number), chunk).map_err(|e| from_sled("write a record", e))?;
        }
        Ok(())
    }

    /// Makes durable what was inserted.
    fn checkpoint(&self) -> Result<(), WalError> {
        // 0 bytes flushed does not mean durable: sled's own thread may have written them. So the sync is not skipped.
        self.db.flush().map_err(|e| from_sled("flush", e))?;
        self.file.sync_data().map_err(WalError::at("fdatasync of the database"))
    }

    fn sync_names(&self, dir: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        self.watermark.sync()?;
        File::open(dir.join("conf"))?.sync_all()?;
        sync_dir(dir)?;
        sync_parent(dir)
    }

    /// Blobs are files of their own that sled does not sync. The layout above makes none.
    fn refuse_blobs(&self) -> Result<(), WalError> {
        let what = "look for blobs";
        let mut blobs = std::fs::read_dir(&self.blob_dir).map_err(WalError::at(what))?;
        match blobs.next() {
            None => Ok(()),
            Some(_) => Err(WalError::at(what)(io::Error::other(format!(
                "{} is not empty, so this database was not written by coordd",
                self.blob_dir.display()
            )))),
        }
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
        self.watermark.at_open()
    }

    fn commit(&self, seq: u64, record: &[u8]) -> Result<CommitTimes, WalError> {
        let start = Instant::now();
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let journaled = record.len() <= JOURNALED_BYTES_MAX;
        if !journaled {
            self.insert(seq, record)?;
        }
        if !journaled || !journal.has_room(record.len()) {
            self.checkpoint()?;
            journal.restart();
        }
        if journaled {
            journal.append(seq, record).map_err(WalError::at("write the journal"))?;
        }
        let written = Instant::now();
        if journaled {
            journal.sync().map_err(WalError::at("fdatasync of the journal"))?;
        }
        let synced = Instant::now();
        self.watermark.advance(seq).map_err(WalError::at("advance the watermark"))?;
        Ok(CommitTimes { write: written - start, sync: synced - written })
    }

    fn settle(&self, seq: u64, record: &[u8]) -> Result<(), WalError> {
        match record.len() <= JOURNALED_BYTES_MAX {
            true => self.insert(seq, record),
            false => Ok(()),
        }
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
        self.checkpoint()
    }

    fn close(&self) -> Result<(), WalError> {
        self.checkpoint()?;
        self.watermark.sync().map_err(WalError::at("sync the watermark"))?;
        self.refuse_blobs()
    }
}

fn open_sled(dir: &Path) -> Result<sled::Db, WalError> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(GC_EVERY_MS))
        .mode(sled::Mode::HighThroughput);
    let start = Instant::now();
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && start.elapsed() < LOCK_PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(from_sled("open", e)),
        }
    }
}

/// sled writes an index of its file at each start, as `snap.<lsn>.generating`, and reads a half-written one as if it were
/// whole: after a crash at that moment the database could not be opened. It is only an index: it is made anew.
fn remove_half_written_indexes(dir: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::info!(file = %name, "removed an index that sled did not finish");
            std::fs::remove_file(file.path())?;
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
