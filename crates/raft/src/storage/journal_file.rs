//! One file of the journal.
//!
//! ```text
//! first sector             "cJNF", u32 format version, u32 crc32c of what follows, u64 salt, u64 seq of the first record
//! each later sector that   u32 of the salt, u32 crc32c of the salt and of what follows, u64 seq, u32 bytes, then the record,
//! begins a frame           which goes on in the sectors after it
//! ```
//!
//! Numbers are little-endian, sectors are of 512 bytes. Each frame begins on its own sector, so writing one never changes a
//! sector with an acknowledged one. The file has its full size and all of its room on the disk from the begin, so no append
//! meets a full disk. It is used again when its records are not needed any more: then an append overwrites blocks that are
//! there, and its fdatasync has no metadata to write, as it has while the file is new. The salt is new each time and known to nobody, so nothing that an earlier
//! use or a client's data left on a sector can pass for a frame, or look so much like one that its checksum has to be computed.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::{Errno, retry_on_intr};

use super::durable_file::{private_file, sync_parent};
use crate::disk::free_bytes;

const FILE_MAGIC: [u8; 4] = *b"cJNF";
const FORMAT: u32 = 2;
const FILE_HEADER_BYTES: usize = 28;
const FILE_CRC_FROM: usize = 12;
const FRAME_HEADER_BYTES: usize = 20;
const FRAME_CRC_FROM: usize = 8;
/// The unit that a disk writes whole.
const SECTOR_BYTES: u64 = 512;

/// An open file of the journal.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    first: u64,
    salt: u64,
    /// Where the next frame goes, and its seq.
    end: u64,
    next: u64,
}

/// The size of a file that has room for a record of so many bytes.
pub(super) fn file_bytes_for(record_bytes: usize) -> u64 {
    SECTOR_BYTES + frame_bytes(record_bytes)
}

pub(super) fn frame_bytes(record_bytes: usize) -> u64 {
    ((FRAME_HEADER_BYTES + record_bytes) as u64).next_multiple_of(SECTOR_BYTES)
}

impl JournalFile {
    /// Makes the file `from`, which need not be there, an empty journal of the records from `first` on, and gives it the
    /// name `to`. Durable when it returns.
    pub(super) fn create(from: &Path, to: &Path, first: u64, bytes: u64) -> io::Result<JournalFile> {
        let file = private_file().truncate(false).read(true).open(from)?;
        take_room(&file, bytes)?;
        // Nobody can know it beforehand.
        let salt = RandomState::new().hash_one(first);
        file.write_all_at(&encode_file_header(salt, first), 0)?;
        // The name is given to what is whole. For want of room this may be done again, although it syncs: all that it syncs is written
        // anew then.
        file.sync_all()?;
        std::fs::rename(from, to)?;
        sync_parent(to)?;
        Ok(JournalFile { file, path: to.to_owned(), bytes, first, salt, end: SECTOR_BYTES, next: first })
    }

    /// Takes the room for a file that [`create`](Self::create) makes a journal later. If there is none, none is taken.
    pub(super) fn reserve(path: &Path, bytes: u64) -> io::Result<()> {
        let file = private_file().truncate(true).open(path)?;
        take_room(&file, bytes).inspect_err(|_| {
            // What could be taken is of more use to others. It is removed at the next start if it stays.
            let _ = std::fs::remove_file(path);
        })
    }

    /// Opens a file that [`create`](Self::create) has named.
    pub(super) fn open(path: &Path) -> io::Result<JournalFile> {
        JournalFile::open_by(File::options().read(true).write(true), path)
    }

    /// The same, to be read only.
    pub(super) fn open_to_read(path: &Path) -> io::Result<JournalFile> {
        JournalFile::open_by(File::options().read(true), path)
    }

    fn open_by(options: &OpenOptions, path: &Path) -> io::Result<JournalFile> {
        let damaged = |cause: String| {
            let message = format!("{}: {cause}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        let file = options.open(path)?;
        let bytes = file.metadata()?.len();
        let mut header = [0; FILE_HEADER_BYTES];
        match file.read_exact_at(&mut header, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged("it was cut".into())),
            other => other?,
        }
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let format = u32::from_le_bytes(header[4..8].try_into().expect("4 bytes"));
        if header[..4] == FILE_MAGIC && format != FORMAT {
            return Err(damaged(format!("journal format {format} is not known to this version of coordd")));
        }
        let (salt, first) = (number(FILE_CRC_FROM), number(FILE_CRC_FROM + 8));
        if encode_file_header(salt, first) != header {
            return Err(damaged("its header is damaged".into()));
        }
        Ok(JournalFile { file, path: path.to_owned(), bytes, first, salt, end: SECTOR_BYTES, next: first })
    }

    /// Hands over the records, where in the file each is and its number, in ascending sequence, and finds the end. What stands behind a frame that is damaged is
    /// handed over, too: that it is there proves that the damaged one had been acknowledged.
    pub(super) fn read<E: From<io::Error>>(
        &mut self,
        mut take: impl FnMut(u64, u64, &[u8]) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        // In one piece: sector by sector it would take thousands of calls.
        let mut bytes = vec![0; usize::try_from(self.bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        let mut at = SECTOR_BYTES;
        let mut whole = true;
        while at + SECTOR_BYTES <= self.bytes {
            let frame = self.decode_frame(&bytes[at as usize..]).filter(|(seq, _)| *seq >= self.next);
            let Some((seq, record)) = frame else {
                (whole, at) = (false, at + SECTOR_BYTES);
                continue;
            };
            let frame = at;
            at += frame_bytes(record.len());
            if whole && seq == self.next {
                (self.end, self.next) = (at, seq + 1);
            }
            if take(frame, seq, record)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The record `seq`, which [`read`](Self::read) found there. `None` if it is not there any more.
    pub(super) fn record_at(&self, at: u64, seq: u64) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        self.file.read_exact_at(&mut frame, at)?;
        let Some(record_bytes) = self.record_bytes_of(&frame) else { return Ok(None) };
        if at + frame_bytes(record_bytes) > self.bytes {
            return Ok(None);
        }
        frame.resize(FRAME_HEADER_BYTES + record_bytes, 0);
        self.file.read_exact_at(&mut frame[FRAME_HEADER_BYTES..], at + FRAME_HEADER_BYTES as u64)?;
        let record = self.decode_frame(&frame).filter(|(found, _)| *found == seq);
        Ok(record.map(|(_, record)| record.to_vec()))
    }

    /// How long the record is, by the header of what may be a frame of this use of the file.
    fn record_bytes_of(&self, header: &[u8]) -> Option<usize> {
        let record_bytes = u32::from_le_bytes(header[16..20].try_into().expect("4 bytes"));
        (header[..4] == frame_mark(self.salt)).then_some(record_bytes as usize)
    }

    fn decode_frame<'a>(&self, bytes: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let (header, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES)?;
        let seq = u64::from_le_bytes(header[8..16].try_into().expect("8 bytes"));
        let record = rest.get(..self.record_bytes_of(header)?)?;
        (encode_frame_header(self.salt, seq, record) == header).then_some((seq, record))
    }

    /// Whether the record can come next.
    pub(super) fn takes(&self, seq: u64, record_bytes: usize) -> bool {
        self.next == seq && self.end + frame_bytes(record_bytes) <= self.bytes
    }

    /// Writes the frame of a record that the file [`takes`](Self::takes). Not durable before [`sync`](Self::sync).
    pub(super) fn append(&mut self, seq: u64, record: &[u8]) -> io::Result<()> {
        self.file.write_all_at(&encode_frame_header(self.salt, seq, record), self.end)?;
        self.file.write_all_at(record, self.end + FRAME_HEADER_BYTES as u64)?;
        self.end += frame_bytes(record.len());
        self.next = seq + 1;
        Ok(())
    }

    /// One fdatasync.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Whether the disk of `dir` has so much left. Nothing is begun without: what a file system gives before it notices would be missing
/// elsewhere meanwhile.
pub(super) fn has_room(dir: &Path, bytes: u64) -> io::Result<bool> {
    Ok(free_bytes(&statvfs(dir)?).is_none_or(|free| free >= bytes))
}

/// Gives a file its length, and the room on the disk for all of it that it does not have.
fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    match retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes)) {
        // Some file systems take room only when there is something to write.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes),
        Err(error) => Err(error.into()),
    }
}

fn encode_file_header(salt: u64, first: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..4].copy_from_slice(&FILE_MAGIC);
    header[4..8].copy_from_slice(&FORMAT.to_le_bytes());
    header[FILE_CRC_FROM..FILE_CRC_FROM + 8].copy_from_slice(&salt.to_le_bytes());
    header[FILE_CRC_FROM + 8..].copy_from_slice(&first.to_le_bytes());
    let crc = crc32c::crc32c(&header[FILE_CRC_FROM..]);
    header[8..FILE_CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Where a frame of a file with this salt may begin.
fn frame_mark(salt: u64) -> [u8; 4] {
    (salt as u32).to_le_bytes()
}

fn encode_frame_header(salt: u64, seq: u64, record: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&frame_mark(salt));
    header[8..16].copy_from_slice(&seq.to_le_bytes());
    header[16..].copy_from_slice(
        &u32::try_from(record.len()).expect("a group is bounded far below 4 GiB").to_le_bytes(),
    );
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &header[FRAME_CRC_FROM..]);
    let crc = crc32c::crc32c_append(crc, record);
    header[4..FRAME_CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A file with one record, as [`JournalFile`] writes it with this salt: for the corpora of fuzzers, which are the same each time.
#[cfg(test)]
pub(super) fn encoded(salt: u64, seq: u64, record: &[u8]) -> Vec<u8> {
    let mut bytes = encode_file_header(salt, seq).to_vec();
    bytes.resize(SECTOR_BYTES as usize, 0);
    bytes.extend_from_slice(&encode_frame_header(salt, seq, record));
    bytes.extend_from_slice(record);
    bytes.resize((SECTOR_BYTES + frame_bytes(record.len())) as usize, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64) -> Vec<u8> {
        vec![seq as u8; seq as usize * 3000]
    }

    fn seqs(path: &Path) -> Vec<u64> {
        let mut seqs = Vec::new();
        let take = |_, seq, bytes: &[u8]| {
            assert_eq!(bytes, record(seq));
            seqs.push(seq);
            Ok::<_, io::Error>(ControlFlow::Continue(()))
        };
        JournalFile::open(path).unwrap().read(take).unwrap();
        seqs
    }

    #[test]
    fn a_file_is_read_back_and_what_stands_behind_a_damaged_record_too() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("tmp"), dir.path().join("journal"));
        let mut file = JournalFile::create(&from, &to, 3, 1 << 20).unwrap();
        for seq in 3..=9 {
            assert!(file.takes(seq, record(seq).len()) && !file.takes(seq + 1, 1));
            file.append(seq, &record(seq)).unwrap();
        }
        assert!(!from.exists());
        assert_eq!(seqs(&to), [3, 4, 5, 6, 7, 8, 9]);

        let at = SECTOR_BYTES + frame_bytes(3 * 3000);
        file.file.write_all_at(&[0xff], at + 5000).unwrap();
        assert_eq!(seqs(&to), [3, 5, 6, 7, 8, 9]);
        let mut opened = JournalFile::open(&to).unwrap();
        opened.read(|_, _, _| Ok::<_, io::Error>(ControlFlow::Continue(()))).unwrap();
        assert!(opened.takes(4, 10), "it goes on where it is whole");
    }

    #[test]
    fn a_file_that_is_used_again_is_empty_whatever_stands_on_its_sectors() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let mut file = JournalFile::create(&one, &one, 1, 1 << 20).unwrap();
        for seq in 1..=5 {
            file.append(seq, &record(seq)).unwrap();
        }
        let mut file = JournalFile::create(&one, &two, 2, 1 << 20).unwrap();
        assert!(seqs(&two).is_empty());
        file.append(2, &record(2)).unwrap();
        assert_eq!(seqs(&two), [2], "the frame of record 3 is still there, from another use");
    }

    #[test]
    fn a_damaged_header_is_an_error_and_not_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let file = JournalFile::create(&path, &path, 1, 1 << 20).unwrap();
        for at in 0..FILE_HEADER_BYTES as u64 {
            let mut byte = [0];
            file.file.read_exact_at(&mut byte, at).unwrap();
            file.file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            assert!(JournalFile::open(&path).is_err(), "flipped byte {at}");
            file.file.write_all_at(&byte, at).unwrap();
        }
        file.file.set_len(20).unwrap();
        assert!(JournalFile::open(&path).unwrap_err().to_string().contains("it was cut"));
    }
}
