use coordd_tree::{Applied, Batch, Command, Entry, Origin, RULES, Tree, TreeLoader};

/// The origin whose commands the driver numbers.
pub(crate) const ORIGIN: Origin = Origin { node: 1, incarnation: 1 };

/// A tree, and a node that proposes to it one command at a time.
pub(crate) struct Driver {
    pub(crate) tree: Tree,
    pub(crate) now_ms: u64,
    /// What entries are stamped with.
    pub(crate) rules: u32,
    next_seq: u64,
}

impl Default for Driver {
    fn default() -> Driver {
        Driver { tree: Tree::new(), now_ms: 0, rules: RULES, next_seq: 0 }
    }
}

impl Driver {
    /// Applies one command, and checks what must hold after every command.
    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        self.next_seq += 1;
        let entry = Entry { rules: self.rules, ..entry(self.now_ms, ORIGIN, self.next_seq, vec![command]) };
        let mut applied = self.apply_entry(&entry);
        assert_eq!(applied.len(), 1, "the command was skipped");
        applied.remove(0)
    }

    /// Applies an entry as a node does that got it as bytes. Skipped commands do not show.
    pub(crate) fn apply_entry(&mut self, entry: &Entry) -> Vec<Applied> {
        let bytes = entry.encode();
        let decoded = Entry::decode(&bytes).expect("what was encoded can be decoded");
        assert_eq!(&decoded, entry);
        let mut all = Vec::new();
        self.tree.apply(&decoded, |_, _, _, applied| all.push(applied));
        assert_eq!(self.tree.digest(), self.tree.recompute_digest(), "G8: the running digest went astray");
        assert!(self.tree.tallies_are_right(), "the counts of subtrees went astray");
        all
    }

    /// Goes on with the tree that a node has which got a snapshot.
    pub(crate) fn restart(&mut self) {
        self.tree = reload(&self.tree);
    }
}

pub(crate) fn entry(time_ms: u64, origin: Origin, first_seq: u64, commands: Vec<Command>) -> Entry {
    Entry { time_ms, batches: vec![Batch { origin, first_seq, commands }], ..Entry::default() }
}

/// The tree after a snapshot and its loading, which must be equal to the byte.
pub(crate) fn reload(tree: &Tree) -> Tree {
    let chunks: Vec<_> = tree.snapshot_chunks().collect();
    let mut loader = TreeLoader::new();
    for chunk in &chunks {
        loader.push(chunk).expect("an own chunk");
    }
    let loaded = loader.finish().expect("an own snapshot");
    assert!(loaded.snapshot_chunks().eq(chunks), "G8: the snapshot of a loaded tree differs");
    assert_eq!(loaded.digest(), tree.digest());
    loaded
}
