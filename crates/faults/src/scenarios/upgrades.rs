//! An ensemble of an older build, whose nodes are replaced by newer ones while clients work.

use anyhow::ensure;
use futures::FutureExt as _;
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::Scenario;
use crate::ensemble::PATIENCE;
use crate::network::HostId;
use crate::stage::Stage;

/// How often an old leader is stopped until the node with the newer build leads.
const CHANGES_MAX: u32 = 10;
const OLD_LEADS: &str = "old leaders of a mixed ensemble";
const NEW_LEADS: &str = "new leaders of a mixed ensemble";
const UPGRADED: &str = "ensembles upgraded";
const RAISED: &str = "ensembles that follow newer rules";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        upgrades: true,
        ..Scenario::new(
            "rolling-upgrade",
            "nodes of an older build are replaced by newer ones, with stops and kills in between",
            &[UPGRADED, OLD_LEADS, NEW_LEADS, RAISED, "nodes killed", "leader changes"],
            |stage| episode(stage).boxed(),
        )
    }]
}

async fn episode(stage: &mut Stage) -> anyhow::Result<()> {
    let new = stage.coordd.clone();
    match stage.ensemble.nodes.values().all(|node| node.coordd == new) {
        true => kill(stage).await,
        false => upgrade(stage).await,
    }
}

/// One node after the other, with a stop after the first one in which the ensemble is mixed.
async fn upgrade(stage: &mut Stage) -> anyhow::Result<()> {
    let mut ids = stage.ensemble.ids();
    ids.shuffle(&mut stage.rng);
    // A follower first, so that an old leader has a newer follower for a while.
    let leader = stage.ensemble.leader().await?;
    ids.sort_by_key(|id| *id == leader);
    let first = ids[0];
    replace(stage, first).await?;
    if stage.ensemble.leader().await? != first {
        stage.coverage.add(OLD_LEADS, 1);
    }
    stage.rest(500, 1500).await;
    // The node with the newer build is killed, too: it replays what the others have proposed.
    stage.kill(first)?;
    stage.rest(100, 800).await;
    stage.start(first)?;
    stage.ensemble.wait_serving().await?;
    lead(stage, first).await?;
    stage.rest(500, 1500).await;
    expect_old_rules(stage).await?;
    for id in &ids[1..] {
        replace(stage, *id).await?;
        stage.rest(100, 1500).await;
    }
    stage.coverage.add(UPGRADED, 1);
    expect_new_rules(stage).await
}

/// SIGTERM, and a start of the newer build.
async fn replace(stage: &mut Stage, id: HostId) -> anyhow::Result<()> {
    stage.say(format!("node {id} is upgraded"));
    let exit = stage.ensemble.terminate(id).await?;
    ensure!(exit.success(), "node {id} ended with {exit} after SIGTERM");
    stage.ensemble.node(id).coordd = stage.coordd.clone();
    stage.start(id)?;
    stage.ensemble.wait_serving().await
}

/// Stops or kills whoever leads, and starts it again, until this node leads.
async fn lead(stage: &mut Stage, wanted: HostId) -> anyhow::Result<()> {
    for change in 0..CHANGES_MAX {
        let leader = stage.ensemble.leader().await?;
        if leader == wanted {
            stage.coverage.add(NEW_LEADS, 1);
            return Ok(());
        }
        // A leader that is stopped chooses its successor; after one that is killed, whoever asks first is
        // elected.
        if change % 2 == 0 {
            stage.say(format!("SIGTERM to node {leader}"));
            let exit = stage.ensemble.terminate(leader).await?;
            ensure!(exit.success(), "node {leader} ended with {exit} after SIGTERM");
        } else {
            stage.kill(leader)?;
        }
        stage.rest(200, 800).await;
        stage.start(leader)?;
        stage.ensemble.wait_serving().await?;
    }
    Ok(())
}

/// While one member knows no newer rules, nobody follows them.
async fn expect_old_rules(stage: &mut Stage) -> anyhow::Result<()> {
    for id in stage.ensemble.running() {
        if let Some(status) = stage.ensemble.status(id).await {
            ensure!(status.rules <= 1, "node {id} follows rules {} in a mixed ensemble", status.rules);
        }
    }
    Ok(())
}

/// All members follow the newest rules that they know, soon.
async fn expect_new_rules(stage: &mut Stage) -> anyhow::Result<()> {
    let start = std::time::Instant::now();
    loop {
        let mut rules = Vec::new();
        for id in stage.ensemble.ids() {
            rules.push(stage.ensemble.status(id).await.map(|status| (status.rules, status.rules_known)));
        }
        if rules.iter().all(|rules| rules.is_some_and(|(rules, known)| rules >= 2 && rules == known)) {
            stage.say(format!("newer rules are in force after {:?}", start.elapsed()));
            stage.coverage.add(RAISED, 1);
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "the rules in force and known stay {rules:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Under the newer rules: the log holds entries of both.
async fn kill(stage: &mut Stage) -> anyhow::Result<()> {
    let ids = match stage.rng.random_bool(0.3) {
        true => stage.ensemble.ids(),
        false => vec![stage.random_node()],
    };
    stage.kill_together(&ids)?;
    stage.rest(0, 1000).await;
    for id in ids {
        stage.start(id)?;
    }
    stage.ensemble.wait_serving().await?;
    stage.rest(300, 1500).await;
    Ok(())
}
