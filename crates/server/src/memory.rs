//! What the system's allocator is told, and what the process takes.

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
