//! One scenario, round after round.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::checkers;
use crate::coverage::Coverage;
use crate::history::History;
use crate::honest;
use crate::network::{CONTROLLER, Switch, own_address};
use crate::options::RunOptions;
use crate::report::{Round, Summary, report};
use crate::round::{self, RoundSettings};
use crate::scenarios::{self, Scenario};

/// What a round needs beside its faults: start, end, check.
const AROUND: Duration = Duration::from_secs(9);
const FAULTS_MIN: Duration = Duration::from_secs(5);
/// Longer rounds are no better than more rounds.
const FAULTS_MAX: Duration = Duration::from_secs(25);
/// Rounds beyond the time of a run in which something that it is there for has not happened so far.
const MORE_ROUNDS: u32 = 3;

/// False if something was found that must not be, or if too little was done to find it.
pub(crate) async fn run(options: RunOptions) -> anyhow::Result<bool> {
    let all = scenarios::all();
    let Some(scenario) = all.iter().find(|scenario| scenario.name == options.scenario) else {
        bail!("no scenario {:?}; `coordfault list` lists them", options.scenario);
    };
    let seed = options.seed.unwrap_or_else(rand::random);
    let time = Duration::from_secs(options.seconds);
    let switch = Switch::new(seed);
    switch.connect(CONTROLLER, own_address()?);
    let coverage = Coverage::default();
    let settings = RoundSettings {
        scenario,
        switch,
        coverage: coverage.clone(),
        coordd: coordd(&options)?,
        old_coordd: old_coordd(scenario, &options)?,
        unlimited_memory: options.unlimited_memory,
        clients: options.clients,
        pace: options.pace,
        faults: time.saturating_sub(AROUND).clamp(FAULTS_MIN, FAULTS_MAX),
        bug: options.bug.clone(),
    };
    let (dir, is_temporary) = match &options.dir {
        Some(dir) => (dir.clone(), false),
        None => (tempfile::Builder::new().prefix("coordfault-").tempdir()?.keep(), true),
    };
    let start = Instant::now();
    let mut summary = Summary::new(scenario.name, seed);
    let mut more_rounds = MORE_ROUNDS;
    for number in 0..options.rounds {
        let length = start.elapsed() / number.max(1);
        // Not one that would be over much too late, unless the run would not count without it.
        if number > 0 && start.elapsed() + length / 2 > time {
            if more_rounds == 0 || summary.missing(scenario, &coverage).is_empty() {
                break;
            }
            more_rounds -= 1;
        }
        let round_dir = dir.join(format!("{}-{seed}-{number}", scenario.name));
        let round = one_round(&settings, seed.wrapping_add(number.into()), &round_dir).await?;
        let failed = !round.is_good();
        summary.add(&round);
        if failed {
            break;
        }
        if !options.keep {
            std::fs::remove_dir_all(&round_dir).context("remove what is not needed any more")?;
        }
    }
    let is_good = summary.conclude(scenario, &coverage, start.elapsed());
    if is_temporary && is_good && !options.keep {
        drop(std::fs::remove_dir_all(&dir));
    }
    Ok(is_good)
}

async fn one_round(settings: &RoundSettings<'_>, seed: u64, dir: &Path) -> anyhow::Result<Round> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::create_dir(dir).with_context(|| format!("{}: of an earlier run?", dir.display()))?;
    let failure = round::run(settings, seed, dir).await.err();
    let history = History::read(&dir.join("history"))?;
    let failure = failure.or_else(|| honest::check(settings.scenario, &history, &settings.coverage).err());
    let open = history.ops.iter().filter(|done| done.is_open()).count();
    settings.coverage.add("writes that stay open", open as u64);
    let verdict = checkers::check(&history);
    let one_shots = verdict.compared.get(checkers::ONE_SHOTS_TOLD).copied().unwrap_or(0);
    settings.coverage.add(checkers::ONE_SHOTS_TOLD, one_shots);
    let round = Round { seed, failure, verdict, history };
    if !round.is_good() {
        report(&round, dir)?;
    }
    Ok(round)
}

fn coordd(options: &RunOptions) -> anyhow::Result<PathBuf> {
    let path = match &options.coordd {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("coordd"),
    };
    path.canonicalize()
        .with_context(|| format!("{}: build it first, or name it with --coordd", path.display()))
}

/// The build that the nodes begin with, in a scenario that upgrades them.
fn old_coordd(scenario: &Scenario, options: &RunOptions) -> anyhow::Result<Option<PathBuf>> {
    match (scenario.upgrades, &options.old_coordd) {
        (false, _) => Ok(None),
        (true, None) => bail!("{} needs --old-coordd, a coordd to upgrade from", scenario.name),
        (true, Some(path)) => {
            let path = path.canonicalize().with_context(|| format!("--old-coordd {}", path.display()))?;
            Ok(Some(path))
        }
    }
}
