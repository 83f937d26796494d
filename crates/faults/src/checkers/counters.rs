//! G1 and G3 for a counter: each add counts once, and adds count in the order of time.

use std::collections::BTreeMap;

use super::{COUNTERS, Verdict};
use crate::history::{History, What};
use crate::recorded_client::NOTHING_WAS_DONE;
use crate::workloads;

const NAME: &str = "counters";

/// An add that was acknowledged.
struct Add<'a> {
    client: &'a str,
    begun: u64,
    ended: u64,
    value: i64,
}

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let mut adds = Vec::new();
    let mut open = 0;
    for (client, lines) in history.clients.iter().map(|(name, client)| (name, &client.lines)) {
        let mut begun = None;
        for (at, what) in lines {
            match what {
                // The one before it got no answer.
                What::Adding => open += i64::from(begun.replace(*at).is_some()),
                What::Added { value } => {
                    verdict.compare(COUNTERS);
                    let begun = begun.take().unwrap_or(*at);
                    adds.push(Add { client, begun, ended: *at, value: *value });
                }
                What::NotAdded { error } => {
                    begun = None;
                    if !NOTHING_WAS_DONE.contains(&error.as_str()) {
                        open += 1;
                        verdict.violate(NAME, *at, &[], format!("an add of {client} was answered {error}"));
                    }
                }
                _ => {}
            }
        }
        open += i64::from(begun.is_some());
    }
    each_counts_once(&adds, verdict);
    time_is_respected(&adds, verdict);
    if history.is_cut {
        return;
    }
    let found = history.znodes.get(workloads::COUNTER).map_or("0", |znode| znode.value.as_str());
    let acknowledged = adds.len() as i64;
    if !found.parse().is_ok_and(|value: i64| (acknowledged..=acknowledged + open).contains(&value)) {
        let text = format!(
            "the counter is {found} in the end; {acknowledged} adds were acknowledged, {open} are open"
        );
        verdict.violate(NAME, u64::MAX, &[], text);
    }
}

fn each_counts_once(adds: &[Add<'_>], verdict: &mut Verdict) {
    let mut values = BTreeMap::new();
    for add in adds {
        if let Some(other) = values.insert(add.value, add.client) {
            let text = format!("value {} was given to {other} and to {}", add.value, add.client);
            verdict.violate(NAME, add.ended, &[], text);
        }
    }
}

/// An add that begins after another one has ended gets a larger value.
fn time_is_respected(adds: &[Add<'_>], verdict: &mut Verdict) {
    let (mut by_begin, mut by_end): (Vec<_>, Vec<_>) = (adds.iter().collect(), adds.iter().collect());
    by_begin.sort_by_key(|add| add.begun);
    by_end.sort_by_key(|add| add.ended);
    let mut ended = by_end.into_iter().peekable();
    let mut largest = i64::MIN;
    for add in by_begin {
        while let Some(before) = ended.next_if(|before| before.ended < add.begun) {
            largest = largest.max(before.value);
        }
        if add.value <= largest {
            let text = format!(
                "{} was given value {}, and began after {largest} had been given",
                add.client, add.value
            );
            verdict.violate(NAME, add.ended, &[], text);
        }
    }
}
