use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;

use super::{Answer, Op, Record, What};

/// An operation and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// Which one, over all files.
    pub(crate) id: (u32, u64),
    pub(crate) client: String,
    pub(crate) session: u64,
    pub(crate) op: Op,
    pub(crate) called: u64,
    /// `u64::MAX` if it was never answered.
    pub(crate) returned: u64,
    pub(crate) answer: Answer,
    /// Of a write without an answer, from the server, after the end.
    pub(crate) fate: Fate,
}

/// What the server says of a write after its session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was not asked, or does not know.
    Open,
    /// Carried out; with the name of its error if it was refused.
    Applied(u64, Option<String>),
    Never,
}

impl Done {
    /// The zxid of a write that changed something.
    pub(crate) fn zxid(&self) -> Option<u64> {
        match (&self.answer, &self.fate) {
            (Answer::Set { zxid, .. } | Answer::Created { zxid, .. }, _)
            | (Answer::Deleted { zxid } | Answer::Multi { zxid, .. }, _) => Some(*zxid),
            (Answer::Unanswered, Fate::Applied(zxid, None)) => Some(*zxid),
            _ => None,
        }
    }

    /// It is a write of which nobody knows whether it took effect.
    pub(crate) fn is_open(&self) -> bool {
        let is_unknown = matches!(self.answer, Answer::Unanswered | Answer::Failed(_));
        self.op.is_write() && is_unknown && self.fate == Fate::Open
    }
}

/// One client's lines that are not operations, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub(crate) process: u32,
    pub(crate) lines: Vec<(u64, What)>,
}

/// A znode that was there in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FinalZnode {
    pub(crate) value: String,
    pub(crate) version: i32,
    pub(crate) czxid: u64,
    pub(crate) mzxid: u64,
    pub(crate) owner: u64,
}

/// All of a history.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// In the order of the calls.
    pub(crate) ops: Vec<Done>,
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) faults: Vec<(u64, super::Fault)>,
    pub(crate) znodes: BTreeMap<String, FinalZnode>,
    /// Sessions that were live in the end.
    pub(crate) live: BTreeSet<u64>,
    /// Tasks that were not completed.
    pub(crate) remaining: Vec<String>,
    /// The numbers of writes in their sessions.
    pub(crate) numbers: BTreeMap<(u32, u64), u64>,
    /// There was no last look at everything: what is missing in the end proves nothing.
    pub(crate) is_cut: bool,
}

impl History {
    /// Reads a directory.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<History> {
        let mut history = History { is_cut: true, ..History::default() };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
            let name = entry.with_context(|| format!("read {}", dir.display()))?.file_name();
            names.extend(name.into_string().ok().filter(|name| name.ends_with(".jsonl")));
        }
        // What became of writes, in `final`, comes after the writes.
        names.sort();
        for name in names {
            let process = name.strip_prefix("clients-").and_then(|rest| rest.strip_suffix(".jsonl"));
            let process = process.and_then(|number| number.parse().ok()).unwrap_or(0);
            history.read_file(&dir.join(&name), process).with_context(|| format!("read {name}"))?;
        }
        history.ops.sort_by_key(|op| op.called);
        history.faults.sort_by_key(|(at, _)| *at);
        Ok(history)
    }

    fn read_file(&mut self, path: &Path, process: u32) -> anyhow::Result<()> {
        let mut sessions: BTreeMap<String, u64> = BTreeMap::new();
        // Where in `ops` an operation of this file is.
        let mut places: BTreeMap<u64, usize> = BTreeMap::new();
        let mut outcomes = Vec::new();
        let mut file = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line)? > 0 {
            // Clients are killed, and one that is has not finished its last line.
            if process > 0 && !line.ends_with(b"\n") {
                break;
            }
            let record: Record =
                serde_json::from_slice(&line).with_context(|| String::from_utf8_lossy(&line).into_owned())?;
            line.clear();
            let Record { at, client, what } = record;
            match what {
                What::Call { op, call } => {
                    let session = sessions.get(&client).copied().unwrap_or(0);
                    places.insert(op, self.ops.len());
                    self.ops.push(Done {
                        id: (process, op),
                        client,
                        session,
                        op: call,
                        called: at,
                        returned: u64::MAX,
                        answer: Answer::Unanswered,
                        fate: Fate::Open,
                    });
                }
                What::Numbered { op, seq } => drop(self.numbers.insert((process, op), seq)),
                What::Return { op, answer } => {
                    let place =
                        *places.get(&op).with_context(|| format!("an answer to no operation: {op}"))?;
                    if answer != Answer::Unanswered {
                        self.ops[place].returned = at;
                    }
                    self.ops[place].answer = answer;
                }
                What::Fault(fault) => self.faults.push((at, fault)),
                What::Outcome { process, op, applied, never } => {
                    outcomes.push(((process, op), applied, never))
                }
                What::Znode { path, value, version, czxid, mzxid, owner } => {
                    self.znodes.insert(path, FinalZnode { value, version, czxid, mzxid, owner });
                }
                What::Live { session } => drop(self.live.insert(session)),
                What::Remaining { task } => self.remaining.push(task),
                What::LookedAtAll => self.is_cut = false,
                what => {
                    if let What::Opened { session, .. } = what {
                        sessions.insert(client.clone(), session);
                    }
                    let entry = self.clients.entry(client).or_default();
                    entry.process = process;
                    entry.lines.push((at, what));
                }
            }
        }
        for (id, applied, never) in outcomes {
            let found = self.ops.iter_mut().find(|done| done.id == id);
            let done = found.with_context(|| format!("the outcome of no operation: {id:?}"))?;
            done.fate = match applied {
                Some((zxid, error)) => Fate::Applied(zxid, error),
                None if never => Fate::Never,
                None => Fate::Open,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"at":1,"client":"1/order.1","what":"drained"}"#;

    #[test]
    fn only_a_client_may_leave_a_line_unfinished_and_only_its_last() {
        let read = |name: &str, content: String| {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join(name), content).expect("a file");
            History::read(dir.path())
        };
        let torn = &LINE[..20];
        let history = read("clients-001.jsonl", format!("{LINE}\n{torn}")).expect("a history");
        assert_eq!(history.clients["1/order.1"].lines.len(), 1);
        assert!(history.is_cut);
        assert!(read("clients-001.jsonl", format!("{LINE}\n{torn}\n")).is_err());
        assert!(read("clients-001.jsonl", format!("{torn}\n{LINE}\n")).is_err());
        assert!(read("final.jsonl", format!("{LINE}\n{torn}")).is_err());
    }
}
