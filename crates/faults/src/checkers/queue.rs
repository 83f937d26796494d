//! Tasks: each that was put is completed once, or still there.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{History, What};
use crate::workloads;

const NAME: &str = "queue";

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let (mut put, mut completed) = (BTreeMap::new(), BTreeMap::new());
    for (name, client) in &history.clients {
        for (at, what) in &client.lines {
            match what {
                What::Put { task } => drop(put.insert(task.as_str(), *at)),
                What::Completed { task } => {
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
    let was_completed =
        |task: &str| history.znodes.contains_key(&format!("{}/{task}", workloads::DONE_TASKS));
    for (task, at) in &put {
        let is_left = history.remaining.iter().any(|left| left == task);
        if was_completed(task) == is_left {
            let state =
                if is_left { "completed, and also still there" } else { "neither completed nor still there" };
            verdict.violate(NAME, *at, &[], format!("task {task} is {state}"));
        }
        verdict.checked += 1;
    }
    for (task, (at, name)) in &completed {
        if !was_completed(task) {
            let text =
                format!("{name} was told that task {task} is completed, and there is no trace of that");
            verdict.violate(NAME, *at, &[], text);
        }
    }
}
