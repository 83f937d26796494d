use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Answer, Done, Fate, History, Mode, Op};
use crate::workloads;

/// What happened to a znode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Created,
    Changed,
    Deleted,
}

impl Kind {
    /// As a watch tells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Created => "created",
            Kind::Changed => "changed",
            Kind::Deleted => "deleted",
        }
    }
}

/// One change of one znode, as the answer to a write tells it.
#[derive(Clone, Debug)]
pub(super) struct Change<'a> {
    pub(super) zxid: u64,
    /// In its multi.
    pub(super) place: usize,
    pub(super) kind: Kind,
    pub(super) path: String,
    /// Of a create or a set.
    pub(super) value: &'a str,
    /// That the answer says was made; an answer that was not received says nothing.
    pub(super) version: Option<i32>,
    pub(super) op: &'a Done,
}

/// The log, as far as the answers tell it: all changes in their order.
pub(super) struct Projection<'a> {
    pub(super) changes: Vec<Change<'a>>,
    /// Places in `changes`, ascending.
    by_path: HashMap<String, Vec<usize>>,
    /// Paths that a write may have changed of which nobody knows whether it took effect.
    uncertain: HashSet<String>,
}

impl<'a> Projection<'a> {
    pub(super) fn of(history: &'a History) -> Projection<'a> {
        // What sequential znodes became whose creator was not answered.
        let made: BTreeMap<u64, &str> =
            history.znodes.iter().map(|(path, znode)| (znode.czxid, path.as_str())).collect();
        let mut changes = Vec::new();
        let mut uncertain = HashSet::new();
        for op in &history.ops {
            if op.is_open() {
                uncertain.extend(op.op.paths().into_iter().map(str::to_owned));
            }
            if let Some(zxid) = op.zxid() {
                add(&mut changes, op, zxid, &made);
            }
        }
        changes.sort_by_key(|change| (change.zxid, change.place));
        let mut by_path: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, change) in changes.iter().enumerate() {
            by_path.entry(change.path.clone()).or_default().push(place);
        }
        Projection { changes, by_path, uncertain }
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }

    /// The changes of a znode, in their order.
    pub(super) fn of_path(&self, path: &str) -> impl DoubleEndedIterator<Item = &Change<'a>> + Clone {
        self.by_path.get(path).into_iter().flatten().map(|place| &self.changes[*place])
    }

    /// The last change of a znode up to a zxid.
    pub(super) fn last_up_to(&self, path: &str, zxid: u64) -> Option<&Change<'a>> {
        let places = self.by_path.get(path)?;
        let count = places.partition_point(|place| self.changes[*place].zxid <= zxid);
        Some(&self.changes[places[count.checked_sub(1)?]])
    }

    /// Nothing exact can be said of it.
    pub(super) fn is_uncertain(&self, path: &str) -> bool {
        self.uncertain.contains(path)
    }

    /// Nothing exact can be said of when its children came and went.
    pub(super) fn has_uncertain_children(&self, path: &str) -> bool {
        self.uncertain.iter().any(|child| workloads::is_below(path, child))
    }
}

fn add<'a>(changes: &mut Vec<Change<'a>>, op: &'a Done, zxid: u64, made: &BTreeMap<u64, &str>) {
    let mut push = |place: usize, kind, path: &str, value: &'a str, version| {
        changes.push(Change { zxid, place, kind, path: path.to_owned(), value, version, op });
    };
    match (&op.op, &op.answer) {
        (Op::Set { path, value, .. }, Answer::Set { version, .. }) => {
            push(0, Kind::Changed, path, value, Some(*version));
        }
        (Op::Set { path, value, .. }, _) => push(0, Kind::Changed, path, value, None),
        (Op::Create { value, .. }, Answer::Created { path, .. }) => {
            push(0, Kind::Created, path, value, Some(0))
        }
        (Op::Create { path, value, mode: Mode::Sequential }, _) => {
            push(0, Kind::Created, made.get(&zxid).copied().unwrap_or(path), value, Some(0));
        }
        (Op::Create { path, value, .. }, _) => push(0, Kind::Created, path, value, Some(0)),
        (Op::Delete { path }, _) => push(0, Kind::Deleted, path, "", None),
        (Op::Multi { sets }, answer) => {
            for (place, set) in sets.iter().enumerate() {
                let version = match answer {
                    Answer::Multi { versions, .. } => versions.get(place).copied(),
                    _ => None,
                };
                push(place, Kind::Changed, &set.path, &set.value, version);
            }
        }
        (Op::Get { .. } | Op::MultiGet { .. } | Op::Close, _) => {}
    }
}

/// A write of which the server says after the end that it was refused.
pub(super) fn was_refused(op: &Done) -> bool {
    matches!(&op.fate, Fate::Applied(_, Some(_))) || matches!(op.answer, Answer::Refused(_))
}
