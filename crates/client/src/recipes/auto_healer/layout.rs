use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::spec::HealerSpec;
use super::status::CopyState;
use crate::Stat;
use crate::recipes::parents::is_ownerless;
use crate::recipes::znode::name_of;
use crate::recipes::{CacheView, CachedZnode};

pub(super) fn spec(root: &str) -> String {
    format!("{root}/spec")
}

pub(super) fn election(root: &str) -> String {
    format!("{root}/election")
}

pub(super) fn agents(root: &str) -> String {
    format!("{root}/agents")
}

pub(super) fn placements(root: &str) -> String {
    format!("{root}/placements")
}

pub(super) fn running(root: &str) -> String {
    format!("{root}/running")
}

/// The name of a copy's znodes.
pub(super) fn name(copy: u32) -> String {
    format!("{copy:04}")
}

/// An agent's znode, as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AgentRecord {
    /// How many copies it takes; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) capacity: Option<u32>,
}

/// Where a copy is to run: the znode of its placement, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Placement {
    pub(super) agent: String,
    /// The agents on which it kept failing, with the zxid of the report: it is forgotten when the agent has joined or the spec was
    /// written after that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) failed_on: BTreeMap<String, u64>,
}

/// What a copy does: its znode below `running`, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    pub(super) agent: String,
    pub(super) state: CopyState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    #[serde(default)]
    pub(super) restarts: u64,
    /// It has ended so often in a row that it should go elsewhere.
    #[serde(default)]
    pub(super) is_failing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_exit: Option<String>,
}

/// A record with the stat of its znode.
pub(super) type Found<T> = (T, Stat);

/// The healer's part of one state of the tree.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) spec: Option<HealerSpec>,
    /// When it was written.
    pub(super) spec_zxid: u64,
    pub(super) agents: BTreeMap<String, Found<AgentRecord>>,
    pub(super) placements: BTreeMap<u32, Found<Placement>>,
    pub(super) running: BTreeMap<u32, Found<RunRecord>>,
}

impl Layout {
    /// Returns what the view says. Records that cannot be read are left out; an agent without one takes any
    /// number of copies. Agents and running copies that are not ephemeral are left out, too.
    pub(super) fn of(view: &CacheView, root: &str) -> Self {
        let copies = |path: String| -> Vec<(u32, std::sync::Arc<CachedZnode>)> {
            let numbered = |znode: &std::sync::Arc<CachedZnode>| {
                let copy = name_of(&znode.path).parse().ok()?;
                // Nothing could be done to a znode that is not named as ours are.
                (name(copy) == name_of(&znode.path)).then(|| (copy, znode.clone()))
            };
            view.children(&path).filter_map(numbered).collect()
        };
        let agents = agents(root);
        let is_owned = |znode: &&std::sync::Arc<CachedZnode>| !is_ownerless(&znode.stat);
        let agents = view.children(&agents).filter(is_owned).map(|znode| {
            let record = serde_json::from_slice(&znode.data).unwrap_or_default();
            (name_of(&znode.path).to_owned(), (record, znode.stat))
        });
        let placements = copies(placements(root)).into_iter().map(|(copy, znode)| {
            // Nobody has no name: the copy is placed anew.
            (copy, (serde_json::from_slice(&znode.data).unwrap_or_default(), znode.stat))
        });
        let running = copies(running(root)).into_iter();
        let running = running.filter(|(_, znode)| is_owned(&znode)).filter_map(|(copy, znode)| {
            Some((copy, (serde_json::from_slice(&znode.data).ok()?, znode.stat)))
        });
        let spec = view.get(&spec(root));
        Self {
            spec: spec.and_then(|znode| HealerSpec::parse(&znode.data)),
            spec_zxid: spec.map_or(0, |znode| znode.stat.mzxid),
            agents: agents.collect(),
            placements: placements.collect(),
            running: running.collect(),
        }
    }

    /// Which copies an agent is to run.
    pub(super) fn copies_of(&self, agent: &str) -> BTreeSet<u32> {
        let copies = self.spec.as_ref().map_or(0, |spec| spec.copies);
        let own = self.placements.range(..copies).filter(|(_, (placement, _))| placement.agent == agent);
        own.map(|(copy, _)| *copy).collect()
    }
}
