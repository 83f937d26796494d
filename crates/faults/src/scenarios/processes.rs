//! Processes of nodes: killed, stopped, restarted.

use futures::FutureExt as _;
use rand::Rng as _;

use super::Scenario;
use crate::stage::Stage;

/// What was stopped for so long.
const BEYOND: &str = "stops beyond the session timeout";

pub(super) fn scenarios() -> Vec<Scenario> {
    const RESUMED: &[&str] = &[
        "nodes killed",
        "leader changes",
        "watches resumed",
        "missed events sent",
        "answers from the record",
    ];
    vec![
        Scenario::new("kill-leader", "kill -9 of the leader", RESUMED, |stage| kill_leader(stage).boxed()),
        Scenario::new(
            "kill-follower",
            "kill -9 of a follower",
            &["nodes killed", "watches resumed"],
            |stage| kill_follower(stage).boxed(),
        ),
        Scenario {
            nodes: 5,
            ..Scenario::new(
                "kill-minority",
                "kill -9 of two nodes of five, sometimes of the leader",
                &["nodes killed", "leaders killed with a follower", "leader changes", "watches resumed"],
                |stage| kill_minority(stage).boxed(),
            )
        },
        Scenario::new("kill-all", "kill -9 of all nodes at once", RESUMED, |stage| kill_all(stage).boxed()),
        Scenario::new(
            "stop-leader",
            "SIGSTOP of the leader beyond the lease, and beyond the session timeout",
            &[BEYOND, "leaders elected by a majority", "watches resumed"],
            |stage| stop_leader(stage).boxed(),
        ),
        Scenario::new(
            "stop-follower",
            "SIGSTOP of a follower, beyond every timeout and shorter",
            &[BEYOND],
            |stage| stop_follower(stage).boxed(),
        ),
        Scenario {
            // A lease that outlasts the stop: nobody else may lead meanwhile.
            options: &["--election-min", "9s", "--election-max", "12s"],
            ..Scenario::new(
                "stall-leader",
                "SIGSTOP of the leader beyond the session timeout, within its lease: it leads on",
                &["leaders that stood still and lead on"],
                |stage| stall_leader(stage).boxed(),
            )
        },
        Scenario::new("stop-all", "SIGSTOP of all nodes beyond the session timeout", &[BEYOND], |stage| {
            stop_all(stage).boxed()
        }),
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

async fn kill_minority(stage: &mut Stage) -> anyhow::Result<()> {
    // The first time, at least, so that the run does what it is there for.
    let with_leader = stage.coverage.count("leaders killed with a follower") == 0;
    let (leader, ids) = stage.two_nodes(with_leader).await?;
    if ids.contains(&leader) {
        stage.coverage.add("leaders killed with a follower", 1);
    }
    stage.kill_together(&ids)?;
    stage.rest(0, 2500).await;
    for id in &ids {
        stage.start(*id)?;
        stage.rest(0, 800).await;
    }
    stage.rest(500, 2000).await;
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

/// A rest beyond the session timeout, or a shorter one. The first time it is a long one, so that the run does what it is there for.
async fn rest_stopped(stage: &mut Stage, long: f64, from_ms: u64, to_ms: u64) {
    if stage.coverage.count(BEYOND) == 0 || stage.rng.random_bool(long) {
        stage.rest(6500, 8000).await;
        stage.coverage.add(BEYOND, 1);
    } else {
        stage.rest(from_ms, to_ms).await;
    }
}

async fn stop_leader(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    stage.pause(leader)?;
    stage.wait_successor(leader).await?;
    // Sometimes so long that every session would be over, if the time of a leader that stands still counted.
    rest_stopped(stage, 0.3, 0, 2500).await;
    stage.resume(leader)?;
    stage.rest(500, 1500).await;
    Ok(())
}

async fn stop_follower(stage: &mut Stage) -> anyhow::Result<()> {
    let (_, follower) = stage.leader_and_follower().await?;
    stage.pause(follower)?;
    rest_stopped(stage, 0.3, 200, 4000).await;
    stage.resume(follower)?;
    stage.rest(300, 1500).await;
    Ok(())
}

async fn stop_all(stage: &mut Stage) -> anyhow::Result<()> {
    for id in stage.ensemble.ids() {
        stage.pause(id)?;
    }
    rest_stopped(stage, 0.4, 200, 3000).await;
    for id in stage.ensemble.ids() {
        stage.resume(id)?;
        stage.rest(0, 200).await;
    }
    stage.rest(1000, 2500).await;
    Ok(())
}

/// A new leader grants every session a full timeout. This one was there all the time, and must not count what it has slept through.
async fn stall_leader(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    let term = stage.ensemble.status(leader).await.map(|status| status.term);
    stage.pause(leader)?;
    tokio::time::sleep(stage.session_timeout).await;
    stage.rest(500, 2000).await;
    stage.resume(leader)?;
    stage.rest(1000, 2500).await;
    let status = stage.ensemble.status(leader).await;
    if status.is_some_and(|status| status.role == "leader" && Some(status.term) == term) {
        stage.coverage.add("leaders that stood still and lead on", 1);
    }
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
