//! A bound on the memory of processes: a control group of version 1 or 2, whichever this machine lets us
//! make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// How often the removal of a group is tried, until the processes in it are gone.
const REMOVALS: u32 = 50;

/// A control group. It is removed when this is dropped, which must be after its processes.
pub(crate) struct MemoryLimit {
    group: PathBuf,
}

impl MemoryLimit {
    /// Makes a group of this name, whose processes have at most so many bytes together.
    pub(crate) fn new(name: &str, bytes: u64) -> anyhow::Result<MemoryLimit> {
        let hierarchies = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
        ];
        for (root, limit, swap) in hierarchies {
            let group = Path::new(root).join(name);
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let made = MemoryLimit { group };
            if std::fs::write(made.group.join(limit), bytes.to_string()).is_ok() {
                // Version 1 counts memory and swap together, version 2 swap alone. Without swap neither file
                // is there.
                let swap_bytes = if limit == "memory.max" { 0 } else { bytes };
                drop(std::fs::write(made.group.join(swap), swap_bytes.to_string()));
                return Ok(made);
            }
        }
        bail!("no control group for memory can be made below /sys/fs/cgroup")
    }

    /// Puts a process into the group.
    pub(crate) fn add(&self, process_id: u32) -> anyhow::Result<()> {
        std::fs::write(self.group.join("cgroup.procs"), process_id.to_string())
            .with_context(|| format!("{}: take in process {process_id}", self.group.display()))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            if std::fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
