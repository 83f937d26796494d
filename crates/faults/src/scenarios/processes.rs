//! Processes of nodes: killed, stopped, restarted.

use futures::FutureExt as _;
use rand::Rng as _;

use super::Scenario;
use crate::stage::Stage;

pub(super) fn scenarios() -> Vec<Scenario> {
    const RESUMED: &[&str] =
        &["nodes killed", "leader changes", "watches resumed", "answers from the record"];
    vec![
        Scenario::new("kill-leader", "kill -9 of the leader", RESUMED, |stage| kill_leader(stage).boxed()),
        Scenario::new(
            "kill-follower",
            "kill -9 of a follower",
            &["nodes killed", "watches resumed"],
            |stage| kill_follower(stage).boxed(),
        ),
        Scenario::new("kill-all", "kill -9 of all nodes at once", RESUMED, |stage| kill_all(stage).boxed()),
        Scenario::new(
            "stop-leader",
            "SIGSTOP of the leader beyond the lease, and beyond the session timeout",
            &["nodes stopped", "leaders elected by a majority", "watches resumed"],
            |stage| stop_leader(stage).boxed(),
        ),
        Scenario::new("stop-follower", "SIGSTOP of a follower", &["nodes stopped"], |stage| {
            stop_follower(stage).boxed()
        }),
        Scenario::new(
            "stop-all",
            "SIGSTOP of all nodes beyond the session timeout",
            &["nodes stopped"],
            |stage| stop_all(stage).boxed(),
        ),
        Scenario::new(
            "rolling-restart",
            "SIGTERM and a new start, one node after the other",
            &["clean restarts", "leader changes"],
            |stage| rolling_restart(stage).boxed(),
        ),
    ]
}

async fn kill_leader(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    stage.kill(leader)?;
    stage.rest(0, 2000).await;
    stage.start(leader)?;
    stage.rest(500, 2000).await;
    Ok(())
}

async fn kill_follower(stage: &mut Stage) -> anyhow::Result<()> {
    let (_, follower) = stage.leader_and_follower().await?;
    stage.kill(follower)?;
    stage.rest(0, 2000).await;
    stage.start(follower)?;
    stage.rest(300, 1500).await;
    Ok(())
}

async fn kill_all(stage: &mut Stage) -> anyhow::Result<()> {
    stage.kill_all()?;
    stage.rest(0, 1500).await;
    for id in stage.ensemble.ids() {
        stage.start(id)?;
        stage.rest(0, 300).await;
    }
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 2000).await;
    Ok(())
}

async fn stop_leader(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    stage.pause(leader)?;
    stage.wait_successor(leader).await?;
    // Sometimes so long that every session would be over, if the time of a leader that stands still counted.
    match stage.rng.random_bool(0.3) {
        true => stage.rest(6500, 8000).await,
        false => stage.rest(0, 2500).await,
    }
    stage.resume(leader)?;
    stage.rest(500, 1500).await;
    Ok(())
}

async fn stop_follower(stage: &mut Stage) -> anyhow::Result<()> {
    let (_, follower) = stage.leader_and_follower().await?;
    stage.pause(follower)?;
    stage.rest(200, 4000).await;
    stage.resume(follower)?;
    stage.rest(300, 1500).await;
    Ok(())
}

async fn stop_all(stage: &mut Stage) -> anyhow::Result<()> {
    for id in stage.ensemble.ids() {
        stage.pause(id)?;
    }
    match stage.rng.random_bool(0.4) {
        true => stage.rest(6500, 8000).await,
        false => stage.rest(200, 3000).await,
    }
    for id in stage.ensemble.ids() {
        stage.resume(id)?;
        stage.rest(0, 200).await;
    }
    stage.rest(1000, 2500).await;
    Ok(())
}

async fn rolling_restart(stage: &mut Stage) -> anyhow::Result<()> {
    for id in stage.ensemble.ids() {
        stage.say(format!("SIGTERM to node {id}"));
        let exit = stage.ensemble.terminate(id).await?;
        anyhow::ensure!(exit.success(), "node {id} ended with {exit} after SIGTERM");
        stage.coverage.add("clean restarts", 1);
        stage.start(id)?;
        stage.ensemble.wait_serving().await?;
        stage.rest(100, 800).await;
    }
    Ok(())
}
