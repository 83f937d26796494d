//! Files that are there in full after a power loss, or not at all.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Makes the names in `dir` durable: a file's own fsync does not cover the entry that leads to it.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes the name of `path` durable in the directory that holds it.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        Some(_) => sync_dir(Path::new(".")),
        None => Ok(()),
    }
}

/// Makes durable the names of `dir` and of all directories that lead to it, which may all be new.
pub(super) fn sync_ancestors(dir: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(dir)?;
    for ancestor in absolute.ancestors().skip(1) {
        match sync_dir(ancestor) {
            // Where we may not even look we have made nothing.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// There was no room, on the disk or in what the user may have of it; there may be some later.
pub(crate) fn is_full_disk(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Replaces `path` by a file of `bytes`: after a crash at any point it is the old file or the new one. Leaves a file `*.tmp` of the same
/// size, if there is room for it: the next replacement takes that room, so that it succeeds on a disk that is full by then and writes
/// files where they are.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    // Two names of one file, which a file system without a journal may make of a rename that was interrupted.
    if std::fs::metadata(&tmp).is_ok_and(|metadata| metadata.nlink() > 1) {
        std::fs::remove_file(&tmp)?;
    }
    // Not truncated before it is written, which would give its room away.
    let mut file = File::options().create(true).truncate(false).write(true).open(&tmp)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&tmp, path)?;
    sync_parent(path)?;
    // Nobody reads it. Without room for it, the next replacement has to find its own.
    let _ = File::create(&tmp).and_then(|mut next| {
        next.write_all(bytes)?;
        next.sync_all()
    });
    Ok(())
}
