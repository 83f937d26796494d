//! How many client connections fit: some file descriptors are kept for the log, the snapshots and the other
//! nodes, and half of the memory for clients for what they ask.

use crate::incoming::CONNECTION_BYTES;

/// What the process needs beside its connections: files of the log and its copy, snapshots, listeners, the runtime; and
/// connections to the port for peers that have not said anything so far.
const RESERVED: usize = 128;
/// What each other node may need: connections in both directions, while old ones are being replaced.
const RESERVED_PER_NODE: usize = 16;

/// Descriptors that client connections cannot have, of `limit`.
fn reserved(limit: usize, nodes: usize) -> usize {
    (RESERVED + RESERVED_PER_NODE * nodes).min(limit / 2)
}

/// How many idle connections take half of so many bytes.
fn fitting_memory(client_memory: usize) -> usize {
    (client_memory / 2 / CONNECTION_BYTES).max(1)
}

/// How many client connections this process can have without taking what the disk and the other nodes need: at most
/// `wanted`, and fewer if the limit of open files or the memory for clients is lower than that takes.
pub(crate) fn fit_connections(wanted: usize, nodes: usize, client_memory: usize) -> usize {
    let limit = limit();
    let (by_files, by_memory) = (limit - reserved(limit, nodes), fitting_memory(client_memory));
    let connections = wanted.min(by_files).min(by_memory);
    if connections == wanted {
        tracing::info!(connections, open_files_max = limit, "client connections");
    } else if by_files <= by_memory {
        tracing::warn!(
            wanted,
            connections,
            open_files_max = limit,
            "--connections-max is more than the limit of open files (ulimit -n) allows; fewer connections are taken"
        );
    } else {
        tracing::warn!(
            wanted,
            connections,
            client_memory,
            "--connections-max is more than half of --client-memory-max allows; fewer connections are taken"
        );
    }
    connections
}

/// How many files this process may have open.
pub(crate) fn limit() -> usize {
    rlimit::Resource::NOFILE.get_soft().map_or(1024, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many files this process has open; 0 where the system does not tell. Blocks: the system lists them one
/// by one.
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
        assert!(fit_connections(10, 3, usize::MAX) == 10 || limit() < 40);
        assert!(open() > 2 && open() <= limit());
    }

    /// Idle connections leave half of the memory for clients to what they ask.
    #[test]
    fn connections_fit_memory() {
        assert_eq!(fitting_memory(256 << 20), 5957);
        assert_eq!(fitting_memory(1 << 10), 1);
        assert_eq!(fit_connections(20_000, 3, 256 << 10), 5);
        assert_eq!(fit_connections(2, 3, 256 << 10), 2);
    }
}
