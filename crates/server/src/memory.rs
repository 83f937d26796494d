//! What the system's allocator is told, what the process takes, and what it may take.

use std::path::{Path, PathBuf};

/// Keeps glibc from giving every thread an arena of its own.
///
/// Values are allocated by whichever thread applies an entry and freed by whichever replaces them. With an arena for
/// each thread (eight a core, by default) the freed memory of one is of no use to the others: a million znodes that were
/// all set once took 620 MB instead of 360 MB. Two arenas cost no measurable speed. Call it before any thread is started.
pub fn share_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `mallopt` changes a parameter of the allocator and touches no memory of ours; no other thread runs.
        #[allow(unsafe_code)]
        let accepted = unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
        debug_assert_eq!(accepted, 1, "M_ARENA_MAX is known to every glibc since 2.10");
    }
}

/// Gives memory that was freed back to the kernel. What was freed between things that live on stays with the process
/// otherwise. Holds the allocator's locks for some milliseconds, and blocks.
pub(crate) fn return_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `malloc_trim` takes the allocator's own locks and touches free memory only.
        #[allow(unsafe_code)]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Resident memory, from `/proc`; 0 where there is none.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Bytes that are allocated, whether resident or not; 0 where the allocator does not tell.
pub(crate) fn allocated_bytes() -> u64 {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `mallinfo2` takes the allocator's own locks and reads its counts.
        #[allow(unsafe_code)]
        let counts = unsafe { libc::mallinfo2() };
        (counts.uordblks + counts.hblkhd) as u64
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    0
}

/// The memory that this process may use: the least of what the machine has, what its cgroups and those around them allow
/// (version 1 and 2), and the limits of the process itself. It may change while the process runs.
pub(crate) fn usable_bytes() -> u64 {
    let of_machine = read_machine(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let groups = cgroup_limit(
        &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        &std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        Path::new("/"),
    );
    let own = [rlimit::Resource::AS, rlimit::Resource::DATA]
        .into_iter()
        .filter_map(|limit| limit.get_soft().ok())
        .min()
        .unwrap_or(u64::MAX);
    of_machine.min(groups).min(own)
}

fn read_machine(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib << 10)
}

/// The least limit of the memory cgroups that the process is in. `root` is where the mounts are, for tests.
fn cgroup_limit(own_cgroups: &str, mountinfo: &str, root: &Path) -> u64 {
    let mut limit = u64::MAX;
    for line in own_cgroups.lines() {
        // "5:memory:/path" in version 1, "0::/path" in version 2.
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (kind, file) = match controllers {
            "" => ("cgroup2", "memory.max"),
            all if all.split(',').any(|one| one == "memory") => ("cgroup", "memory.limit_in_bytes"),
            _ => continue,
        };
        for (mounted, at) in cgroup_mounts(mountinfo, kind) {
            let inside = Path::new(path).strip_prefix(&mounted).unwrap_or(Path::new(""));
            let at = root.join(at.strip_prefix("/").unwrap_or(&at));
            // From the process's own group up to the one that is mounted: each may be the narrowest.
            for group in inside.ancestors() {
                let text = std::fs::read_to_string(at.join(group).join(file)).unwrap_or_default();
                limit = limit.min(text.trim().parse().unwrap_or(u64::MAX));
            }
        }
    }
    limit
}

/// Which part of a hierarchy of cgroups is mounted, and where.
fn cgroup_mounts(mountinfo: &str, kind: &str) -> Vec<(PathBuf, PathBuf)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        // "36 25 0:31 /root /mount/point options ... - type source superoptions"
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let is_it = after.next()? == kind
            && (kind == "cgroup2" || after.nth(1)?.split(',').any(|option| option == "memory"));
        let mut before = before.split(' ').skip(3);
        is_it.then_some((before.next()?.into(), before.next()?.into()))
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    const MOUNTS_1: &str = "\
        30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
        31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n";
    const MOUNTS_2: &str = "31 25 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// Of nested groups the narrowest one counts, in both versions; what is unlimited is no limit.
    #[test]
    fn nested_cgroup_limits() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        write(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824\n");
        write(root, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "2147483648\n");
        let limit = |own: &str, mounts| cgroup_limit(own, mounts, root);
        assert_eq!(limit("4:cpu,cpuacct:/x\n5:memory:/a/b\n", MOUNTS_1), 1 << 30);
        assert_eq!(limit("5:memory:/a\n", MOUNTS_1), 1 << 30);
        assert_eq!(limit("5:memory:/\n", MOUNTS_1), 9_223_372_036_854_771_712);
        write(root, "sys/fs/cgroup/c/memory.max", "max\n");
        write(root, "sys/fs/cgroup/c/d/memory.max", "536870912\n");
        write(root, "sys/fs/cgroup/c/d/e/memory.max", "max\n");
        assert_eq!(limit("0::/c/d/e\n", MOUNTS_2), 512 << 20);
        assert_eq!(limit("0::/c\n", MOUNTS_2), u64::MAX);
        assert_eq!(limit("", ""), u64::MAX);
    }

    /// In a container only its own part of the hierarchy is mounted, and the paths may be of the host.
    #[test]
    fn container_cgroup_limits() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "sys/fs/cgroup/memory.max", "268435456\n");
        let mounts =
            |part: &str| format!("31 25 0:27 {part} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw\n");
        for (own, part) in [("0::/\n", "/"), ("0::/docker/7f\n", "/docker/7f"), ("0::/../other\n", "/..")] {
            assert_eq!(cgroup_limit(own, &mounts(part), root), 256 << 20, "{own} {part}");
        }
    }

    #[test]
    fn this_process_may_use_something() {
        assert_eq!(read_machine("MemTotal:       24689764 kB\nMemFree: 1 kB\n"), 24_689_764 << 10);
        let usable = usable_bytes();
        assert!(usable > 64 << 20, "{usable}");
        assert!(resident_bytes() < usable);
    }

    /// What is allocated shows while it is, and not afterwards.
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn allocations_show() {
        let before = allocated_bytes();
        let large = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(allocated_bytes() > before + (48 << 20));
        drop(large);
        assert!(allocated_bytes() < before + (48 << 20));
    }
}
