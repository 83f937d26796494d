//! G6: sessions end of their own silence only, their ephemerals with them and not before.

use std::collections::BTreeMap;

use super::{CLOSED, EPHEMERALS, SESSIONS, Verdict};
use crate::history::{Answer, Done, History, Mode, Op, What};
use crate::workloads;

const NAME: &str = "sessions";
/// Sessions may live longer than their timeout, never shorter; but a client's last sign of life may be as much older than its
/// silence as its pings are apart, which is a quarter of the timeout.
const SILENT_PART: f64 = 0.7;

/// One session, as its client saw it.
pub(super) struct Session<'a> {
    name: &'a str,
    opened: u64,
    /// When its client was told that it has ended, and why.
    ended: Option<(u64, &'a str)>,
    /// When its client began to close it, and had closed it.
    closed: Option<(u64, u64, (u32, u64))>,
    /// From when on it may have expired, because nothing was heard of its process for long enough, by no fault of the ensemble.
    silent: Option<u64>,
}

impl Session<'_> {
    /// It has ended, or may have, whatever its client knows of that.
    pub(super) fn may_be_over(&self) -> bool {
        self.ended.is_some() || self.closed.is_some() || self.silent.is_some()
    }
}

/// All sessions that were opened.
pub(super) fn sessions(history: &History) -> BTreeMap<u64, Session<'_>> {
    let silences = silences(history);
    let mut sessions = BTreeMap::new();
    for (name, client) in &history.clients {
        let mut open: Option<(u64, u64, u64)> = None;
        let mut ended = None;
        for (at, what) in &client.lines {
            match what {
                What::Opened { session, timeout_ms, .. } => open = Some((*session, *at, *timeout_ms)),
                What::Ended { reason } => ended = Some((*at, reason.as_str())),
                _ => {}
            }
        }
        let Some((session, opened, timeout)) = open else { continue };
        let needed = (timeout as f64 * 1e6 * SILENT_PART) as u64;
        let until = ended.map_or(u64::MAX, |(at, _)| at);
        // Only what it was silent while it was open.
        let silent = silences
            .iter()
            .filter(|(process, from, to)| {
                *process == client.process && (*from).max(opened).saturating_add(needed) <= (*to).min(until)
            })
            .map(|(_, from, _)| (*from).max(opened))
            .min();
        sessions.insert(session, Session { name, opened, ended, closed: None, silent });
    }
    for done in history.ops.iter().filter(|done| done.op == Op::Close) {
        if let Some(session) = sessions.get_mut(&done.session) {
            // When a close that was not answered, or had no room, was done, nobody knows.
            let closed = if done.answer == Answer::Closed { done.returned } else { u64::MAX };
            session.closed = Some((done.called, closed, done.id));
        }
    }
    sessions
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

pub(super) fn check(history: &History, sessions: &BTreeMap<u64, Session<'_>>, verdict: &mut Verdict) {
    for (session, Session { name, ended, silent, .. }) in sessions {
        if let (Some((at, reason)), None) = (ended, silent) {
            let text = format!("{name} was alive, and its session {session:x} was ended: {reason}");
            verdict.violate(NAME, *at, &[], text);
        }
        verdict.compare(SESSIONS);
    }
    if !history.is_cut {
        what_is_open_lives(history, sessions, verdict);
        ephemerals_go_with_sessions(history, sessions, verdict);
    }
    sessions_see_their_ephemerals(history, sessions, verdict);
    ephemerals_do_not_outlive_a_close(history, sessions, verdict);
}

/// Whoever was not silent, and has not closed its session, has it in the end.
fn what_is_open_lives(history: &History, sessions: &BTreeMap<u64, Session<'_>>, verdict: &mut Verdict) {
    for (id, session) in sessions {
        if !session.may_be_over() && !history.live.contains(id) {
            let text = format!("session {id:x} of {} is gone, and nobody has ended it", session.name);
            verdict.violate(NAME, session.opened, &[], text);
        }
    }
}

/// In the end there are the ephemerals of the sessions that there are, and no others.
fn ephemerals_go_with_sessions(
    history: &History,
    sessions: &BTreeMap<u64, Session<'_>>,
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
        let Some(session) = sessions.get(&done.session) else { continue };
        let is_there = history.znodes.contains_key(path);
        if matches!(done.answer, Answer::Created { .. }) && !session.may_be_over() && !is_there {
            let text = format!("{path} of {} is gone, and its session was not ended", session.name);
            verdict.violate(NAME, done.called, &[done.id], text);
        }
        if session.ended.is_some() && is_there {
            let text = format!("{path} of {} is there, and its session had ended", session.name);
            verdict.violate(NAME, done.called, &[done.id], text);
        }
        verdict.compare(EPHEMERALS);
    }
}

/// As long as a session lives, it sees the ephemerals that it has created and not deleted.
fn sessions_see_their_ephemerals(
    history: &History,
    sessions: &BTreeMap<u64, Session<'_>>,
    verdict: &mut Verdict,
) {
    // By path: who created it, when that was answered.
    let mut own: BTreeMap<&str, &Done> = BTreeMap::new();
    for done in &history.ops {
        match &done.op {
            Op::Create { path, mode: Mode::Ephemeral, .. }
                if matches!(done.answer, Answer::Created { .. }) =>
            {
                own.insert(path, done);
            }
            Op::Delete { path } => drop(own.remove(path.as_str())),
            Op::Get { path, .. } => {
                let Some(created) = own.get(path.as_str()) else { continue };
                let Some(session) = sessions.get(&done.session) else { continue };
                // What it is told while it is being closed, or may have expired, depends on when that was.
                let over = session.closed.map_or(u64::MAX, |(called, ..)| called);
                let over = over.min(session.silent.unwrap_or(u64::MAX));
                if created.session != done.session || done.called < created.returned || done.returned >= over
                {
                    continue;
                }
                verdict.compare(EPHEMERALS);
                if done.answer == Answer::Refused("NoNode".to_owned()) {
                    let text = format!("{path} was not found in its session, which lives");
                    verdict.violate(NAME, done.called, &[done.id, created.id], text);
                }
            }
            _ => {}
        }
    }
}

/// A linearizable read that begins after a close was answered does not see the session's ephemerals.
fn ephemerals_do_not_outlive_a_close(
    history: &History,
    sessions: &BTreeMap<u64, Session<'_>>,
    verdict: &mut Verdict,
) {
    for done in &history.ops {
        let Op::Get { path, .. } = &done.op else { continue };
        let Some(name) = path.strip_prefix(workloads::EPHEMERALS) else { continue };
        let owner = name.trim_start_matches('/').split('-').next().unwrap_or_default();
        let owner = u64::from_str_radix(owner, 16).unwrap_or(0);
        let Some((_, closed, close)) = sessions.get(&owner).and_then(|session| session.closed) else {
            continue;
        };
        let is_missing = done.answer == Answer::Refused("NoNode".to_owned());
        if done.called <= closed || !(is_missing || matches!(done.answer, Answer::Got { .. })) {
            continue;
        }
        verdict.compare(CLOSED);
        if !is_missing {
            let text = format!("{path} was read after its session had been closed");
            verdict.violate(NAME, done.called, &[done.id, close], text);
        }
    }
}
