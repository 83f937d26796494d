//! G5: what each watch told is what the log says, from its first to its last event: no gap, no doubling, in order, and before any answer
//! that shows the change.

use std::collections::{BTreeMap, HashMap};

use super::projection::Projection;
use super::sessions::Session;
use super::{Verdict, WATCHES};
use crate::history::{Answer, Client, History, Op, Told, What};
use crate::workloads;

const NAME: &str = "watches";
/// Every node remembers the last 8 MiB of events, which take about 100 bytes each: so few are not forgotten.
const CHANGES_KEPT: usize = 20_000;

pub(super) fn check(
    history: &History,
    projection: &Projection<'_>,
    sessions: &BTreeMap<u64, Session<'_>>,
    verdict: &mut Verdict,
) {
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
            let session = client.lines.iter().find_map(|(_, what)| match what {
                What::Opened { session, .. } => sessions.get(session),
                _ => None,
            });
            // Only a session that is over, or a round that was, may leave it without a beginning and an end.
            let is_whole = !history.is_cut && session.is_some_and(|session| !session.may_be_over());
            check_stream(history, projection, &log, (name, client), is_whole, verdict);
        }
    }
}

fn check_stream(
    history: &History,
    projection: &Projection<'_>,
    log: &[Told],
    (name, client): (&str, &Client),
    is_whole: bool,
    verdict: &mut Verdict,
) {
    // The markers of this client: its own creates.
    let markers: Vec<u64> = history
        .ops
        .iter()
        .filter(|done| done.client == name && matches!(done.op, Op::Create { .. }))
        .filter_map(|done| if let Answer::Created { zxid, .. } = done.answer { Some(zxid) } else { None })
        .collect();
    if is_whole && markers.len() < 2 {
        let text = format!("{name} watched from zxid {markers:?} on, and its session has not ended");
        verdict.violate(NAME, u64::MAX, &[], text);
    }
    let Some(begin) = markers.first().copied() else { return };
    let mut due = log[log.partition_point(|change| change.zxid < begin)..].iter().peekable();
    let mut last = 0;
    for (at, what) in &client.lines {
        match what {
            What::Told(told) if told.zxid < begin => {}
            What::Told(told) => {
                verdict.compare(WATCHES);
                last = told.zxid;
                // Where the log itself is not known exactly, neither is what is due.
                let is_open = |told: &Told| projection.is_uncertain(&told.path);
                while due.next_if(|next| *next != told && !is_open(told) && is_open(next)).is_some() {}
                if due.next_if(|next| *next == told).is_none() && !is_open(told) {
                    let text = format!("{name} was told {told:?}, where {:?} was due", due.peek());
                    return verdict.violate(NAME, *at, &[], text);
                }
            }
            // What it has missed is behind it.
            What::Resync { zxid } => {
                let between = |zxid: u64| projection.changes.partition_point(|change| change.zxid <= zxid);
                let missed = between(*zxid).saturating_sub(between(last.max(begin)));
                if *zxid < last || missed < CHANGES_KEPT {
                    let text =
                        format!("{name} missed {missed} changes up to zxid {zxid}, behind zxid {last}");
                    verdict.violate(NAME, *at, &[], text);
                }
                due = log[log.partition_point(|change| change.zxid <= *zxid)..].iter().peekable();
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

/// At each `Drained`, all events up to what the answer before it showed are there: those of changes, and those of deletions.
fn events_come_before_answers(
    history: &History,
    name: &str,
    client: &Client,
    begin: u64,
    verdict: &mut Verdict,
) {
    let mut reads = history.ops.iter().filter(|done| done.client == name && !done.op.is_write()).peekable();
    let (mut told, mut shown) = (begin, (0, (0, 0)));
    // What is there as far as it was told, and since when that is known.
    let mut known: HashMap<&str, u64> = HashMap::new();
    for (at, what) in &client.lines {
        match what {
            What::Told(event) => {
                told = told.max(event.zxid);
                match event.change.as_str() {
                    "deleted" => drop(known.remove(event.path.as_str())),
                    _ => drop(known.insert(&event.path, *at)),
                }
            }
            What::Resync { zxid } => {
                told = told.max(*zxid);
                known.clear();
            }
            What::Drained => {
                while let Some(read) = reads.next_if(|read| read.returned <= *at) {
                    match (&read.op, &read.answer) {
                        (_, Answer::Got { mzxid, .. }) => shown = shown.max((*mzxid, read.id)),
                        (Op::Get { path, .. }, Answer::Refused(error))
                            if error == "NoNode"
                                && known.get(path.as_str()).is_some_and(|since| *since < read.called) =>
                        {
                            let text = format!("{name} did not find {path} before the event of its deletion");
                            return verdict.violate(NAME, *at, &[read.id], text);
                        }
                        _ => {}
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
