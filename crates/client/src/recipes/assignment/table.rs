use std::collections::{BTreeMap, HashMap};

use super::{Move, PlanItem, PlanWorker};

/// Scores and shares that differ by less are equal: they are sums of floats.
pub(super) const EPSILON: f64 = 1e-9;

/// Who has what while a plan is made. Workers and items are in the order of their ids, and meant by their places.
pub(super) struct Table<'a> {
    pub(super) workers: Vec<&'a PlanWorker>,
    pub(super) items: Vec<&'a PlanItem>,
    pub(super) owners: Vec<Option<usize>>,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        workers: &'a [PlanWorker],
        items: &'a [PlanItem],
        current: &BTreeMap<String, String>,
    ) -> Self {
        let mut workers: Vec<_> = workers.iter().collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        workers.dedup_by(|a, b| a.id == b.id);
        let mut items: Vec<_> = items.iter().collect();
        items.sort_by(|a, b| a.id.cmp(&b.id));
        items.dedup_by(|a, b| a.id == b.id);
        let places: HashMap<&str, usize> =
            workers.iter().enumerate().map(|(at, worker)| (worker.id.as_str(), at)).collect();
        let owner = |item: &&PlanItem| places.get(current.get(&item.id)?.as_str()).copied();
        let owners = items.iter().map(owner).collect();
        Self { workers, items, owners }
    }

    pub(super) fn weights(&self) -> Vec<f64> {
        self.workers.iter().map(|worker| worker.weight.max(0.0)).collect()
    }

    /// Less for who bears something beside the items.
    pub(super) fn unloaded_weights(&self) -> Vec<f64> {
        self.workers.iter().map(|worker| worker.weight.max(0.0) / (1.0 + worker.load.max(0.0))).collect()
    }

    pub(super) fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.workers.len()];
        self.owners.iter().flatten().for_each(|owner| counts[*owner] += 1);
        counts
    }

    pub(super) fn free(&self) -> Vec<usize> {
        (0..self.items.len()).filter(|item| self.owners[*item].is_none()).collect()
    }

    pub(super) fn moves(&self, current: &BTreeMap<String, String>) -> Vec<Move> {
        let mut moves = Vec::new();
        for (item, owner) in self.items.iter().zip(&self.owners) {
            let Some(owner) = owner else { continue };
            let (from, to) = (current.get(&item.id), &self.workers[*owner].id);
            if from != Some(to) {
                moves.push(Move { item: item.id.clone(), from: from.cloned(), to: to.clone() });
            }
        }
        moves
    }

    /// Numbers in proportion to `weights`. `choose` is given the rooms that are left and the quotas.
    pub(super) fn by_number(
        &mut self,
        weights: &[f64],
        rebalance: bool,
        mut choose: impl FnMut(&[usize], &[usize]) -> usize,
    ) {
        let mut counts = self.counts();
        let quotas = quotas(weights, &counts, self.items.len());
        if rebalance {
            // The last ones go, so that what has been there for long tends to stay.
            for item in (0..self.items.len()).rev() {
                if let Some(owner) = self.owners[item].filter(|owner| counts[*owner] > quotas[*owner]) {
                    counts[owner] -= 1;
                    self.owners[item] = None;
                }
            }
        }
        let mut rooms: Vec<usize> =
            quotas.iter().zip(&counts).map(|(quota, count)| quota.saturating_sub(*count)).collect();
        // There is room for all: the quotas add up to the number of items.
        for item in self.free() {
            let worker = choose(&rooms, &quotas);
            rooms[worker] -= 1;
            self.owners[item] = Some(worker);
        }
    }
}

/// How many items each worker is to have: its exact share, rounded down or up so that the sum is `count`. Who has more
/// than its share rounded down already is rounded up first, so that nothing moves for the sake of rounding.
fn quotas(weights: &[f64], counts: &[usize], count: usize) -> Vec<usize> {
    let sum: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| count as f64 * weight / sum).collect();
    let mut quotas: Vec<usize> = shares.iter().map(|share| (share + EPSILON).floor() as usize).collect();
    let remainder = |at: usize| (shares[at] - quotas[at] as f64).max(0.0);
    let mut order: Vec<usize> = (0..weights.len()).filter(|at| weights[*at] > 0.0).collect();
    order.sort_by(|a, b| {
        let rank = |at: usize| (remainder(at) > EPSILON, counts[at] > quotas[at]);
        rank(*b).cmp(&rank(*a)).then(remainder(*b).total_cmp(&remainder(*a))).then(a.cmp(b))
    });
    let left = count.saturating_sub(quotas.iter().sum());
    for at in order.into_iter().take(left) {
        quotas[at] += 1;
    }
    quotas
}
