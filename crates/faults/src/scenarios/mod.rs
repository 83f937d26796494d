//! What is broken, and how: one function a scenario, called again and again until the time is over.

mod ballast;
mod clients;
mod clocks;
mod damage;
mod disks;
mod greedy_clients;
mod members;
mod network;
mod processes;
mod snapshots;
mod torn_writes;
mod upgrades;

use std::time::Duration;

use futures::future::BoxFuture;

use crate::stage::Stage;

/// As many snapshots, and as little log behind them, as coordd allows.
const OFTEN: &[&str] = &["--snapshot-log-bytes", "1MiB", "--keep-log-bytes", "1KiB"];

/// Nodes whose memory is limited, in the coverage.
pub(crate) const MEMORY_LIMITED: &str = "nodes with limited memory";

/// Breaks something, and mends what the next call needs whole.
pub(crate) type Episode = for<'a> fn(&'a mut Stage) -> BoxFuture<'a, anyhow::Result<()>>;

/// See the module.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// In one line.
    pub(crate) about: &'static str,
    pub(crate) nodes: u8,
    /// Of `coordd`, beside the usual ones.
    pub(crate) options: &'static [&'static str],
    /// Each node's disk is a small one, of so many MiB.
    pub(crate) volume_mebibytes: Option<u32>,
    /// Each node has so many MiB of memory.
    pub(crate) memory_mebibytes: Option<u64>,
    /// Each node may have so many files open.
    pub(crate) open_files: Option<u32>,
    /// The nodes begin with an older build, and the scenario upgrades them.
    pub(crate) upgrades: bool,
    /// No client is at fault: no session of theirs ends, and 99 of 100 reads and sets are answered within this time.
    pub(crate) honest_p99: Option<Duration>,
    /// What a run must have done to count.
    pub(crate) needs: &'static [&'static str],
    pub(crate) episode: Episode,
}

impl Scenario {
    const fn new(
        name: &'static str,
        about: &'static str,
        needs: &'static [&'static str],
        episode: Episode,
    ) -> Scenario {
        Scenario {
            name,
            about,
            nodes: 3,
            options: &[],
            volume_mebibytes: None,
            memory_mebibytes: None,
            open_files: None,
            upgrades: false,
            honest_p99: None,
            needs,
            episode,
        }
    }
}

/// All scenarios, in the order in which they are run.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = processes::scenarios();
    all.extend(network::scenarios());
    all.extend(clients::scenarios());
    all.extend(disks::scenarios());
    all.extend(torn_writes::scenarios());
    all.extend(snapshots::scenarios());
    all.extend(members::scenarios());
    all.extend(clocks::scenarios());
    all.extend(greedy_clients::scenarios());
    all.extend(upgrades::scenarios());
    all
}
