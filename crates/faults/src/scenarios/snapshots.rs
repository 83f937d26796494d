//! Snapshots: cut and installed all the time, interrupted, and compaction of the log together with kills.

use std::time::Duration;

use futures::FutureExt as _;
use rand::Rng as _;

use super::ballast::Ballast;
use super::disks::slow_down;
use super::{OFTEN, Scenario};
use crate::stage::Stage;

/// Of almost a MiB each.
const LARGE_ZNODES: u32 = 6;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            options: OFTEN,
            ..Scenario::new(
                "snapshot-interrupted",
                "a node that needs a snapshot, or the one that sends it, is killed or cut off in the middle",
                &["snapshots installed", "snapshots cut", "transfers interrupted"],
                |stage| snapshot_interrupted(stage).boxed(),
            )
        },
        Scenario {
            options: OFTEN,
            ..Scenario::new(
                "compaction-and-kill",
                "nodes are killed while they cut snapshots and forget their logs",
                &["snapshots cut", "nodes killed while they wrote a snapshot"],
                |stage| compaction_and_kill(stage).boxed(),
            )
        },
    ]
}

async fn snapshot_interrupted(stage: &mut Stage) -> anyhow::Result<()> {
    let (leader, follower) = stage.leader_and_follower().await?;
    stage.kill(follower)?;
    let ballast = Ballast::on(stage.ensemble.others(follower)).await?;
    // A snapshot that takes a while.
    for number in 0..LARGE_ZNODES {
        ballast.write_large(number).await?;
    }
    // Until the log it needs is gone.
    let (mut needed, mut purged) = (u64::MAX, 0);
    if let Some(status) = stage.ensemble.status(leader).await {
        needed = status.committed_index + 1;
    }
    while purged < needed && stage.goes_on() {
        ballast.write().await?;
        stage.rest(20, 50).await;
        purged = stage.ensemble.status(leader).await.map_or(0, |status| status.purged_index);
    }
    ballast.close().await?;
    for _ in 0..2 {
        // Another one, if the last one was killed.
        let leader = stage.ensemble.leader().await?;
        stage.start(follower)?;
        // A start takes some tenths of a second, the transfer follows at once. A little later, sometimes.
        stage.wait_snapshot(&[follower], Duration::from_secs(3)).await?;
        if stage.rng.random_bool(0.3) {
            stage.rest(0, 300).await;
        }
        let is_on_its_way = stage.ensemble.writes_snapshot(follower)?;
        stage.coverage.add("transfers interrupted", is_on_its_way.into());
        match stage.rng.random_range(0..3) {
            0 => stage.kill(follower)?,
            1 => {
                stage.cut(&[follower], &[leader]);
                stage.rest(500, 1500).await;
                stage.heal_network();
            }
            _ => {
                stage.kill(leader)?;
                stage.rest(100, 1000).await;
                stage.start(leader)?;
            }
        }
    }
    stage.start(follower)?;
    stage.ensemble.wait_serving().await?;
    stage.rest(300, 1000).await;
    Ok(())
}

async fn compaction_and_kill(stage: &mut Stage) -> anyhow::Result<()> {
    stage.rest(300, 1500).await;
    let victims = match stage.rng.random_range(0..4) {
        0 => stage.ensemble.ids(),
        1 => vec![stage.ensemble.leader().await?],
        _ => vec![stage.random_node()],
    };
    let ballast = Ballast::on(stage.ensemble.ids()).await?;
    let mut tracers = Vec::new();
    // While one of them writes one, in most cases; else at any time.
    if stage.rng.random_bool(0.7) {
        // A small snapshot is on a quick disk before anybody has seen that it was begun.
        let delay = Duration::from_millis(stage.rng.random_range(50..300));
        tracers = slow_down(stage, &victims, "fsync", delay).await?;
        while !stage.writes_snapshot(&victims)? && stage.goes_on() {
            ballast.write().await?;
        }
        stage.rest(0, 50).await;
    }
    stage.kill_together(&victims)?;
    drop(tracers);
    for id in victims {
        // What it had not finished is still there, until it is started again.
        let met = stage.ensemble.writes_snapshot(id)?;
        stage.coverage.add("nodes killed while they wrote a snapshot", met.into());
    }
    stage.rest(0, 800).await;
    for id in stage.ensemble.ids() {
        stage.start(id)?;
    }
    stage.ensemble.wait_serving().await?;
    ballast.close().await
}
