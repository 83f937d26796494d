//! What the fuzz targets of this crate do with their bytes. Each is a plain function, so that the tests below replay what
//! the fuzzer once found.

mod draw;

use std::ops::ControlFlow;

use arbitrary::Unstructured;
use bytes::Bytes;

use self::draw::Drawn;
use crate::{Applied, Batch, Command, Cursor, Entry, Origin, RULES, Tree, TreeLoader};

/// Bytes as an entry and as a batch: what is one is written as it was understood, and can be applied whatever it says.
pub fn entry(data: &[u8]) {
    let decoded = Batch::decode(data).map(|batch| batch.origin);
    assert_eq!(Batch::check(data).map_err(|e| e.to_string()), decoded.map_err(|e| e.to_string()));
    let decoded = Entry::decode(data).map(drop);
    assert_eq!(Entry::check(data).map_err(|e| e.to_string()), decoded.map_err(|e| e.to_string()));
    if let Ok(batch) = Batch::decode(data) {
        let again = batch.encode();
        assert_eq!(Batch::decode(&again).expect("what was encoded can be decoded"), batch);
        let commands: Vec<Bytes> = batch.commands.iter().map(Command::encode).collect();
        assert_eq!(Batch::encode_from_parts(batch.origin, batch.first_seq, &commands), again);
    }
    let Ok(entry) = Entry::decode(data) else { return };
    let parts: Vec<Bytes> = entry.batches.iter().map(Batch::encode).collect();
    let again = entry.encode();
    assert_eq!(Entry::encode_from_parts(entry.rules, entry.time_ms, &parts), again);
    assert_eq!(Entry::decode(&again).expect("what was encoded can be decoded"), entry);
    // Limits are checked by the node that proposes: a tree applies whatever stands in its log.
    let mut tree = furnished();
    tree.apply(&entry, |_, _, _, _| {});
    assert_sound(&tree);
}

/// Commands that mostly fit, applied by two replicas (G8): one takes them as they come, the other in other batches, some of
/// them twice, and with a snapshot in between.
pub fn commands(data: &[u8]) {
    let mut from = Unstructured::new(data);
    let (mut tree, mut replica) = (Tree::new(), Tree::new());
    let mut drawn = Drawn::default();
    while let Ok(entry) = drawn.entry(&mut from, &tree) {
        let told = apply(&mut tree, &entry);
        if drawn.is_snapshot_due() {
            replica = reload(&replica);
        }
        assert_eq!(apply_with_breaks(&mut replica, &rearranged(&entry)), told);
        assert_eq!(replica.digest(), tree.digest());
        if drawn.entries() >= 32 {
            break;
        }
    }
    assert_eq!(replica.recompute_digest(), tree.digest());
    assert!(replica.snapshot_chunks().eq(tree.snapshot_chunks()));
    assert_sound(&tree);
}

/// Bytes as the chunks of a snapshot, each after its length in two bytes. The digest is not what stops them.
pub fn snapshot(data: &[u8]) {
    let [mut loader, mut unverified] = [TreeLoader::new(), TreeLoader::new()];
    for chunk in split(data) {
        let (pushed, again) = (loader.push(chunk), unverified.push(chunk));
        assert_eq!(pushed.is_ok(), again.is_ok());
        if pushed.is_err() {
            return;
        }
    }
    let verified = loader.finish();
    let Ok(mut tree) = unverified.finish_unverified() else {
        assert!(verified.is_err());
        return;
    };
    if let Ok(verified) = verified {
        assert_eq!(verified.recompute_digest(), tree.digest());
    }
    assert_sound(&tree);
    // It is a tree like any other: it goes on, and can be asked.
    let origin = Origin { node: u64::MAX, incarnation: u64::MAX };
    let batch = Batch { origin, first_seq: 1, commands: draw::tour(&tree) };
    let entry = Entry { time_ms: tree.time_ms().saturating_add(1), batches: vec![batch], ..Entry::default() };
    tree.apply(&entry, |_, _, _, _| {});
    assert_sound(&tree);
}

/// A tree with some of everything, for entries to meet.
fn furnished() -> Tree {
    let mut tree = Tree::new();
    let batch =
        Batch { origin: Origin { node: 9, incarnation: 1 }, first_seq: 1, commands: draw::furniture() };
    let told = apply(&mut tree, &Entry { time_ms: 1000, batches: vec![batch], ..Entry::default() });
    assert!(told.iter().all(|(_, _, applied)| applied.result.is_ok()), "{told:?}");
    tree
}

/// What holds after every command.
fn assert_sound(tree: &Tree) {
    assert_eq!(tree.digest(), tree.recompute_digest(), "the running digest went astray");
    assert!(tree.tallies_are_right(), "the counts of subtrees went astray");
    reload(tree);
}

/// As a node does that got the entry as bytes.
fn apply(tree: &mut Tree, entry: &Entry) -> Vec<(Origin, u64, Applied)> {
    let bytes = entry.encode();
    let decoded = Entry::decode(&bytes).expect("what was encoded can be decoded");
    assert_eq!(&decoded, entry);
    let mut told = Vec::new();
    tree.apply_in_term(draw::TERM, &decoded, |_, origin, seq, applied| told.push((origin, seq, applied)));
    told
}

/// The same, given up after each command and taken up again.
fn apply_with_breaks(tree: &mut Tree, entry: &Entry) -> Vec<(Origin, u64, Applied)> {
    let mut told = Vec::new();
    let mut cursor = Cursor::default();
    while !tree.apply_from(draw::TERM, entry, &mut cursor, |_, origin, seq, applied| {
        told.push((origin, seq, applied));
        ControlFlow::Break(())
    }) {}
    told
}

/// The same commands in batches of one, each of which comes once more when the next has been there.
fn rearranged<'a>(entry: &Entry<'a>) -> Entry<'a> {
    let mut batches: Vec<Batch> = Vec::new();
    for batch in &entry.batches {
        let mut before = None;
        for (command, seq) in batch.commands.iter().zip(batch.first_seq..) {
            let one = Batch { origin: batch.origin, first_seq: seq, commands: vec![command.clone()] };
            batches.push(one.clone());
            batches.extend(before.replace(one));
        }
    }
    Entry { rules: entry.rules, time_ms: entry.time_ms, batches }
}

/// The tree after a snapshot and its loading, which must be equal to the byte.
fn reload(tree: &Tree) -> Tree {
    let chunks: Vec<_> = tree.snapshot_chunks().collect();
    let mut loader = TreeLoader::new();
    chunks.iter().try_for_each(|chunk| loader.push(chunk)).expect("an own chunk");
    let loaded = loader.finish().expect("an own snapshot");
    assert!(loaded.snapshot_chunks().eq(chunks), "the snapshot of a loaded tree differs");
    loaded
}

fn split(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let (chunk, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        data = rest;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use coordd_corpus::{keep_seeds, replay};

    use super::*;

    fn joined(tree: &Tree) -> Vec<u8> {
        let chunk = |chunk: Vec<u8>| [&(chunk.len() as u16).to_le_bytes(), &chunk[..]].concat();
        tree.snapshot_chunks().flat_map(chunk).collect()
    }

    #[test]
    fn the_seeds_are_what_is_written() {
        let batch = |commands| Batch { origin: Origin { node: 1, incarnation: 1 }, first_seq: 1, commands };
        let entry = |rules, commands| {
            Entry { rules, time_ms: 2000, batches: vec![batch(commands)] }.encode().to_vec()
        };
        keep_seeds(
            "tree_entry",
            &[
                ("furniture", entry(1, draw::furniture())),
                ("tour", entry(RULES, draw::tour(&furnished()))),
                ("batch", batch(draw::furniture()).encode().to_vec()),
            ],
        );
        let mut toured = furnished();
        let tour = batch(draw::tour(&toured));
        apply(&mut toured, &Entry { time_ms: 5000, batches: vec![tour], ..Entry::default() });
        keep_seeds(
            "tree_snapshot",
            &[
                ("new", joined(&Tree::new())),
                ("furnished", joined(&furnished())),
                ("toured", joined(&toured)),
            ],
        );
        // Any bytes are commands.
        let bytes = |step: u32| (0..600u32).map(|n| (n * step + n * n / 7) as u8).collect();
        keep_seeds("tree_commands", &[("first", bytes(37)), ("second", bytes(101))]);
    }

    #[test]
    fn what_the_fuzzer_found_stays_found() {
        replay("tree_entry", entry);
        replay("tree_commands", commands);
        replay("tree_snapshot", snapshot);
    }
}
