use std::collections::BTreeMap;

use serde_json::Value;

use super::layout::Layout;
use super::roster::{ItemOwner, Roster};
use super::{AssignmentSettings, Distribution};
use crate::recipes::parents::is_ownerless;
use crate::recipes::{CacheView, LeaderElection};

/// A group at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct AssignmentStatus {
    /// Who plans; `None` if nobody does.
    pub leader: Option<String>,
    /// How.
    pub settings: AssignmentSettings,
    /// How the items are spread, by whom they are assigned to.
    pub distribution: Distribution,
    /// The items.
    pub items: BTreeMap<String, ItemStatus>,
    /// How many items were given to a worker, or to another one, since the group began.
    pub moves: u64,
    /// How often it was rebalanced.
    pub rebalances: u64,
}

/// Where an item is.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemStatus {
    /// What it adds to the load of its worker.
    pub cost: f64,
    /// To whom it is assigned.
    pub assigned_to: Option<String>,
    /// Who owns it: somebody else than that for as long as it is being handed over.
    pub owner: Option<ItemOwner>,
}

impl AssignmentStatus {
    pub(super) fn new(layout: &Layout, election: &LeaderElection, view: &CacheView) -> Self {
        let mut roster = Roster::default();
        for change in view.changes_since(&CacheView::default()) {
            roster.apply(layout, &change);
        }
        let mut assigned = roster.assigned();
        let items = roster.items.iter().map(|(id, record)| {
            let owner = roster.owners.get(id).cloned();
            (id.clone(), ItemStatus { cost: record.cost, assigned_to: assigned.remove(id), owner })
        });
        let leader = view.get(&election.leader_path());
        let leader = leader.filter(|znode| !is_ownerless(&znode.stat)).map(|znode| {
            let json: Value = serde_json::from_slice(&znode.data).unwrap_or_default();
            json["id"].as_str().unwrap_or_default().to_owned()
        });
        Self {
            leader,
            items: items.collect(),
            distribution: roster.distribution(),
            moves: roster.plan.moves,
            rebalances: roster.plan.rebalances,
            settings: roster.settings,
        }
    }

    /// Every item is owned by the worker to whom it is assigned.
    pub fn is_settled(&self) -> bool {
        self.items.values().all(|item| {
            let owner = item.owner.as_ref().map(|owner| &owner.worker);
            owner.is_some() && owner == item.assigned_to.as_ref()
        })
    }

    /// The items that are being handed over, with who has yet to let go of them.
    pub fn draining(&self) -> impl Iterator<Item = (&str, &ItemOwner)> {
        self.items.iter().filter_map(|(id, item)| {
            let owner = item.owner.as_ref()?;
            (item.assigned_to.as_ref() != Some(&owner.worker)).then_some((id.as_str(), owner))
        })
    }
}
