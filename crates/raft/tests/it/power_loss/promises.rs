//! What the store has promised, from the lines of `power_probe live`, and whether what was found keeps it.

use std::collections::{BTreeSet, VecDeque};

/// Term and index; ordered as Raft orders them.
type Id = (u64, u64);

/// What a log can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LogState {
    vote: u64,
    purged: Option<Id>,
    /// Index, term, bytes.
    entries: VecDeque<(u64, u64, usize)>,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u64, u64, usize)>),
    Vote(u64),
    Truncate(Id),
    Purge(Id),
    Committed,
}

impl LogState {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => self.entries.extend(entries),
            Step::Vote(term) => self.vote = *term,
            Step::Truncate((_, last)) => self.entries.retain(|(index, ..)| index <= last),
            Step::Purge(upto) => {
                self.purged = Some(*upto);
                self.entries.retain(|(index, ..)| *index > upto.1);
            }
            Step::Committed => {}
        }
    }
}

/// A directory's content, as the probe describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    incarnation: u64,
    cluster: Option<String>,
    log: LogState,
    last: Option<Id>,
    committed: Option<Id>,
    snapshot: Option<Id>,
}

impl Found {
    /// Reads the probe's description.
    pub(crate) fn parse(line: &str) -> Found {
        let mut found = Found::default();
        for word in line.split(' ') {
            let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("not a state: {line}"));
            match key {
                "incarnation" => found.incarnation = number(value),
                "cluster" => found.cluster = (value != "-").then(|| value.to_owned()),
                "vote" => found.log.vote = number(value),
                "purged" => found.log.purged = parse_id(value),
                "last" => found.last = parse_id(value),
                "committed" => found.committed = parse_id(value),
                "snapshot" => found.snapshot = parse_id(value),
                "entries" => {
                    for entry in value.split(',').filter(|entry| !entry.is_empty()) {
                        let numbers: Vec<u64> = entry.split('.').map(number).collect();
                        found.log.entries.push_back((numbers[0], numbers[1], numbers[2] as usize));
                    }
                }
                _ => panic!("not a state: {line}"),
            }
        }
        found
    }
}

/// What was promised so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    incarnation: u64,
    cluster: Option<String>,
    cluster_asked: Option<String>,
    /// What is durable for certain, and what was asked for after it: of that a first part may be durable.
    certain: LogState,
    maybe: VecDeque<(u64, Step)>,
    /// All that was ever said to be committed.
    committed: BTreeSet<Id>,
    snapshot: Option<Id>,
    snapshots_asked: BTreeSet<Id>,
    /// Lines that promised something.
    pub(crate) kept: u64,
}

impl Promises {
    /// Takes a line of a life. Fails if the life found less than it was promised.
    pub(crate) fn on_line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "opened" => {
                let found = Found::parse(rest);
                self.judge(&found)?;
                self.on_opened(found);
            }
            "step" => {
                let (count, step) = rest.split_once(' ').expect("a step has a number");
                let step = self.parse_step(step);
                self.maybe.push_back((number(count), step));
            }
            "acknowledged" => {
                let upto = number(rest);
                while let Some((_, step)) = self.maybe.pop_front_if(|(count, _)| *count <= upto) {
                    self.certain.take(&step);
                }
            }
            "cluster" => self.cluster_asked = Some(rest.to_owned()),
            "clustered" => self.cluster = self.cluster_asked.clone(),
            "snapshot" => drop(self.snapshots_asked.insert(parse_id(rest).expect("of something"))),
            "snapshotted" => self.snapshot = parse_id(rest),
            _ => panic!("a line of the probe: {line}"),
        }
        self.kept += u64::from(matches!(word, "acknowledged" | "clustered" | "snapshotted"));
        Ok(())
    }

    /// From here on what was found is what is promised: the open made it durable.
    pub(crate) fn on_opened(&mut self, found: Found) {
        self.incarnation = found.incarnation;
        self.cluster = found.cluster;
        self.certain = found.log;
        self.maybe.clear();
        self.snapshot = found.snapshot;
    }

    fn parse_step(&mut self, step: &str) -> Step {
        let words: Vec<&str> = step.split(' ').collect();
        match words[0] {
            "append" => {
                let (first, term) = (number(words[1]), number(words[2]));
                let bytes = words[3..].iter().map(|word| number(word) as usize);
                Step::Append((first..).zip(bytes).map(|(index, bytes)| (index, term, bytes)).collect())
            }
            "vote" => Step::Vote(number(words[1])),
            "truncate" => Step::Truncate(parse_id(words[1]).expect("to something")),
            "purge" => Step::Purge(parse_id(words[1]).expect("up to something")),
            "committed" => {
                self.committed.insert(parse_id(words[1]).expect("something"));
                Step::Committed
            }
            _ => panic!("a step of the probe: {step}"),
        }
    }

    /// Whether `found` has everything that was promised, and nothing that was never written.
    pub(crate) fn judge(&self, found: &Found) -> Result<(), String> {
        if found.incarnation <= self.incarnation {
            return Err(format!("incarnation {} comes a second time", found.incarnation));
        }
        if self.cluster.is_some() && found.cluster != self.cluster {
            return Err(format!("the ensemble is {:?}, and was {:?}", found.cluster, self.cluster));
        }
        if found.cluster.is_some() && found.cluster != self.cluster && found.cluster != self.cluster_asked {
            return Err(format!("an ensemble that nobody named: {:?}", found.cluster));
        }
        if found.snapshot < self.snapshot {
            return Err(format!("the snapshot is {:?}, and was {:?}", found.snapshot, self.snapshot));
        }
        if let Some(snapshot) = found.snapshot
            && found.snapshot != self.snapshot
            && !self.snapshots_asked.contains(&snapshot)
        {
            return Err(format!("a snapshot that nobody made: {snapshot:?}"));
        }
        if found.log.purged > found.snapshot {
            return Err(format!(
                "purged up to {:?}, with a snapshot of {:?}",
                found.log.purged, found.snapshot
            ));
        }
        if found.committed > found.last {
            return Err(format!("committed {:?} in a log up to {:?}", found.committed, found.last));
        }
        if found.committed.is_some_and(|committed| !self.committed.contains(&committed)) {
            return Err(format!("committed {:?}, which nobody said", found.committed));
        }
        let mut state = self.certain.clone();
        if state == found.log {
            return Ok(());
        }
        let certain = describe(&state);
        for (_, step) in &self.maybe {
            // The log may end between any two entries that were appended in one call.
            if let Step::Append(entries) = step {
                for entry in entries {
                    state.entries.push_back(*entry);
                    if state == found.log {
                        return Ok(());
                    }
                }
                continue;
            }
            state.take(step);
            if state == found.log {
                return Ok(());
            }
        }
        Err(format!(
            "found {}; acknowledged was {certain}; with all that was asked for it would be {}",
            describe(&found.log),
            describe(&state)
        ))
    }
}

fn describe(state: &LogState) -> String {
    let end = |entry: Option<&(u64, u64, usize)>| {
        entry.map_or("-".into(), |(index, term, _)| format!("{term}.{index}"))
    };
    format!(
        "(vote {}, purged {:?}, {} entries {} to {})",
        state.vote,
        state.purged,
        state.entries.len(),
        end(state.entries.front()),
        end(state.entries.back())
    )
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn parse_id(word: &str) -> Option<Id> {
    let (term, index) = word.split_once('.')?;
    Some((number(term), number(index)))
}

#[test]
fn a_state_between_what_was_acknowledged_and_what_was_asked_for_is_taken_and_no_other() {
    let mut promises = Promises::default();
    let state = |vote: u64, purged: &str, snapshot: &str, entries: &str| {
        let line = format!(
            "incarnation=1 cluster=- vote={vote} purged={purged} last=9.9 committed=- snapshot={snapshot} entries={entries}"
        );
        Found::parse(&line)
    };
    for line in [
        "step 1 vote 1",
        "acknowledged 1",
        "step 2 append 0 1 5 5",
        "acknowledged 2",
        "step 3 append 2 1 7 7",
    ] {
        promises.on_line(line).unwrap();
    }
    for good in ["0.1.5,1.1.5,", "0.1.5,1.1.5,2.1.7,", "0.1.5,1.1.5,2.1.7,3.1.7,"] {
        promises.judge(&state(1, "-", "-", good)).unwrap();
    }
    for bad in ["", "0.1.5,", "0.1.5,1.1.5,3.1.7,", "0.1.5,1.1.6,", "0.1.5,1.1.5,2.1.7,3.1.7,4.1.7,"] {
        promises.judge(&state(1, "-", "-", bad)).unwrap_err();
    }
    promises.judge(&state(0, "-", "-", "0.1.5,1.1.5,")).unwrap_err();
    for line in ["snapshot 1.1", "snapshotted 1.1", "step 4 purge 1.1", "step 5 truncate 1.2"] {
        promises.on_line(line).unwrap();
    }
    promises.judge(&state(1, "1.1", "1.1", "2.1.7,")).unwrap();
    promises.judge(&state(1, "1.1", "-", "2.1.7,")).unwrap_err();
    promises.on_line("acknowledged 5").unwrap();
    let returned = promises.judge(&state(1, "1.1", "1.1", "2.1.7,3.1.7,")).unwrap_err();
    assert!(returned.contains("acknowledged was"), "{returned}");
}
