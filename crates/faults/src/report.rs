//! What people read of a run.

use std::path::Path;
use std::time::Duration;

use crate::checkers::{self, Verdict};
use crate::coverage::Coverage;
use crate::history::History;
use crate::scenarios::Scenario;
use crate::timeline;

/// As many findings of one round are printed; the rest is in the timeline.
const PRINTED_MAX: usize = 5;

/// What came out of one round.
pub(crate) struct Round {
    pub(crate) seed: u64,
    /// Why it did not come to its end.
    pub(crate) failure: Option<anyhow::Error>,
    pub(crate) verdict: Verdict,
    pub(crate) history: History,
}

impl Round {
    pub(crate) fn is_good(&self) -> bool {
        self.failure.is_none() && self.verdict.violations.is_empty()
    }
}

/// Prints what a round found, and draws its timeline.
pub(crate) fn report(round: &Round, dir: &Path) -> anyhow::Result<()> {
    if let Some(failure) = &round.failure {
        eprintln!("round with seed {}: {failure:#}", round.seed);
    }
    for violation in round.verdict.violations.iter().take(PRINTED_MAX) {
        eprintln!("round with seed {}: {}: {}", round.seed, violation.checker, violation.text);
    }
    let more = round.verdict.violations.len().saturating_sub(PRINTED_MAX);
    if more > 0 {
        eprintln!("and {more} more");
    }
    let file = dir.join("timeline.html");
    timeline::draw(&round.history, &round.verdict, &file)?;
    eprintln!("history: {}, timeline: {}", dir.join("history").display(), file.display());
    Ok(())
}

/// Checks a history that was kept. False if something is found.
pub(crate) fn check_again(dir: &Path) -> anyhow::Result<bool> {
    let history = History::read(dir)?;
    let verdict = checkers::check(&history);
    println!(
        "{} operations of {} clients, {} things compared, {} objects searched, {} findings",
        history.ops.len(),
        history.clients.len(),
        verdict.checked,
        verdict.searched,
        verdict.violations.len()
    );
    for violation in &verdict.violations {
        println!("{}: {}", violation.checker, violation.text);
    }
    let file = dir.join("timeline.html");
    timeline::draw(&history, &verdict, &file)?;
    println!("timeline: {}", file.display());
    Ok(verdict.violations.is_empty())
}

/// What came out of a run.
pub(crate) struct Summary {
    scenario: &'static str,
    seed: u64,
    rounds: u64,
    operations: u64,
    checked: u64,
    searched: u64,
    failed: bool,
}

impl Summary {
    pub(crate) fn new(scenario: &'static str, seed: u64) -> Summary {
        Summary { scenario, seed, rounds: 0, operations: 0, checked: 0, searched: 0, failed: false }
    }

    pub(crate) fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.operations += round.history.ops.len() as u64;
        self.checked += round.verdict.checked;
        self.searched += round.verdict.searched;
        self.failed |= !round.is_good();
    }

    /// Prints the summary line; whether the run has passed.
    pub(crate) fn conclude(&self, scenario: &Scenario, coverage: &Coverage, time: Duration) -> bool {
        let missing = coverage.missing(scenario.needs);
        let verdict = match (self.failed, missing.is_empty()) {
            (true, _) => "FAIL",
            (false, false) => "TOO LITTLE",
            (false, true) => "PASS",
        };
        println!(
            "{:22} {verdict:10} rounds={} operations={} compared={} searched={} seconds={} seed={}: {coverage}",
            self.scenario,
            self.rounds,
            self.operations,
            self.checked,
            self.searched,
            time.as_secs(),
            self.seed
        );
        if !missing.is_empty() {
            println!("{:22} did not happen: {}", "", missing.join(", "));
        }
        !self.failed && missing.is_empty()
    }
}
