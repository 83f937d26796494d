//! What a history must look like.
//!
//! Two kinds of checkers look at the same history. The **search** (`linear.rs`) knows nothing of coordd's own order: it looks for any
//! order that explains the answers. The others know the zxids: all answers together say what the log must have been
//! (`projection.rs`), and everything that anybody was told must agree with that one log.

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

use crate::history::History;
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
    /// Operations and events that were compared with the log.
    pub(crate) checked: u64,
    /// Histories that were searched for a linear order: one for each register and each bank.
    pub(crate) searched: u64,
}

impl Verdict {
    fn violate(&mut self, checker: &'static str, at: u64, ops: &[(u32, u64)], text: String) {
        self.violations.push(Violation { checker, text, ops: ops.to_vec(), at });
    }
}

/// Checks all of a history.
pub(crate) fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let projection = Projection::of(history);
    order::check(history, &projection, &mut verdict);
    sequence::check(history, &projection, &mut verdict);
    watches::check(history, &projection, &mut verdict);
    sessions::check(history, &mut verdict);
    grants::check(history, &projection, &mut verdict);
    queue::check(history, &mut verdict);
    linear::check(history, &mut verdict);
    verdict.violations.sort_by_key(|violation| violation.at);
    verdict
}
