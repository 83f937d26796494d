//! Replicas that were given the same entries are equal to the byte (G8).

use coordd_tree::{Batch, Command, Entry, Origin, Tree};
use proptest::prelude::*;

use crate::driver::reload;
use crate::property::{Draw, draws};

/// Entries of several commands from two nodes, some of them sent twice, some too late.
fn entries(draws: &[Draw], sizes: &[(usize, u64, bool)]) -> Vec<Entry<'static>> {
    let mut tree = Tree::new();
    let mut next = [1, 1];
    let mut now_ms = 0;
    let mut entries = Vec::new();
    let mut rest = draws;
    for &(size, node, is_repeated) in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(size.clamp(1, rest.len()));
        rest = later;
        now_ms += now.iter().map(Draw::pass_ms).sum::<u64>();
        let commands: Vec<Command> = now.iter().map(|draw| draw.resolve(&tree)).collect();
        let first_seq = next[node as usize];
        next[node as usize] += commands.len() as u64;
        let batch = Batch { origin: Origin { node, incarnation: 1 }, first_seq, commands };
        let batches = if is_repeated { vec![batch.clone(), batch] } else { vec![batch] };
        let entry = Entry { time_ms: now_ms, batches, ..Entry::default() };
        tree.apply(&entry, |_, _, _, _| {});
        entries.push(entry);
    }
    entries
}

fn apply_all(tree: &mut Tree, entries: &[Entry]) -> Vec<String> {
    let mut told = Vec::new();
    for entry in entries {
        tree.apply(entry, |_, origin, seq, applied| told.push(format!("{origin:?} {seq} {applied:?}")));
    }
    told
}

fn bytes(tree: &Tree) -> Vec<u8> {
    tree.snapshot_chunks().flatten().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_replica_from_a_snapshot_cut_anywhere_goes_on_byte_equal(
        draws in draws(1..150),
        sizes in prop::collection::vec((1..6usize, 0..2u64, any::<bool>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let entries = entries(&draws, &sizes);
        let (before, after) = entries.split_at(cut.index(entries.len() + 1));
        let mut whole = Tree::new();
        apply_all(&mut whole, before);
        let mut restored = reload(&whole);
        let version = whole.clone();
        let at_the_cut = bytes(&whole);

        let told = apply_all(&mut whole, after);
        prop_assert_eq!(apply_all(&mut restored, after), told);
        prop_assert_eq!(bytes(&restored), bytes(&whole));
        prop_assert_eq!(restored.digest(), whole.recompute_digest());
        prop_assert_eq!(bytes(&version), at_the_cut, "a clone is an immutable version");
    }
}
