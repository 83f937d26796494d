//! What a history must look like.
//!
//! Two kinds of checkers look at the same history. The **search** (`linear.rs`) knows nothing of coordd's own order: it looks for any
//! order that explains the answers. The others know the zxids: all answers together say what the log must have been
//! (`projection.rs`), and everything that anybody was told must agree with that one log.

mod counters;
mod grants;
mod linear;
mod order;
mod projection;
mod queue;
mod sequence;
mod sessions;
#[cfg(test)]
mod tests;
mod watches;

use std::collections::BTreeMap;

use crate::history::History;
use crate::workloads;
use projection::Projection;

/// Something that must not happen.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Who found it.
    pub(crate) checker: &'static str,
    pub(crate) text: String,
    /// The operations that contradict each other.
    pub(crate) ops: Vec<(u32, u64)>,
    /// Where in time to look, by the history's clock.
    pub(crate) at: u64,
}

/// What the checkers found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    /// By workload, or by what is rare in one: answers, events and grants that were compared with something.
    pub(crate) compared: BTreeMap<&'static str, u64>,
    /// Histories that were searched for a linear order: one for each register and each bank.
    pub(crate) searched: u64,
}

impl Verdict {
    fn violate(&mut self, checker: &'static str, at: u64, ops: &[(u32, u64)], text: String) {
        self.violations.push(Violation { checker, text, ops: ops.to_vec(), at });
    }

    /// Counts what was compared: a checker that had nothing to look at has found nothing.
    fn compare(&mut self, what: &'static str) {
        *self.compared.entry(what).or_default() += 1;
    }

    /// Counts an answer that was compared with the log.
    fn compare_path(&mut self, path: &str) {
        if let Some(workload) = workload_of(path) {
            self.compare(workload);
        }
    }
}

const REGISTERS: &str = "registers";
const TRANSFERS: &str = "transfers";
const ORDER: &str = "order";
const SEQUENCE: &str = "sequence";
const WATCHES: &str = "watches";
const PERSISTENT_WATCHES: &str = "persistent watches of one znode";
pub(crate) const ONE_SHOTS_TOLD: &str = "one-shot watches told";
const EPHEMERALS: &str = "ephemerals";
const CLOSED: &str = "ephemerals of closed sessions";
const SESSIONS: &str = "sessions";
const GRANTS: &str = "grants";
const ASSIGNMENT: &str = "assignment";
const QUEUE: &str = "queue";
const COUNTERS: &str = "counters";

/// What every run compares, whatever is broken in it: a workload that did nothing proves nothing.
pub(crate) const COMPARED: [&str; 14] = [
    REGISTERS,
    TRANSFERS,
    ORDER,
    SEQUENCE,
    WATCHES,
    PERSISTENT_WATCHES,
    ONE_SHOTS_TOLD,
    EPHEMERALS,
    CLOSED,
    SESSIONS,
    GRANTS,
    ASSIGNMENT,
    QUEUE,
    COUNTERS,
];

/// Whose znode it is. The logs of grants are counted where holders are compared, and events where they are told.
fn workload_of(path: &str) -> Option<&'static str> {
    let workloads = [
        (workloads::REGISTERS, REGISTERS),
        (workloads::ACCOUNTS, TRANSFERS),
        (workloads::ORDERED, ORDER),
        (workloads::SEQUENCE, SEQUENCE),
    ];
    workloads.iter().find(|(root, _)| workloads::is_below(root, path)).map(|(_, name)| *name)
}

/// Checks all of a history. Without a last look, what is missing in the end proves nothing; all else is checked.
pub(crate) fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let projection = Projection::of(history);
    order::check(history, &projection, &mut verdict);
    sequence::check(&projection, &mut verdict);
    let sessions = sessions::sessions(history);
    watches::check(history, &projection, &sessions, &mut verdict);
    sessions::check(history, &sessions, &mut verdict);
    grants::check(history, &projection, &mut verdict);
    queue::check(history, &mut verdict);
    counters::check(history, &mut verdict);
    linear::check(history, &mut verdict);
    verdict.violations.sort_by_key(|violation| violation.at);
    verdict
}
