use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::roster::{ItemOwner, Roster};
use crate::far::bounded;

/// Since when the owners of revoked items are to let go of them, as this leader has seen it.
#[derive(Debug, Default)]
pub(super) struct Drains {
    since: BTreeMap<String, (ItemOwner, Instant)>,
}

impl Drains {
    pub(super) fn update(&mut self, roster: &Roster, now: Instant) {
        let mut since = BTreeMap::new();
        for (item, owner) in roster.draining() {
            let began = match self.since.remove(item) {
                Some((before, began)) if before == *owner => began,
                _ => now,
            };
            since.insert(item.to_owned(), (owner.clone(), began));
        }
        self.since = since;
    }

    /// Items that their owners have had for longer than the timeout.
    pub(super) fn overdue(
        &self,
        timeout: Duration,
        now: Instant,
    ) -> impl Iterator<Item = (&str, &ItemOwner)> {
        let late = self.since.iter().filter(move |(_, (_, began))| now >= *began + bounded(timeout));
        late.map(|(item, (owner, _))| (item.as_str(), owner))
    }

    /// When the next one is.
    pub(super) fn next_overdue(&self, timeout: Duration) -> Option<Instant> {
        self.since.values().map(|(_, began)| *began + bounded(timeout)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_drain_counts_from_its_revocation_and_anew_for_another_owner() {
        let (mut roster, mut drains, start) = (Roster::default(), Drains::default(), Instant::now());
        let (timeout, second) = (Duration::from_secs(3), Duration::from_secs(1));
        let owner = |epoch| ItemOwner { worker: "a".into(), epoch };
        roster.owners.insert("i".into(), owner(7));
        drains.update(&roster, start);
        drains.update(&roster, start + second);
        assert_eq!(drains.next_overdue(timeout), Some(start + timeout));
        assert_eq!(drains.overdue(timeout, start + 2 * second).count(), 0);
        assert_eq!(drains.overdue(timeout, start + timeout).collect::<Vec<_>>(), [("i", &owner(7))]);
        roster.owners.insert("i".into(), owner(9));
        drains.update(&roster, start + 2 * second);
        assert_eq!(drains.next_overdue(timeout), Some(start + 5 * second));
        assert!(drains.next_overdue(Duration::MAX) > Some(start + Duration::from_secs(1_000_000_000)));
        assert_eq!(drains.overdue(Duration::MAX, start + 5 * second).count(), 0);
        roster.owners.clear();
        drains.update(&roster, start + 3 * second);
        assert_eq!(drains.next_overdue(timeout), None);
    }
}
