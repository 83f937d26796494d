//! Bytes from outside never do worse than give an error (G9).

use coordd_tree::{Batch, DecodeError, Entry, Tree, TreeLoader};
use proptest::prelude::*;

use crate::property::draws;

/// A tree with some of everything.
fn tree(draws: &[crate::property::Draw]) -> (Tree, Vec<u8>) {
    let mut tree = Tree::new();
    let mut last = Vec::new();
    for (draw, seq) in draws.iter().zip(1..) {
        let commands = vec![draw.resolve(&tree)];
        let entry = crate::driver::entry(seq, crate::driver::ORIGIN, seq, commands);
        last = entry.encode().to_vec();
        tree.apply(&entry, |_, _, _, _| {});
    }
    (tree, last)
}

fn load(chunks: &[Vec<u8>]) -> Result<Tree, DecodeError> {
    let mut loader = TreeLoader::new();
    chunks.iter().try_for_each(|chunk| loader.push(chunk))?;
    loader.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_entry_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Entry::decode(&bytes);
        let _ = Batch::decode(&bytes);
        let _ = Entry::decode(&[&[1], &bytes[..]].concat());
        for section in 0..12 {
            let mut loader = TreeLoader::new();
            let _ = loader.push(&Tree::new().snapshot_chunks().next().unwrap());
            let _ = loader.push(&[&[1, section], &bytes[..]].concat());
            prop_assert!(loader.finish().is_err());
        }
    }

    #[test]
    fn a_damaged_entry_is_another_entry_or_an_error(
        draws in draws(1..10),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let (_, mut entry) = tree(&draws);
        let undamaged = entry.clone();
        let before = Entry::decode(&undamaged).unwrap();
        let at = at.index(entry.len());
        entry[at] ^= 1 << bit;
        if let Ok(after) = Entry::decode(&entry) {
            prop_assert_ne!(after, before);
        }
    }

    #[test]
    fn a_damaged_snapshot_is_refused(
        draws in draws(20..80),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let (tree, _) = tree(&draws);
        let mut chunks: Vec<Vec<u8>> = tree.snapshot_chunks().collect();
        let mut at = at.index(chunks.iter().map(Vec::len).sum());
        for chunk in &mut chunks {
            if at < chunk.len() {
                chunk[at] ^= 1 << bit;
                break;
            }
            at -= chunk.len();
        }
        // A flipped bit may leave the value as it is, where a number is written longer than it need be.
        if let Ok(loaded) = load(&chunks) {
            prop_assert!(loaded.snapshot_chunks().eq(tree.snapshot_chunks()));
        }
    }

    #[test]
    fn a_snapshot_with_a_chunk_missing_or_moved_is_refused(draws in draws(20..80), at in any::<prop::sample::Index>()) {
        let (tree, _) = tree(&draws);
        let chunks: Vec<Vec<u8>> = tree.snapshot_chunks().collect();
        let at = at.index(chunks.len());
        let mut missing = chunks.clone();
        missing.remove(at);
        prop_assert!(load(&missing).is_err());
        let mut twice = chunks.clone();
        twice.insert(at, chunks[at].clone());
        prop_assert!(load(&twice).is_err());
        let mut moved = chunks;
        let chunk = moved.remove(at);
        moved.insert((at + 1) % (moved.len() + 1), chunk);
        prop_assert!(load(&moved).is_err());
    }
}
