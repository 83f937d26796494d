//! Sequential names: numbers are given once, in the order of the log, without a gap, and go on whatever is deleted.

use super::Verdict;
use super::projection::{Kind, Projection};
use crate::workloads;

const NAME: &str = "sequence";

pub(super) fn check(projection: &Projection<'_>, verdict: &mut Verdict) {
    let prefix = format!("{}/n-", workloads::SEQUENCE);
    let mut due = 0u64;
    for change in projection.changes.iter().filter(|change| change.kind == Kind::Created) {
        let Some(number) = change.path.strip_prefix(&prefix) else { continue };
        // Created without an answer, and deleted or never looked at since: its number is one of those left out.
        if number.is_empty() {
            due += 1;
            continue;
        }
        match number.parse::<u64>() {
            Ok(number) if number == due || projection.is_uncertain(&prefix) && number > due => {
                due = number + 1
            }
            _ => {
                let text =
                    format!("zxid {} got the name {}, where number {due} was due", change.zxid, change.path);
                verdict.violate(NAME, change.op.called, &[change.op.id], text);
                due = number.parse().map_or(due, |number: u64| number + 1);
            }
        }
    }
}
