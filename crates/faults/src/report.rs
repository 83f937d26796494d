//! What people read of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use coordd_process::{plain_lines, print, say};

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
    for violation in round.verdict.violations.iter().take(PRINTED_MAX) {
        say(format_args!("round with seed {}: {}: {}", round.seed, violation.checker, violation.text));
    }
    let more = round.verdict.violations.len().saturating_sub(PRINTED_MAX);
    if more > 0 {
        say(format_args!("and {more} more"));
    }
    if let Some(failure) = &round.failure {
        say(format_args!("round with seed {}: {failure:#}", round.seed));
    }
    let file = dir.join("timeline.html");
    timeline::draw(&round.history, &round.verdict, &file)?;
    say(format_args!("history: {}, timeline: {}", dir.join("history").display(), file.display()));
    Ok(())
}

/// Checks a history that was kept. False if something is found.
pub(crate) fn check_again(dir: &Path) -> anyhow::Result<bool> {
    let history = History::read(dir)?;
    ensure!(!history.ops.is_empty(), "{}: no operations, so this is no history", dir.display());
    if history.is_cut {
        print("without a last look: what is missing in the end is not looked for\n")?;
    }
    let verdict = checkers::check(&history);
    print(format_args!(
        "{} operations of {} clients, {} things compared, {} objects searched, {} findings\n",
        history.ops.len(),
        history.clients.len(),
        verdict.compared.values().sum::<u64>(),
        verdict.searched,
        verdict.violations.len()
    ))?;
    for violation in &verdict.violations {
        print(format_args!("{}: {}\n", violation.checker, plain_lines(&violation.text)))?;
    }
    let file = dir.join("timeline.html");
    timeline::draw(&history, &verdict, &file)?;
    print(format_args!("timeline: {}\n", file.display()))?;
    Ok(verdict.violations.is_empty())
}

/// What came out of a run.
pub(crate) struct Summary {
    scenario: &'static str,
    seed: u64,
    rounds: u64,
    operations: u64,
    compared: BTreeMap<&'static str, u64>,
    searched: u64,
    failed: bool,
}

impl Summary {
    pub(crate) fn new(scenario: &'static str, seed: u64) -> Summary {
        Summary {
            scenario,
            seed,
            rounds: 0,
            operations: 0,
            compared: BTreeMap::new(),
            searched: 0,
            failed: false,
        }
    }

    pub(crate) fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.operations += round.history.ops.len() as u64;
        for (what, count) in &round.verdict.compared {
            *self.compared.entry(what).or_default() += count;
        }
        self.searched += round.verdict.searched;
        self.failed |= !round.is_good();
    }

    /// What the run is there for and has not happened. A workload that had no answers to compare has shown nothing, either.
    pub(crate) fn missing(&self, scenario: &Scenario, coverage: &Coverage) -> Vec<&'static str> {
        let mut missing = coverage.missing(scenario.needs);
        missing.extend(checkers::COMPARED.iter().filter(|what| !self.compared.contains_key(*what)));
        missing
    }

    /// Prints the summary line; whether the run has passed.
    pub(crate) fn conclude(&self, scenario: &Scenario, coverage: &Coverage, time: Duration) -> bool {
        let missing = self.missing(scenario, coverage);
        let verdict = match (self.failed, missing.is_empty()) {
            (true, _) => "FAIL",
            (false, false) => "TOO LITTLE",
            (false, true) => "PASS",
        };
        let mut lines = format!(
            "{:22} {verdict:10} rounds={} operations={} compared={} searched={} seconds={} seed={}: {coverage}\n",
            self.scenario,
            self.rounds,
            self.operations,
            self.compared.values().sum::<u64>(),
            self.searched,
            time.as_secs(),
            self.seed
        );
        if !missing.is_empty() {
            lines.push_str(&format!(
                "{:22} did not happen, or was not there to be compared: {}\n",
                "",
                missing.join(", ")
            ));
        }
        // Whether the run has passed is in the exit code, too.
        let _ = print(lines);
        !self.failed && missing.is_empty()
    }
}
