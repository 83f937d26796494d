use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;

use super::{Record, What, now};

/// Writes records to a file, one by one: what was written is there when the process is killed.
pub(crate) struct Writer {
    file: File,
    next_op: AtomicU64,
}

impl Writer {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Writer> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("write {}", path.display()))?;
        Ok(Writer { file, next_op: AtomicU64::new(1) })
    }

    /// A number for an operation, unique in this file.
    pub(crate) fn next_op(&self) -> u64 {
        self.next_op.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes what happens now.
    pub(crate) fn write(&self, client: &str, what: What) {
        self.write_at(now(), client, what);
    }

    /// Writes what happened then.
    pub(crate) fn write_at(&self, at: u64, client: &str, what: What) {
        let record = Record { at, client: client.to_owned(), what };
        let mut line = serde_json::to_vec(&record).expect("a record has no maps with odd keys");
        line.push(b'\n');
        // One call a line, appended: lines of several threads do not mix.
        (&self.file).write_all(&line).expect("the history can be written");
    }
}
