//! Looks at all nodes all the time, and counts what they say of themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use coordd_client::NodeStatus;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::coverage::Coverage;
use crate::ensemble::status_at;

const EVERY: Duration = Duration::from_millis(100);

/// What nodes count, and the name that coverage has for it.
const COUNTED: [(&str, &str); 5] = [
    ("writes_answered_from_record", "answers from the record"),
    ("watches_resumed", "watches resumed"),
    ("missed_events_sent", "missed events sent"),
    ("sessions_expired", "sessions expired"),
    ("snapshots_installed", "snapshots installed"),
];

/// A task that asks, until it is stopped.
pub(crate) struct Observer {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Observer {
    pub(crate) fn start(endpoints: &[String], coverage: Coverage) -> Observer {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(observe(endpoints.to_vec(), coverage, stopped));
        Observer { stop, task }
    }

    /// Looks once more. Fails if nodes that had applied the same had other trees, at any time (G8).
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        // A panic there is one here.
        self.task.await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
    }
}

async fn observe(
    endpoints: Vec<String>,
    coverage: Coverage,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut seen = vec![Seen::default(); endpoints.len()];
    // By the index up to which it was applied: the tree's digest, and who said so first.
    let mut digests: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut term = 0;
    loop {
        let is_last = *stop.borrow();
        let statuses = join_all(endpoints.iter().map(|endpoint| status_at(endpoint))).await;
        for (status, seen) in statuses.into_iter().zip(&mut seen) {
            let Some(status) = status else { continue };
            if status.role == "leader" && status.term > term {
                // The first one is no change.
                coverage.add("leader changes", u64::from(term > 0));
                term = status.term;
            }
            seen.count(&status, &coverage);
            let (digest, first) =
                *digests.entry(status.applied_index).or_insert((status.digest, status.node_id));
            coverage.add("digests compared", u64::from(first != status.node_id));
            ensure!(
                digest == status.digest,
                "nodes {first} and {} have applied the same {} entries, and have other trees: digests {digest:x} and {:x}",
                status.node_id,
                status.applied_index,
                status.digest
            );
        }
        if is_last {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What a node said last.
#[derive(Clone, Default)]
struct Seen {
    incarnation: u64,
    snapshot_index: u64,
    counters: BTreeMap<String, u64>,
}

impl Seen {
    fn count(&mut self, status: &NodeStatus, coverage: &Coverage) {
        // A node that was started anew counts from 0.
        if self.incarnation != status.incarnation {
            *self = Seen { incarnation: status.incarnation, ..Seen::default() };
        }
        let installed = |counters: &BTreeMap<String, u64>| counters.get("snapshots_installed").copied();
        if self.snapshot_index > 0
            && status.snapshot_index > self.snapshot_index
            && installed(&status.counters) == installed(&self.counters)
        {
            coverage.add("snapshots cut", 1);
        }
        self.snapshot_index = status.snapshot_index.max(1);
        for (counter, name) in COUNTED {
            let now = status.counters.get(counter).copied().unwrap_or(0);
            let before = self.counters.insert(counter.to_owned(), now).unwrap_or(0);
            coverage.add(name, now.saturating_sub(before));
        }
    }
}
