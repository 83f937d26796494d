//! Tasks: each that was put is completed once, or still there.

use std::collections::{BTreeMap, BTreeSet};

use super::{QUEUE, Verdict};
use crate::history::{History, What};
use crate::workloads;

const NAME: &str = "queue";

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let (mut put, mut completed) = (BTreeMap::new(), BTreeMap::new());
    let (mut asked_for, mut claims) = (BTreeSet::new(), BTreeMap::new());
    for (name, client) in &history.clients {
        for (at, what) in &client.lines {
            match what {
                What::Putting { task } => drop(asked_for.insert(task.as_str())),
                What::Put { task } => drop(put.insert(task.as_str(), *at)),
                What::Claimed { task, attempt } => {
                    if let Some(other) = claims.insert((task.as_str(), *attempt), name) {
                        let text =
                            format!("attempt {attempt} at task {task} was given to {other} and to {name}");
                        verdict.violate(NAME, *at, &[], text);
                    }
                }
                What::Completed { task } => {
                    verdict.compare(QUEUE);
                    if let Some((_, other)) = completed.insert(task.as_str(), (*at, name)) {
                        let text = format!("task {task} was completed by {other} and by {name}");
                        verdict.violate(NAME, *at, &[], text);
                    }
                }
                What::CompletedAgain { task } => {
                    let text = format!("task {task} was given to {name} after it had been completed");
                    verdict.violate(NAME, *at, &[], text);
                }
                _ => {}
            }
        }
    }
    if history.is_cut {
        return;
    }
    let done = format!("{}/", workloads::DONE_TASKS);
    let done = history.znodes.keys().filter_map(|path| path.strip_prefix(&done));
    for task in done.chain(history.remaining.iter().map(String::as_str)) {
        if !asked_for.contains(task) {
            verdict.violate(NAME, u64::MAX, &[], format!("task {task} is there, and nobody has put it"));
        }
    }
    let was_completed =
        |task: &str| history.znodes.contains_key(&format!("{}/{task}", workloads::DONE_TASKS));
    for (task, at) in &put {
        let is_left = history.remaining.iter().any(|left| left == task);
        if was_completed(task) == is_left {
            let state =
                if is_left { "completed, and also still there" } else { "neither completed nor still there" };
            verdict.violate(NAME, *at, &[], format!("task {task} is {state}"));
        }
    }
    for (task, (at, name)) in &completed {
        if !was_completed(task) {
            let text =
                format!("{name} was told that task {task} is completed, and there is no trace of that");
            verdict.violate(NAME, *at, &[], text);
        }
    }
}
