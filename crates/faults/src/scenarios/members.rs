//! Members that are not what they were.

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;

use super::Scenario;
use crate::stage::Stage;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        nodes: 5,
        ..Scenario::new(
            "wiped-member",
            "a member comes back with an empty disk: it must not vote as its old self",
            &["wiped members refused"],
            |stage| wiped_member(stage).boxed(),
        )
    }]
}

async fn wiped_member(stage: &mut Stage) -> anyhow::Result<()> {
    if stage.ensemble.lost().len() < 2 {
        let id = stage.random_node();
        stage.kill(id)?;
        std::fs::remove_dir_all(&stage.ensemble.nodes[&id].data_dir)?;
        stage.say(format!("node {id} has lost its disk"));
        stage.start(id)?;
        // It has to hear of its past from the others first.
        let exit = stage.ensemble.wait_exited(id).await.context("a node that has lost its disk")?;
        ensure!(exit.code() == Some(1), "node {id}, which has lost its disk, ended with {exit}");
        stage.say(format!("node {id} was refused"));
        stage.coverage.add("wiped members refused", 1);
        stage.ensemble.node(id).is_lost = true;
    }
    // The others go on, also when they are killed.
    let leader = stage.ensemble.leader().await?;
    stage.kill(leader)?;
    stage.rest(300, 1500).await;
    stage.start(leader)?;
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 1500).await;
    Ok(())
}
