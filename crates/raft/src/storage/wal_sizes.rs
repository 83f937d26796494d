//! How large the files of the log are.

/// The sizes that decide how soon the log's files are full, given up and used again. A node has the default ones. Smaller
/// ones show a test within seconds what a node does in hours. They are not part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSizes {
    /// A file of the journal. A record that is larger has one of its own size.
    pub journal_bytes: u64,
    /// sled's unit of allocation and of reuse. A value over a quarter of it would become a file of its own, and so would
    /// a leaf of 17 chunks.
    pub segment_bytes: usize,
    /// A record's unit in the database.
    pub chunk_bytes: usize,
}

impl Default for WalSizes {
    fn default() -> Self {
        WalSizes { journal_bytes: 32 << 20, segment_bytes: 8 << 20, chunk_bytes: 64 << 10 }
    }
}

impl WalSizes {
    /// A sixteenth of what a node has.
    pub fn small() -> WalSizes {
        let node = WalSizes::default();
        WalSizes {
            journal_bytes: node.journal_bytes / 16,
            segment_bytes: node.segment_bytes / 16,
            chunk_bytes: node.chunk_bytes / 16,
        }
    }
}
