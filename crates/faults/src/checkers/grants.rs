//! G7: what is written under one epoch is not mixed with what is written under another, and no two holders believe in their grants at
//! the same time.

use std::collections::{BTreeMap, BTreeSet};

use super::projection::Projection;
use super::{ASSIGNMENT, GRANTS, Verdict};
use crate::history::{History, What};
use crate::workloads;

const NAME: &str = "grants";

pub(super) fn check(history: &History, projection: &Projection<'_>, verdict: &mut Verdict) {
    let lines = history.clients.values().flat_map(|client| &client.lines);
    let grants: BTreeSet<&str> = lines
        .filter_map(
            |(_, what)| if let What::Granted { grant, .. } = what { Some(grant.as_str()) } else { None },
        )
        .collect();
    let items = workloads::assigned_items();
    for grant in grants {
        let log = format!("{}/{grant}", workloads::GRANT_LOGS);
        let workload = if items.iter().any(|item| item == grant) { ASSIGNMENT } else { GRANTS };
        let mut newest = 0;
        for change in projection.of_path(&log) {
            let epoch = change.value.split(':').next().and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
            if epoch < newest {
                let text =
                    format!("epoch {epoch} of {grant} wrote (zxid {}) after epoch {newest} had", change.zxid);
                verdict.violate(NAME, change.op.called, &[change.op.id], text);
            }
            newest = newest.max(epoch);
            verdict.compare(workload);
        }
        believers(history, grant, verdict);
    }
}

/// By the clock that all processes share: when a holder has asked its own clock and may go on, nobody else has been given the grant.
fn believers(history: &History, grant: &str, verdict: &mut Verdict) {
    // By epoch: when it was had, and when its holder last believed in it.
    let mut holders: BTreeMap<u64, (u64, u64, &str)> = BTreeMap::new();
    for (name, client) in &history.clients {
        for (at, what) in &client.lines {
            match what {
                What::Granted { grant: of, epoch } if of == grant => {
                    if let Some((_, _, other)) = holders.insert(*epoch, (*at, *at, name)) {
                        let text = format!("epoch {epoch} of {grant} was given to {other} and to {name}");
                        verdict.violate(NAME, *at, &[], text);
                    }
                }
                What::Held { grant: of, epoch } if of == grant => {
                    if let Some((_, last, _)) = holders.get_mut(epoch) {
                        *last = *at;
                    }
                }
                _ => {}
            }
        }
    }
    // Of the later epochs, the one that was had first.
    let mut earliest: Option<(u64, u64, &str)> = None;
    for (first, (had, believed, one)) in holders.into_iter().rev() {
        if let Some((other_had, second, other)) = earliest.filter(|(other_had, ..)| *other_had < believed) {
            let text = format!(
                "{one} believed in epoch {first} of {grant} {} ms after {other} had got epoch {second}",
                (believed - other_had) / 1_000_000
            );
            verdict.violate(NAME, believed, &[], text);
        }
        let this = (had, first, one);
        earliest = Some(earliest.map_or(this, |earliest| earliest.min(this)));
    }
}
