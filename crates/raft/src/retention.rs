//! When a snapshot is cut, and how much of the log stays behind it: both by bytes, because the number of entries says
//! nothing about their size.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::disk::snapshot_bytes;
use crate::observer::Observer;
use crate::replica::Node;

const INTERVAL: Duration = Duration::from_millis(250);
/// While there is little room on the disk, a snapshot is cut after so much log already, because that is what makes room.
const LOW_DISK_LOG_BYTES: u64 = 4 << 20;
/// While there is little room, and deletes have made the tree much smaller: after so much.
const SHRUNK_LOG_BYTES: u64 = 64 << 10;
/// A snapshot that was asked for and is not there after so long is asked for again.
const BUILD_MAX: Duration = Duration::from_secs(300);
/// So many marks of "at this index the log had grown by so much" are kept; the oldest is the earliest place to cut.
const MARKS: usize = 4096;

/// Where the log had grown to at some indexes.
#[derive(Debug, Default)]
struct Growth {
    /// (index, bytes ever written up to it), ascending.
    marks: VecDeque<(u64, u64)>,
}

impl Growth {
    fn mark(&mut self, index: u64, bytes: u64) {
        if self.marks.back().is_some_and(|(last, _)| *last >= index) {
            return;
        }
        if self.marks.len() == MARKS {
            // Every second one is enough for the far past.
            let mut odd = false;
            self.marks.retain(|_| {
                odd = !odd;
                odd
            });
        }
        self.marks.push_back((index, bytes));
    }

    /// The last index that has at least `keep` bytes after it.
    fn cut(&self, now: u64, keep: u64) -> Option<u64> {
        let beyond = self.marks.partition_point(|(_, bytes)| bytes.saturating_add(keep) <= now);
        beyond.checked_sub(1).map(|at| self.marks[at].0)
    }
}

/// Cuts snapshots and purges the log, for ever.
pub(crate) async fn run_retention<O: Observer>(node: Arc<Node<O>>) {
    let mut growth = Growth::default();
    let already = node.log.log_bytes_since_purge();
    let mut at_snapshot = 0;
    // What was there when this process started is counted in `already`.
    let mut snapshot_index = node.raft.metrics().borrow_watched().snapshot.map(|id| id.index);
    let mut asked_at = None;
    let mut asked = Instant::now();
    let mut purge_asked = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (last, snapshot, purged) = {
            let metrics = node.raft.metrics();
            let metrics = metrics.borrow_watched();
            (
                metrics.last_log_index,
                metrics.snapshot.map(|id| id.index),
                metrics.purged.map_or(0, |id| id.index),
            )
        };
        let written = already + node.log.stats().bytes;
        let (snapshot_log_bytes, keep_log_bytes) = match node.disk.is_low() {
            true => (node.options.snapshot_log_bytes.min(LOW_DISK_LOG_BYTES), 0),
            false => (node.options.snapshot_log_bytes, node.options.keep_log_bytes),
        };
        growth.mark(last.unwrap_or(0), written);
        if snapshot != snapshot_index {
            snapshot_index = snapshot;
            at_snapshot = asked_at.take().unwrap_or(written);
        }
        if asked.elapsed() > BUILD_MAX {
            // It was not even begun, or another was under way.
            asked_at = None;
        }
        let grown = written - at_snapshot;
        if asked_at.is_none()
            && (grown >= snapshot_log_bytes || grown >= SHRUNK_LOG_BYTES && has_shrunk(&node))
        {
            tracing::info!(log_bytes = grown, "cutting a snapshot");
            asked_at = Some(written);
            asked = Instant::now();
            if node.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
        let cut = growth.cut(written, keep_log_bytes).min(snapshot_index).unwrap_or(0);
        let cut = node.peers.needed_after().map_or(cut, |needed| cut.min(needed));
        if cut > purged.max(purge_asked) {
            purge_asked = cut;
            if node.raft.trigger().purge_log(cut).await.is_err() {
                return;
            }
        }
    }
}

/// There is little room on the disk, and the snapshot that is there takes much more than the next one will.
fn has_shrunk<O: Observer>(node: &Node<O>) -> bool {
    let is_much_larger = |bytes: u64| bytes / 2 > snapshot_bytes(&node.shared.read().tree);
    node.disk.is_low() && node.snapshots.latest().is_some_and(|file| is_much_larger(file.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_leaves_at_least_the_bytes_to_keep() {
        let mut growth = Growth::default();
        for index in 1..=10 {
            growth.mark(index, index * 100);
        }
        assert_eq!(growth.cut(1000, 250), Some(7));
        assert_eq!(growth.cut(1000, 0), Some(10));
        assert_eq!(growth.cut(1000, 5000), None);
    }

    #[test]
    fn marks_are_bounded_and_stay_in_order() {
        let mut growth = Growth::default();
        for index in 1..=100_000 {
            growth.mark(index, index * 10);
        }
        assert!(growth.marks.len() <= MARKS);
        assert!(growth.marks.iter().is_sorted());
        let cut = growth.cut(1_000_000, 1000).unwrap();
        assert!(cut <= 99_900, "{cut} leaves less than asked");
    }
}
