use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use super::layout::{ASSIGNED, ITEMS, Layout, OWNERS, PLAN, REBALANCE, SETTINGS, WORKERS};
use super::records::{ItemRecord, ListRecord, OwnerRecord, PlanRecord, WorkerRecord};
use super::worker::NUMBER_MAX;
use super::{AssignmentSettings, Distribution, PlanItem, PlanWorker, Planner};
use crate::Stat;
use crate::recipes::parents::is_ownerless;
use crate::recipes::{CacheChange, CachedZnode};

/// A group as its znodes say, and what is to be done about it. It knows no clock and asks nobody.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    pub(super) settings: AssignmentSettings,
    pub(super) items: BTreeMap<String, ItemRecord>,
    /// The creation zxids of the items.
    epochs: BTreeMap<String, u64>,
    workers: BTreeMap<String, WorkerRecord>,
    /// By worker.
    lists: BTreeMap<String, Vec<String>>,
    /// By item.
    pub(super) owners: BTreeMap<String, ItemOwner>,
    /// The epochs of owners' znodes that are not as a worker makes them, by item: somebody else has made or changed them, and what they say
    /// may be wrong.
    pub(super) foreign: BTreeMap<String, u64>,
    /// The creation zxids of the items that the owners were told of, where they say so.
    told: BTreeMap<String, u64>,
    pub(super) plan: PlanRecord,
    /// The epoch and the version of a request to rebalance.
    pub(super) asked: Option<(u64, i32)>,
}

/// Who owns an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemOwner {
    /// The worker.
    pub worker: String,
    /// The epoch of its grant.
    pub epoch: u64,
}

/// Lists to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Of which items, by worker; empty where the list is to be deleted.
    pub(super) lists: BTreeMap<String, Vec<String>>,
    /// How many items go to a worker, or to another one.
    pub(super) moves: u64,
    /// Items were moved for the sake of balance, or it was asked for.
    pub(super) is_rebalanced: bool,
}

impl Roster {
    /// Takes note of a change. Returns whether it can be a reason for another plan.
    pub(super) fn apply(&mut self, layout: &Layout, change: &CacheChange) -> bool {
        let Some((top, name)) = layout.split(change.path()) else { return false };
        let after = change.after();
        match (top, name.is_empty()) {
            (ITEMS, false) => {
                put(&mut self.items, name, after.map(|znode| read(znode)));
                put(&mut self.epochs, name, after.map(|znode| znode.stat.czxid));
            }
            (WORKERS, false) => {
                let worker = after.filter(|znode| !is_ownerless(&znode.stat));
                put(&mut self.workers, name, worker.map(|znode| read(znode)));
            }
            (ASSIGNED, false) => {
                put(&mut self.lists, name, after.map(|znode| read::<ListRecord>(znode).items));
            }
            (OWNERS, false) => {
                let was_removed = self.was_removed(name);
                let record = after.map(|znode| read::<OwnerRecord>(znode));
                let told = record.as_ref().map(|record| record.item).filter(|epoch| *epoch != 0);
                put(&mut self.told, name, told);
                let is_foreign = |stat: &Stat| is_ownerless(stat) || stat.version != 0;
                let foreign = after.map(|znode| znode.stat).filter(is_foreign);
                put(&mut self.foreign, name, foreign.map(|stat| stat.czxid));
                let owner = after
                    .zip(record)
                    .map(|(znode, record)| ItemOwner { worker: record.worker, epoch: znode.stat.czxid });
                put(&mut self.owners, name, owner);
                return self.was_removed(name) != was_removed;
            }
            (SETTINGS, true) => match after.map(|znode| serde_json::from_slice(&znode.data)) {
                Some(Ok(settings)) => self.settings = settings,
                // Better the last ones than others that nobody wanted.
                Some(Err(error)) => tracing::warn!(%error, path = change.path(), "these are no settings"),
                None => self.settings = AssignmentSettings::default(),
            },
            (PLAN, true) => {
                self.plan = after.map(|znode| read(znode)).unwrap_or_default();
                return false;
            }
            (REBALANCE, true) => self.asked = after.map(|znode| (znode.stat.czxid, znode.stat.version)),
            _ => return false,
        }
        true
    }

    /// Whether the item was removed, and put again, since its owner was told of it: it is revoked first, and then assigned as
    /// another one.
    fn was_removed(&self, item: &str) -> bool {
        match (self.told.get(item), self.epochs.get(item)) {
            (Some(told), Some(epoch)) => told != epoch,
            _ => false,
        }
    }

    fn is_assignable(&self, item: &str) -> bool {
        self.items.contains_key(item) && !self.was_removed(item)
    }

    /// Which worker each item is to belong to. Where two lists name an item, because a leader died between two of its writes,
    /// who owns it keeps it.
    pub(super) fn assigned(&self) -> BTreeMap<String, String> {
        let mut assigned = BTreeMap::<&str, &str>::new();
        for (worker, list) in &self.lists {
            for item in list.iter().filter(|item| self.is_assignable(item)) {
                let is_owner = || self.owners.get(item).is_some_and(|owner| owner.worker == *worker);
                if !assigned.contains_key(item.as_str()) || is_owner() {
                    assigned.insert(item, worker);
                }
            }
        }
        assigned.into_iter().map(|(item, worker)| (item.to_owned(), worker.to_owned())).collect()
    }

    /// The items whose owner is to let go of them, with it.
    pub(super) fn draining(&self) -> impl Iterator<Item = (&str, &ItemOwner)> {
        let lists: BTreeMap<&str, BTreeSet<&str>> = self
            .lists
            .iter()
            .map(|(worker, list)| (worker.as_str(), list.iter().map(String::as_str).collect()))
            .collect();
        let is_listed = move |item: &str, owner: &ItemOwner| {
            lists.get(owner.worker.as_str()).is_some_and(|list| list.contains(item))
        };
        let owners = self.owners.iter().map(|(item, owner)| (item.as_str(), owner));
        owners.filter(move |(item, owner)| !is_listed(item, owner))
    }

    pub(super) fn distribution(&self) -> Distribution {
        Distribution::of(&self.plan_workers(), &self.plan_items(), &self.assigned())
    }

    /// Whether the workers differ by so much that items would be moved, once it is time.
    pub(super) fn should_rebalance(&self) -> bool {
        let (workers, items, current) = (self.plan_workers(), self.plan_items(), self.assigned());
        let planner = Planner::new(self.settings.strategy);
        planner.should_rebalance(&workers, &items, &current, self.settings.threshold)
    }

    /// What is to be written; `None` if nothing. Items that nobody has are given out; with `rebalance`, or if it was asked for,
    /// others are moved, too. `seed` is what chance is drawn from.
    pub(super) fn plan(&self, rebalance: bool, seed: u64) -> Option<Plan> {
        let rebalance = rebalance || self.asked.is_some();
        let (workers, items, mut current) = (self.plan_workers(), self.plan_items(), self.assigned());
        let planner = Planner::new(self.settings.strategy).seed(seed);
        let moves = match rebalance {
            true => planner.rebalance(&workers, &items, &current),
            false => planner.place(&workers, &items, &current),
        };
        let count = moves.len() as u64;
        current.extend(moves.into_iter().map(|step| (step.item, step.to)));
        let mut lists = BTreeMap::<String, Vec<String>>::new();
        for (item, worker) in current {
            lists.entry(worker).or_default().push(item);
        }
        // Who has nothing any more. The list of one that is there is emptied, that of one that is gone deleted.
        for worker in self.lists.keys() {
            lists.entry(worker.clone()).or_default();
        }
        lists.retain(|worker, list| {
            let is_gone = list.is_empty() && !self.workers.contains_key(worker);
            is_gone || self.lists.get(worker) != Some(list)
        });
        let plan = Plan { lists, moves: count, is_rebalanced: rebalance };
        (self.asked.is_some() || !plan.lists.is_empty()).then_some(plan)
    }

    pub(super) fn has_list(&self, worker: &str) -> bool {
        self.lists.contains_key(worker)
    }

    pub(super) fn has_worker(&self, worker: &str) -> bool {
        self.workers.contains_key(worker)
    }

    fn plan_workers(&self) -> Vec<PlanWorker> {
        let worker = |(id, record): (&String, &WorkerRecord)| PlanWorker {
            id: id.clone(),
            // Whoever wrote it: sums of weights stay numbers.
            weight: record.weight.min(NUMBER_MAX),
            load: record.load,
        };
        self.workers.iter().map(worker).collect()
    }

    fn plan_items(&self) -> Vec<PlanItem> {
        let items = self.items.iter().filter(|(id, _)| !self.was_removed(id));
        items.map(|(id, record)| PlanItem { id: id.clone(), cost: record.cost.max(0.0) }).collect()
    }
}

fn put<T>(map: &mut BTreeMap<String, T>, name: &str, value: Option<T>) {
    match value {
        Some(value) => drop(map.insert(name.to_owned(), value)),
        None => drop(map.remove(name)),
    }
}

fn read<T: DeserializeOwned + Default>(znode: &CachedZnode) -> T {
    serde_json::from_slice(&znode.data).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %znode.path, "this is not what belongs there; the defaults count");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::Bytes;
    use crate::recipes::Strategy;

    /// A group that is told of its znodes, and carries out its plans.
    struct Group {
        layout: Layout,
        roster: Roster,
        zxid: u64,
    }

    impl Group {
        fn new(strategy: Strategy) -> Self {
            let mut group = Self { layout: Layout::new("/g"), roster: Roster::default(), zxid: 0 };
            group.set("/g/settings", json!({ "strategy": strategy, "threshold": 0.0 }));
            group
        }

        fn znode(&mut self, path: &str, data: &str) -> Arc<CachedZnode> {
            self.zxid += 1;
            // Workers and owners are ephemerals.
            let is_ephemeral = path.starts_with("/g/workers/") || path.starts_with("/g/owners/");
            let ephemeral_owner = u64::from(is_ephemeral);
            let stat = Stat { czxid: self.zxid, ephemeral_owner, ..Stat::default() };
            let data = Bytes::copy_from_slice(data.as_bytes());
            Arc::new(CachedZnode { path: path.into(), data, stat })
        }

        fn set(&mut self, path: &str, data: Value) -> bool {
            let znode = self.znode(path, &data.to_string());
            self.roster.apply(&self.layout, &CacheChange::Added(znode))
        }

        fn delete(&mut self, path: &str) -> bool {
            let znode = self.znode(path, "");
            self.roster.apply(&self.layout, &CacheChange::Removed(znode))
        }

        fn items(&mut self, count: usize) {
            for item in 0..count {
                self.set(&format!("/g/items/i{item:03}"), json!({}));
            }
        }

        fn worker(&mut self, name: &str) {
            assert!(self.set(&format!("/g/workers/{name}"), json!({})));
        }

        /// Writes a plan; returns how many items move.
        fn carry_out(&mut self, rebalance: bool) -> u64 {
            let Some(plan) = self.roster.plan(rebalance, 0) else { return 0 };
            for (worker, list) in &plan.lists {
                let path = format!("/g/assigned/{worker}");
                if list.is_empty() && !self.roster.has_worker(worker) {
                    self.delete(&path);
                } else {
                    self.set(&path, json!({ "items": list }));
                }
            }
            if self.roster.asked.is_some() {
                self.delete("/g/rebalance");
            }
            assert_eq!(self.roster.plan(false, 0), None, "a plan leaves nothing to be planned");
            plan.moves
        }

        fn counts(&self) -> Vec<(&str, usize)> {
            self.roster.lists.iter().map(|(worker, list)| (worker.as_str(), list.len())).collect()
        }
    }

    #[test]
    fn items_are_given_out_at_once_and_moved_only_to_rebalance() {
        let mut group = Group::new(Strategy::LeastLoaded);
        group.items(6);
        assert_eq!(group.roster.plan(true, 0), None, "nobody is there");
        group.worker("a");
        assert_eq!(group.carry_out(false), 6);
        group.worker("b");
        assert!(group.roster.should_rebalance());
        assert_eq!(group.carry_out(false), 0);
        assert_eq!(group.carry_out(true), 3);
        assert_eq!(group.counts(), [("a", 3), ("b", 3)]);
        assert!(!group.roster.should_rebalance());

        // What is removed leaves the lists; what a gone worker had goes to who is there, and its list is deleted.
        group.delete("/g/items/i000");
        assert_eq!(group.carry_out(false), 0);
        assert_eq!(group.roster.assigned().len(), 5);
        group.delete("/g/workers/b");
        assert_eq!(group.carry_out(false), 3);
        assert_eq!(group.counts(), [("a", 5)]);

        // With nobody there the list stays, for who comes back.
        group.delete("/g/workers/a");
        assert_eq!(group.roster.plan(true, 0), None);
        group.worker("a");
        assert_eq!(group.roster.plan(true, 0), None);
    }

    /// A copied directory of workers gets no items. An id whose znode is replaced by such a copy is no worker
    /// any more.
    #[test]
    fn ownerless_workers_get_nothing() {
        let mut group = Group::new(Strategy::LeastLoaded);
        group.items(4);
        let copy = |group: &mut Group, name: &str| {
            let znode = group.znode(&format!("/g/workers/{name}"), "{}");
            let stat = Stat { ephemeral_owner: 0, ..znode.stat };
            Arc::new(CachedZnode { stat, ..CachedZnode::clone(&znode) })
        };
        let copied = copy(&mut group, "copy");
        group.roster.apply(&group.layout, &CacheChange::Added(copied));
        assert_eq!(group.roster.plan(true, 0), None, "nobody is there");
        group.worker("a");
        assert_eq!(group.carry_out(true), 4);
        assert_eq!(group.counts(), [("a", 4)]);

        let (old, new) = (group.znode("/g/workers/a", "{}"), copy(&mut group, "a"));
        group.roster.apply(&group.layout, &CacheChange::Updated { old, new });
        assert!(!group.roster.has_worker("a"));
    }

    #[test]
    fn a_request_to_rebalance_is_a_plan_also_if_nothing_moves() {
        let mut group = Group::new(Strategy::Sticky);
        group.items(4);
        group.worker("a");
        group.carry_out(false);
        assert!(group.set("/g/rebalance", json!(null)));
        let plan = group.roster.plan(false, 0).unwrap();
        assert!(plan.is_rebalanced && plan.lists.is_empty());
        group.worker("b");
        assert_eq!(group.carry_out(false), 2);
        assert_eq!(group.roster.asked, None);
    }

    #[test]
    fn what_a_leader_left_half_done_is_finished_in_favour_of_who_owns_it() {
        let mut group = Group::new(Strategy::LeastLoaded);
        group.items(2);
        ["a", "b"].iter().for_each(|name| group.worker(name));
        group.set("/g/assigned/a", json!({ "items": ["i000", "i001"] }));
        group.set("/g/assigned/b", json!({ "items": ["i001"] }));
        assert!(!group.set("/g/owners/i001", json!({ "worker": "b" })));
        assert_eq!(group.roster.assigned()["i001"], "b");
        assert_eq!(group.carry_out(false), 0);
        assert_eq!(group.counts(), [("a", 1), ("b", 1)]);
        group.set("/g/owners/i001", json!({ "worker": "a" }));
        let draining: Vec<_> = group.roster.draining().map(|(item, owner)| (item, &*owner.worker)).collect();
        assert_eq!(draining, [("i001", "a")]);
    }

    #[test]
    fn an_item_that_was_removed_and_put_again_is_revoked_and_then_assigned_as_another_one() {
        let mut group = Group::new(Strategy::Sticky);
        group.items(2);
        group.worker("a");
        group.carry_out(false);
        let epoch = group.roster.epochs["i001"];
        assert!(!group.set("/g/owners/i001", json!({ "worker": "a", "item": epoch })));
        assert!(!group.set("/g/owners/i000", json!({ "worker": "a" })), "one that does not say of which");
        assert_eq!(group.roster.draining().count(), 0);
        // Both at once, as a cache may tell of it.
        group.set("/g/items/i001", json!({}));
        group.set("/g/items/i000", json!({}));
        assert_eq!(group.carry_out(false), 0);
        assert_eq!(group.counts(), [("a", 1)]);
        assert_eq!(group.roster.draining().map(|(item, _)| item).collect::<Vec<_>>(), ["i001"]);
        assert!(group.delete("/g/owners/i001"), "now it can be planned");
        assert_eq!(group.carry_out(false), 1);
        assert_eq!(group.counts(), [("a", 2)]);
    }

    #[test]
    fn a_worker_of_weight_0_is_given_nothing_and_loses_what_it_has() {
        let mut group = Group::new(Strategy::RoundRobin);
        group.items(4);
        group.worker("a");
        group.carry_out(false);
        group.worker("b");
        group.set("/g/workers/a", json!({ "weight": 0 }));
        assert!(group.roster.should_rebalance());
        assert_eq!(group.carry_out(true), 4);
        assert_eq!(group.counts(), [("a", 0), ("b", 4)]);
    }

    #[test]
    fn bad_settings_leave_the_last_ones_in_force() {
        let mut group = Group::new(Strategy::ConsistentHash);
        group.set("/g/settings", json!({ "strategy": "best" }));
        assert_eq!(group.roster.settings.strategy, Strategy::ConsistentHash);
        group.delete("/g/settings");
        assert_eq!(group.roster.settings, AssignmentSettings::default());
    }
}
