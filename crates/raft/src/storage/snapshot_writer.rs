//! Files on their way to become snapshots: one written from the tree, one received from the leader.
//!
//! Both are written under a temporary name, synced every few MiB, and renamed when they are complete and durable. The
//! steady syncs keep the amount of data that is under way small: an fdatasync of the log waits for data of other files
//! in the same journal transaction, so a hundred MiB written at once would stall every write of the node.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::durable_file::{private_file, sync_parent};
use super::snapshot_file::SnapshotFile;
use super::snapshot_format::{SnapshotDamage, Totals, encode_block_header, encode_header};
use super::snapshot_store::SnapshotStore;
use crate::type_config::types::SnapshotMeta;

const WRITE_BUFFER_BYTES: usize = 256 << 10;
const SYNC_EVERY_BYTES: u64 = 4 << 20;

/// A file under a temporary name; removed if it is dropped before it got its own.
#[derive(Debug)]
struct TemporaryFile {
    out: BufWriter<File>,
    path: PathBuf,
    bytes: u64,
    unsynced_bytes: u64,
    renamed: bool,
}

impl TemporaryFile {
    fn create(path: PathBuf) -> io::Result<TemporaryFile> {
        let out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, private_file().truncate(true).open(&path)?);
        Ok(TemporaryFile { out, path, bytes: 0, unsynced_bytes: 0, renamed: false })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= SYNC_EVERY_BYTES {
            self.out.flush()?;
            self.out.get_ref().sync_data()?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.renamed = true;
        sync_parent(to)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            // It is removed at the next start.
            tracing::warn!(path = %self.path.display(), %error, "an unfinished snapshot stays for now");
        }
    }
}

/// Writes a snapshot from chunks of the tree. Dropped unfinished, it leaves nothing. Blocks on the disk.
#[derive(Debug)]
pub struct SnapshotWriter {
    file: TemporaryFile,
    meta: SnapshotMeta,
    totals: Totals,
    store: SnapshotStore,
}

impl SnapshotWriter {
    pub(super) fn create(
        store: SnapshotStore,
        path: PathBuf,
        meta: &SnapshotMeta,
    ) -> io::Result<SnapshotWriter> {
        let mut file = TemporaryFile::create(path)?;
        file.write(&encode_header(meta))?;
        Ok(SnapshotWriter { file, meta: meta.clone(), totals: Totals::default(), store })
    }

    /// Adds a chunk: from 1 byte to 64 MiB.
    pub fn write_chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        let header = encode_block_header(chunk, &mut self.totals)?;
        self.file.write(&header)?;
        self.file.write(chunk)
    }

    /// Makes the snapshot complete and durable. From then on it is the [`latest`](SnapshotStore::latest), unless there is
    /// a newer one.
    pub fn finish(mut self) -> io::Result<SnapshotFile> {
        self.file.write(&self.totals.encode())?;
        self.file.sync()?;
        let (path, bytes) = (self.store.path_of(&self.meta), self.file.bytes);
        self.file.rename(&path)?;
        let file = SnapshotFile { meta: self.meta, path, bytes };
        self.store.offer(&file);
        Ok(file)
    }
}

/// Takes a snapshot file from the leader. Dropped unfinished, it leaves nothing. Blocks on the disk.
#[derive(Debug)]
pub struct SnapshotReceiver {
    file: TemporaryFile,
    meta: SnapshotMeta,
    expected_bytes: u64,
    store: SnapshotStore,
}

impl SnapshotReceiver {
    pub(super) fn create(
        store: SnapshotStore,
        path: PathBuf,
        meta: &SnapshotMeta,
        expected_bytes: u64,
    ) -> io::Result<SnapshotReceiver> {
        Ok(SnapshotReceiver { file: TemporaryFile::create(path)?, meta: meta.clone(), expected_bytes, store })
    }

    /// Adds the next bytes of the file, cut anywhere.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.expected_bytes - self.file.bytes {
            return Err(SnapshotDamage::Damaged("more bytes than were announced").into());
        }
        self.file.write(bytes)
    }

    /// Checks every checksum, and that the file is the announced one; then it is durable and the
    /// [`latest`](SnapshotStore::latest), unless there is a newer one.
    pub fn finish(self) -> io::Result<SnapshotFile> {
        self.finish_with(SnapshotFile::verify).map(|(file, ())| file)
    }

    /// The same, where `load` reads all [`chunks`](SnapshotFile::chunks) in the place of a check, and has to understand
    /// them: a snapshot that it refuses is never the latest. The node could not start from that one, and has thrown away
    /// the one before.
    pub fn finish_with<T>(
        mut self,
        load: impl FnOnce(&SnapshotFile) -> io::Result<T>,
    ) -> io::Result<(SnapshotFile, T)> {
        if self.file.bytes != self.expected_bytes {
            return Err(SnapshotDamage::Damaged("fewer bytes than were announced").into());
        }
        self.file.sync()?;
        let received = SnapshotFile::open(&self.file.path)?;
        if received.meta != self.meta {
            return Err(SnapshotDamage::Damaged("not the snapshot that was announced").into());
        }
        let loaded = load(&received)?;
        let path = self.store.path_of(&self.meta);
        self.file.rename(&path)?;
        let file = SnapshotFile { path, ..received };
        self.store.offer(&file);
        Ok((file, loaded))
    }
}
