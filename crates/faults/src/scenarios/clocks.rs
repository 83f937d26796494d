//! Clocks of nodes that jump, each by itself. The time of day only: the monotonic clock of a machine does not jump.

use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use rand::Rng as _;

use super::Scenario;
use crate::network::HostId;
use crate::stage::Stage;

/// Where Debian's and Fedora's packages put it.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "clock-jumps",
        "the clocks of nodes jump by minutes and years, back and forth",
        &["clock jumps", "leader changes"],
        |stage| clock_jumps(stage).boxed(),
    )]
}

async fn clock_jumps(stage: &mut Stage) -> anyhow::Result<()> {
    let library = LIBRARIES.iter().find(|path| std::path::Path::new(path).exists());
    let library = library.context("libfaketime, which gives a process another time of day")?;
    // A node gets a clock that can be moved with its next start.
    for id in stage.ensemble.ids() {
        let clock = stage.ensemble.nodes[&id].data_dir.with_extension("clock");
        if stage.ensemble.nodes[&id].env.iter().all(|(name, _)| name != "LD_PRELOAD") {
            std::fs::write(&clock, "+0")?;
            stage.ensemble.node(id).env.extend([
                ("LD_PRELOAD".to_owned(), (*library).to_owned()),
                ("FAKETIME_TIMESTAMP_FILE".to_owned(), clock.display().to_string()),
                ("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ]);
            stage.kill(id)?;
            stage.start(id)?;
            stage.ensemble.wait_serving().await?;
        }
        let seconds: i64 = match stage.rng.random_range(0..4) {
            0 => 0,
            1 => stage.rng.random_range(-300..300),
            2 => stage.rng.random_range(-86_400..86_400),
            _ => stage.rng.random_range(-300_000_000..300_000_000),
        };
        // Written aside and moved: the library reads it at any time.
        let aside = clock.with_extension("new");
        std::fs::write(&aside, format!("{seconds:+}"))?;
        std::fs::rename(&aside, &clock)?;
        stage.say(format!("the clock of node {id} is {seconds:+} s off"));
        prove(stage, id, seconds)?;
        stage.coverage.add("clock jumps", u64::from(seconds != 0));
        stage.rest(100, 700).await;
    }
    // The next leader has another clock.
    let leader = stage.ensemble.leader().await?;
    stage.kill(leader)?;
    stage.rest(300, 1000).await;
    stage.start(leader)?;
    stage.ensemble.wait_serving().await?;
    stage.rest(300, 1000).await;
    Ok(())
}

/// The node has the library, and another process in the same environment has the time that was set.
fn prove(stage: &Stage, id: HostId, seconds: i64) -> anyhow::Result<()> {
    let process = stage.ensemble.process_id(id).context("a node that runs")?;
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
    ensure!(maps.contains("libfaketime"), "node {id} runs without libfaketime");
    let date = Command::new("date").arg("+%s").envs(stage.ensemble.nodes[&id].env.clone()).output()?;
    let shown: i64 = String::from_utf8_lossy(&date.stdout).trim().parse()?;
    let due = SystemTime::UNIX_EPOCH.elapsed()?.as_secs() as i64 + seconds;
    ensure!((shown - due).abs() <= 5, "the clock of node {id} shows {shown} instead of {due}");
    Ok(())
}
