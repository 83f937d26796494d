//! G5: what each watch told is what the log says, from its first to its last event: no gap, no doubling, in order, and before any answer
//! that shows the change.

use super::Verdict;
use super::projection::Projection;
use crate::history::{Answer, Client, History, Op, Told, What};
use crate::workloads;

const NAME: &str = "watches";

pub(super) fn check(history: &History, projection: &Projection<'_>, verdict: &mut Verdict) {
    let below = format!("{}/", workloads::WATCHED);
    let log: Vec<Told> = projection
        .changes
        .iter()
        .filter(|change| change.path.starts_with(&below))
        .map(|change| Told {
            zxid: change.zxid,
            change: change.kind.name().to_owned(),
            path: change.path.clone(),
        })
        .collect();
    for (name, client) in &history.clients {
        if client.lines.iter().any(|(_, what)| matches!(what, What::Watching { .. })) {
            check_stream(history, projection, &log, name, client, verdict);
        }
    }
}

fn check_stream(
    history: &History,
    projection: &Projection<'_>,
    log: &[Told],
    name: &str,
    client: &Client,
    verdict: &mut Verdict,
) {
    // The markers of this client: its own creates.
    let markers: Vec<u64> = history
        .ops
        .iter()
        .filter(|done| done.client == name && matches!(done.op, Op::Create { .. }))
        .filter_map(|done| if let Answer::Created { zxid, .. } = done.answer { Some(zxid) } else { None })
        .collect();
    let Some(begin) = markers.first().copied() else { return };
    let mut due = log[log.partition_point(|change| change.zxid < begin)..].iter();
    let mut last = 0;
    for (at, what) in &client.lines {
        match what {
            What::Told(told) if told.zxid < begin => {}
            What::Told(told) => {
                verdict.checked += 1;
                last = told.zxid;
                let next = due.next();
                if next != Some(told) && !is_excused(projection, next, told) {
                    let text = format!("{name} was told {told:?}, where {next:?} was due");
                    return verdict.violate(NAME, *at, &[], text);
                }
            }
            // What it has missed is behind it.
            What::Resync { zxid } => {
                due = log[log.partition_point(|change| change.zxid <= *zxid)..].iter();
                last = *zxid;
            }
            _ => {}
        }
    }
    // A client that came to its end has waited for the event of its last marker.
    if let [_, end] = markers[..]
        && last < end
    {
        let text = format!("{name} was told everything up to zxid {last}, and nothing up to {end}");
        verdict.violate(NAME, u64::MAX, &[], text);
    }
    events_come_before_answers(history, name, client, begin, verdict);
}

/// Where the log itself is not known exactly, neither is what is due.
fn is_excused(projection: &Projection<'_>, due: Option<&Told>, told: &Told) -> bool {
    projection.is_uncertain(&told.path) || due.is_some_and(|due| projection.is_uncertain(&due.path))
}

/// At each `Drained`, all events up to what the answer before it showed are there.
fn events_come_before_answers(
    history: &History,
    name: &str,
    client: &Client,
    begin: u64,
    verdict: &mut Verdict,
) {
    let mut reads = history.ops.iter().filter(|done| done.client == name && !done.op.is_write()).peekable();
    let (mut told, mut shown) = (begin, (0, (0, 0)));
    for (at, what) in &client.lines {
        match what {
            What::Told(event) => told = told.max(event.zxid),
            What::Resync { zxid } => told = told.max(*zxid),
            What::Drained => {
                while let Some(read) = reads.next_if(|read| read.returned <= *at) {
                    if let Answer::Got { mzxid, .. } = read.answer {
                        shown = shown.max((mzxid, read.id));
                    }
                }
                if shown.0 > told {
                    let text = format!(
                        "{name} was shown zxid {} before the event of it; the last event was {told}",
                        shown.0
                    );
                    return verdict.violate(NAME, *at, &[shown.1], text);
                }
            }
            _ => {}
        }
    }
}
