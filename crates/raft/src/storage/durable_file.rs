//! Files that are there in full after a power loss, or not at all.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// What a node writes is for its own user only: the log has the passwords of sessions in it.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Everybody else's rights.
const OTHERS: u32 = 0o077;

/// How a file of this node is made, whatever the umask is.
pub(crate) fn private_file() -> OpenOptions {
    let mut options = File::options();
    options.write(true).create(true).mode(FILE_MODE);
    options
}

/// Makes a directory of this node, and those that lead to it, if they are not there.
pub(super) fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
}

/// Takes everybody else's rights on a directory and on what is in it. What cannot be changed, because it belongs to somebody
/// else, stays as it is and is named in the log.
pub(super) fn make_private(dir: &Path) {
    if let Err(error) = make_path_private(dir) {
        tracing::warn!(%error, path = %dir.display(), "others may read this, which may hold secrets");
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            // What mkfs leaves in a mount point is root's.
            Ok(kind) if kind.is_dir() && entry.file_name() != "lost+found" => make_private(&path),
            Ok(kind) if kind.is_file() => {
                if let Err(error) = make_path_private(&path) {
                    tracing::warn!(%error, path = %path.display(), "others may read this, which may hold secrets");
                }
            }
            // A link, and what it leads to, is somebody's own arrangement.
            _ => {}
        }
    }
}

fn make_path_private(path: &Path) -> io::Result<()> {
    let mode = path.metadata()?.permissions().mode();
    match mode & OTHERS {
        0 => Ok(()),
        _ => std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !OTHERS)),
    }
}

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
    let mut file = private_file().truncate(false).open(&tmp)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&tmp, path)?;
    sync_parent(path)?;
    // Nobody reads it. Without room for it, the next replacement has to find its own.
    let _ = private_file().truncate(true).open(&tmp).and_then(|mut next| {
        next.write_all(bytes)?;
        next.sync_all()
    });
    Ok(())
}
