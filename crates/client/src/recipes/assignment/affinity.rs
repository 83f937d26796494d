use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How much an item prefers a worker: the highest wins. Weighted rendezvous hashing: when a worker comes or goes, the
/// order of the others stays as it was, and each is first for a number of items in proportion to its weight.
///
/// The number is the same on every machine and in every version, because leaders that take over go by it, too.
pub(super) fn of(item: &str, worker: &str, weight: f64) -> f64 {
    if weight <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let hash = xxh3_64_with_seed(item.as_bytes(), xxh3_64_with_seed(worker.as_bytes(), 0));
    // 53 bits make a float between 0 and 1, neither of which is met.
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -weight / unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_workers_never_changes_between_versions() {
        let first = |item| {
            let workers = ["a", "b", "c", "d"];
            workers.into_iter().max_by(|x, y| of(item, x, 1.0).total_cmp(&of(item, y, 1.0))).unwrap()
        };
        let firsts: String = ["i0", "i1", "i2", "i3", "i4", "i5", "i6", "i7"].map(first).concat();
        assert_eq!(firsts, "bcaacbcb");
    }

    #[test]
    fn twice_the_weight_is_first_for_twice_as_many() {
        let weights = [("a", 1.0), ("b", 2.0), ("c", 1.0)];
        let mut firsts = [0; 3];
        for item in 0..20_000 {
            let score = |at: usize| of(&item.to_string(), weights[at].0, weights[at].1);
            firsts[(0..3).max_by(|x, y| score(*x).total_cmp(&score(*y))).unwrap()] += 1;
        }
        for (count, part) in firsts.into_iter().zip([0.25, 0.5, 0.25]) {
            assert!((f64::from(count) / 20_000.0 - part).abs() < 0.02, "{firsts:?}");
        }
    }
}
