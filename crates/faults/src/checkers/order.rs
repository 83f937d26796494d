//! G1 to G4: nothing acknowledged is missing or doubled, writes keep the order of time and of their sessions, and reads show states of that
//! one order that never go back.

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use super::projection::{Change, Kind, Projection};
use crate::history::{Answer, Done, History, Level, Op};
use crate::workloads;

const NAME: &str = "order";

pub(super) fn check(history: &History, projection: &Projection<'_>, verdict: &mut Verdict) {
    zxids_are_unique(projection, verdict);
    time_is_respected(history, projection, verdict);
    sessions_go_forward(history, projection, verdict);
    errors_are_known(history, verdict);
    nothing_came_from_nowhere(history, projection, verdict);
    for path in projection.paths() {
        versions_count_writes(history, projection, path, verdict);
    }
    reads_show_writes(history, projection, verdict);
}

/// An error that no request of a workload can get is none that a client can rely on.
fn errors_are_known(history: &History, verdict: &mut Verdict) {
    for done in &history.ops {
        if let Answer::Failed(error) = &done.answer {
            verdict.violate(NAME, done.called, &[done.id], format!("{:?} was answered {error}", done.op));
        }
    }
}

/// All that is there in the end was there before the workloads began, or one of them has written it. Completed tasks and
/// counters are no writes of a client: `queue.rs` and `counters.rs` know them.
fn nothing_came_from_nowhere(history: &History, projection: &Projection<'_>, verdict: &mut Verdict) {
    let numbered = format!("{}/n-", workloads::SEQUENCE);
    let prepared: BTreeMap<String, String> = workloads::prepared().into_iter().collect();
    for (path, znode) in &history.znodes {
        let is_open = projection.is_uncertain(path)
            || path.starts_with(&numbered) && projection.is_uncertain(&numbered)
            || [workloads::DONE_TASKS, workloads::COUNTERS]
                .iter()
                .any(|root| workloads::is_below(root, path));
        if is_open || projection.of_path(path).next().is_some() {
            continue;
        }
        let is_first = prepared.get(path).is_some_and(|value| *value == znode.value && znode.version == 0);
        if !is_first {
            let text = format!("{path} is there in the end, and nobody has written that: {znode:?}");
            verdict.violate(NAME, u64::MAX, &[], text);
        }
    }
}

fn zxids_are_unique(projection: &Projection<'_>, verdict: &mut Verdict) {
    for pair in projection.changes.windows(2) {
        if pair[0].zxid == pair[1].zxid && pair[0].op.id != pair[1].op.id {
            let text = format!(
                "zxid {} was given to two writes: {:?} and {:?}",
                pair[0].zxid, pair[0].op.op, pair[1].op.op
            );
            verdict.violate(NAME, pair[1].op.called, &[pair[0].op.id, pair[1].op.id], text);
        }
    }
}

/// Whether it was there, empty or with its first balance, before the workloads began.
fn was_prepared(path: &str) -> bool {
    [workloads::REGISTERS, workloads::ACCOUNTS, workloads::GRANT_LOGS]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
}

/// The first value of a znode that was prepared.
fn first_value(path: &str) -> String {
    match path.starts_with(workloads::ACCOUNTS) {
        true => workloads::INITIAL_BALANCE.to_string(),
        false => String::new(),
    }
}

/// Each write makes the next version, so that a lost or a doubled one shows; and what is there in the end is the last one.
fn versions_count_writes(history: &History, projection: &Projection<'_>, path: &str, verdict: &mut Verdict) {
    let is_ephemeral = path.starts_with(workloads::EPHEMERALS);
    if projection.is_uncertain(path) || is_ephemeral {
        return;
    }
    let mut version = was_prepared(path).then_some(0);
    let mut last: Option<&Change<'_>> = None;
    for change in projection.of_path(path) {
        let next = match (change.kind, version) {
            (Kind::Created, None) => Some(0),
            (Kind::Changed, Some(version)) => Some(version + 1),
            (Kind::Deleted, Some(_)) => None,
            _ => {
                let text = format!(
                    "{path} was {} by zxid {}, behind {}",
                    change.kind.name(),
                    change.zxid,
                    last.map_or("nothing".to_owned(), |last| format!(
                        "{} by zxid {}",
                        last.kind.name(),
                        last.zxid
                    )),
                );
                verdict.violate(NAME, change.op.called, &[change.op.id], text);
                change.version
            }
        };
        if change.version.is_some() && change.version != next {
            let text = format!(
                "{path} got version {:?} by zxid {}, where {next:?} was due: a write was lost or done twice",
                change.version, change.zxid
            );
            verdict.violate(NAME, change.op.called, &[change.op.id], text);
        }
        verdict.compare_path(path);
        version = change.version.or(next);
        last = Some(change);
    }
    let Some(last) = last.filter(|_| !history.is_cut) else { return };
    let found = history.znodes.get(path);
    let is_as_written = match version {
        None => found.is_none(),
        Some(version) => found.is_some_and(|znode| {
            (znode.version, znode.mzxid, znode.value.as_str()) == (version, last.zxid, last.value)
        }),
    };
    if !is_as_written {
        let text = format!(
            "{path} was last {} by zxid {} (version {version:?}, {:?}); in the end there is {found:?}",
            last.kind.name(),
            last.zxid,
            last.value
        );
        verdict.violate(NAME, last.op.called, &[last.op.id], text);
    }
}

/// One znode in an answer to a read.
struct Read<'a> {
    path: &'a str,
    value: &'a str,
    version: i32,
    mzxid: u64,
}

fn reads_of<'a>(done: &'a Done) -> Vec<Read<'a>> {
    match (&done.op, &done.answer) {
        (Op::Get { path, .. }, Answer::Got { value, version, mzxid }) => {
            vec![Read { path, value, version: *version, mzxid: *mzxid }]
        }
        (Op::MultiGet { paths }, Answer::MultiGot(got)) => {
            let read = |(path, znode): (&'a String, &'a (String, i32, u64))| {
                let (value, version, mzxid) = znode;
                Read { path, value, version: *version, mzxid: *mzxid }
            };
            paths.iter().zip(got).map(read).collect()
        }
        _ => vec![],
    }
}

/// What a read shows was written, before the read had ended; and what is read together was there together.
fn reads_show_writes(history: &History, projection: &Projection<'_>, verdict: &mut Verdict) {
    for done in &history.ops {
        let reads = reads_of(done);
        let newest = reads.iter().map(|read| read.mzxid).max().unwrap_or(0);
        for read in &reads {
            let Read { path, value, version, mzxid } = *read;
            if path.starts_with(workloads::EPHEMERALS) || projection.is_uncertain(path) {
                continue;
            }
            verdict.compare_path(path);
            let written = projection.last_up_to(path, mzxid).filter(|change| change.zxid == mzxid);
            let fits = match written {
                Some(change) => {
                    change.value == value
                        && change.version.is_none_or(|made| made == version)
                        && change.kind != Kind::Deleted
                }
                None => was_prepared(path) && version == 0 && value == first_value(path),
            };
            if !fits {
                let wrote = written.map(|change| (change.value, change.version));
                let text = format!(
                    "{path} was read as {value:?}, version {version}, zxid {mzxid}; that zxid wrote {wrote:?}"
                );
                verdict.violate(NAME, done.called, &[done.id], text);
            }
            if let Some(change) = written
                && change.op.called > done.returned
            {
                let text = format!("{path} was read with zxid {mzxid} before that was written");
                verdict.violate(NAME, done.called, &[done.id, change.op.id], text);
            }
            if let Some(together) = projection.last_up_to(path, newest)
                && together.zxid > mzxid
            {
                let text = format!(
                    "{path} was read with zxid {mzxid} beside zxid {newest}, although zxid {} had changed it between",
                    together.zxid
                );
                verdict.violate(NAME, done.called, &[done.id, together.op.id], text);
            }
        }
    }
}

/// What an operation has shown to its client: it cannot be undone for anybody who begins later.
fn shown(done: &Done) -> u64 {
    let read = reads_of(done).iter().map(|read| read.mzxid).max();
    // A fate that is told after the end was not shown when the client was there.
    let written = if done.returned == u64::MAX { None } else { done.zxid() };
    written.or(read).unwrap_or(0)
}

/// What begins after something else has ended is not before it in the log: writes of everybody, and linearizable reads of one znode.
fn time_is_respected(history: &History, projection: &Projection<'_>, verdict: &mut Verdict) {
    let mut ended: Vec<&Done> = history.ops.iter().filter(|done| done.returned != u64::MAX).collect();
    ended.sort_by_key(|done| done.returned);
    let mut ended = ended.into_iter().peekable();
    let mut floor: (u64, (u32, u64)) = (0, (0, 0));
    let mut floors: HashMap<&str, (u64, (u32, u64))> = HashMap::new();
    // They are in the order of their calls.
    for done in &history.ops {
        while let Some(before) = ended.next_if(|before| before.returned < done.called) {
            floor = floor.max((shown(before), before.id));
            let own = before.zxid().unwrap_or(0);
            for read in reads_of(before) {
                let entry = floors.entry(read.path).or_default();
                *entry = (*entry).max((read.mzxid, before.id));
            }
            if own > 0 {
                for path in before.op.paths() {
                    let entry = floors.entry(path).or_default();
                    *entry = (*entry).max((own, before.id));
                }
            }
        }
        if let Some(zxid) = done.zxid()
            && zxid <= floor.0
        {
            let text =
                format!("{:?} has zxid {zxid}, and began after zxid {} had been shown", done.op, floor.0);
            verdict.violate(NAME, done.called, &[done.id, floor.1], text);
        }
        if matches!(done.op, Op::Get { level: Level::Linearizable, .. } | Op::MultiGet { .. }) {
            for read in reads_of(done) {
                let floor = floors.get(read.path).copied().unwrap_or_default();
                if read.mzxid < floor.0 {
                    let text = format!(
                        "a linearizable read of {} shows zxid {}, and began after zxid {} had been shown",
                        read.path, read.mzxid, floor.0
                    );
                    verdict.violate(NAME, done.called, &[done.id, floor.1], text);
                }
            }
        }
        if let Op::Get { path, level: Level::Linearizable } = &done.op
            && is_not_found(done)
            && let Some((shown, id)) = floors.get(path.as_str())
            && let Some(due) = remains(projection, path, *shown, |deletion| deletion.called < done.returned)
        {
            let text = format!(
                "a linearizable read did not find {path}, and began after zxid {} had been shown",
                due.zxid
            );
            verdict.violate(NAME, done.called, &[done.id, *id], text);
        }
    }
}

fn is_not_found(done: &Done) -> bool {
    matches!(&done.answer, Answer::Refused(error) if error == "NoNode")
}

/// The last change of a znode up to a zxid, if the znode is still there then and no later deletion is one that `counts`.
fn remains<'a>(
    projection: &'a Projection<'_>,
    path: &str,
    zxid: u64,
    counts: impl Fn(&Done) -> bool,
) -> Option<&'a Change<'a>> {
    let due = projection.last_up_to(path, zxid).filter(|due| due.kind != Kind::Deleted)?;
    let is_open = projection.is_uncertain(path) || path.starts_with(workloads::EPHEMERALS);
    let is_deletion =
        |change: &Change<'_>| change.zxid > due.zxid && change.kind == Kind::Deleted && counts(change.op);
    (!is_open && !projection.of_path(path).any(is_deletion)).then_some(due)
}

/// A session's writes are in the log as they were called, and what it reads is never behind what it has seen.
fn sessions_go_forward(history: &History, projection: &Projection<'_>, verdict: &mut Verdict) {
    let mut sessions: BTreeMap<u64, Vec<&Done>> = BTreeMap::new();
    for done in history.ops.iter().filter(|done| done.session != 0) {
        sessions.entry(done.session).or_default().push(done);
    }
    for ops in sessions.values() {
        let (mut last_write, mut seen) = (0, 0);
        for done in ops {
            if let Some(zxid) = done.zxid() {
                if zxid <= last_write {
                    let text = format!(
                        "{:?} has zxid {zxid}, behind zxid {last_write} of the same session",
                        done.op
                    );
                    verdict.violate(NAME, done.called, &[done.id], text);
                }
                last_write = zxid;
            }
            for read in reads_of(done) {
                let due =
                    projection.last_up_to(read.path, seen).filter(|_| !projection.is_uncertain(read.path));
                if let Some(due) = due
                    && read.mzxid < due.zxid
                {
                    let text = format!(
                        "{} was read with zxid {} in a session that had seen zxid {seen}; zxid {} had changed it before",
                        read.path, read.mzxid, due.zxid
                    );
                    verdict.violate(NAME, done.called, &[done.id, due.op.id], text);
                }
            }
            if let Op::Get { path, .. } = &done.op
                && is_not_found(done)
                && let Some(due) = remains(projection, path, seen, |_| true)
            {
                let text = format!(
                    "{path} was not found in a session that had seen zxid {seen}, after zxid {}",
                    due.zxid
                );
                verdict.violate(NAME, done.called, &[done.id, due.op.id], text);
            }
            seen = seen.max(shown(done));
        }
    }
}
