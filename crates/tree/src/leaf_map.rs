use std::cmp::Ordering;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use imbl::OrdMap;

/// Entries of a leaf at most.
const LEAF_MAX: usize = 32;
/// A leaf with no more than this is put together with the one before it, if both fit well into one.
const LEAF_FEW: usize = LEAF_MAX / 4;
/// A leaf's memory grows and shrinks in steps of so many entries.
const STEP: usize = 2;

/// An ordered map whose clones share what is not changed, like [`OrdMap`], but with less memory for an entry.
///
/// A persistent B-tree keeps its nodes in arrays of a fixed size, which are half empty when keys come in order, as the
/// names of znodes do. Here the entries are in sorted leaves of just the memory they need, and an [`OrdMap`] leads to the
/// leaves; a leaf that is full when its last key comes is left full. A million znodes take 65 MB less that way.
///
/// Invariants: the spans of the leaves follow each other without gaps, from `lowest`, which is not above any
/// key, without end. A leaf holds keys of its span only. Only the first leaf may be empty.
#[derive(Clone)]
pub(crate) struct LeafMap<K, V> {
    leaves: OrdMap<Span<K>, Arc<Leaf<K, V>>>,
    len: usize,
    lowest: K,
}

/// The keys from `begin` on that are below `end`; `None` for no end. Spans in one map do not overlap, so
/// where they begin is their order.
///
/// The end is there for looking up: a key is equal to the span that holds it ([`Within`]), so that
/// [`OrdMap::get`] finds it. [`OrdMap::get_prev`] finds it by where it begins, but makes an iterator with two
/// vectors for that, and a write looks up about ten keys.
#[derive(Clone)]
struct Span<K> {
    begin: K,
    end: Option<K>,
}

impl<K: Ord> Ord for Span<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.begin.cmp(&other.begin)
    }
}

impl<K: Ord> PartialOrd for Span<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord> PartialEq for Span<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K: Ord> Eq for Span<K> {}

/// A key, to look for the span that it is in.
struct Within<'a, Q: ?Sized>(&'a Q);

impl<K, Q: Comparable<K> + ?Sized> Equivalent<Span<K>> for Within<'_, Q> {
    fn equivalent(&self, span: &Span<K>) -> bool {
        self.compare(span).is_eq()
    }
}

impl<K, Q: Comparable<K> + ?Sized> Comparable<Span<K>> for Within<'_, Q> {
    fn compare(&self, span: &Span<K>) -> Ordering {
        if self.0.compare(&span.begin).is_lt() {
            return Ordering::Less;
        }
        match &span.end {
            Some(end) if self.0.compare(end).is_ge() => Ordering::Greater,
            _ => Ordering::Equal,
        }
    }
}

/// A key among those where spans begin.
struct At<'a, Q: ?Sized>(&'a Q);

impl<K, Q: Comparable<K> + ?Sized> Equivalent<Span<K>> for At<'_, Q> {
    fn equivalent(&self, span: &Span<K>) -> bool {
        self.0.compare(&span.begin).is_eq()
    }
}

impl<K, Q: Comparable<K> + ?Sized> Comparable<Span<K>> for At<'_, Q> {
    fn compare(&self, span: &Span<K>) -> Ordering {
        self.0.compare(&span.begin)
    }
}

#[derive(Clone)]
struct Leaf<K, V> {
    entries: Vec<(K, V)>,
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for LeafMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> LeafMap<K, V> {
    /// An empty map of keys that are not below `lowest`.
    pub(crate) fn new(lowest: K) -> Self {
        let everything = Span { begin: lowest.clone(), end: None };
        let leaves = OrdMap::unit(everything, Arc::new(Leaf { entries: Vec::new() }));
        LeafMap { leaves, len: 0, lowest }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The leaf in whose span a key is.
    ///
    /// [`OrdMap`] leads to its entries by copies of their keys, and a copy is not changed when the span of
    /// the entry gets shorter. Such a copy may claim a key that is in a later span, and the search ends where
    /// the key is not. What is found is right, because the entries themselves are exact; what is not found is
    /// looked for by where spans begin, which never changes. So whatever changes `leaves` goes by that, too.
    fn leaf_of<Q: Comparable<K> + ?Sized>(&self, key: &Q) -> Option<(&Span<K>, &Leaf<K, V>)> {
        let found = self.leaves.get_key_value(&Within(key)).or_else(|| self.leaves.get_prev(&At(key)));
        found.map(|(span, leaf)| (span, &**leaf))
    }

    pub(crate) fn get<Q: Comparable<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        let (_, leaf) = self.leaf_of(key)?;
        let at = leaf.find(key).ok()?;
        Some(&leaf.entries[at].1)
    }

    pub(crate) fn get_mut<Q: Comparable<K> + ?Sized>(&mut self, key: &Q) -> Option<&mut V> {
        let (begin, at) = self.locate(key)?;
        let leaf = Arc::make_mut(self.leaves.get_mut(&At(&begin))?);
        Some(&mut leaf.entries[at].1)
    }

    /// Where the span of an entry's leaf begins, and the entry's index in the leaf. A miss copies nothing.
    fn locate<Q: Comparable<K> + ?Sized>(&self, key: &Q) -> Option<(K, usize)> {
        let (span, leaf) = self.leaf_of(key)?;
        let at = leaf.find(key).ok()?;
        Some((span.begin.clone(), at))
    }

    /// Adds an entry or replaces its value, which is returned.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        debug_assert!(key >= self.lowest, "a key below the lowest");
        let begin = self.leaf_of(&key)?.0.begin.clone();
        let leaf = Arc::make_mut(self.leaves.get_mut(&At(&begin))?);
        let at = match leaf.find(&key) {
            Ok(at) => return Some(std::mem::replace(&mut leaf.entries[at].1, value)),
            Err(at) => at,
        };
        self.len += 1;
        if leaf.entries.len() < LEAF_MAX {
            leaf.put(at, key, value);
            return None;
        }
        let (span, mut left) = self.leaves.remove_with_key(&At(&begin))?;
        let leaf = Arc::make_mut(&mut left);
        let mut right = match at {
            LEAF_MAX => Leaf { entries: Vec::new() },
            _ => leaf.split(),
        };
        match at.checked_sub(leaf.entries.len()) {
            Some(at_right) if !right.entries.is_empty() || at == LEAF_MAX => right.put(at_right, key, value),
            _ => leaf.put(at, key, value),
        }
        let middle = right.entries[0].0.clone();
        self.leaves.insert(Span { begin, end: Some(middle.clone()) }, left);
        self.leaves.insert(Span { begin: middle, end: span.end }, Arc::new(right));
        None
    }

    pub(crate) fn remove<Q: Comparable<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        let (begin, at) = self.locate(key)?;
        let leaf = Arc::make_mut(self.leaves.get_mut(&At(&begin))?);
        let (_, value) = leaf.entries.remove(at);
        if leaf.entries.capacity() - leaf.entries.len() > 2 * STEP {
            leaf.entries.shrink_to(leaf.entries.len() + STEP);
        }
        let count = leaf.entries.len();
        self.len -= 1;
        if count <= LEAF_FEW {
            self.join_with_previous(&begin, count);
        }
        Some(value)
    }

    /// Puts the few entries of the leaf whose span begins at `begin` into the one before it, if they fit
    /// well.
    fn join_with_previous(&mut self, begin: &K, few: usize) {
        let before = (Bound::Unbounded, Bound::Excluded(&At(begin)));
        let Some((previous, leaf)) = self.leaves.range::<_, At<'_, K>>(before).next_back() else { return };
        // One that is empty always fits.
        if few > 0 && leaf.entries.len() + few > LEAF_MAX - LEAF_FEW {
            return;
        }
        let previous = previous.begin.clone();
        let Some((span, right)) = self.leaves.remove_with_key(&At(begin)) else { return };
        let Some(mut left) = self.leaves.remove(&At(&previous)) else { return };
        let leaf = Arc::make_mut(&mut left);
        leaf.entries.reserve_exact(few);
        leaf.entries.extend(right.entries.iter().cloned());
        self.leaves.insert(Span { begin: previous, end: span.end }, left);
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.leaves.iter().flat_map(|(_, leaf)| &leaf.entries).map(|(key, value)| (key, value))
    }

    /// Where the entries after `key` begin; for [`LeafMap::from`].
    pub(crate) fn place_after<Q: Comparable<K> + ?Sized>(&self, key: &Q) -> Place<'_, K> {
        match self.leaf_of(key) {
            Some((span, leaf)) => {
                Place { begin: &span.begin, skip: leaf.find(key).map_or_else(|at| at, |at| at + 1) }
            }
            None => Place { begin: &self.lowest, skip: 0 },
        }
    }

    /// The entries from `place` on, in order.
    pub(crate) fn from<'a>(
        &'a self,
        place: Place<'a, K>,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let leaves = self.leaves.range::<_, At<'_, K>>((Bound::Included(&At(place.begin)), Bound::Unbounded));
        leaves.flat_map(|(_, leaf)| &leaf.entries).skip(place.skip).map(|(key, value)| (key, value))
    }
}

/// A place between two entries of a map.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a, K> {
    begin: &'a K,
    skip: usize,
}

impl<K: Clone, V: Clone> Leaf<K, V> {
    fn find<Q: Comparable<K> + ?Sized>(&self, key: &Q) -> Result<usize, usize> {
        self.entries.binary_search_by(|(own, _)| key.compare(own).reverse())
    }

    fn put(&mut self, at: usize, key: K, value: V) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(STEP);
        }
        self.entries.insert(at, (key, value));
    }

    /// Takes the upper half off.
    fn split(&mut self) -> Leaf<K, V> {
        let right = self.entries.split_off(LEAF_MAX / 2);
        self.entries.shrink_to(LEAF_MAX / 2 + STEP);
        Leaf { entries: right }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &LeafMap<u32, u32>, model: &BTreeMap<u32, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter()));
        for probe in [0, 1, 500, 1000, 1999, 5000] {
            assert_eq!(map.get(&probe), model.get(&probe));
            assert!(
                map.from(map.place_after(&probe)).eq(model.range((Bound::Excluded(probe), Bound::Unbounded))),
                "after {probe}"
            );
        }
        let mut begin = Some(map.lowest);
        for (index, (span, leaf)) in map.leaves.iter().enumerate() {
            assert_eq!(begin, Some(span.begin), "a gap before leaf {index}");
            assert!(leaf.entries.len() <= LEAF_MAX && (index == 0 || !leaf.entries.is_empty()));
            assert!(leaf.entries.iter().all(|(key, _)| Within(key).compare(span).is_eq()));
            begin = span.end;
        }
        assert_eq!(begin, None, "the last leaf has no end");
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..4_u8, 0..2000_u32), 0..3000)) {
            let mut map = LeafMap::new(0);
            let mut model = BTreeMap::new();
            let mut versions = Vec::new();
            for (number, (step, key)) in steps.into_iter().enumerate() {
                let value = number as u32;
                match step {
                    0 | 1 => assert_eq!(map.insert(key, value), model.insert(key, value)),
                    2 => assert_eq!(map.remove(&key), model.remove(&key)),
                    _ => {
                        if let Some(found) = map.get_mut(&key) {
                            *found = value;
                        }
                        model.entry(key).and_modify(|found| *found = value);
                    }
                }
                if number % 1000 == 0 {
                    versions.push((map.clone(), model.clone()));
                }
            }
            check(&map, &model);
            for (map, model) in &versions {
                check(map, model);
            }
            for key in model.keys() {
                assert!(map.remove(key).is_some());
            }
            check(&map, &BTreeMap::new());
        }
    }

    /// As many keys as it takes to have [`OrdMap`] split and move its own nodes, in orders that split leaves
    /// everywhere. They are of the size of a znode's key: [`OrdMap`] searches small ones in another way.
    #[test]
    fn no_order_of_keys_loses_any() {
        const KEYS: u64 = 30_000;
        // A step that shares no factor with their number goes through all of them.
        let scattered = (0..KEYS).map(|n| n * 7_919 % KEYS).collect::<Vec<_>>();
        let in_turns = (0..64).map(|begin| (begin..KEYS).step_by(64)).map(Vec::from_iter).collect::<Vec<_>>();
        let longest = in_turns.iter().map(Vec::len).max().unwrap_or(0);
        let by_turns =
            (0..longest).flat_map(|at| in_turns.iter().filter_map(move |turn| turn.get(at).copied()));
        let directories = by_turns.map(|n| n % 64 * KEYS + n / 64).collect::<Vec<_>>();
        for order in [scattered, directories] {
            let key = |n: u64| format!("{n:024}");
            let mut map = LeafMap::new(String::new());
            for (count, n) in order.iter().enumerate() {
                assert_eq!(map.insert(key(*n), *n), None, "the {count}th");
                assert_eq!(map.get(&key(*n)), Some(n), "the {count}th");
            }
            let clone = map.clone();
            for n in &order {
                assert_eq!(map.get(&key(*n)), Some(n));
                *map.get_mut(&key(*n)).expect("it is there") += 1;
            }
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(map.iter().map(|(_, value)| value - 1).eq(sorted.iter().copied()));
            let place = map.place_after(&key(sorted[100]));
            assert!(map.from(place).map(|(_, value)| value - 1).eq(sorted[101..].iter().copied()));
            for n in &order {
                assert_eq!(map.remove(&key(*n)), Some(n + 1));
            }
            assert_eq!(map.len(), 0);
            assert_eq!(clone.len(), order.len());
        }
    }

    #[test]
    fn keys_that_come_in_order_fill_their_leaves() {
        let mut map = LeafMap::new(0);
        for key in 0..10_000_u32 {
            map.insert(key, key);
        }
        assert_eq!(map.leaves.len(), 10_000_usize.div_ceil(LEAF_MAX));
        let slack: usize = map.leaves.values().map(|leaf| leaf.entries.capacity() - leaf.entries.len()).sum();
        assert!(slack < STEP, "{slack} places are empty");
    }

    #[test]
    fn leaves_that_are_emptied_are_put_together() {
        let mut map = LeafMap::new(0);
        for key in 0..10_000_u32 {
            map.insert(key, key);
        }
        for key in (0..10_000).filter(|key| key % 16 != 0) {
            map.remove(&key);
        }
        assert!(map.leaves.len() <= 2 * 625_usize.div_ceil(LEAF_MAX / 2), "{} leaves", map.leaves.len());
    }
}
