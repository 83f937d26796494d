//! Clients that ask for more than is theirs, at low priority, beside clients that do not (G9).

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::FutureExt as _;
use rand::seq::IndexedRandom as _;

use super::{MEMORY_LIMITED, Scenario};
use crate::attacks;
use crate::network::{Host, HostId};
use crate::stage::Stage;

/// Of each node.
const MEMORY_MEBIBYTES: u64 = 1024;
/// Fewer than the sockets of one attack, with the connections of honest clients.
const OPEN_FILES: u32 = 320;
const HONEST_P99: Duration = Duration::from_millis(500);
/// The host of the attackers.
const ATTACKER: HostId = 200;
const ATTACK: Duration = Duration::from_secs(4);
/// An attack cleans up behind itself within so much more.
const CLEANING: Duration = Duration::from_secs(30);
/// A node has its memory back after the attacks within so long.
const RELIEF: Duration = Duration::from_secs(60);
/// Then it has at most so many times what it had before, ...
const FACTOR: f64 = 1.3;
/// ... and so many bytes: recent history, recorded answers, and what an allocator keeps.
const ALLOWANCE: u64 = 64 << 20;

pub(super) fn scenarios() -> Vec<Scenario> {
    const NEEDS: &[&str] = &{
        let mut needs = [MEMORY_LIMITED; attacks::ALL.len() + 1];
        let mut number = 0;
        while number < attacks::ALL.len() {
            needs[number] = attacks::ALL[number].0;
            number += 1;
        }
        needs
    };
    vec![Scenario {
        memory_mebibytes: Some(MEMORY_MEBIBYTES),
        open_files: Some(OPEN_FILES),
        honest_p99: Some(HONEST_P99),
        ..Scenario::new(
            "greedy-clients",
            "clients that take all they can, beside honest ones; nodes of 1 GiB and 320 open files",
            NEEDS,
            |stage| episode(stage).boxed(),
        )
    }]
}

/// One attack; after the last one of a round the memory is looked at.
async fn episode(stage: &mut Stage) -> anyhow::Result<()> {
    let host = Host::start(&stage.switch, ATTACKER)?;
    if stage.memory_before.is_none() {
        attack(stage, &host, None).await?;
        stage.rest(1000, 1500).await;
        stage.memory_before = Some(memory(stage).await?);
    }
    // One of those that there were the fewest of.
    let count = |number: &usize| stage.coverage.count(attacks::ALL[*number].0);
    let fewest = (0..attacks::ALL.len()).map(|number| count(&number)).min().unwrap_or(0);
    let rarest: Vec<_> = (0..attacks::ALL.len()).filter(|number| count(number) == fewest).collect();
    let number = rarest.choose(&mut stage.rng).copied().unwrap_or(0);
    stage.say(attacks::ALL[number].0);
    attack(stage, &host, Some(number)).await?;
    stage.coverage.add(attacks::ALL[number].0, 1);
    stage.rest(300, 800).await;
    if stage.goes_on() { Ok(()) } else { expect_relief(stage).await }
}

/// Runs an attack, or what goes before all of them, in a process of its own.
async fn attack(stage: &mut Stage, host: &Host, number: Option<usize>) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
    command.args(["attack", "--endpoints", &stage.ensemble.endpoints().join(",")]);
    command.args(["--time", &humantime::format_duration(ATTACK).to_string()]);
    if let Some(number) = number {
        command.args(["--number", &number.to_string()]);
    }
    let mut process = Attacker(host.spawn(command)?);
    let start = Instant::now();
    loop {
        stage.ensemble.check_ends()?;
        if let Some(exit) = process.0.try_wait()? {
            ensure!(exit.success(), "an attack, or what goes before it, could not be carried out: {exit}");
            return Ok(());
        }
        ensure!(start.elapsed() < ATTACK + CLEANING, "an attack does not come to its end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ended with what it holds.
struct Attacker(Child);

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn memory(stage: &mut Stage) -> anyhow::Result<BTreeMap<HostId, u64>> {
    let mut memory = BTreeMap::new();
    for id in stage.ensemble.ids() {
        let status = stage.ensemble.status(id).await;
        let status = status.with_context(|| format!("node {id} does not say how much memory it has"))?;
        memory.insert(id, status.resident_bytes);
    }
    Ok(memory)
}

/// Waits until all nodes have about the memory that they had before.
async fn expect_relief(stage: &mut Stage) -> anyhow::Result<()> {
    let Some(before) = stage.memory_before.clone() else { return Ok(()) };
    let start = Instant::now();
    let most = |id: &HostId| (before[id] as f64 * FACTOR) as u64 + ALLOWANCE;
    loop {
        let now = memory(stage).await?;
        if now.iter().all(|(id, bytes)| *bytes <= most(id)) {
            stage.say(format!(
                "the memory is back after {:?}: {now:?} bytes, {before:?} before",
                start.elapsed()
            ));
            return Ok(());
        }
        if start.elapsed() > RELIEF {
            bail!("{RELIEF:?} after the attacks the nodes have {now:?} bytes, and {before:?} before");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
