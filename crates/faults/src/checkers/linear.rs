//! G2: the answers can be explained by some order of the operations in which each takes effect at once, between its call and its answer.
//! Found by a search, object by object; zxids are not looked at.

use std::collections::{BTreeMap, HashMap};

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Sequence};
use todc_utils::specifications::Specification;

use super::Verdict;
use super::projection::was_refused;
use crate::history::{Answer, Done, Fate, History, Level, Op};
use crate::workloads;

const NAME: &str = "linear";
/// Errors that anything may get, whatever is there; nothing was done.
const WITHOUT_EFFECT: [&str; 5] =
    ["NoSpace", "QuotaExceeded", "Throttled", "NotServing", "TooManyUnacknowledged"];
/// Of one object.
const ZNODES_MAX: usize = 4;

/// A number that stands for a value, and a version.
type Znode = (u32, i32);
type State = [Znode; ZNODES_MAX];

/// An operation with its answer, as the specification of an object of some versioned znodes sees it.
#[derive(Clone, Debug)]
enum Step {
    Read(Vec<(usize, Znode)>),
    /// Sets with the versions they were conditional on, which made these versions, if that is known.
    Write(Vec<(usize, u32, Option<i32>, Option<i32>)>),
    /// The same, refused because a version was another one.
    Refused(Vec<(usize, u32, Option<i32>, Option<i32>)>),
    /// A write of which nobody knows anything: it takes effect, if it can, at some time.
    Open(Vec<(usize, u32, Option<i32>, Option<i32>)>),
}

struct Znodes;

impl Specification for Znodes {
    type State = State;
    type Operation = Step;

    fn init() -> State {
        [(0, 0); ZNODES_MAX]
    }

    fn apply(step: &Step, state: &State) -> (bool, State) {
        let holds = |writes: &[(usize, u32, Option<i32>, Option<i32>)]| {
            writes
                .iter()
                .all(|(znode, _, expected, _)| expected.is_none_or(|version| state[*znode].1 == version))
        };
        let written = |writes: &[(usize, u32, Option<i32>, Option<i32>)]| {
            let mut next = *state;
            for (znode, value, ..) in writes {
                next[*znode] = (*value, state[*znode].1 + 1);
            }
            next
        };
        match step {
            Step::Read(znodes) => (znodes.iter().all(|(znode, read)| state[*znode] == *read), *state),
            Step::Write(writes) => {
                let next = written(writes);
                let made = writes
                    .iter()
                    .all(|(znode, _, _, made)| made.is_none_or(|version| next[*znode].1 == version));
                (holds(writes) && made, next)
            }
            Step::Refused(writes) => (!holds(writes), *state),
            Step::Open(writes) if holds(writes) => (true, written(writes)),
            Step::Open(_) => (true, *state),
        }
    }
}

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let mut objects: BTreeMap<String, Vec<&Done>> = BTreeMap::new();
    for done in &history.ops {
        if let Some(error) = impossible_refusal(done) {
            let text =
                format!("{:?} was refused with {error}, and what it is about is always there", done.op);
            verdict.violate(NAME, done.called, &[done.id], text);
        }
        if let Some(object) = object_of(&done.op) {
            objects.entry(object).or_default().push(done);
        }
    }
    for (object, ops) in objects {
        verdict.searched += 1;
        if !is_linearizable(&ops) {
            let ids: Vec<_> = ops.iter().map(|done| done.id).collect();
            let at = ops.first().map_or(0, |done| done.called);
            let text = format!("no order explains the {} operations on {object}", ops.len());
            verdict.violate(NAME, at, &ids, text);
        }
    }
}

/// Registers and accounts are there from the first to the last: a write can meet another version, and what has no room for it, or no
/// time, may say so of anything. No other error is possible.
fn impossible_refusal(done: &Done) -> Option<&str> {
    let is_always_there = |path: &str| {
        workloads::is_below(workloads::REGISTERS, path) || workloads::is_below(workloads::ACCOUNTS, path)
    };
    if !done.op.paths().first().is_some_and(|path| is_always_there(path)) {
        return None;
    }
    let error = match (&done.answer, &done.fate) {
        (Answer::Refused(error), _) | (Answer::Unanswered, Fate::Applied(_, Some(error))) => error.as_str(),
        _ => return None,
    };
    let is_possible = WITHOUT_EFFECT.contains(&error) || error == "BadVersion" && done.op.is_conditional();
    (!is_possible).then_some(error)
}

/// The register or the bank that an operation is about; `None` for what is not linearizable, or neither.
fn object_of(op: &Op) -> Option<String> {
    if matches!(op, Op::Get { level: Level::Local, .. }) {
        return None;
    }
    let path = *op.paths().first()?;
    let register = path.starts_with(workloads::REGISTERS).then(|| path.to_owned());
    let bank =
        path.starts_with(workloads::ACCOUNTS).then(|| path.split('-').next().unwrap_or_default().to_owned());
    register.or(bank)
}

/// Which znode of its object a path is.
fn place_of(path: &str) -> usize {
    match path.starts_with(workloads::ACCOUNTS) {
        true => path.split('-').next_back().and_then(|number| number.parse().ok()).unwrap_or(0) % ZNODES_MAX,
        false => 0,
    }
}

/// Numbers for values; 0 is the value that was there before.
#[derive(Default)]
struct Values {
    numbers: HashMap<String, u32>,
}

impl Values {
    fn number(&mut self, path: &str, value: &str) -> u32 {
        let is_first = match path.starts_with(workloads::ACCOUNTS) {
            true => value == workloads::INITIAL_BALANCE.to_string(),
            false => value.is_empty(),
        };
        let next = self.numbers.len() as u32 + 1;
        if is_first { 0 } else { *self.numbers.entry(value.to_owned()).or_insert(next) }
    }
}

fn is_linearizable(ops: &[&Done]) -> bool {
    let mut values = Values::default();
    // Time, what happened (ends come before the beginnings of the same moment), which operation, what it does.
    let mut actions: Vec<(u64, u8, usize, Action<Step>)> = Vec::new();
    for (process, done) in ops.iter().enumerate() {
        if let Some(step) = step_of(done, &mut values) {
            actions.push((done.called, 1, process, Action::Call(step.clone())));
            actions.push((done.returned, 0, process, Action::Response(step)));
        }
    }
    if actions.is_empty() {
        return true;
    }
    actions.sort_by_key(|(at, kind, process, _)| (*at, *kind, *process));
    let actions = actions.into_iter().map(|(_, _, process, action)| (process, action)).collect();
    WGLChecker::<Znodes>::is_linearizable(Sequence::from_actions(actions))
}

fn step_of(done: &Done, values: &mut Values) -> Option<Step> {
    let mut writes = Vec::new();
    match &done.op {
        Op::Get { path, .. } => {
            let Answer::Got { value, version, .. } = &done.answer else { return None };
            return Some(Step::Read(vec![(place_of(path), (values.number(path, value), *version))]));
        }
        Op::MultiGet { paths } => {
            let Answer::MultiGot(got) = &done.answer else { return None };
            let read = paths.iter().zip(got);
            let read = read
                .map(|(path, (value, version, _))| (place_of(path), (values.number(path, value), *version)));
            return Some(Step::Read(read.collect()));
        }
        Op::Set { path, value, version, .. } => {
            let made = if let Answer::Set { version, .. } = done.answer { Some(version) } else { None };
            writes.push((place_of(path), values.number(path, value), *version, made));
        }
        Op::Multi { sets } => {
            for (place, set) in sets.iter().enumerate() {
                let made = match &done.answer {
                    Answer::Multi { versions, .. } => versions.get(place).copied(),
                    _ => None,
                };
                let value = values.number(&set.path, &set.value);
                writes.push((place_of(&set.path), value, Some(set.version), made));
            }
        }
        Op::Create { .. } | Op::Delete { .. } | Op::Close => return None,
    }
    match (&done.answer, &done.fate) {
        (Answer::Refused(error), _) => (error == "BadVersion").then_some(Step::Refused(writes)),
        (Answer::Unanswered, Fate::Never) => None,
        // Refused at some time, of which nobody was told.
        (Answer::Unanswered, _) if was_refused(done) => None,
        (Answer::Unanswered | Answer::Failed(_), Fate::Open) => Some(Step::Open(writes)),
        _ => Some(Step::Write(writes)),
    }
}
