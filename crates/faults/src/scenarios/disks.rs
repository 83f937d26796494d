//! Disks: full, slow, failing, and with other bits than were written.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use coordd_client::{ConnectOptions, CreateMode, CreateOptions, ErrorKind};
use futures::FutureExt as _;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::ballast::Ballast;
use super::damage::{Damage, REFUSED, start_damaged};
use super::torn_writes::wal_dir;
use super::{OFTEN, Scenario};
use crate::ensemble::PATIENCE;
use crate::journal;
use crate::network::HostId;
use crate::stage::Stage;
use crate::tracer::Tracer;

/// Room for the files of a journal, the segments of its copy and two snapshots, also while somebody writes a lot.
const VOLUME_MEBIBYTES: u32 = 512;
/// How long it takes until all nodes know that there is no room, or that there is some again: they look, tell the leader, and are
/// told by it, each some times a second. A machine that is busy takes longer.
const KNOWN: Duration = Duration::from_secs(8);
/// A znode of no workload, to be created and deleted with full disks.
const PROBE: &str = "/full-disk";
/// Enough of it to use up the room that a log has taken beforehand: two files of 32 MiB.
const LARGE_BALLASTS_MAX: u32 = 80;
const STOPPED: &str = "clean stops with a full disk";
const RESTARTED: &str = "restarts with a full disk";
const FLIPPED_LOG: &str = "bits flipped in the log";
const FLIPPED_SNAPSHOT: &str = "bits flipped in a snapshot";
/// What fails on a broken disk. The last two are for files of the log and for snapshots that are begun.
const FAILING: [(&str, &str); 4] = [
    ("fdatasync", "a sync of the log"),
    ("pwrite64", "a write of the log"),
    ("fsync", "a sync of a new file"),
    ("rename", "the naming of a new file"),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let full = |name, about, needs, episode| Scenario {
        volume_mebibytes: Some(VOLUME_MEBIBYTES),
        options: &[
            "--snapshot-log-bytes",
            "4MiB",
            "--keep-log-bytes",
            "1MiB",
            "--disk-reserve-bytes",
            "32MiB",
        ],
        ..Scenario::new(name, about, needs, episode)
    };
    vec![
        full(
            "full-disk-one",
            "the disk of a follower is full for a while",
            &[
                "full disks",
                "nodes that knew of their full disk",
                "logs that waited for room",
                STOPPED,
                RESTARTED,
            ],
            |stage| full_disk_one(stage).boxed(),
        ),
        full(
            "full-disk-leader",
            "the disk of the leader is full for a while",
            &["full disks", "leaders elected by a majority"],
            |stage| full_disk_leader(stage).boxed(),
        ),
        full(
            "full-disk-all",
            "all disks are full for a while",
            &["full disks", "creates refused for want of room", "deletes with full disks", RESTARTED],
            |stage| full_disk_all(stage).boxed(),
        ),
        Scenario::new(
            "slow-disk",
            "the fdatasyncs of a node, or of all, take up to a second",
            &["slow disks"],
            |stage| slow_disk(stage).boxed(),
        ),
        Scenario::new(
            "slow-disk-kill-all",
            "kill -9 of all nodes at once, while their fdatasyncs are slow: what waits for the disk is gone",
            &["slow disks", "nodes killed", "answers from the record"],
            |stage| slow_disk_kill_all(stage).boxed(),
        ),
        Scenario {
            options: OFTEN,
            ..Scenario::new(
                "disk-errors",
                "a write, a sync or a rename fails with EIO",
                &["disk errors", "nodes that ended by themselves"],
                |stage| disk_errors(stage).boxed(),
            )
        },
        Scenario {
            // The newest snapshot and the last records are always needed then.
            options: &["--snapshot-log-bytes", "1MiB", "--keep-log-bytes", "1MiB"],
            ..Scenario::new(
                "bit-flips",
                "bits of the log or of a snapshot of a node that is down are flipped",
                &[FLIPPED_LOG, FLIPPED_SNAPSHOT, REFUSED],
                |stage| bit_flips(stage).boxed(),
            )
        },
    ]
}

/// Full disks, kept so for a while. Nobody ends because of that.
async fn fill(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    for id in ids {
        stage.say(format!("the disk of node {id} is full"));
        stage.volume(*id).fill()?;
        stage.coverage.add("full disks", 1);
    }
    Ok(())
}

/// What has become free meanwhile is taken, too.
fn refill(stage: &Stage, ids: &[HostId]) -> anyhow::Result<()> {
    ids.iter().try_for_each(|id| stage.volume(*id).fill())
}

/// For a random time, with what becomes free meanwhile, by a snapshot that is removed, taken too.
async fn stay_full(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    let time = Duration::from_millis(stage.rng.random_range(2000..6000));
    let start = Instant::now();
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(250)).await;
        refill(stage, ids)?;
        // A full disk is no reason to.
        stage.ensemble.check_ends()?;
    }
    Ok(())
}

/// What is stopped with a full disk starts with it. Returns when all of them have found out whose directories theirs are, and the disks are
/// still full.
async fn start_full(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    for id in ids {
        let identity = stage.ensemble.nodes[id].data_dir.join("IDENTITY");
        let before = std::fs::read(&identity)?;
        stage.volume(*id).fill()?;
        stage.start(*id)?;
        let start = Instant::now();
        // It says how often the node was started.
        while std::fs::read(&identity)? == before {
            stage.ensemble.check_ends()?;
            ensure!(start.elapsed() < PATIENCE, "node {id} does not start with its disk full");
            tokio::time::sleep(Duration::from_millis(10)).await;
            stage.volume(*id).fill()?;
        }
        stage.coverage.add(RESTARTED, 1);
    }
    stay_full(stage, ids).await
}

async fn make_room(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    for id in ids {
        stage.say(format!("there is room on the disk of node {id}"));
        stage.volume(*id).make_room()?;
    }
    stage.ensemble.wait_serving().await?;
    for id in ids {
        wait_low(stage, *id, false).await?;
    }
    stage.rest(500, 1500).await;
    Ok(())
}

/// Waits until a node knows that its disk is almost full, or is not any more.
async fn wait_low(stage: &mut Stage, id: HostId, is_low: bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while stage.ensemble.status(id).await.is_none_or(|status| status.disk_is_low != is_low) {
        ensure!(start.elapsed() < PATIENCE, "node {id} does not know whether its disk is full ({is_low})");
        if is_low {
            // The node itself may have made room meanwhile.
            stage.volume(id).fill()?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn full_disk_one(stage: &mut Stage) -> anyhow::Result<()> {
    let (_, follower) = stage.leader_and_follower().await?;
    fill(stage, &[follower]).await?;
    wait_low(stage, follower, true).await?;
    stage.coverage.add("nodes that knew of their full disk", 1);
    use_up_log(stage, follower).await?;
    stay_full(stage, &[follower]).await?;
    if stage.coverage.count(STOPPED) == 0 || stage.rng.random_bool(0.5) {
        stage.say(format!("SIGTERM to node {follower}, whose disk is full"));
        let exit = stage.ensemble.terminate(follower).await?;
        ensure!(exit.success(), "node {follower} ended with {exit} after SIGTERM, with its disk full");
        stage.coverage.add(STOPPED, 1);
        start_full(stage, &[follower]).await?;
    }
    make_room(stage, &[follower]).await
}

/// Makes the others write until the log of this node has used up the room that it had taken beforehand, and waits.
async fn use_up_log(stage: &mut Stage, id: HostId) -> anyhow::Result<()> {
    let before = stage.ensemble.log(id).len();
    // A client of this node would wait with it.
    let ballast = Ballast::on(stage.ensemble.others(id)).await?;
    for _ in 0..LARGE_BALLASTS_MAX {
        if stage.ensemble.log(id)[before..].contains("this node waits for room") {
            stage.coverage.add("logs that waited for room", 1);
            break;
        }
        ballast.write_large(0).await?;
        stage.volume(id).fill()?;
    }
    ballast.close().await
}

/// Somebody else leads soon, who has room.
async fn full_disk_leader(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    fill(stage, &[leader]).await?;
    stage.wait_successor(leader).await?;
    stay_full(stage, &[leader]).await?;
    make_room(stage, &[leader]).await
}

/// Nothing grows any more, and everything else goes on (G9).
async fn full_disk_all(stage: &mut Stage) -> anyhow::Result<()> {
    let client = ConnectOptions::new().connect(stage.ensemble.endpoints()).await?;
    let options = || CreateOptions::new(CreateMode::Persistent);
    match client.create(PROBE, "", options()).await {
        Err(error) if error.kind != ErrorKind::NodeExists => return Err(error.into()),
        _ => {}
    }
    // Something to delete, however soon growth is refused.
    let mut made = vec![format!("{PROBE}/0")];
    client.create(&made[0], "", options()).await?;
    let ids = stage.ensemble.ids();
    fill(stage, &ids).await?;
    let start = Instant::now();
    loop {
        let path = format!("{PROBE}/{}", made.len());
        match client.create(&path, "", options()).await {
            Err(error) if error.kind == ErrorKind::NoSpace => break,
            Err(error) => return Err(error.into()),
            Ok(_) => ensure!(start.elapsed() < KNOWN, "znodes are created with full disks"),
        }
        made.push(path);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.coverage.add("creates refused for want of room", 1);
    stay_full(stage, &ids).await?;
    let refused = client.set(PROBE, "larger", None).await;
    ensure!(refused.is_err_and(|error| error.kind == ErrorKind::NoSpace), "a znode grows with full disks");
    if stage.coverage.count(RESTARTED) == 0 || stage.rng.random_bool(0.5) {
        stage.kill_all()?;
        start_full(stage, &ids).await?;
        stage.ensemble.wait_serving().await?;
        refill(stage, &ids)?;
    }
    for path in made {
        client.delete(path, None).await?;
        stage.coverage.add("deletes with full disks", 1);
    }
    make_room(stage, &ids).await?;
    let start = Instant::now();
    while let Err(error) = client.set(PROBE, "", None).await {
        ensure!(error.kind == ErrorKind::NoSpace, "{error} when there is room again");
        ensure!(start.elapsed() < KNOWN, "growth is refused although there is room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.close().await?;
    Ok(())
}

/// Until the tracers are dropped.
pub(super) async fn slow_down(
    stage: &mut Stage,
    ids: &[HostId],
    call: &str,
    delay: Duration,
) -> anyhow::Result<Vec<Tracer>> {
    stage.say(format!("each {call} of nodes {ids:?} takes {delay:?}"));
    let mut tracers = Vec::new();
    for process in ids.iter().filter_map(|id| stage.ensemble.process_id(*id)) {
        tracers.push(Tracer::slow(process, call, delay).await?);
    }
    stage.coverage.add("slow disks", tracers.len() as u64);
    Ok(tracers)
}

async fn slow_disk(stage: &mut Stage) -> anyhow::Result<()> {
    let ids = match stage.rng.random_range(0..3) {
        0 => stage.ensemble.ids(),
        1 => vec![stage.ensemble.leader().await?],
        _ => vec![stage.random_node()],
    };
    let delay = Duration::from_millis(stage.rng.random_range(5..1000));
    let tracers = slow_down(stage, &ids, "fdatasync", delay).await?;
    stage.rest(1500, 5000).await;
    drop(tracers);
    stage.say("the disks are quick again");
    stage.rest(500, 1500).await;
    Ok(())
}

async fn slow_disk_kill_all(stage: &mut Stage) -> anyhow::Result<()> {
    kill_all_with_slow_disks(stage, |_| Ok(())).await
}

/// Kills all nodes while they wait for their disks, and starts them after something was done to their files. With quick disks next to
/// nothing waits at the moment of the kill: what is acknowledged too early would not be missed.
pub(super) async fn kill_all_with_slow_disks(
    stage: &mut Stage,
    meanwhile: impl FnOnce(&mut Stage) -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    let ids = stage.ensemble.ids();
    let delay = Duration::from_millis(stage.rng.random_range(20..200));
    let tracers = slow_down(stage, &ids, "fdatasync", delay).await?;
    stage.rest(800, 2000).await;
    stage.kill_all()?;
    drop(tracers);
    meanwhile(stage)?;
    stage.rest(0, 500).await;
    for id in ids {
        stage.start(id)?;
    }
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 1500).await;
    Ok(())
}

async fn disk_errors(stage: &mut Stage) -> anyhow::Result<()> {
    let id = stage.random_node();
    let Some(process) = stage.ensemble.process_id(id) else { return Ok(()) };
    let (call, what) = FAILING[stage.rng.random_range(0..FAILING.len())];
    stage.say(format!("{what} of node {id} fails"));
    let tracer = Tracer::failing(process, call).await?;
    stage.coverage.add("disk errors", 1);
    // What fails is called for a snapshot at the latest.
    let ballast = Ballast::on(stage.ensemble.others(id)).await?;
    let start = Instant::now();
    let exit = loop {
        if let Some(exit) = stage.ensemble.exited(id)? {
            break exit;
        }
        ensure!(start.elapsed() < PATIENCE, "node {id}, whose disk fails, goes on for {PATIENCE:?}");
        ballast.write().await?;
        stage.rest(20, 50).await;
    };
    ballast.close().await?;
    drop(tracer);
    stage.say(format!("node {id} has ended: {exit}"));
    stage.coverage.add("nodes that ended by themselves", 1);
    stage.rest(0, 1500).await;
    stage.start(id)?;
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 1500).await;
    Ok(())
}

/// A node needs its newest snapshot and the last records of its log: it finds out that they are damaged, and refuses to start.
async fn bit_flips(stage: &mut Stage) -> anyhow::Result<()> {
    match stage.coverage.count(FLIPPED_LOG) <= stage.coverage.count(FLIPPED_SNAPSHOT) {
        true => flip_log(stage).await?,
        false => flip_snapshot(stage).await?,
    }
    stage.rest(300, 1000).await;
    Ok(())
}

async fn flip_log(stage: &mut Stage) -> anyhow::Result<()> {
    let id = stage.random_node();
    stage.kill(id)?;
    let dir = wal_dir(stage, id);
    let (file, acknowledged) = (journal::newest_file(&dir)?, journal::acknowledged_seq(&dir)?);
    let mut frames = journal::frames(&file)?;
    frames.retain(|frame| frame.seq <= acknowledged);
    let Some(frame) = frames[frames.len().saturating_sub(3)..].choose(&mut stage.rng) else {
        // The file was begun just now.
        return stage.start(id);
    };
    let record = format!("record {} of the log", frame.seq);
    let damage = flip(stage, id, &file, frame.bytes.clone())?;
    stage.coverage.add(FLIPPED_LOG, 1);
    start_damaged(stage, id, damage, &[&record, "is lost"]).await
}

async fn flip_snapshot(stage: &mut Stage) -> anyhow::Result<()> {
    let Some(id) = node_with_snapshot(stage).await? else { return Ok(()) };
    stage.kill(id)?;
    let Some(file) = newest_snapshot(stage, id)? else { bail!("node {id} has lost its snapshot") };
    let length = file.metadata()?.len();
    let damage = flip(stage, id, &file, 0..length)?;
    stage.coverage.add(FLIPPED_SNAPSHOT, 1);
    start_damaged(stage, id, damage, &[&format!("snapshot {}", file.display())]).await
}

/// One byte within a range is another one, or a burst of them.
fn flip(stage: &mut Stage, id: HostId, file: &Path, range: Range<u64>) -> anyhow::Result<Damage> {
    let count = stage.rng.random_range(1..=64).min(range.end - range.start);
    let at = stage.rng.random_range(range.start..=range.end - count);
    let name = file.file_name().unwrap_or_default().display();
    stage.say(format!("{count} bytes at {at} in {name} of node {id} are others"));
    let change =
        |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte ^= stage.rng.random_range(1..=255u8));
    Damage::make(file, at..at + count, change)
}

/// A node that has a snapshot. `None` if there is none at the end of the faults.
async fn node_with_snapshot(stage: &mut Stage) -> anyhow::Result<Option<HostId>> {
    let ballast = Ballast::on(stage.ensemble.ids()).await?;
    let mut found = None;
    while found.is_none() && stage.goes_on() {
        let id = stage.random_node();
        if newest_snapshot(stage, id)?.is_some() {
            found = Some(id);
        } else {
            ballast.write().await?;
            stage.rest(20, 50).await;
        }
    }
    ballast.close().await?;
    Ok(found)
}

fn newest_snapshot(stage: &Stage, id: HostId) -> anyhow::Result<Option<PathBuf>> {
    let mut newest: Option<((u64, u64), PathBuf)> = None;
    for file in std::fs::read_dir(stage.ensemble.nodes[&id].data_dir.join("snapshots"))? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Of the term, the leader and the index of its last entry.
        let Some(numbers) = name.strip_prefix("snap-") else { continue };
        let numbers: Result<Vec<u64>, _> = numbers.split('-').map(str::parse).collect();
        let [term, _, index] = numbers?[..] else { bail!("{}: another name was due", path.display()) };
        if newest.as_ref().is_none_or(|(newest, _)| *newest < (term, index)) {
            newest = Some(((term, index), path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}
