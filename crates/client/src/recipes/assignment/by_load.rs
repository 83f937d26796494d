use std::collections::HashSet;

use super::table::{EPSILON, Table};

impl Table<'_> {
    /// Scores (load and costs by weight) as equal as single moves can make them.
    pub(super) fn by_load(&mut self, rebalance: bool) {
        let mut borne: Vec<f64> = self.workers.iter().map(|worker| worker.load.max(0.0)).collect();
        for (item, owner) in self.items.iter().zip(&self.owners) {
            if let Some(owner) = owner {
                borne[*owner] += item.cost;
            }
        }
        let weights = self.weights();
        let least = |borne: &[f64], cost: f64, but: Option<usize>| -> Option<(usize, f64)> {
            let score = |at: usize| (borne[at] + cost) / weights[at];
            let open = (0..weights.len()).filter(|at| weights[*at] > 0.0 && Some(*at) != but);
            open.map(|at| (at, score(at))).reduce(|best, next| if next.1 < best.1 { next } else { best })
        };
        // The heaviest first: small ones fill the gaps that are left.
        let mut free = self.free();
        free.sort_by(|a, b| self.items[*b].cost.total_cmp(&self.items[*a].cost).then(a.cmp(b)));
        for item in free {
            if let Some((worker, _)) = least(&borne, self.items[item].cost, None) {
                borne[worker] += self.items[item].cost;
                self.owners[item] = Some(worker);
            }
        }
        if !rebalance {
            return;
        }
        let score = |borne: &[f64], at: usize| match weights[at] > 0.0 {
            true => borne[at] / weights[at],
            false => f64::INFINITY,
        };
        let mut owned: Vec<Vec<usize>> = vec![Vec::new(); weights.len()];
        for (item, owner) in self.owners.iter().enumerate() {
            owner.iter().for_each(|owner| owned[*owner].push(item));
        }
        let mut settled = vec![false; weights.len()];
        loop {
            let open = (0..weights.len()).filter(|at| !settled[*at] && !owned[*at].is_empty());
            let highest =
                open.reduce(|best, at| if score(&borne, at) > score(&borne, best) { at } else { best });
            let Some(from) = highest else { return };
            let before = score(&borne, from);
            // The item that leaves the lower of the two maxima behind.
            let mut best: Option<(f64, usize, usize)> = None;
            let mut costs = HashSet::new();
            for (place, item) in owned[from].iter().enumerate().rev() {
                let cost = self.items[*item].cost;
                // One of several that cost the same stands for all.
                if !costs.insert(cost.to_bits()) {
                    continue;
                }
                let Some((to, after)) = least(&borne, cost, Some(from)) else { continue };
                let rest = if before.is_finite() { (borne[from] - cost) / weights[from] } else { 0.0 };
                let worse = after.max(rest);
                if worse < before - EPSILON && best.is_none_or(|(least, ..)| worse < least - EPSILON) {
                    best = Some((worse, place, to));
                }
            }
            match best {
                Some((_, place, to)) => {
                    let item = owned[from].remove(place);
                    borne[from] -= self.items[item].cost;
                    borne[to] += self.items[item].cost;
                    owned[to].push(item);
                    self.owners[item] = Some(to);
                    // There is room now that was not there for the others.
                    settled.fill(false);
                }
                None => settled[from] = true,
            }
        }
    }
}
