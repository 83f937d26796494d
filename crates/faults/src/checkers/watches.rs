//! G5: what each watch told is what the log says, from its first to its last event: no gap, no doubling, in order, and before any answer
//! that shows the change. A one-shot watch has one event: the first that the read which armed it did not show.

use std::collections::{BTreeMap, HashMap};

use super::projection::{Change, Kind, Projection};
use super::sessions::Session;
use super::{ONE_SHOTS_TOLD, PERSISTENT_WATCHES, Verdict, WATCHES};
use crate::history::{Answer, Client, History, Op, Told, WatchKind, What};
use crate::workloads;

const NAME: &str = "watches";
/// Every node remembers the last 8 MiB of events, which take about 100 bytes each: so few are not forgotten.
const CHANGES_KEPT: usize = 20_000;

/// All that watches of a kind and a path are to tell, in the order of the log.
type Logs<'a> = BTreeMap<(WatchKind, &'a str), Vec<Told>>;

pub(super) fn check(
    history: &History,
    projection: &Projection<'_>,
    sessions: &BTreeMap<u64, Session<'_>>,
    verdict: &mut Verdict,
) {
    let mut logs = Logs::new();
    for (_, what) in history.clients.values().flat_map(|client| &client.lines) {
        if let What::Watching { path, kind, .. } = what {
            let told = |change| told_of(*kind, path, change);
            logs.entry((*kind, path)).or_insert_with(|| projection.changes.iter().filter_map(told).collect());
        }
    }
    for (name, client) in &history.clients {
        if client.lines.iter().any(|(_, what)| matches!(what, What::Watching { .. })) {
            let session = client.lines.iter().find_map(|(_, what)| match what {
                What::Opened { session, .. } => sessions.get(session),
                _ => None,
            });
            // Only a session that is over, or a round that was, may leave it without a beginning and an end.
            let is_whole = !history.is_cut && session.is_some_and(|session| !session.may_be_over());
            check_client(history, projection, &logs, (name, client), is_whole, verdict);
        }
    }
}

/// What a watch tells of a change, if it does.
fn told_of(kind: WatchKind, path: &str, change: &Change<'_>) -> Option<Told> {
    let is_own = change.path == path;
    let is_below = workloads::is_below(path, &change.path);
    let fires = match kind {
        WatchKind::PersistentRecursive => is_own || is_below,
        WatchKind::Persistent | WatchKind::Data => is_own,
        WatchKind::Missing => is_own && change.kind == Kind::Created,
        WatchKind::Children => is_own && change.kind == Kind::Deleted,
    };
    // What workloads write has no children of its own.
    let is_of_children = is_below && change.kind != Kind::Changed;
    let (change_name, path) = if fires {
        (change.kind.name(), &*change.path)
    } else if is_of_children && matches!(kind, WatchKind::Persistent | WatchKind::Children) {
        ("children", path)
    } else {
        return None;
    };
    Some(Told { zxid: change.zxid, change: change_name.to_owned(), path: path.to_owned() })
}

/// One watch, as far as it has told what it is to tell.
struct Watch<'a> {
    kind: WatchKind,
    /// What is still to be told.
    due: &'a [Told],
    /// Up to here, the read that armed it may have shown what is due.
    armed: u64,
    /// The zxid of its last event, or the one behind which it was armed.
    last: u64,
    /// What is there as far as it was shown or told, and since when that is known.
    known: HashMap<&'a str, u64>,
}

impl<'a> Watch<'a> {
    /// Whether it may tell that now. Where the log itself is not known exactly, neither is what is due.
    fn tell(&mut self, told: &Told, is_uncertain: bool) -> bool {
        while let [next, rest @ ..] = self.due
            && next.zxid <= self.armed
            && next != told
        {
            self.due = rest;
        }
        match self.due {
            [next, rest @ ..] if next == told => self.due = rest,
            due => {
                let is_before = due.first().is_none_or(|next| told.zxid < next.zxid);
                if !(is_uncertain && is_before && told.zxid >= self.last) {
                    return false;
                }
            }
        }
        self.last = told.zxid;
        true
    }

    /// What it should have told by then.
    fn overdue(&self, zxid: u64) -> Option<&'a Told> {
        self.due.iter().find(|due| due.zxid > self.armed).filter(|due| due.zxid <= zxid)
    }
}

fn check_client(
    history: &History,
    projection: &Projection<'_>,
    logs: &Logs<'_>,
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
    let mut watches: BTreeMap<u64, Watch<'_>> = BTreeMap::new();
    let mut reads = history.ops.iter().filter(|done| done.client == name && !done.op.is_write()).peekable();
    // By which read, if it is an operation of its own.
    let mut shown = (begin, None);
    for (at, what) in &client.lines {
        match what {
            What::Watching { watch, path, kind, read } => {
                let (from, armed) = read.unwrap_or((begin, begin));
                shown = shown.max((from, None));
                let log = &logs[&(*kind, path.as_str())];
                let due = &log[log.partition_point(|change| change.zxid <= from)..];
                let is_there = *kind == WatchKind::Data;
                let known = is_there.then_some((path.as_str(), *at)).into_iter().collect();
                watches.insert(*watch, Watch { kind: *kind, due, armed, last: from, known });
            }
            What::Told { watch, told } => {
                let Some(open) = watches.get_mut(watch) else {
                    let text = format!("{name} was told {told:?} by watch {watch}, which had fired");
                    return verdict.violate(NAME, *at, &[], text);
                };
                if !open.kind.is_one_shot() && told.zxid <= begin {
                    continue;
                }
                let is_uncertain = match told.change.as_str() {
                    "children" => projection.has_uncertain_children(&told.path),
                    _ => projection.is_uncertain(&told.path),
                };
                if !open.tell(told, is_uncertain) {
                    let due = open.due.first();
                    let text = format!("{name} was told {told:?} by watch {watch}, where {due:?} was due");
                    return verdict.violate(NAME, *at, &[], text);
                }
                verdict.compare(match open.kind {
                    WatchKind::PersistentRecursive => WATCHES,
                    WatchKind::Persistent => PERSISTENT_WATCHES,
                    _ => ONE_SHOTS_TOLD,
                });
                match told.change.as_str() {
                    "deleted" => drop(open.known.remove(told.path.as_str())),
                    "children" => {}
                    _ => drop(open.known.insert(&told.path, *at)),
                }
                if open.kind.is_one_shot() {
                    watches.remove(watch);
                }
            }
            // What it has missed is behind it.
            What::Resync { watch, zxid } => {
                let Some(open) = watches.get_mut(watch) else { continue };
                let between = |zxid: u64| projection.changes.partition_point(|change| change.zxid <= zxid);
                let last = open.last.max(shown.0);
                let missed = between(*zxid).saturating_sub(between(last));
                if *zxid < open.last || missed < CHANGES_KEPT {
                    let text =
                        format!("{name} missed {missed} changes up to zxid {zxid}, behind zxid {last}");
                    verdict.violate(NAME, *at, &[], text);
                }
                open.due = &open.due[open.due.partition_point(|change| change.zxid <= *zxid)..];
                open.last = *zxid;
                open.known.clear();
                if open.kind.is_one_shot() {
                    watches.remove(watch);
                }
            }
            // All events up to what the answers before it showed are there: those of changes, and those of deletions.
            What::Drained => {
                while let Some(read) = reads.next_if(|read| read.returned <= *at) {
                    let is_known = |path: &String| {
                        let mut since = watches.values().filter_map(|watch| watch.known.get(path.as_str()));
                        since.any(|since| *since < read.called)
                    };
                    match (&read.op, &read.answer) {
                        (_, Answer::Got { mzxid, .. }) => shown = shown.max((*mzxid, Some(read.id))),
                        (Op::Get { path, .. }, Answer::Refused(error))
                            if error == "NoNode" && is_known(path) =>
                        {
                            let text = format!("{name} did not find {path} before the event of its deletion");
                            return verdict.violate(NAME, *at, &[read.id], text);
                        }
                        _ => {}
                    }
                }
                for (watch, open) in &watches {
                    if let Some(due) = open.overdue(shown.0) {
                        let text = format!(
                            "{name} was shown zxid {} before the event of it, or of one before it: watch {watch} is to tell {due:?}",
                            shown.0
                        );
                        return verdict.violate(NAME, *at, shown.1.as_slice(), text);
                    }
                }
            }
            _ => {}
        }
    }
    // A client that came to its end has taken all events up to its last marker.
    if let [_, end] = markers[..]
        && let Some((watch, due)) = watches.iter().find_map(|(watch, open)| Some((watch, open.overdue(end)?)))
    {
        let text =
            format!("{name} was never told {due:?}, which watch {watch} was to tell before zxid {end}");
        verdict.violate(NAME, u64::MAX, &[], text);
    }
}
