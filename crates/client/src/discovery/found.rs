use std::cmp::Ordering;
use std::collections::HashSet;
use std::net::SocketAddr;

use rand::Rng;

/// A node that a source has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) address: SocketAddr,
    /// As whoever configured it wrote it, for people.
    pub(crate) label: String,
    /// Of SRV records: lower ones are tried first. 0 elsewhere.
    pub(crate) priority: u16,
    /// Of SRV records: how likely it is among its equals to be tried first. 1 elsewhere.
    pub(crate) weight: u16,
}

impl Found {
    pub(crate) fn new(address: SocketAddr, label: impl Into<String>) -> Self {
        Self { address, label: label.into(), priority: 0, weight: 1 }
    }

    /// The name for messages: the endpoint as it was configured, with its address where a name was
    /// configured.
    pub(crate) fn name(&self) -> String {
        let Self { address, label, .. } = self;
        if *label == address.to_string() { label.clone() } else { format!("{label} ({address})") }
    }
}

/// The order in which nodes are tried: by priority, and within one at random by weight, so that clients that start
/// together do not all meet at the first node. Each address once; `last`, which was just tried, stands last.
pub(crate) fn in_order(found: Vec<Found>, last: Option<SocketAddr>, rng: &mut impl Rng) -> Vec<Found> {
    let mut drawn: Vec<(f64, Found)> = found
        .into_iter()
        .map(|found| {
            // The one with the least exponential draw comes first with a probability in proportion to its weight. RFC 2782
            // wants weight 0 to be chosen rarely, not never.
            let weight = if found.weight == 0 { 0.1 } else { f64::from(found.weight) };
            (-(1.0 - rng.random::<f64>()).ln() / weight, found)
        })
        .collect();
    drawn.sort_by(|(draw, found), (other_draw, other)| {
        let by_priority = found.priority.cmp(&other.priority);
        by_priority.then(draw.partial_cmp(other_draw).unwrap_or(Ordering::Equal))
    });
    let mut seen = HashSet::new();
    let mut ordered: Vec<Found> =
        drawn.into_iter().map(|(_, found)| found).filter(|found| seen.insert(found.address)).collect();
    if let Some(index) = ordered.iter().position(|found| Some(found.address) == last) {
        let tried = ordered.remove(index);
        ordered.push(tried);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn node(port: u16, priority: u16, weight: u16) -> Found {
        Found { priority, weight, ..Found::new(SocketAddr::from(([127, 0, 0, 1], port)), "n") }
    }

    #[test]
    fn a_lower_priority_comes_first_and_weights_are_likelihoods() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut heavy_first = 0;
        for _ in 0..2000 {
            let nodes = vec![node(3, 2, 1000), node(1, 1, 30), node(2, 1, 10), node(4, 1, 0)];
            let order = in_order(nodes, None, &mut rng);
            assert_eq!(order[3].address.port(), 3, "the lower priority is not the last");
            heavy_first += u32::from(order[0].address.port() == 1);
        }
        // 30 of 40.1 is 1,496; the deviation is about 20.
        assert!((1400..1600).contains(&heavy_first), "{heavy_first}");
    }

    #[test]
    fn an_address_stands_once_and_the_one_just_tried_is_the_last() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..100 {
            let nodes = vec![node(1, 0, 1), node(2, 0, 1), node(1, 0, 1), node(3, 0, 1)];
            let order = in_order(nodes, Some(SocketAddr::from(([127, 0, 0, 1], 2))), &mut rng);
            assert_eq!(order.len(), 3);
            assert_eq!(order[2].address.port(), 2);
        }
    }
}
