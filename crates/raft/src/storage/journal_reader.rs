//! Reads single records of the journal while it is written.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::journal_file::JournalFile;

/// Knows where the records of one file are, so that who reads one after the other does not search the file for each.
#[derive(Debug)]
pub(super) struct JournalReader {
    file: JournalFile,
    /// By number.
    frames: BTreeMap<u64, u64>,
}

impl JournalReader {
    /// Of the [file](super::journal::Journal::file_with) as it is now. It may have been given up meanwhile: then its records are not
    /// needed any more, and `None`.
    pub(super) fn open(path: &Path) -> io::Result<Option<JournalReader>> {
        let mut file = match JournalFile::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It got its new header, and soon its new name, while this one was read.
            Err(_) if !path.exists() => return Ok(None),
            other => other?,
        };
        let mut frames = BTreeMap::new();
        file.read(|at, seq, _| {
            frames.insert(seq, at);
            Ok::<_, io::Error>(ControlFlow::Continue(()))
        })?;
        Ok(Some(JournalReader { file, frames }))
    }

    /// The file that it reads.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// `None` if the file did not have the record when it was opened, or is used for something else now.
    pub(super) fn record(&self, seq: u64) -> io::Result<Option<Vec<u8>>> {
        match self.frames.get(&seq) {
            Some(at) => self.file.record_at(*at, seq),
            None => Ok(None),
        }
    }
}
