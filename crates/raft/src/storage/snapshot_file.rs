//! A finished snapshot file, and the iterator over its verified chunks.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::LOST_ADVICE;
use super::snapshot_format::{SnapshotDamage, TRAILER_BYTES, Totals, read_block, read_header};
use crate::type_config::types::SnapshotMeta;

const READ_BUFFER_BYTES: usize = 256 << 10;

/// A snapshot on disk, complete and durable. A handle: the file may be deleted meanwhile, what was opened before stays
/// readable.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// What the snapshot covers.
    pub meta: SnapshotMeta,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the whole file.
    pub bytes: u64,
}

impl SnapshotFile {
    /// Reads what the file at `path` says of itself. Checks header, trailer and size; the blocks are checked when they
    /// are read.
    pub(super) fn open(path: &Path) -> io::Result<SnapshotFile> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let (meta, header_bytes) = read_header(&mut file)?;
        let trailer_at = bytes.checked_sub(TRAILER_BYTES as u64).filter(|at| *at >= header_bytes);
        let trailer_at = trailer_at.ok_or(SnapshotDamage::Damaged("the file ends too early"))?;
        let mut trailer = [0; TRAILER_BYTES];
        file.seek(SeekFrom::Start(trailer_at))?;
        file.read_exact(&mut trailer)?;
        let totals = Totals::decode(&trailer).ok_or(SnapshotDamage::Damaged("no trailer"))?;
        if totals.block_bytes() != Some(trailer_at - header_bytes) {
            return Err(SnapshotDamage::Damaged("the file's size does not match its trailer").into());
        }
        Ok(SnapshotFile { meta, path: path.to_owned(), bytes })
    }

    /// The file as it is, for sending it.
    pub fn open_raw(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// The chunks as they were written. Each was verified; a chunk that fails, or a trailer that does not match at the
    /// end, is the last item, an error of kind `InvalidData` that names the file. Nothing may be used of a snapshot
    /// before the iterator has ended without one. Blocks on the disk.
    pub fn chunks(&self) -> io::Result<SnapshotChunks> {
        let mut from = BufReader::with_capacity(READ_BUFFER_BYTES, self.open_raw()?);
        let (meta, _) = read_header(&mut from).map_err(|e| named(&self.path, e))?;
        if meta != self.meta {
            let changed = SnapshotDamage::Damaged("the file was replaced by another");
            return Err(named(&self.path, changed.into()));
        }
        Ok(SnapshotChunks { from, totals: Totals::default(), path: self.path.clone(), ended: false })
    }

    /// Reads the whole file and checks all of it.
    pub(super) fn verify(&self) -> io::Result<()> {
        self.chunks()?.try_for_each(|chunk| chunk.map(drop))
    }
}

/// See [`SnapshotFile::chunks`].
#[derive(Debug)]
pub struct SnapshotChunks {
    from: BufReader<File>,
    totals: Totals,
    path: PathBuf,
    ended: bool,
}

impl Iterator for SnapshotChunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended {
            return None;
        }
        let block =
            read_block(&mut self.from, &mut self.totals).map_err(|e| named(&self.path, e)).transpose();
        self.ended = !matches!(block, Some(Ok(_)));
        block
    }
}

/// Says which file, and for a damaged one what to do.
pub(super) fn named(path: &Path, error: io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::InvalidData => format!(
            "; the log before a snapshot is gone, so this node cannot start without it: restore this file from a copy of it; \
             without one, {LOST_ADVICE}"
        ),
        _ => String::new(),
    };
    io::Error::new(error.kind(), format!("snapshot {}: {error}{advice}", path.display()))
}
