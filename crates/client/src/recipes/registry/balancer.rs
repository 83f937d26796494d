use std::collections::{HashMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::ring::Ring;
use crate::recipes::Strategy;

/// Keys that a sticky balancer remembers; the oldest are forgotten first.
const STICKY_KEYS_MAX: usize = 65_536;

/// One that may be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// Who it is.
    pub id: &'a str,
    /// Its size in comparison with others; at least 1.
    pub weight: u32,
    /// What it says of its load: 0 is idle, 1 is full.
    pub load: f64,
    /// Calls of this caller that it has not answered.
    pub in_flight: u32,
}

/// Chooses one of several by a [`Strategy`]. It does no I/O and knows no clock; it remembers what its strategy needs.
///
/// Curator's `ProviderStrategy`: its `RoundRobinStrategy`, `RandomStrategy` and `StickyStrategy` have their counterparts, least loaded
/// and consistent hash have none there.
#[derive(Debug)]
pub struct Balancer {
    strategy: Strategy,
    rng: StdRng,
    /// Whom round robin chose last.
    last: String,
    ring: Ring,
    sticky: Sticky,
}

impl Balancer {
    /// A balancer that draws its randomness from `seed`.
    pub fn new(strategy: Strategy, seed: u64) -> Self {
        Self {
            strategy,
            rng: StdRng::seed_from_u64(seed),
            last: String::new(),
            ring: Ring::default(),
            sticky: Sticky::default(),
        }
    }

    /// How it chooses.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Chooses otherwise from now on. What another strategy remembered is kept for its return.
    pub fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
    }

    /// Chooses one of `candidates`, which must be sorted by id, and returns its place in them. `None` if there is none that
    /// `avoid` does not name.
    ///
    /// `key` is what consistent hashing hashes and what a sticky choice is remembered for; without one both take the empty
    /// key. Those in `avoid` are passed over for this choice only: a ring keeps its form, a sticky key its member.
    pub fn pick(&mut self, candidates: &[Candidate<'_>], key: Option<&str>, avoid: &[&str]) -> Option<usize> {
        debug_assert!(candidates.is_sorted_by_key(|candidate| candidate.id));
        let key = key.unwrap_or_default();
        let free = |candidate: &Candidate<'_>| !avoid.contains(&candidate.id);
        if !candidates.iter().any(free) {
            return None;
        }
        match self.strategy {
            Strategy::RoundRobin => self.next_in_turn(candidates, free),
            Strategy::LeastLoaded => self.least_loaded(candidates, free),
            Strategy::WeightedRandom => self.weighted_random(candidates, free),
            Strategy::ConsistentHash => self.by_hash(candidates, key, free),
            Strategy::Sticky => {
                let bound = self.sticky.get(key).and_then(|id| place(candidates, id));
                match bound {
                    Some(place) if free(&candidates[place]) => Some(place),
                    // Its member is there, only this call avoids it.
                    Some(_) => self.next_in_turn(candidates, free),
                    None => {
                        let chosen = self.next_in_turn(candidates, free)?;
                        self.sticky.bind(key, candidates[chosen].id);
                        Some(chosen)
                    }
                }
            }
        }
    }

    fn next_in_turn(
        &mut self,
        candidates: &[Candidate<'_>],
        free: impl Fn(&Candidate<'_>) -> bool,
    ) -> Option<usize> {
        let start = candidates.partition_point(|candidate| candidate.id <= self.last.as_str());
        let mut turn = (start..candidates.len()).chain(0..start);
        let chosen = turn.find(|place| free(&candidates[*place]))?;
        candidates[chosen].id.clone_into(&mut self.last);
        Some(chosen)
    }

    /// A reported load is as old as the last heartbeat. Were it all that counts, all callers would run to the same member
    /// until the next one; so the calls a member has under way count too.
    fn least_loaded(
        &mut self,
        candidates: &[Candidate<'_>],
        free: impl Fn(&Candidate<'_>) -> bool,
    ) -> Option<usize> {
        const IDLE: f64 = 0.05;
        let score = |candidate: &Candidate<'_>| {
            (candidate.load + IDLE) * (1.0 + f64::from(candidate.in_flight))
                / f64::from(candidate.weight.max(1))
        };
        let least =
            candidates.iter().filter(|candidate| free(candidate)).map(score).min_by(f64::total_cmp)?;
        // Equals have their turns.
        self.next_in_turn(candidates, |candidate| free(candidate) && score(candidate) <= least)
    }

    fn weighted_random(
        &mut self,
        candidates: &[Candidate<'_>],
        free: impl Fn(&Candidate<'_>) -> bool,
    ) -> Option<usize> {
        let weight = |candidate: &Candidate<'_>| u64::from(candidate.weight.max(1));
        let all: u64 = candidates.iter().filter(|candidate| free(candidate)).map(weight).sum();
        let mut drawn = self.rng.random_range(0..all);
        candidates.iter().position(|candidate| {
            free(candidate)
                && match drawn.checked_sub(weight(candidate)) {
                    Some(rest) => {
                        drawn = rest;
                        false
                    }
                    None => true,
                }
        })
    }

    fn by_hash(
        &mut self,
        candidates: &[Candidate<'_>],
        key: &str,
        free: impl Fn(&Candidate<'_>) -> bool,
    ) -> Option<usize> {
        let members = || candidates.iter().map(|candidate| (candidate.id, candidate.weight));
        if !self.ring.is_of(members()) {
            self.ring = Ring::new(members());
        }
        let mut preferred = self.ring.preference(key.as_bytes()).filter_map(|id| place(candidates, id));
        preferred.find(|place| free(&candidates[*place]))
    }
}

fn place(candidates: &[Candidate<'_>], id: &str) -> Option<usize> {
    candidates.binary_search_by(|candidate| candidate.id.cmp(id)).ok()
}

/// Which member each key is bound to.
#[derive(Debug, Default)]
struct Sticky {
    bound: HashMap<String, String>,
    /// The keys, oldest first.
    order: VecDeque<String>,
}

impl Sticky {
    fn get(&self, key: &str) -> Option<&str> {
        self.bound.get(key).map(String::as_str)
    }

    fn bind(&mut self, key: &str, id: &str) {
        if self.bound.insert(key.to_owned(), id.to_owned()).is_some() {
            return;
        }
        self.order.push_back(key.to_owned());
        if self.order.len() > STICKY_KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.bound.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::recipes::Strategy;

    fn equals<'a>(ids: &[&'a str]) -> Vec<Candidate<'a>> {
        ids.iter().map(|id| Candidate { id, weight: 1, load: 0.0, in_flight: 0 }).collect()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("node-{number:03}")).collect()
    }

    fn weighted<'a>(names: &'a [String], weights: &[u32]) -> Vec<Candidate<'a>> {
        let candidate =
            |(id, weight): (&'a String, &u32)| Candidate { id, weight: *weight, load: 0.0, in_flight: 0 };
        names.iter().zip(weights).map(candidate).collect()
    }

    fn counts<'a>(
        balancer: &mut Balancer,
        candidates: &[Candidate<'a>],
        calls: usize,
    ) -> BTreeMap<&'a str, usize> {
        let mut counts = BTreeMap::new();
        for call in 0..calls {
            let chosen = balancer.pick(candidates, Some(&call.to_string()), &[]).unwrap();
            *counts.entry(candidates[chosen].id).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn round_robin_goes_in_the_order_of_the_ids_also_when_members_come_and_go() {
        let mut balancer = Balancer::new(Strategy::RoundRobin, 1);
        let mut picks = |ids: &[&'static str], count: usize| -> String {
            let candidates = equals(ids);
            (0..count).map(|_| candidates[balancer.pick(&candidates, None, &[]).unwrap()].id).collect()
        };
        assert_eq!(picks(&["a", "b", "c"], 4), "abca");
        // After "a" comes "c", because "b" has gone.
        assert_eq!(picks(&["a", "c", "d"], 3), "cda");
        assert_eq!(picks(&["0", "a", "b"], 3), "b0a");
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_chosen_and_calls_under_way_count() {
        let mut balancer = Balancer::new(Strategy::LeastLoaded, 1);
        let mut candidates = equals(&["a", "b", "c"]);
        candidates[0].load = 0.45;
        candidates[1].load = 0.65;
        candidates[2].load = 0.30;
        assert_eq!(balancer.pick(&candidates, None, &[]), Some(2), "the first document's best choice");
        candidates[1].weight = 4;
        assert_eq!(balancer.pick(&candidates, None, &[]), Some(1));
        candidates[1].in_flight = 5;
        assert_eq!(balancer.pick(&candidates, None, &[]), Some(2));
        // Equals share.
        let shares = counts(&mut balancer, &equals(&["a", "b"]), 100);
        assert_eq!(shares.values().copied().collect::<Vec<_>>(), [50, 50]);
    }

    #[test]
    fn weighted_random_is_in_proportion_to_the_weights() {
        let names = names(3);
        let candidates = weighted(&names, &[1, 2, 5]);
        let shares = counts(&mut Balancer::new(Strategy::WeightedRandom, 7), &candidates, 80_000);
        for (share, expected) in shares.values().zip([10_000.0, 20_000.0, 50_000.0]) {
            assert!((*share as f64 - expected).abs() < expected * 0.05, "{shares:?}");
        }
    }

    #[test]
    fn consistent_hash_spreads_keys_evenly() {
        let names = names(10);
        let candidates = weighted(&names, &[1; 10]);
        let shares = counts(&mut Balancer::new(Strategy::ConsistentHash, 1), &candidates, 100_000);
        assert_eq!(shares.len(), 10);
        for share in shares.values() {
            assert!((7_000..13_000).contains(share), "{shares:?}");
        }
    }

    #[test]
    fn the_hash_is_the_same_in_every_process_and_version() {
        let names = names(5);
        let candidates = weighted(&names, &[1; 5]);
        let mut balancer = Balancer::new(Strategy::ConsistentHash, 1);
        let chosen: Vec<_> = ["", "a", "user-17", "cart/9", "Zürich"]
            .iter()
            .map(|key| balancer.pick(&candidates, Some(key), &[]).unwrap())
            .collect();
        assert_eq!(chosen, [4, 2, 2, 3, 3], "callers of other versions would send keys elsewhere");
    }

    #[test]
    fn sticky_stays_until_its_member_goes() {
        let mut balancer = Balancer::new(Strategy::Sticky, 1);
        let all = equals(&["a", "b", "c"]);
        let first = balancer.pick(&all, Some("me"), &[]).unwrap();
        let other = balancer.pick(&all, Some("you"), &[]).unwrap();
        assert_ne!(first, other, "keys are spread");
        for _ in 0..10 {
            assert_eq!(balancer.pick(&all, Some("me"), &[]), Some(first));
        }
        // Avoided once, it is not forgotten.
        assert_ne!(balancer.pick(&all, Some("me"), &[all[first].id]), Some(first));
        assert_eq!(balancer.pick(&all, Some("me"), &[]), Some(first));
        // Gone, it is; its return does not bring the key back.
        let rest: Vec<_> = all.iter().filter(|member| member.id != all[first].id).cloned().collect();
        let second = rest[balancer.pick(&rest, Some("me"), &[]).unwrap()].id;
        assert_eq!(all[balancer.pick(&all, Some("me"), &[]).unwrap()].id, second);
    }

    #[test]
    fn a_sticky_balancer_forgets_the_oldest_keys() {
        let mut sticky = Sticky::default();
        for key in 0..=STICKY_KEYS_MAX {
            sticky.bind(&key.to_string(), "a");
        }
        assert_eq!((sticky.bound.len(), sticky.order.len()), (STICKY_KEYS_MAX, STICKY_KEYS_MAX));
        assert_eq!((sticky.get("0"), sticky.get("1")), (None, Some("a")));
    }

    proptest! {
        /// Whom a key meets changes only if its member goes, or to the one that comes.
        #[test]
        fn consistent_hash_moves_no_key_that_need_not_move(
            weights in prop::collection::vec(1u32..4, 2..12),
            gone in any::<prop::sample::Index>(),
            keys in prop::collection::vec("[a-z]{1,8}", 1..100),
        ) {
            let names = names(weights.len());
            let all = weighted(&names, &weights);
            let gone = gone.index(all.len());
            let mut rest = all.clone();
            rest.remove(gone);
            let mut of_all = Balancer::new(Strategy::ConsistentHash, 1);
            let mut of_rest = Balancer::new(Strategy::ConsistentHash, 2);
            for key in keys {
                let before = all[of_all.pick(&all, Some(&key), &[]).unwrap()].id;
                let after = rest[of_rest.pick(&rest, Some(&key), &[]).unwrap()].id;
                prop_assert!(before == after || before == all[gone].id);
                // Avoided is as good as gone, for this key.
                let avoided = all[of_all.pick(&all, Some(&key), &[all[gone].id]).unwrap()].id;
                prop_assert_eq!(avoided, after);
            }
        }

        /// Whoever is chosen is there and is not avoided; nobody is chosen only if all are avoided.
        #[test]
        fn a_choice_is_one_that_may_be_made(
            strategy in prop::sample::select(Strategy::ALL.to_vec()),
            rounds in prop::collection::vec((prop::collection::vec(any::<bool>(), 6), prop::collection::vec(any::<bool>(), 6), 0..4u8), 1..40),
            seed in any::<u64>(),
        ) {
            let names = names(6);
            let mut balancer = Balancer::new(strategy, seed);
            for (present, avoided, key) in rounds {
                let chosen_names = names.iter().zip(&present).filter(|(_, present)| **present);
                let candidates: Vec<_> = chosen_names
                    .map(|(id, _)| Candidate { id, weight: 1, load: 0.0, in_flight: 0 })
                    .collect();
                let avoid: Vec<_> =
                    names.iter().zip(&avoided).filter(|(_, avoided)| **avoided).map(|(id, _)| id.as_str()).collect();
                let picked = balancer.pick(&candidates, Some(&key.to_string()), &avoid);
                match picked {
                    Some(place) => prop_assert!(!avoid.contains(&candidates[place].id)),
                    None => prop_assert!(candidates.iter().all(|candidate| avoid.contains(&candidate.id))),
                }
            }
        }

        /// Round robin is fair whatever the members are.
        #[test]
        fn round_robin_gives_each_the_same(count in 1usize..20, rounds in 1usize..20) {
            let names = names(count);
            let candidates = weighted(&names, &vec![1; count]);
            let shares = counts(&mut Balancer::new(Strategy::RoundRobin, 1), &candidates, count * rounds);
            prop_assert!(shares.len() == count && shares.values().all(|share| *share == rounds));
        }
    }
}
