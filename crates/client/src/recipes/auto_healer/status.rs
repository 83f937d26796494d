use std::fmt;

use serde::{Deserialize, Serialize};

use super::layout::{Layout, election};
use super::spec::HealerSpec;
use crate::recipes::CacheView;
use crate::recipes::parents::is_ownerless;

/// What a healer keeps running, where, and how that goes: one state of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealerStatus {
    /// What is to run; `None` if that was not said yet.
    pub spec: Option<HealerSpec>,
    /// The agent that decides where copies run.
    pub leader: Option<String>,
    /// The agents, in the order of their ids.
    pub agents: Vec<AgentStatus>,
    /// The copies, in the order of their numbers. Those beyond the number of copies are on their way out.
    pub copies: Vec<CopyStatus>,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStatus {
    /// Its name.
    pub id: String,
    /// How many copies it takes; `None`: any number.
    pub capacity: Option<u32>,
    /// How many are placed on it.
    pub copies: u32,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// Its number, from 0.
    pub copy: u32,
    /// What it does.
    pub state: CopyState,
    /// The agent that runs it; while none does, the one that is to. `None`: there is none with room for it.
    pub agent: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Under which epoch it runs: higher than that of any agent that ran it before.
    pub epoch: Option<u64>,
    /// How often it was started again since it is where it is.
    pub restarts: u64,
    /// How it ended last, there.
    pub last_exit: Option<String>,
}

/// What a copy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyState {
    /// There is no agent with room for it.
    Unplaced,
    /// Its agent has not begun with it: it may still run elsewhere.
    Pending,
    /// It is being started.
    Starting,
    /// Its process runs.
    Running,
    /// Its process has ended, and is started again after a pause.
    BackOff,
}

impl fmt::Display for CopyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CopyState::Unplaced => "unplaced",
            CopyState::Pending => "pending",
            CopyState::Starting => "starting",
            CopyState::Running => "running",
            CopyState::BackOff => "back-off",
        })
    }
}

impl HealerStatus {
    /// How many copies run.
    pub fn running(&self) -> usize {
        self.copies.iter().filter(|copy| copy.state == CopyState::Running).count()
    }

    pub(super) fn of(view: &CacheView, root: &str) -> Self {
        let layout = Layout::of(view, root);
        let leader = view.get(&format!("{}/leader", election(root)));
        let leader = leader.filter(|znode| !is_ownerless(&znode.stat)).and_then(|znode| {
            let leader: serde_json::Value = serde_json::from_slice(&znode.data).ok()?;
            Some(leader["id"].as_str()?.to_owned())
        });
        let copies = layout.spec.as_ref().map_or(0, |spec| spec.copies);
        let mut numbers: Vec<u32> = (0..copies).chain(layout.running.keys().copied()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let agents = layout.agents.iter().map(|(id, (record, _))| AgentStatus {
            id: id.clone(),
            capacity: record.capacity,
            copies: u32::try_from(layout.copies_of(id).len()).unwrap_or(u32::MAX),
        });
        Self {
            leader,
            agents: agents.collect(),
            copies: numbers.into_iter().map(|copy| CopyStatus::of(copy, &layout)).collect(),
            spec: layout.spec,
        }
    }
}

impl CopyStatus {
    fn of(copy: u32, layout: &Layout) -> Self {
        let placed = layout.placements.get(&copy).map(|(placement, _)| &placement.agent);
        let placed = placed.filter(|agent| layout.agents.contains_key(*agent));
        match layout.running.get(&copy) {
            Some((run, stat)) => Self {
                copy,
                state: run.state,
                agent: Some(run.agent.clone()),
                pid: run.pid,
                epoch: Some(stat.czxid),
                restarts: run.restarts,
                last_exit: run.last_exit.clone(),
            },
            None => Self {
                copy,
                state: if placed.is_some() { CopyState::Pending } else { CopyState::Unplaced },
                agent: placed.cloned(),
                pid: None,
                epoch: None,
                restarts: 0,
                last_exit: None,
            },
        }
    }
}
