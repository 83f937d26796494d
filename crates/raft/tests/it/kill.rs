//! kill -9 at any moment: what was acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::probe::probe_path;

/// More by `COORDD_KILL_ROUNDS`.
const ROUNDS: u64 = 100;

/// What the log has promised: see the lines of `wal_probe workload`.
#[derive(Default)]
struct Promised {
    /// Term by index.
    entries: BTreeMap<u64, u64>,
    vote_term: u64,
    /// Entries up to here may be gone; that they are gone is not promised.
    purging: u64,
}

impl Promised {
    fn on_line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number =
            |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("a line of the probe: {line}"));
        match words[0] {
            "durable" => self.entries.extend((number(1)..=number(2)).map(|index| (index, number(3)))),
            "voted" => self.vote_term = number(1),
            "truncating" => drop(self.entries.split_off(&number(1))),
            "purging" => self.purging = self.purging.max(number(1)),
            _ => panic!("a line of the probe: {line}"),
        }
    }

    /// What is found after a restart becomes the new truth, for it is durable now.
    fn on_restart(&mut self, found: BTreeMap<u64, u64>, vote_term: u64) {
        for (index, term) in self.entries.range(self.purging + 1..) {
            assert_eq!(found.get(index), Some(term), "entry {index} was acknowledged in term {term}");
        }
        assert!(vote_term >= self.vote_term, "a vote was acknowledged and is lost");
        (self.entries, self.vote_term) = (found, vote_term);
    }
}

fn start(dir: &Path, seed: u64) -> Child {
    let mut probe = Command::new(probe_path());
    probe.arg("workload").arg(dir).arg(seed.to_string());
    probe.stdout(Stdio::piped()).spawn().expect("the probe starts")
}

/// One life of the process. Returns how many lines it wrote after it was ready.
fn live(dir: &Path, seed: u64, life: Duration, promised: &mut Promised) -> usize {
    let mut child = start(dir, seed);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut found = BTreeMap::new();
    let vote_term = loop {
        let Some(line) = lines.next() else { panic!("round {seed}: the log did not open") };
        let line = line.expect("text");
        let numbers: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().expect("a number")).collect();
        match (line.split(' ').next(), &numbers[..]) {
            (Some("found"), [first, last, term]) => {
                found.extend((*first..=*last).map(|index| (index, *term)))
            }
            (Some("ready"), [term]) => break *term,
            _ => panic!("a line of the probe: {line}"),
        }
    };
    promised.on_restart(found, vote_term);

    // The moment of death is the test's input, not a wait for something to happen.
    let killer = std::thread::spawn(move || {
        std::thread::sleep(life);
        child.kill().expect("it still runs");
        child.wait().expect("it was started here");
    });
    let mut count = 0;
    // A line is one write to the pipe, so it is there in full or not at all.
    for line in lines {
        promised.on_line(&line.expect("text"));
        count += 1;
    }
    killer.join().expect("the killer is done");
    count
}

/// G1, against the death of the process. (Against the loss of power: `power_loss.rs`.)
#[test]
fn everything_acknowledged_survives_kill_9() {
    let rounds =
        std::env::var("COORDD_KILL_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let dir = tempfile::tempdir().unwrap();
    let mut promised = Promised::default();
    let mut told = 0;
    for round in 0..rounds {
        let life = Duration::from_millis(1 + round * 7 % 60);
        told += live(dir.path(), round, life, &mut promised);
    }
    assert!(told as u64 > rounds, "the processes died before they did anything: {told} lines");
    println!("{rounds} rounds, {told} promises, {} entries at the end", promised.entries.len());
}
