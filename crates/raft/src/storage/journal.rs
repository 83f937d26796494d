//! The journal: all records from the oldest that is needed to the newest, in files of fixed size. It is the log; what
//! else holds records holds copies.
//!
//! ```text
//! journal-<seq>   the records from this one to the one before the next file's; see `journal_file.rs`
//! spare-<number>  a file whose records are not needed any more, to be used again
//! ```

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::journal_file::{JournalFile, file_bytes_for, has_room};

const PREFIX: &str = "journal-";
const SPARE: &str = "spare-";
const TMP: &str = "journal.tmp";
/// More would be given back to the file system than the log can need soon.
const SPARES_MAX: usize = 2;

#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    file_bytes: u64,
    /// Full ones, ascending.
    older: VecDeque<Older>,
    /// The one that is written; `None` before the first record.
    current: Option<JournalFile>,
    /// Of `file_bytes` each. There is one whenever the disk has the room, so that a disk that has none left can be written on for
    /// a while.
    spares: Vec<PathBuf>,
    spare_count: u64,
}

#[derive(Debug)]
struct Older {
    first: u64,
    path: PathBuf,
    bytes: u64,
}

impl Journal {
    /// Opens the journal in `dir` and hands over its records in ascending sequence: without gaps, or some were lost.
    pub(super) fn open(dir: &Path, file_bytes: u64, mut take: impl FnMut(u64, &[u8])) -> io::Result<Journal> {
        let mut journal = Journal {
            dir: dir.to_owned(),
            file_bytes,
            older: VecDeque::new(),
            current: None,
            spares: Vec::new(),
            spare_count: 0,
        };
        let mut files: Vec<(u64, PathBuf)> = Vec::new();
        for file in std::fs::read_dir(dir)? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = |prefix: &str| number_of(&name, prefix);
            if let Some(first) = number(PREFIX) {
                files.push((first, path));
            } else if let Some(number) = number(SPARE) {
                journal.spare_count = journal.spare_count.max(number);
                // One that is shorter was not finished, or is of another version's size.
                match path.metadata()?.len() == file_bytes {
                    true => journal.spares.push(path),
                    false => std::fs::remove_file(&path)?,
                }
            } else if name == TMP {
                // Not given its name before the crash, so nothing was written to it.
                std::fs::remove_file(&path)?;
            }
        }
        files.sort();
        for at in 0..files.len() {
            let (first, path) = &files[at];
            let mut file = JournalFile::open(path)?;
            if file.first() > *first {
                // It was given up and begun anew, and the power failed before the names that go with that were durable.
                journal.spares.push(path.clone());
                continue;
            }
            if file.first() < *first {
                let message = format!("{}: it begins with record {}", path.display(), file.first());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            // Where a later file begins, the earlier one had a record that was never acknowledged and was removed.
            let end = files.get(at + 1).map_or(u64::MAX, |(first, _)| *first);
            file.read(|_, seq, record| {
                if seq >= end {
                    return Ok::<_, io::Error>(ControlFlow::Break(()));
                }
                take(seq, record);
                Ok(ControlFlow::Continue(()))
            })?;
            journal.retire_current();
            journal.current = Some(file);
        }
        // Its last record may be in the kernel's memory only, if the last process was killed before its fdatasync. The next one may
        // begin a file, which says that everything before it was durable.
        journal.sync()?;
        Ok(journal)
    }

    /// Up to here the journal itself tells that records were durable: a file is begun only then. 0 if it does not tell.
    pub(super) fn durable_before(&self) -> u64 {
        self.current.as_ref().map_or(0, |file| file.first() - 1)
    }

    /// Writes a record. Not durable before [`sync`](Self::sync). After an error the same record can be written again.
    pub(super) fn append(&mut self, seq: u64, record: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.current
            && file.takes(seq, record.len())
        {
            return file.append(seq, record);
        }
        let mut file = self.begin_file(seq, record.len())?;
        file.append(seq, record)?;
        self.retire_current();
        self.current = Some(file);
        Ok(())
    }

    fn begin_file(&mut self, seq: u64, record_bytes: usize) -> io::Result<JournalFile> {
        let to = self.dir.join(format!("{PREFIX}{seq:020}"));
        let bytes = file_bytes_for(record_bytes).max(self.file_bytes);
        let spare = if bytes == self.file_bytes { self.spares.last() } else { None };
        let Some(spare) = spare else {
            let from = self.dir.join(TMP);
            return JournalFile::create(&from, &to, seq, bytes).inspect_err(|_| {
                // The room that it could take, if it was not all of it.
                let _ = std::fs::remove_file(&from);
            });
        };
        let file = JournalFile::create(spare, &to, seq, bytes)?;
        self.spares.pop();
        Ok(file)
    }

    /// Takes the room for the next file, if it is not taken.
    pub(super) fn reserve_file(&mut self) -> io::Result<()> {
        if self.spares.is_empty() {
            if !has_room(&self.dir, self.file_bytes)? {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let spare = spare_path(&self.dir, &mut self.spare_count);
            JournalFile::reserve(&spare, self.file_bytes)?;
            self.spares.push(spare);
        }
        Ok(())
    }

    fn retire_current(&mut self) {
        if let Some(file) = self.current.take() {
            self.older.push_back(Older {
                first: file.first(),
                path: file.path().to_owned(),
                bytes: file.bytes(),
            });
        }
    }

    /// The file that holds the record, if one does.
    pub(super) fn file_with(&self, seq: u64) -> Option<PathBuf> {
        if let Some(current) = &self.current
            && seq >= current.first()
        {
            return Some(current.path().to_owned());
        }
        self.older.iter().rfind(|file| file.first <= seq).map(|file| file.path.clone())
    }

    /// One fdatasync.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), JournalFile::sync)
    }

    /// Gives up files that have no record after `through`. That they were given up need not be durable: what comes back of
    /// them is not needed, and a file under its old name that was begun anew says so.
    pub(super) fn remove_through(&mut self, through: u64) -> io::Result<()> {
        while let Some(Older { first: _, path, bytes }) = self.older.front() {
            let next = self.older.get(1).map(|file| file.first);
            let next = next.or(self.current.as_ref().map(JournalFile::first));
            if next.is_none_or(|next| next > through.saturating_add(1)) {
                break;
            }
            if self.spares.len() < SPARES_MAX && *bytes == self.file_bytes {
                let spare = spare_path(&self.dir, &mut self.spare_count);
                std::fs::rename(path, &spare)?;
                self.spares.push(spare);
            } else {
                std::fs::remove_file(path)?;
            }
            self.older.pop_front();
        }
        Ok(())
    }

    /// The record `from` and what comes after it were never acknowledged: the next one takes its number, in a file of its
    /// own.
    pub(super) fn remove_suffix(&mut self, from: u64) {
        self.retire_current();
        self.older.retain(|file| file.first < from);
    }
}

/// Hands over the records in `dir` as [`Journal::open`] does, without the checks, and changes nothing there.
pub(super) fn read_records(dir: &Path, mut take: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        files
            .extend(number_of(&file.file_name().to_string_lossy(), PREFIX).map(|first| (first, file.path())));
    }
    files.sort();
    for at in 0..files.len() {
        let (first, path) = &files[at];
        let mut file = JournalFile::open_to_read(path)?;
        let end = files.get(at + 1).map_or(u64::MAX, |(first, _)| *first);
        if file.first() != *first {
            continue;
        }
        file.read(|_, seq, record| {
            if seq >= end {
                return Ok::<_, io::Error>(ControlFlow::Break(()));
            }
            take(seq, record);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}

/// Whether a file of this name is a part of a journal.
pub(super) fn is_journal(name: &OsStr) -> bool {
    number_of(&name.to_string_lossy(), PREFIX).is_some()
}

fn number_of(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// A name that no spare has had.
fn spare_path(dir: &Path, count: &mut u64) -> PathBuf {
    *count += 1;
    dir.join(format!("{SPARE}{count}"))
}

#[cfg(test)]
mod tests {
    use super::super::journal_reader::JournalReader;
    use super::*;

    const FILE_BYTES: u64 = 64 << 10;

    fn open(dir: &Path) -> (Journal, Vec<u64>) {
        let mut seqs = Vec::new();
        let journal = Journal::open(dir, FILE_BYTES, |seq, record| {
            assert_eq!(record, vec![seq as u8; 12_000]);
            seqs.push(seq);
        });
        (journal.unwrap(), seqs)
    }

    fn append(journal: &mut Journal, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            journal.append(seq, &vec![seq as u8; 12_000]).unwrap();
            journal.sync().unwrap();
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let names =
            std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn records_go_through_as_many_files_as_they_need_and_files_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, found) = open(dir.path());
        assert_eq!((found, journal.durable_before()), (vec![], 0));
        append(&mut journal, 1..=30);
        // Five to a file.
        assert_eq!(names(dir.path()).len(), 6);
        assert_eq!(journal.durable_before(), 25);
        journal.remove_through(13).unwrap();
        assert_eq!(names(dir.path())[0], format!("{PREFIX}{:020}", 11));
        let (mut journal, found) = open(dir.path());
        assert_eq!(found, (11..=30).collect::<Vec<_>>());
        append(&mut journal, 31..=40);
        assert_eq!(
            names(dir.path()).iter().filter(|name| name.starts_with(SPARE)).count(),
            0,
            "both in use again"
        );
        assert_eq!(open(dir.path()).1, (11..=40).collect::<Vec<_>>());
        journal.remove_through(1000).unwrap();
        assert_eq!(open(dir.path()).1, (36..=40).collect::<Vec<_>>(), "the file that is written stays");
    }

    #[test]
    fn a_record_larger_than_a_file_has_a_file_of_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut seqs = Vec::new();
        {
            let (mut journal, _) = open(dir.path());
            append(&mut journal, 1..=2);
            journal.append(3, &vec![3; FILE_BYTES as usize * 3]).unwrap();
            append(&mut journal, 4..=4);
        }
        let take = |seq, record: &[u8]| seqs.push((seq, record.len()));
        let mut journal = Journal::open(dir.path(), FILE_BYTES, take).unwrap();
        assert_eq!(seqs, [(1, 12_000), (2, 12_000), (3, FILE_BYTES as usize * 3), (4, 12_000)]);
        journal.remove_through(3).unwrap();
        assert_eq!(
            names(dir.path()),
            [format!("{PREFIX}{:020}", 4), format!("{SPARE}1")],
            "a large file is not kept"
        );
    }

    #[test]
    fn a_file_that_was_begun_anew_under_its_old_name_is_no_part_of_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        append(&mut journal, 1..=12);
        let path = |first: u64| dir.path().join(format!("{PREFIX}{first:020}"));
        JournalFile::create(&path(1), &path(1), 16, FILE_BYTES).unwrap();
        let (mut journal, found) = open(dir.path());
        assert_eq!(found, (6..=12).collect::<Vec<_>>());
        append(&mut journal, 13..=16);
        assert_eq!(open(dir.path()).1, (6..=16).collect::<Vec<_>>());
        assert!(!path(1).exists(), "it was used");
    }

    #[test]
    fn a_removed_record_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        append(&mut journal, 1..=3);
        journal.remove_suffix(3);
        journal.append(3, &[3; 12_000]).unwrap();
        append(&mut journal, 4..=4);
        assert_eq!(open(dir.path()).1, [1, 2, 3, 4], "record 3 once");
    }

    #[test]
    fn the_next_file_has_its_room_before_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        append(&mut journal, 1..=3);
        for _ in 0..2 {
            journal.reserve_file().unwrap();
        }
        let spare = dir.path().join(format!("{SPARE}1"));
        assert_eq!(names(dir.path()).len(), 2, "one");
        let taken = std::os::unix::fs::MetadataExt::blocks(&spare.metadata().unwrap()) * 512;
        assert!(taken >= FILE_BYTES, "{taken} bytes of {FILE_BYTES}");
        append(&mut journal, 4..=8);
        assert!(!spare.exists(), "it was used");
        assert_eq!(open(dir.path()).1, (1..=8).collect::<Vec<_>>());

        // One that was not finished is not taken for one.
        std::fs::write(&spare, [0; 100]).unwrap();
        let (mut journal, _) = open(dir.path());
        assert!(!spare.exists());
        append(&mut journal, 9..=11);
        assert_eq!(open(dir.path()).1, (1..=11).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_is_found_in_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        assert_eq!(journal.file_with(1), None);
        append(&mut journal, 1..=12);
        let reader = |journal: &Journal, seq| {
            JournalReader::open(&journal.file_with(seq).unwrap()).unwrap().expect("the file is there")
        };
        for seq in 1..=12 {
            let found = reader(&journal, seq).record(seq).unwrap();
            assert_eq!(found, Some(vec![seq as u8; 12_000]), "record {seq}");
        }
        assert_eq!(reader(&journal, 13).record(13).unwrap(), None);

        let (first, reads_first) = (journal.file_with(2).unwrap(), reader(&journal, 2));
        journal.remove_through(5).unwrap();
        assert_eq!(journal.file_with(2), None);
        assert!(JournalReader::open(&first).unwrap().is_none(), "its file was given up meanwhile");
        append(&mut journal, 13..=20);
        let found = reads_first.record(2).unwrap();
        assert_eq!(found, None, "the file is used for other records");
    }
}
