//! G6: sessions end of their own silence only, their ephemerals with them and not before.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Answer, Client, History, Mode, Op, What};
use crate::workloads;

const NAME: &str = "sessions";
/// Sessions may live longer than their timeout, never shorter; but a client's last sign of life may be as much older than its
/// silence as its pings are apart, which is a quarter of the timeout.
const SILENT_PART: f64 = 0.7;

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let silences = silences(history);
    let mut owners: BTreeMap<u64, (&str, &Client, bool)> = BTreeMap::new();
    for (name, client) in &history.clients {
        let (mut session, mut timeout) = (0, 0);
        let mut has_ended = false;
        for (at, what) in &client.lines {
            match what {
                What::Opened { session: opened, timeout_ms, .. } => {
                    (session, timeout) = (*opened, *timeout_ms)
                }
                What::Ended { reason } => {
                    has_ended = true;
                    let needed = (timeout as f64 * 1e6 * SILENT_PART) as u64;
                    let was_silent = silences.iter().any(|(process, from, to)| {
                        *process == client.process && from + needed <= *at.min(to)
                    });
                    if !was_silent {
                        let text =
                            format!("{name} was alive, and its session {session:x} was ended: {reason}");
                        verdict.violate(NAME, *at, &[], text);
                    }
                }
                _ => {}
            }
        }
        owners.insert(session, (name, client, has_ended));
        verdict.checked += 1;
    }
    ephemerals_go_with_sessions(history, &silences, &owners, verdict);
}

/// When which process of clients could not be heard, by no fault of the ensemble.
fn silences(history: &History) -> Vec<(u32, u64, u64)> {
    let mut silences: Vec<(u32, u64, u64)> = Vec::new();
    for (at, fault) in &history.faults {
        silences.extend(fault.silenced.iter().map(|process| (*process, *at, u64::MAX)));
        for (_, _, to) in
            silences.iter_mut().filter(|(process, _, to)| fault.heard.contains(process) && *to == u64::MAX)
        {
            *to = *at;
        }
    }
    silences
}

fn ephemerals_go_with_sessions(
    history: &History,
    silences: &[(u32, u64, u64)],
    owners: &BTreeMap<u64, (&str, &Client, bool)>,
    verdict: &mut Verdict,
) {
    for (path, znode) in history.znodes.iter().filter(|(_, znode)| znode.owner != 0) {
        if !history.live.contains(&znode.owner) {
            let text = format!("{path} is there, and its session {:x} is not", znode.owner);
            verdict.violate(NAME, u64::MAX, &[], text);
        }
    }
    for done in &history.ops {
        let Op::Create { path, mode: Mode::Ephemeral, .. } = &done.op else { continue };
        let Some((name, client, has_ended)) = owners.get(&done.session) else { continue };
        let was_closed =
            history.ops.iter().any(|other| other.session == done.session && other.op == Op::Close);
        let was_killed =
            silences.iter().any(|(process, _, to)| *process == client.process && *to == u64::MAX);
        let is_there = history.znodes.contains_key(path);
        if matches!(done.answer, Answer::Created { .. })
            && !has_ended
            && !was_closed
            && !was_killed
            && !is_there
        {
            let text = format!("{path} of {name} is gone, and its session was not ended");
            verdict.violate(NAME, done.called, &[done.id], text);
        }
        if *has_ended && is_there {
            let text = format!("{path} of {name} is there, and its session had ended");
            verdict.violate(NAME, done.called, &[done.id], text);
        }
    }
    ephemerals_do_not_outlive_a_close(history, verdict);
}

/// A linearizable read that begins after a close was answered does not see the session's ephemerals.
fn ephemerals_do_not_outlive_a_close(history: &History, verdict: &mut Verdict) {
    let mut closed: BTreeMap<u64, (u64, (u32, u64))> = BTreeMap::new();
    for done in history.ops.iter().filter(|done| done.answer == Answer::Closed) {
        closed.insert(done.session, (done.returned, done.id));
    }
    for done in &history.ops {
        let (Op::Get { path, .. }, Answer::Got { .. }) = (&done.op, &done.answer) else { continue };
        let Some(name) = path.strip_prefix(workloads::EPHEMERALS) else { continue };
        let owner = name.trim_start_matches('/').split('-').next().unwrap_or_default();
        let owner = u64::from_str_radix(owner, 16).unwrap_or(0);
        if let Some((at, close)) = closed.get(&owner)
            && done.called > *at
        {
            let text = format!("{path} was read after its session had been closed");
            verdict.violate(NAME, done.called, &[done.id, *close], text);
        }
    }
}
