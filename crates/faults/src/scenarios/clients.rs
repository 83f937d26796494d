//! Clients: killed, stopped and cut off beyond every timeout.

use futures::FutureExt as _;
use rand::Rng as _;

use super::Scenario;
use crate::stage::Stage;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "kill-client",
            "kill -9 of a process of clients",
            &["clients killed", "sessions expired", "writes resolved by their outcome"],
            |stage| kill_client(stage).boxed(),
        ),
        Scenario::new(
            "stop-client",
            "SIGSTOP of a process of clients beyond the session timeout",
            &["clients stopped", "sessions expired"],
            |stage| stop_client(stage).boxed(),
        ),
        Scenario::new(
            "cut-off-client",
            "a process of clients reaches no node, beyond the session timeout",
            &["clients cut off", "sessions expired", "packets dropped"],
            |stage| cut_off_client(stage).boxed(),
        ),
    ]
}

pub(super) fn random_place(stage: &mut Stage) -> usize {
    let places = stage.clients.places();
    stage.rng.random_range(places)
}

/// Beyond the session timeout, or shorter.
async fn rest_unheard(stage: &mut Stage, is_long: bool) {
    match is_long {
        true => {
            // The leader counts in steps, and asks a majority.
            tokio::time::sleep(stage.session_timeout).await;
            stage.rest(1500, 3000).await;
        }
        false => stage.rest(500, 3000).await,
    }
}

async fn kill_client(stage: &mut Stage) -> anyhow::Result<()> {
    let place = random_place(stage);
    stage.kill_clients(place)?;
    stage.rest(500, 4000).await;
    Ok(())
}

async fn stop_client(stage: &mut Stage) -> anyhow::Result<()> {
    let place = random_place(stage);
    // The first time, at least, so that the run does what it is there for.
    let is_long = stage.coverage.count("clients stopped") == 0 || stage.rng.random_bool(0.7);
    stage.pause_clients(place)?;
    rest_unheard(stage, is_long).await;
    stage.resume_clients(place)?;
    stage.rest(300, 1500).await;
    Ok(())
}

async fn cut_off_client(stage: &mut Stage) -> anyhow::Result<()> {
    let place = random_place(stage);
    let is_long = stage.coverage.count("clients cut off") == 0 || stage.rng.random_bool(0.7);
    let nodes = stage.ensemble.ids();
    stage.cut_off_clients(place, &nodes);
    rest_unheard(stage, is_long).await;
    stage.reconnect_clients(place);
    stage.rest(300, 1500).await;
    Ok(())
}
