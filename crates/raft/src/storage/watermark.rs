//! A file beside the log that says up to where the log was durable.
//!
//! An engine that finds a damaged tail cuts it off and is content; it cannot know whether the tail had been
//! acknowledged. This file can: it is written, without fsync, after the fdatasync of a record returned. Whatever
//! version of it the disk has after a crash is therefore a true lower bound, and a log that ends before it has lost
//! acknowledged data.
//!
//! Two slots of 16 bytes are written in turn, so a torn write leaves the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::durable_file::private_file;

const SLOT_BYTES: usize = 16;
/// Apart by a sector: the unit that a disk writes whole.
const SLOT_OFFSETS: [u64; 2] = [0, 512];
const FILE_BYTES: u64 = 1024;

#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    at_open: u64,
    writes: AtomicU64,
}

impl Watermark {
    /// Opens the file or makes it. A file without a valid slot says nothing (0).
    pub(super) fn open(path: &Path) -> io::Result<Watermark> {
        let file = private_file().truncate(false).read(true).open(path)?;
        if file.metadata()?.len() < FILE_BYTES {
            file.set_len(FILE_BYTES)?;
        }
        let mut at_open = 0;
        let mut newest = 0;
        for (slot, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            let mut bytes = [0; SLOT_BYTES];
            file.read_exact_at(&mut bytes, offset)?;
            if let Some(seq) = decode(&bytes)
                && seq > at_open
            {
                (at_open, newest) = (seq, slot as u64);
            }
        }
        // The first write goes to the slot that is not the newest.
        Ok(Watermark { file, at_open, writes: AtomicU64::new(newest + 1) })
    }

    /// What is wrong with the file of a log that has begun, if something is: its absence does not mean that nothing was
    /// acknowledged. `has_content`: a slot of it was synced once.
    pub(super) fn damage(path: &Path, has_content: bool) -> io::Result<Option<&'static str>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("it is missing")),
            Err(error) => return Err(error),
        };
        let slots = SLOT_OFFSETS.map(|at| bytes.get(at as usize..at as usize + SLOT_BYTES));
        if (bytes.len() as u64) < FILE_BYTES {
            return Ok(Some("it was cut"));
        }
        let is_whole = |slot: &[u8]| slot.try_into().is_ok_and(|slot| decode(slot).is_some());
        if slots.into_iter().flatten().any(is_whole) {
            return Ok(None);
        }
        // Its room was synced before the log began, and its first content, by older versions, was not.
        let is_untouched = bytes.iter().all(|byte| *byte == 0);
        Ok((has_content || !is_untouched).then_some("nothing in it is whole"))
    }

    /// What the file said when it was opened.
    pub(super) fn at_open(&self) -> u64 {
        self.at_open
    }

    /// Call after the record `seq` is durable, from one thread.
    pub(super) fn advance(&self, seq: u64) -> io::Result<()> {
        let slot = self.writes.fetch_add(1, Ordering::Relaxed) as usize % SLOT_OFFSETS.len();
        self.file.write_all_at(&encode(seq), SLOT_OFFSETS[slot])
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn encode(seq: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..8]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes[12..].copy_from_slice(b"wmk1");
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<u64> {
    let seq = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    (encode(seq) == *bytes).then_some(seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_watermark_is_not_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        assert_eq!(Watermark::damage(&path, false).unwrap(), Some("it is missing"));
        let mark = Watermark::open(&path).unwrap();
        assert_eq!(Watermark::damage(&path, false).unwrap(), None, "a loss of power before the first sync");
        assert!(Watermark::damage(&path, true).unwrap().is_some());
        mark.advance(1).unwrap();
        assert_eq!(Watermark::damage(&path, true).unwrap(), None);
        for damage in [&[][..], &[0; 600], &[7; 1024]] {
            std::fs::write(&path, damage).unwrap();
            assert!(Watermark::damage(&path, false).unwrap().is_some(), "{} bytes", damage.len());
        }
    }

    #[test]
    fn the_watermark_is_the_newest_whole_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        let mark = Watermark::open(&path).unwrap();
        assert_eq!(mark.at_open(), 0);
        for seq in 1..=7 {
            mark.advance(seq).unwrap();
        }
        assert_eq!(Watermark::open(&path).unwrap().at_open(), 7);

        // A reopened file goes on with the older slot: a torn write leaves the newest one.
        let mark = Watermark::open(&path).unwrap();
        mark.advance(8).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let slots = SLOT_OFFSETS.map(|at| decode(bytes[at as usize..][..SLOT_BYTES].try_into().unwrap()));
        assert!(slots.contains(&Some(7)) && slots.contains(&Some(8)), "{slots:?}");
        for at in SLOT_OFFSETS {
            let mut torn = bytes.clone();
            torn[at as usize + 3] ^= 1;
            std::fs::write(&path, &torn).unwrap();
            let left = Watermark::open(&path).unwrap().at_open();
            assert!(left == 7 || left == 8, "{left}");
        }
    }
}
