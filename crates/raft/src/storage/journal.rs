//! A file of fixed size that records are made durable in, before they are in the database.
//!
//! ```text
//! at each multiple of 4 KiB: "cJNL", u32 crc32c of what follows, u64 seq, u32 bytes, then the record
//! ```
//!
//! Frames follow each other in ascending sequence from the file's begin; what comes after the last one is left from an
//! earlier round and does not continue the sequence. Each frame begins on its own page, so writing one never touches a
//! page with an acknowledged one. Once the file's blocks were written for the first time, an append is an overwrite: its
//! fdatasync has no metadata to write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const MAGIC: [u8; 4] = *b"cJNL";
const HEADER_BYTES: usize = 20;
const CRC_FROM: usize = 8;
const PAGE_BYTES: u64 = 4096;
/// How much may be in the journal and not durable in the database.
const JOURNAL_BYTES: u64 = 32 << 20;
/// A larger record goes to the database at once.
pub(super) const JOURNALED_BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Where the next frame goes.
    end: u64,
}

impl Journal {
    /// Opens the file or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Journal> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        if file.metadata()?.len() != JOURNAL_BYTES {
            file.set_len(JOURNAL_BYTES)?;
        }
        file.sync_all()?;
        Ok(Journal { file, end: 0 })
    }

    /// The records of the last round, in ascending sequence without gaps.
    pub(super) fn records(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut at = 0;
        while let Some((seq, record)) = self.read_frame(at)? {
            if records.last().is_some_and(|(last, _)| last + 1 != seq) {
                break;
            }
            at += frame_bytes(record.len());
            records.push((seq, record));
        }
        Ok(records)
    }

    fn read_frame(&self, at: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        if at + PAGE_BYTES > JOURNAL_BYTES {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut header, at)?;
        let seq = u64::from_le_bytes(header[8..16].try_into().expect("8 bytes"));
        let bytes = u32::from_le_bytes(header[16..20].try_into().expect("4 bytes")) as usize;
        if header[..4] != MAGIC || bytes > JOURNALED_BYTES_MAX || at + frame_bytes(bytes) > JOURNAL_BYTES {
            return Ok(None);
        }
        let mut record = vec![0; bytes];
        self.file.read_exact_at(&mut record, at + HEADER_BYTES as u64)?;
        Ok((encode_header(seq, &record) == header).then_some((seq, record)))
    }

    /// Whether a record of so many bytes can be appended. If not, make the database durable and [`restart`](Self::restart).
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.end + frame_bytes(bytes) <= JOURNAL_BYTES
    }

    /// Writes the frame. Not durable before [`sync`](Self::sync).
    pub(super) fn append(&mut self, seq: u64, record: &[u8]) -> io::Result<()> {
        self.file.write_all_at(&encode_header(seq, record), self.end)?;
        self.file.write_all_at(record, self.end + HEADER_BYTES as u64)?;
        self.end += frame_bytes(record.len());
        Ok(())
    }

    /// One fdatasync.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// All records are durable in the database: the next one begins a new round.
    pub(super) fn restart(&mut self) {
        self.end = 0;
    }
}

pub(super) fn frame_bytes(record_bytes: usize) -> u64 {
    ((HEADER_BYTES + record_bytes) as u64).next_multiple_of(PAGE_BYTES)
}

fn encode_header(seq: u64, record: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&seq.to_le_bytes());
    // The caller sends larger records elsewhere.
    header[16..].copy_from_slice(&(record.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[CRC_FROM..]), record);
    header[4..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_read_back_up_to_what_was_not_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let record = |seq: u64| vec![seq as u8; seq as usize * 3000];
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.records().unwrap().is_empty());
        for seq in 1..=9 {
            journal.append(seq, &record(seq)).unwrap();
        }
        let found = Journal::open(&path).unwrap().records().unwrap();
        assert_eq!(found, (1..=9).map(|seq| (seq, record(seq))).collect::<Vec<_>>());

        // A new round; of the old one only what follows is left, and it does not continue the sequence.
        journal.restart();
        journal.append(10, &record(1)).unwrap();
        journal.append(11, &record(2)).unwrap();
        let found = journal.records().unwrap();
        assert_eq!(found, [(10, record(1)), (11, record(2))]);

        // The second frame is cut.
        journal.file.write_all_at(&[0xff], frame_bytes(3000) + 6000).unwrap();
        assert_eq!(journal.records().unwrap(), [(10, record(1))]);
    }

    #[test]
    fn a_full_journal_has_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&dir.path().join("journal")).unwrap();
        let record = vec![7; JOURNALED_BYTES_MAX];
        let mut count = 0;
        while journal.has_room(record.len()) {
            count += 1;
            journal.append(count, &record).unwrap();
        }
        assert_eq!(journal.records().unwrap().len() as u64, count);
        assert!(count >= 3 && journal.has_room(1000));
    }
}
