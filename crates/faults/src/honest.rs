//! Clients that did nothing wrong, in a scenario in which others do.

use anyhow::ensure;

use crate::coverage::Coverage;
use crate::history::{History, Op, What};
use crate::scenarios::Scenario;

/// That no session ended, and that reads and sets were answered soon.
pub(crate) fn check(scenario: &Scenario, history: &History, coverage: &Coverage) -> anyhow::Result<()> {
    let Some(p99) = scenario.honest_p99 else { return Ok(()) };
    for (name, client) in &history.clients {
        for (_, what) in &client.lines {
            if let What::Ended { reason } = what {
                anyhow::bail!("the session of {name} has ended, by no fault of its own: {reason}");
            }
        }
    }
    let mut times: Vec<u64> = history
        .ops
        .iter()
        .filter(|done| matches!(done.op, Op::Get { .. } | Op::Set { .. }))
        .map(|done| done.returned.saturating_sub(done.called))
        .collect();
    times.sort_unstable();
    let Some(&found) = times.get(times.len() * 99 / 100) else { return Ok(()) };
    coverage.add("answers timed", times.len() as u64);
    coverage.add("ms of p99, summed over rounds", found / 1_000_000);
    ensure!(
        u128::from(found) <= p99.as_nanos(),
        "one in 100 of {} reads and sets took {} ms or more, and {p99:?} is the most",
        times.len(),
        found / 1_000_000
    );
    Ok(())
}
