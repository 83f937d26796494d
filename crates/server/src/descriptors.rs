//! File descriptors: some are kept for the log, the snapshots and the other nodes, whatever clients do.

/// What the process needs beside its connections: files of the log and its copy, snapshots, listeners, the runtime; and
/// connections to the port for peers that have not said anything so far.
const RESERVED: usize = 128;
/// What each other node may need: connections in both directions, while old ones are being replaced.
const RESERVED_PER_NODE: usize = 16;

/// Descriptors that client connections cannot have, of `limit`.
fn reserved(limit: usize, nodes: usize) -> usize {
    (RESERVED + RESERVED_PER_NODE * nodes).min(limit / 2)
}

/// How many client connections this process can have without taking what the disk and the other nodes need: at most
/// `wanted`, and fewer if the limit of open files is lower than that takes.
pub(crate) fn fit_connections(wanted: usize, nodes: usize) -> usize {
    let limit = limit();
    let fitting = wanted.min(limit - reserved(limit, nodes));
    match fitting < wanted {
        true => tracing::warn!(
            wanted,
            connections = fitting,
            open_files_max = limit,
            "--connections-max is more than the limit of open files (ulimit -n) allows; fewer connections are taken"
        ),
        false => tracing::info!(connections = fitting, open_files_max = limit, "client connections"),
    }
    fitting
}

/// How many files this process may have open.
pub(crate) fn limit() -> usize {
    rlimit::Resource::NOFILE.get_soft().map_or(1024, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many files this process has open; 0 where the system does not tell. Blocks: the system lists them one by one.
pub(crate) fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small limits are shared by halves; of large ones clients get all but the reserve.
    #[test]
    fn descriptors_are_reserved() {
        assert_eq!(reserved(256, 3), 128);
        assert_eq!(reserved(1024, 3), 176);
        assert_eq!(reserved(1_000_000, 5), 208);
        assert_eq!(reserved(0, 3), 0);
        assert!(fit_connections(10, 3) == 10 || limit() < 40);
        assert!(open() > 2 && open() <= limit());
    }
}
