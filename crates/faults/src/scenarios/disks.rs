//! Disks: full, slow, failing, and with other bits than were written.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::FutureExt as _;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::Scenario;
use crate::network::HostId;
use crate::stage::Stage;
use crate::tracer::Tracer;

/// Room for a journal, some segments of the log and two snapshots.
const VOLUME_MEBIBYTES: u32 = 192;
/// A node that cannot write must have noticed by then.
const NOTICED: Duration = Duration::from_secs(20);

pub(super) fn scenarios() -> Vec<Scenario> {
    const FULL: &[&str] = &["full disks"];
    let full = |name, about, episode| Scenario {
        volume_mebibytes: Some(VOLUME_MEBIBYTES),
        options: &["--snapshot-log-bytes", "4MiB", "--keep-log-bytes", "1MiB"],
        ..Scenario::new(name, about, FULL, episode)
    };
    vec![
        full("full-disk-one", "the disk of a follower is full for a while", |stage| {
            full_disk_one(stage).boxed()
        }),
        full("full-disk-leader", "the disk of the leader is full for a while", |stage| {
            full_disk_leader(stage).boxed()
        }),
        full("full-disk-all", "all disks are full for a while", |stage| full_disk_all(stage).boxed()),
        Scenario::new(
            "slow-disk",
            "the fdatasyncs of a node, or of all, take up to a second",
            &["slow disks"],
            |stage| slow_disk(stage).boxed(),
        ),
        Scenario::new(
            "disk-errors",
            "an fdatasync or a write fails with EIO",
            &["disk errors", "nodes that ended by themselves"],
            |stage| disk_errors(stage).boxed(),
        ),
        Scenario::new(
            "bit-flips",
            "bits of the log or of a snapshot of a node that is down are flipped",
            &["bits flipped"],
            |stage| bit_flips(stage).boxed(),
        ),
    ]
}

/// Starts nodes that have ended by themselves, as a supervisor does.
async fn supervise(stage: &mut Stage, time: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        for id in stage.ensemble.ids() {
            if let Some(exit) = stage.ensemble.exited(id)? {
                stage.say(format!("node {id} has ended: {exit}"));
                stage.coverage.add("nodes that ended by themselves", 1);
            }
            stage.ensemble.start_node(id)?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn fill(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    for id in ids {
        stage.say(format!("the disk of node {id} is full"));
        stage.coverage.add("full disks", 1);
        stage.volumes[usize::from(*id) - 1].fill()?;
    }
    let time = Duration::from_millis(stage.rng.random_range(2000..6000));
    // What becomes free, by a snapshot that is removed, is taken too.
    let start = Instant::now();
    while start.elapsed() < time {
        supervise(stage, Duration::from_millis(500)).await?;
        for id in ids {
            stage.volumes[usize::from(*id) - 1].fill()?;
        }
    }
    for id in ids {
        stage.say(format!("there is room on the disk of node {id}"));
        stage.volumes[usize::from(*id) - 1].make_room()?;
    }
    supervise(stage, Duration::from_millis(1500)).await?;
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 1500).await;
    Ok(())
}

async fn full_disk_one(stage: &mut Stage) -> anyhow::Result<()> {
    let (_, follower) = stage.leader_and_follower().await?;
    fill(stage, &[follower]).await
}

async fn full_disk_leader(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    fill(stage, &[leader]).await
}

async fn full_disk_all(stage: &mut Stage) -> anyhow::Result<()> {
    let ids = stage.ensemble.ids();
    fill(stage, &ids).await
}

async fn slow_disk(stage: &mut Stage) -> anyhow::Result<()> {
    let ids = match stage.rng.random_range(0..3) {
        0 => stage.ensemble.ids(),
        1 => vec![stage.ensemble.leader().await?],
        _ => vec![stage.random_node()],
    };
    let delay = Duration::from_millis(stage.rng.random_range(5..1000));
    stage.say(format!("each fdatasync of nodes {ids:?} takes {delay:?}"));
    let mut tracers = Vec::new();
    for process in ids.iter().filter_map(|id| stage.ensemble.process_id(*id)) {
        tracers.push(Tracer::slow_syncs(process, delay)?);
    }
    stage.coverage.add("slow disks", tracers.len() as u64);
    stage.rest(1500, 5000).await;
    drop(tracers);
    stage.say("the disks are quick again");
    stage.rest(500, 1500).await;
    Ok(())
}

async fn disk_errors(stage: &mut Stage) -> anyhow::Result<()> {
    let id = stage.random_node();
    let Some(process) = stage.ensemble.process_id(id) else { return Ok(()) };
    let of_syncs = stage.rng.random_bool(0.5);
    stage.say(format!("{} of node {id} fails", if of_syncs { "an fdatasync" } else { "a write" }));
    stage.coverage.add("disk errors", 1);
    let tracer = match of_syncs {
        true => Tracer::failing_sync(process)?,
        false => Tracer::failing_writes(process)?,
    };
    let start = Instant::now();
    let exit = loop {
        if let Some(exit) = stage.ensemble.exited(id)? {
            break exit;
        }
        ensure!(start.elapsed() < NOTICED, "node {id} goes on although its disk fails");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    drop(tracer);
    stage.say(format!("node {id} has ended: {exit}"));
    stage.coverage.add("nodes that ended by themselves", 1);
    stage.rest(0, 1500).await;
    stage.start(id)?;
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 1500).await;
    Ok(())
}

/// A node that finds out does not start any more; one whose tree does not depend on the bits does. No third thing is allowed.
async fn bit_flips(stage: &mut Stage) -> anyhow::Result<()> {
    if stage.ensemble.nodes.values().any(|node| node.is_lost) {
        // A majority is needed.
        stage.rest(300, 600).await;
        return Ok(());
    }
    let id = stage.random_node();
    stage.kill(id)?;
    let files = files_below(&stage.ensemble.nodes[&id].data_dir)?;
    let Some(path) = files.choose(&mut stage.rng) else { return Ok(()) };
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    // One bit, or a burst of them.
    let (at, bytes) = (stage.rng.random_range(0..length), stage.rng.random_range(1..=64).min(length));
    for offset in at..(at + bytes).min(length) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        byte[0] ^= stage.rng.random_range(1..=255u8);
        file.write_all_at(&byte, offset)?;
    }
    let name = path.file_name().unwrap_or_default().display().to_string();
    stage.say(format!("{bytes} bytes at {at} of {length} in {name} of node {id} are others"));
    stage.coverage.add("bits flipped", 1);
    stage.start(id)?;
    let start = Instant::now();
    loop {
        if let Some(exit) = stage.ensemble.exited(id)? {
            let log = stage.ensemble.log(id);
            let why = log.lines().last().unwrap_or_default();
            ensure!(exit.code() == Some(1), "node {id} ended with {exit} after a bit flip in {name}: {why}");
            stage.say(format!("node {id} does not start: {why}"));
            stage.coverage.add("damaged nodes that refused to start", 1);
            stage.ensemble.node(id).is_lost = true;
            return Ok(());
        }
        let status = stage.ensemble.status(id).await;
        if status.is_some_and(|status| status.not_serving.is_none()) {
            stage.coverage.add("damaged nodes that came back", 1);
            break;
        }
        ensure!(start.elapsed() < NOTICED, "node {id} neither serves nor ends after a bit flip in {name}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.rest(300, 1000).await;
    Ok(())
}

fn files_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files.extend(files_below(&entry.path())?),
            false if entry.metadata()?.len() > 0 => files.push(entry.path()),
            false => {}
        }
    }
    Ok(files)
}
