//! Random operations against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use coordd_raft::TypeConfig;
use coordd_raft::storage::{LogOptions, LogStore};
use coordd_raft::types::{Entry, LogId, Vote};
use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;
use proptest::prelude::*;

use crate::memory_wal::MemoryWal;
use crate::support::{entry, log_id, open_with, owner, vote};

#[derive(Clone, Debug)]
enum Step {
    Append {
        count: u64,
        bytes: usize,
    },
    /// The leader changes.
    NextTerm,
    /// Keep so many of the entries, in 1/16.
    Truncate(u64),
    /// Drop so many of the entries, in 1/16; 17 and more: beyond the end.
    Purge(u64),
    Commit,
    Wait,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6u64, prop_oneof![Just(1usize), Just(100), Just(5000)])
            .prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => Just(Step::NextTerm),
        2 => (0..=16u64).prop_map(Step::Truncate),
        2 => (1..=18u64).prop_map(Step::Purge),
        1 => Just(Step::Commit),
        2 => Just(Step::Wait),
        2 => Just(Step::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    term: u64,
    committed: Option<LogId>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }

    fn at_sixteenth(&self, sixteenths: u64) -> Option<LogId> {
        let at = (self.entries.len() as u64 * sixteenths / 16).checked_sub(1)?;
        self.entries.values().nth(at as usize).map(|entry| entry.log_id)
    }
}

async fn run_step(step: &Step, model: &mut Model, log: &mut LogStore) {
    match *step {
        Step::Append { count, bytes } => {
            let first = model.last().map_or(0, |id| id.index + 1);
            let new: Vec<Entry> =
                (first..first + count).map(|index| entry(model.term, index, bytes)).collect();
            log.append(new.clone(), IOFlushed::noop()).await.unwrap();
            model.entries.extend(new.into_iter().map(|entry| (entry.log_id.index, entry)));
        }
        Step::NextTerm => {
            model.term += 1;
            model.vote = Some(vote(model.term));
            log.save_vote(&vote(model.term)).await.unwrap();
        }
        Step::Truncate(sixteenths) => {
            // Neither what is purged nor what is committed is ever truncated.
            let keep = model.at_sixteenth(sixteenths).max(model.committed).or(model.purged);
            log.truncate_after(keep).await.unwrap();
            model.entries.retain(|index, _| keep.is_some_and(|keep| *index <= keep.index));
        }
        Step::Purge(sixteenths) => {
            let upto = match sixteenths {
                0..=16 => model.at_sixteenth(sixteenths),
                beyond => Some(log_id(model.term, model.last().map_or(0, |id| id.index) + beyond)),
            };
            if let Some(upto) = upto {
                log.purge(upto).await.unwrap();
                model.entries.retain(|index, _| *index > upto.index);
                model.purged = model.purged.max(Some(upto));
                model.committed = model.committed.max(Some(upto));
                log.save_committed(model.committed).await.unwrap();
            }
        }
        Step::Commit => {
            model.committed = model.last();
            log.save_committed(model.committed).await.unwrap();
        }
        Step::Wait => log.sync().await.unwrap(),
        Step::Reopen => unreachable!("done by the caller"),
    }
}

async fn compare(model: &Model, log: &mut LogStore) {
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (model.purged, model.last()));
    assert_eq!(log.read_vote().await.unwrap(), model.vote);
    assert_eq!(log.read_committed().await.unwrap(), model.committed);
    let expected: Vec<Entry> = model.entries.values().cloned().collect();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
    if let Some(first) = expected.first() {
        let start = first.log_id.index;
        let some = log.limited_get_log_entries(start, start + expected.len() as u64).await.unwrap();
        assert!(!some.is_empty() && expected.starts_with(&some));
    }
}

fn run(steps: &[Step], open: impl Fn() -> Opened) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut opened = open();
        let mut model = Model::default();
        for step in steps {
            if let Step::Reopen = step {
                opened.log.close();
                drop(opened.lock);
                opened = open();
            } else {
                run_step(step, &mut model, &mut opened.log).await;
            }
            compare(&model, &mut opened.log).await;
        }
        // Everything was called before this, so everything is durable when it completes.
        let (durable, wait) = TypeConfig::oneshot();
        opened.log.append([], IOFlushed::signal(durable)).await.unwrap();
        wait.await.unwrap().unwrap();
        opened.log.close();
        drop(opened.lock);
        compare(&model, &mut open().log).await;
    });
}

struct Opened {
    log: LogStore,
    lock: Option<coordd_raft::storage::DataDir>,
}

/// Small, so that most reads find a part of their entries on disk only.
fn options() -> LogOptions {
    LogOptions { cached_bytes_max: 2000, ..LogOptions::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn the_log_does_as_its_model_in_memory(steps in prop::collection::vec(step(), 1..60)) {
        let wal = MemoryWal::default();
        run(&steps, || {
            let log = LogStore::with_wal(Box::new(wal.clone()), owner(), options()).unwrap();
            Opened { log, lock: None }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, ..ProptestConfig::default() })]
    #[test]
    fn the_log_does_as_its_model_on_disk(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        run(&steps, || {
            let (lock, log) = open_with(dir.path(), options()).unwrap();
            Opened { log, lock: Some(lock) }
        });
    }
}
