//! The files of a node's log, as far as they have to be known to damage them. Their layout is in `journal_file.rs` and
//! `watermark.rs` of coordd-raft.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

pub(crate) const SECTOR_BYTES: u64 = 512;
const FRAME_HEADER_BYTES: u64 = 20;

/// A record in a file.
pub(crate) struct Frame {
    pub(crate) seq: u64,
    /// Its header and itself, without what fills its last sector.
    pub(crate) bytes: Range<u64>,
}

/// The file with the newest records.
pub(crate) fn newest_file(wal_dir: &Path) -> anyhow::Result<PathBuf> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(wal_dir)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("journal-") {
            files.push(file.path());
        }
    }
    // The names have the numbers of their first records, with leading zeros.
    files.into_iter().max().with_context(|| format!("{}: no log", wal_dir.display()))
}

/// The records of a file, durable or not, in their order.
pub(crate) fn frames(file: &Path) -> anyhow::Result<Vec<Frame>> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    ensure!(
        bytes.get(..8) == Some(b"cJNF\x02\0\0\0") && bytes.len() as u64 >= SECTOR_BYTES,
        "{}: no file of a log of format 2",
        file.display()
    );
    let mark = &bytes[12..16];
    let mut frames: Vec<Frame> = Vec::new();
    for (at, sector) in
        (0..).step_by(SECTOR_BYTES as usize).zip(bytes.chunks_exact(SECTOR_BYTES as usize)).skip(1)
    {
        let seq = number(&sector[8..16]);
        // What has the mark and another number stood there before, and was removed.
        if sector[..4] != *mark || frames.last().is_some_and(|last| seq <= last.seq) {
            continue;
        }
        let length = u32::from_le_bytes(sector[16..20].try_into().expect("4 bytes"));
        let bytes = at..at + FRAME_HEADER_BYTES + u64::from(length);
        frames.push(Frame { seq, bytes });
    }
    Ok(frames)
}

/// Up to where a node may have told others that its log is durable: the watermark beside the log, which is written before that.
pub(crate) fn acknowledged_seq(wal_dir: &Path) -> anyhow::Result<u64> {
    let path = wal_dir.join("watermark");
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let slots = [0, SECTOR_BYTES as usize].map(|at| bytes.get(at..at + 16));
    // One slot is written at a time. The other one may never have been.
    let written = slots.into_iter().flatten().filter(|slot| slot.ends_with(b"wmk1"));
    let newest = written.map(|slot| number(&slot[..8])).max();
    newest.with_context(|| format!("{}: no watermark", path.display()))
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}
