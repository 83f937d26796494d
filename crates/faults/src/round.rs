//! One round: a new ensemble, clients at work, faults, an end in which all is whole again, and the history of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::client_process::{ClientProcesses, ClientSettings};
use crate::coverage::Coverage;
use crate::ensemble::Ensemble;
use crate::history::{History, Writer};
use crate::last_look;
use crate::network::Switch;
use crate::observer::Observer;
use crate::scenarios::{MEMORY_LIMITED, Scenario};
use crate::stage::Stage;
use crate::volume::Volume;

/// Longer than the longest time for which a session on a node that is cut off from its leader is not heard.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// The planted bug that the SDK has, and not the nodes.
const BUG_OF_CLIENTS: &str = "double-grant";
/// In the environment of a process: which of the planted bugs it has.
const PLANTED_BUG: &str = "COORDD_PLANTED_BUG";
/// Work before the first fault, and after the last one.
const CALM: Duration = Duration::from_millis(700);

/// What all rounds of a run have in common.
pub(crate) struct RoundSettings<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) switch: Switch,
    pub(crate) coverage: Coverage,
    pub(crate) coordd: PathBuf,
    /// What the nodes begin with instead, in a scenario that upgrades them.
    pub(crate) old_coordd: Option<PathBuf>,
    /// Nodes whose memory cannot be limited may do without.
    pub(crate) unlimited_memory: bool,
    /// Processes of clients.
    pub(crate) clients: u8,
    pub(crate) pace: Duration,
    /// How long things are broken.
    pub(crate) faults: Duration,
    /// Planted into all nodes.
    pub(crate) bug: Option<String>,
}

/// Runs a round with its files below `dir`, `history` among them. An error is something that must not happen, found before
/// the history is checked.
pub(crate) async fn run(settings: &RoundSettings<'_>, seed: u64, dir: &Path) -> anyhow::Result<()> {
    let RoundSettings { scenario, switch, coverage, .. } = settings;
    let history = dir.join("history");
    std::fs::create_dir_all(&history)?;
    switch.heal();
    let (mut of_nodes, mut of_clients) = (Vec::new(), Vec::new());
    if let Some(bug) = &settings.bug {
        let env = if bug == BUG_OF_CLIENTS { &mut of_clients } else { &mut of_nodes };
        env.push((PLANTED_BUG.to_owned(), bug.clone()));
    }
    let first_coordd = settings.old_coordd.as_ref().unwrap_or(&settings.coordd);
    let mut ensemble = Ensemble::new(switch, scenario, first_coordd.clone(), dir, &of_nodes)?;
    let mut volumes = Vec::new();
    for id in ensemble.ids() {
        if let Some(mebibytes) = scenario.volume_mebibytes {
            volumes.push(Volume::mount(&dir.join(format!("node-{id}")), mebibytes)?);
        }
        if let Some(mebibytes) = scenario.memory_mebibytes {
            let is_limited = ensemble.limit_memory(id, mebibytes);
            coverage.add(MEMORY_LIMITED, u64::from(is_limited || settings.unlimited_memory));
        }
        ensemble.start_node(id)?;
    }
    ensemble.wait_serving().await?;
    last_look::prepare(&ensemble.endpoints()).await.context("the znodes of the workloads")?;

    let observer = Observer::start(&ensemble.endpoints(), coverage.clone());
    let traffic = switch.traffic();
    let clients = ClientSettings {
        endpoints: ensemble.endpoints(),
        history: history.clone(),
        seed,
        session_timeout: SESSION_TIMEOUT,
        pace: settings.pace,
        env: of_clients,
    };
    let clients = ClientProcesses::start(switch, settings.clients, clients)?;
    let mut stage = Stage {
        switch: switch.clone(),
        ensemble,
        clients,
        volumes,
        rng: StdRng::seed_from_u64(seed),
        coverage: coverage.clone(),
        writer: Arc::new(Writer::create(&history.join("faults.jsonl"))?),
        session_timeout: SESSION_TIMEOUT,
        coordd: settings.coordd.clone(),
        memory_before: None,
        deadline: Instant::now() + CALM + settings.faults,
    };
    tokio::time::sleep(CALM).await;
    while stage.goes_on() {
        (scenario.episode)(&mut stage).await.context("while things were broken")?;
        stage.ensemble.check_ends()?;
        stage.clients.check_alive()?;
    }
    stage.heal().await.context("after all faults were healed")?;
    tokio::time::sleep(CALM).await;
    let stuck = stage.clients.stop().await?;
    if !stuck.is_empty() {
        bail!("clients {stuck:?} wait for an answer for ever, although all is healed");
    }
    let (before, after) = (traffic, switch.traffic());
    coverage.add("packets dropped", after.dropped - before.dropped);
    coverage.add("packets delayed", after.delayed - before.delayed);
    coverage.add("packets duplicated", after.duplicated - before.duplicated);

    let known = History::read(&history)?;
    let writer = Writer::create(&history.join("final.jsonl"))?;
    last_look::write(&stage.ensemble, &known, &writer, coverage).await.context("the last look")?;
    observer.stop().await.context("G8")?;
    stage.ensemble.wait_equal().await.context("G8")?;
    stage.ensemble.check_ends()?;
    stage.clients.check_alive()?;
    Ok(())
}
