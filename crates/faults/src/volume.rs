//! Small disks: a node's directory on a file system of its own, which can be filled.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// What stands in the way of others on a full disk.
const BALLOON: &str = "balloon";

/// A file system in memory, of a fixed size.
pub(crate) struct Volume {
    dir: PathBuf,
}

impl Volume {
    /// Mounts one at an empty directory. It goes with the mount namespace of this process.
    pub(crate) fn mount(dir: &Path, mebibytes: u32) -> anyhow::Result<Volume> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(dir)
            .status()
            .context("mount")?;
        ensure!(mounted.success(), "mount of a small tmpfs at {}: {mounted}", dir.display());
        Ok(Volume { dir: dir.to_owned() })
    }

    /// Takes all of the room that is left.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let balloon = File::options().create(true).append(true).open(self.dir.join(BALLOON))?;
        // Others take and free some meanwhile; a call that asks for more than there is takes nothing.
        for _ in 0..1000 {
            let free = statvfs(&self.dir)?;
            let (length, bytes) = (balloon.metadata()?.len(), free.f_bavail * free.f_frsize);
            if bytes == 0 {
                return Ok(());
            }
            match fallocate(&balloon, FallocateFlags::empty(), length, bytes) {
                Ok(()) | Err(Errno::NOSPC) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("{} does not get full", self.dir.display())
    }

    /// Gives all of it back.
    pub(crate) fn make_room(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.dir.join(BALLOON)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The directory is removed after it. What is not unmounted goes with the namespace.
        drop(Command::new("umount").args(["-l"]).arg(&self.dir).status());
    }
}
