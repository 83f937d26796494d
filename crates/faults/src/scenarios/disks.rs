//! Disks: full, slow, failing, and with other bits than were written.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coordd_client::{ConnectOptions, CreateMode, CreateOptions, ErrorKind};
use futures::FutureExt as _;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{OFTEN, Scenario};
use crate::network::HostId;
use crate::stage::Stage;
use crate::tracer::Tracer;

/// Room for the files of a journal, some segments of its copy and two snapshots.
const VOLUME_MEBIBYTES: u32 = 256;
/// A znode of no workload, and what is written to it to fill the log.
const BALLAST: &str = "/ballast";
const BALLAST_BYTES: usize = 64 << 10;
const FLIPPED_LOG: &str = "bits flipped in the log";
const FLIPPED_SNAPSHOT: &str = "bits flipped in a snapshot";
/// What fails on a broken disk. The last two are for files of the log and for snapshots that are begun.
const FAILING: [(&str, &str); 4] = [
    ("fdatasync", "a sync of the log"),
    ("pwrite64", "a write of the log"),
    ("fsync", "a sync of a new file"),
    ("rename", "the naming of a new file"),
];
/// A node that cannot write must have noticed by then.
const NOTICED: Duration = Duration::from_secs(20);

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
        full("full-disk-one", "the disk of a follower is full for a while", &["full disks"], |stage| {
            full_disk_one(stage).boxed()
        }),
        full(
            "full-disk-leader",
            "the disk of the leader is full for a while",
            &["full disks", "leaders elected by a majority"],
            |stage| full_disk_leader(stage).boxed(),
        ),
        full(
            "full-disk-all",
            "all disks are full for a while",
            &["full disks", "creates refused for want of room", "deletes with full disks"],
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
            nodes_may_end: true,
            options: OFTEN,
            ..Scenario::new(
                "disk-errors",
                "a write, a sync or a rename fails with EIO",
                &["disk errors", "nodes that ended by themselves"],
                |stage| disk_errors(stage).boxed(),
            )
        },
        Scenario {
            // Two that refuse to start leave a majority: one by its log and one by its snapshot.
            nodes: 5,
            nodes_may_end: true,
            options: OFTEN,
            ..Scenario::new(
                "bit-flips",
                "bits of the log or of a snapshot of a node that is down are flipped",
                &["bits flipped in the log", "bits flipped in a snapshot"],
                |stage| bit_flips(stage).boxed(),
            )
        },
    ]
}

/// How long it takes until all nodes know that there is no room, or that there is some again: they look, tell the leader, and are
/// told by it, each some times a second. A machine that is busy takes longer.
const KNOWN: Duration = Duration::from_secs(8);
/// What the scenario itself writes.
const PROBE: &str = "/full-disk";

/// Full disks, kept so for a while. Nobody ends because of that.
async fn fill(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    for id in ids {
        stage.say(format!("the disk of node {id} is full"));
        stage.volume(*id).fill()?;
        stage.coverage.add("full disks", 1);
    }
    Ok(())
}

/// For a random time, with what becomes free meanwhile, by a snapshot that is removed, taken too.
async fn stay_full(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    let time = Duration::from_millis(stage.rng.random_range(2000..6000));
    let start = Instant::now();
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(250)).await;
        for id in ids {
            stage.volume(*id).fill()?;
        }
        // A full disk is no reason to.
        stage.ensemble.check_ends()?;
    }
    Ok(())
}

async fn make_room(stage: &mut Stage, ids: &[HostId]) -> anyhow::Result<()> {
    for id in ids {
        stage.say(format!("there is room on the disk of node {id}"));
        stage.volume(*id).make_room()?;
    }
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 1500).await;
    Ok(())
}

async fn full_disk_one(stage: &mut Stage) -> anyhow::Result<()> {
    let (_, follower) = stage.leader_and_follower().await?;
    fill(stage, &[follower]).await?;
    stay_full(stage, &[follower]).await?;
    make_room(stage, &[follower]).await
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
pub(super) fn slow_down(stage: &mut Stage, ids: &[HostId], delay: Duration) -> anyhow::Result<Vec<Tracer>> {
    stage.say(format!("each fdatasync of nodes {ids:?} takes {delay:?}"));
    let mut tracers = Vec::new();
    for process in ids.iter().filter_map(|id| stage.ensemble.process_id(*id)) {
        tracers.push(Tracer::slow_syncs(process, delay)?);
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
    let tracers = slow_down(stage, &ids, delay)?;
    stage.rest(1500, 5000).await;
    drop(tracers);
    stage.say("the disks are quick again");
    stage.rest(500, 1500).await;
    Ok(())
}

/// With quick disks next to nothing waits at the moment of the kill: what is acknowledged too early would not be missed.
async fn slow_disk_kill_all(stage: &mut Stage) -> anyhow::Result<()> {
    let ids = stage.ensemble.ids();
    let delay = Duration::from_millis(stage.rng.random_range(20..200));
    let tracers = slow_down(stage, &ids, delay)?;
    stage.rest(800, 2000).await;
    stage.kill_all()?;
    drop(tracers);
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
    stage.coverage.add("disk errors", 1);
    let tracer = Tracer::failing(process, call)?;
    let exit = stage.ensemble.wait_exited(id, NOTICED).await.context("a node whose disk fails")?;
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
    if stage.ensemble.nodes.values().filter(|node| node.is_lost).count() == 2 {
        // A majority is needed.
        stage.rest(300, 600).await;
        return Ok(());
    }
    // First the kind, because the files of the log are many and snapshots are few.
    let is_of_log = stage.coverage.count(FLIPPED_LOG) <= stage.coverage.count(FLIPPED_SNAPSHOT);
    let (id, dir) = match is_of_log {
        true => (stage.random_node(), "wal"),
        false => match node_with_snapshot(stage).await? {
            Some(id) => (id, "snapshots"),
            None => return Ok(()),
        },
    };
    stage.kill(id)?;
    let files = written_below(&stage.ensemble.nodes[&id].data_dir.join(dir))?;
    let Some((path, length)) = files.choose(&mut stage.rng).cloned() else {
        return stage.start(id);
    };
    let file = File::options().read(true).write(true).open(&path)?;
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
    stage.coverage.add(if is_of_log { FLIPPED_LOG } else { FLIPPED_SNAPSHOT }, 1);
    start_damaged(stage, id).await?;
    stage.rest(300, 1000).await;
    Ok(())
}

/// Starts a node whose files were changed: it serves, or it refuses to start, which is true then.
pub(super) async fn start_damaged(stage: &mut Stage, id: HostId) -> anyhow::Result<bool> {
    stage.start(id)?;
    let start = Instant::now();
    loop {
        if let Some(exit) = stage.ensemble.exited(id)? {
            let log = stage.ensemble.log(id);
            let why = log.lines().last().unwrap_or_default();
            ensure!(exit.code() == Some(1), "node {id} ended with {exit} after it was damaged: {why}");
            stage.say(format!("node {id} does not start: {why}"));
            stage.coverage.add("damaged nodes that refused to start", 1);
            stage.ensemble.node(id).is_lost = true;
            return Ok(true);
        }
        let status = stage.ensemble.status(id).await;
        if status.is_some_and(|status| status.not_serving.is_none()) {
            stage.coverage.add("damaged nodes that came back", 1);
            return Ok(false);
        }
        ensure!(start.elapsed() < NOTICED, "node {id} neither serves nor ends after it was damaged");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A node that has a snapshot. `None` if there is none at the end of the faults.
async fn node_with_snapshot(stage: &mut Stage) -> anyhow::Result<Option<HostId>> {
    let client = ConnectOptions::new().connect(stage.ensemble.endpoints()).await?;
    // It may be there from the last time.
    drop(client.create(BALLAST, "", CreateMode::Persistent).await);
    while stage.goes_on() {
        let id = stage.random_node();
        let dir = stage.ensemble.nodes[&id].data_dir.join("snapshots");
        if dir.exists() && !written_below(&dir)?.is_empty() {
            client.close().await?;
            return Ok(Some(id));
        }
        // On a slow machine the workloads alone write too little for one.
        client.set(BALLAST, vec![0; BALLAST_BYTES], None).await?;
        stage.rest(20, 50).await;
    }
    Ok(None)
}

/// Files, and up to where something is written in each: behind that is room that was made beforehand, which means nothing.
fn written_below(dir: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(written_below(&entry.path())?);
            continue;
        }
        if entry.path().extension().is_some_and(|extension| extension == "tmp") {
            // Not finished, and removed at the next start.
            continue;
        }
        // Those of a node that runs may go meanwhile.
        let content = match std::fs::read(entry.path()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            content => content?,
        };
        let written = content.iter().rposition(|byte| *byte != 0);
        files.extend(written.map(|last| (entry.path(), last as u64 + 1)));
    }
    Ok(files)
}
