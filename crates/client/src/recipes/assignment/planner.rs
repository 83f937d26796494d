use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::statistics::Distribution;
use super::table::Table;
use crate::recipes::Strategy;

/// A worker, as the planner sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanWorker {
    /// Its name in the group.
    pub id: String,
    /// Its share of the items, relative to the others'. 0: it gets nothing, and gives up what it has when items are
    /// rebalanced.
    pub weight: f64,
    /// What it bears beside the items, in units of an item's cost.
    pub load: f64,
}

/// An item, as the planner sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanItem {
    /// Its name in the group.
    pub id: String,
    /// What it adds to the load of its worker.
    pub cost: f64,
}

/// One item changes hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The item.
    pub item: String,
    /// Who has it now: `None` if nobody ever had; also a worker that is gone.
    pub from: Option<String>,
    /// Who is to have it.
    pub to: String,
}

/// Decides which worker gets which item. It is a pure function of what it is given.
///
/// * [`Strategy::RoundRobin`]: equal numbers, whatever the weights.
/// * [`Strategy::LeastLoaded`]: the load and the costs of the items, divided by the weight, as equal as they can be.
/// * [`Strategy::WeightedRandom`]: numbers in proportion to the weights, each divided by one and the worker's load; which items is
///   left to chance.
/// * [`Strategy::ConsistentHash`]: each item has its own order of preference of the workers (rendezvous hashing by weight)
///   and goes to the first that is not a quarter over its share.
/// * [`Strategy::Sticky`]: an item stays where it is; one that is free goes to whoever is farthest below its share.
#[derive(Clone, Copy, Debug)]
pub struct Planner {
    strategy: Strategy,
    seed: u64,
}

impl Planner {
    /// A planner by this strategy.
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, seed: 0 }
    }

    /// What [`Strategy::WeightedRandom`] draws from. The same seed gives the same plan.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Gives the items that no worker of `workers` has to workers. The others stay.
    ///
    /// Without a worker of a positive weight there is nothing to be done.
    pub fn place(
        &self,
        workers: &[PlanWorker],
        items: &[PlanItem],
        current: &BTreeMap<String, String>,
    ) -> Vec<Move> {
        self.plan(workers, items, current, false)
    }

    /// The same, and then moves as few of the others as it takes to be in balance by the strategy.
    ///
    /// [`Strategy::Sticky`] moves what is over a worker's share, too: rebalancing was asked for.
    pub fn rebalance(
        &self,
        workers: &[PlanWorker],
        items: &[PlanItem],
        current: &BTreeMap<String, String>,
    ) -> Vec<Move> {
        self.plan(workers, items, current, true)
    }

    fn plan(
        &self,
        workers: &[PlanWorker],
        items: &[PlanItem],
        current: &BTreeMap<String, String>,
        rebalance: bool,
    ) -> Vec<Move> {
        let mut table = Table::new(workers, items, current);
        if table.workers.iter().all(|worker| worker.weight <= 0.0) {
            return Vec::new();
        }
        match self.strategy {
            Strategy::LeastLoaded => table.by_load(rebalance),
            Strategy::ConsistentHash => table.by_hash(rebalance),
            Strategy::RoundRobin => {
                let equal = |worker: &PlanWorker| if worker.weight > 0.0 { 1.0 } else { 0.0 };
                let weights: Vec<_> = table.workers.iter().map(|worker| equal(worker)).collect();
                let mut next = 0;
                table.by_number(&weights, rebalance, |rooms, _| {
                    while rooms[next % rooms.len()] == 0 {
                        next += 1;
                    }
                    next += 1;
                    (next - 1) % rooms.len()
                });
            }
            Strategy::WeightedRandom => {
                let weights = table.unloaded_weights();
                let mut rng = StdRng::seed_from_u64(self.seed);
                table.by_number(&weights, rebalance, |rooms, _| draw(&weights, rooms, &mut rng));
            }
            Strategy::Sticky => {
                let weights = table.weights();
                // The one with the largest part of its share missing; of equals, the first.
                table.by_number(&weights, rebalance, |rooms, quotas| {
                    let missing = |at: usize| rooms[at] as f64 / quotas[at].max(1) as f64;
                    let most = |best, at| if missing(at) > missing(best) { at } else { best };
                    (0..rooms.len()).reduce(most).unwrap_or(0)
                });
            }
        }
        table.moves(current)
    }

    /// Whether rebalancing is due: the scores differ by more than `threshold` times their average (or a worker of
    /// weight 0 has items), and [`rebalance`](Self::rebalance) would move something that [`place`](Self::place) does not.
    pub fn should_rebalance(
        &self,
        workers: &[PlanWorker],
        items: &[PlanItem],
        current: &BTreeMap<String, String>,
        threshold: f64,
    ) -> bool {
        let distribution = Distribution::of(workers, items, current);
        let leaves = distribution.workers.iter().any(|worker| worker.weight <= 0.0 && worker.items > 0);
        let uneven = distribution.score_range > threshold * distribution.average_score;
        (uneven || leaves)
            && self.rebalance(workers, items, current).iter().any(|step| {
                step.from.as_ref().is_some_and(|from| workers.iter().any(|worker| worker.id == *from))
            })
    }
}

/// Draws a worker that has room, in proportion to the weights.
fn draw(weights: &[f64], rooms: &[usize], rng: &mut StdRng) -> usize {
    let open: Vec<_> = (0..rooms.len()).filter(|at| rooms[*at] > 0).collect();
    let sum: f64 = open.iter().map(|at| weights[*at]).sum();
    let mut left = rng.random_range(0.0..1.0) * sum;
    for at in &open {
        left -= weights[*at];
        if left <= 0.0 {
            return *at;
        }
    }
    open.last().copied().unwrap_or(0)
}
