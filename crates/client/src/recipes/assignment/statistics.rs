use std::collections::BTreeMap;

use serde::Serialize;

use super::{PlanItem, PlanWorker};

/// How the items are spread over the workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Each worker, by id.
    pub workers: Vec<WorkerShare>,
    /// Items that no worker of the group has.
    pub unassigned: usize,
    /// The mean of the scores.
    pub average_score: f64,
    /// The highest score less the lowest.
    pub score_range: f64,
}

/// What one worker has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerShare {
    /// The worker.
    pub id: String,
    /// Its weight.
    pub weight: f64,
    /// How many items it has.
    pub items: usize,
    /// Its load and the costs of its items, divided by its weight. 0 for a worker of weight 0, which does not count in
    /// average and range.
    pub score: f64,
}

impl Distribution {
    /// The distribution of `items` over `workers`, by who has them now.
    pub fn of(workers: &[PlanWorker], items: &[PlanItem], current: &BTreeMap<String, String>) -> Self {
        let mut shares: BTreeMap<&str, (usize, f64)> =
            workers.iter().map(|worker| (worker.id.as_str(), (0, worker.load.max(0.0)))).collect();
        let mut unassigned = 0;
        for item in items {
            match current.get(&item.id).and_then(|owner| shares.get_mut(owner.as_str())) {
                Some((count, borne)) => {
                    *count += 1;
                    *borne += item.cost;
                }
                None => unassigned += 1,
            }
        }
        let share = |worker: &PlanWorker| {
            let (items, borne) = shares[worker.id.as_str()];
            let score = if worker.weight > 0.0 { borne / worker.weight } else { 0.0 };
            WorkerShare { id: worker.id.clone(), weight: worker.weight, items, score }
        };
        let mut workers: Vec<WorkerShare> = workers.iter().map(share).collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        let scores = || workers.iter().filter(|worker| worker.weight > 0.0).map(|worker| worker.score);
        let count = scores().count();
        let (low, high) = scores()
            .fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), score| (low.min(score), high.max(score)));
        let (average_score, score_range) = match count {
            0 => (0.0, 0.0),
            _ => (scores().sum::<f64>() / count as f64, high - low),
        };
        Self { workers, unassigned, average_score, score_range }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_and_range_are_those_of_load_by_weight() {
        let worker = |id: &str, weight, load| PlanWorker { id: id.into(), weight, load };
        let workers = [worker("b", 2.0, 0.0), worker("a", 1.0, 1.0), worker("off", 0.0, 0.0)];
        let items = ["w", "x", "y", "z"].map(|id| PlanItem { id: id.into(), cost: 1.0 });
        let owners = [("w", "a"), ("x", "b"), ("y", "b"), ("z", "gone")];
        let current = owners.map(|(item, owner)| (item.to_owned(), owner.to_owned())).into();
        let distribution = Distribution::of(&workers, &items, &current);
        let shares: Vec<_> =
            distribution.workers.iter().map(|share| (share.id.as_str(), share.items, share.score)).collect();
        assert_eq!(shares, [("a", 1, 2.0), ("b", 2, 1.0), ("off", 0, 0.0)]);
        assert_eq!(distribution.unassigned, 1);
        assert_eq!((distribution.average_score, distribution.score_range), (1.5, 1.0));
        assert_eq!(Distribution::of(&[], &[], &BTreeMap::new()), Distribution::default());
    }
}
