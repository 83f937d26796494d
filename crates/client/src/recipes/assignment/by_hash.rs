use super::affinity;
use super::table::{EPSILON, Table};

/// How far over its share a worker may go before it is passed over.
const LOAD_FACTOR: f64 = 1.25;

impl Table<'_> {
    /// Each item by its own order of the workers, none of them far over its share.
    pub(super) fn by_hash(&mut self, rebalance: bool) {
        let weights = self.weights();
        let sum: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| self.items.len() as f64 * weight / sum).collect();
        let limits: Vec<usize> =
            shares.iter().map(|share| (share * LOAD_FACTOR - EPSILON).ceil() as usize).collect();
        let mut counts = self.counts();
        if rebalance {
            self.bring_home(&weights, &shares, &mut counts);
            self.shed(&weights, &limits, &mut counts);
        }
        for item in self.free() {
            // The limits add up to no less than the number of items, so there is one with room.
            if let Some(best) = self.first_choice(item, &weights, |at| counts[at] < limits[at]) {
                counts[best] += 1;
                self.owners[item] = Some(best);
            }
        }
    }

    fn affinity(&self, item: usize, worker: usize, weights: &[f64]) -> f64 {
        affinity::of(&self.items[item].id, &self.workers[worker].id, weights[worker])
    }

    /// The worker that the item prefers among those that are open.
    fn first_choice(&self, item: usize, weights: &[f64], is_open: impl Fn(usize) -> bool) -> Option<usize> {
        let open = (0..weights.len()).filter(|at| weights[*at] > 0.0 && is_open(*at));
        let choices = open.map(|at| (at, self.affinity(item, at, weights)));
        choices.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(at, _)| at)
    }

    /// Items go to their first choice if that lacks items. One that was passed over because its first choice was full
    /// stays where it went.
    fn bring_home(&mut self, weights: &[f64], shares: &[f64], counts: &mut [usize]) {
        for item in 0..self.items.len() {
            let Some(owner) = self.owners[item] else { continue };
            let Some(home) = self.first_choice(item, weights, |_| true) else { continue };
            if home != owner && counts[home] < shares[home].floor() as usize {
                counts[owner] -= 1;
                counts[home] += 1;
                self.owners[item] = Some(home);
            }
        }
    }

    /// Who is over the limit loses the items that prefer it least.
    fn shed(&mut self, weights: &[f64], limits: &[usize], counts: &mut [usize]) {
        let mut over: Vec<(f64, usize, usize)> = Vec::new();
        for (item, owner) in self.owners.iter().enumerate() {
            if let Some(owner) = owner.filter(|owner| counts[*owner] > limits[*owner]) {
                over.push((self.affinity(item, owner, weights), item, owner));
            }
        }
        over.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, item, owner) in over {
            if counts[owner] > limits[owner] {
                counts[owner] -= 1;
                self.owners[item] = None;
            }
        }
    }
}
