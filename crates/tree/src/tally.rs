use std::sync::Arc;

/// Where the tally of a directory stands. Slots are used again when their directory has gone.
pub(crate) type Slot = u32;

/// No slot: what is above the root, and the end of the list of free slots.
const NONE: Slot = Slot::MAX;
const CHUNK: usize = 256;

/// What is below a directory, itself not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) znodes: u64,
    /// Bytes of data.
    pub(crate) bytes: u64,
    /// Bytes of the znodes' paths.
    pub(crate) path_bytes: u64,
}

impl Sum {
    /// One znode by itself.
    pub(crate) fn of(data_bytes: usize, path_bytes: usize) -> Sum {
        Sum { znodes: 1, bytes: data_bytes as u64, path_bytes: path_bytes as u64 }
    }

    pub(crate) fn plus(self, other: Sum) -> Sum {
        Sum {
            znodes: self.znodes.wrapping_add(other.znodes),
            bytes: self.bytes.wrapping_add(other.bytes),
            path_bytes: self.path_bytes.wrapping_add(other.path_bytes),
        }
    }

    /// What takes this away when it is added.
    pub(crate) fn negated(self) -> Sum {
        Sum {
            znodes: self.znodes.wrapping_neg(),
            bytes: self.bytes.wrapping_neg(),
            path_bytes: self.path_bytes.wrapping_neg(),
        }
    }

    /// What the events count for that tell of all of it, as in the history.
    pub(crate) fn event_bytes(self) -> u64 {
        self.path_bytes + 64 * self.znodes
    }
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    /// The slot of the directory above; of a free slot: the next free one.
    above: Slot,
    below: Sum,
}

/// How much is below each directory (each znode that has had a child).
///
/// It follows from the znodes, so it is in neither snapshot nor digest, and the loader computes it. It is kept in slots
/// beside the znodes, because a new znode is counted at every directory above it: in the znodes themselves that would
/// touch, and while a snapshot is written copy, a leaf of the map for each.
///
/// A clone shares the chunks that neither changes afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Tallies {
    chunks: Vec<Arc<[Tally; CHUNK]>>,
    /// Slots that were ever used.
    len: Slot,
    free: Slot,
    undo: Option<Vec<Undo>>,
}

#[derive(Clone, Copy, Debug)]
enum Undo {
    Add { slot: Slot, sum: Sum },
    Open(Slot),
    Close(Slot, Tally),
}

impl Tallies {
    pub(crate) fn new() -> Tallies {
        Tallies { chunks: Vec::new(), len: 0, free: NONE, undo: None }
    }

    fn get(&self, slot: Slot) -> &Tally {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn get_mut(&mut self, slot: Slot) -> &mut Tally {
        &mut Arc::make_mut(&mut self.chunks[slot as usize / CHUNK])[slot as usize % CHUNK]
    }

    /// What is below the directory.
    pub(crate) fn below(&self, slot: Slot) -> Sum {
        self.get(slot).below
    }

    /// A slot for a znode that gets its first child, in the directory `above`; `None` for the root.
    pub(crate) fn open(&mut self, above: Option<Slot>) -> Slot {
        let slot = match self.free {
            NONE => {
                if (self.len as usize).is_multiple_of(CHUNK) {
                    self.chunks.push(Arc::new([Tally { above: NONE, below: Sum::default() }; CHUNK]));
                }
                self.len += 1;
                self.len - 1
            }
            slot => {
                self.free = self.get(slot).above;
                slot
            }
        };
        *self.get_mut(slot) = Tally { above: above.unwrap_or(NONE), below: Sum::default() };
        self.note(Undo::Open(slot));
        slot
    }

    /// The directory has gone.
    pub(crate) fn close(&mut self, slot: Slot) {
        let tally = *self.get(slot);
        self.note(Undo::Close(slot, tally));
        self.release(slot);
    }

    fn release(&mut self, slot: Slot) {
        *self.get_mut(slot) = Tally { above: self.free, below: Sum::default() };
        self.free = slot;
    }

    /// Counts something at the directory `slot` and at all above it.
    pub(crate) fn add(&mut self, slot: Slot, sum: Sum) {
        self.note(Undo::Add { slot, sum });
        self.climb(slot, sum);
    }

    /// Counts a chain of new znodes: each directory with the znode that is new in it. All directories but the first are new,
    /// and each is the znode that is new in the one before.
    pub(crate) fn add_chain(&mut self, chain: &[(Slot, Sum)]) {
        let mut sum = Sum::default();
        for (at, (dir, znode)) in chain.iter().enumerate().rev() {
            sum = sum.plus(*znode);
            match at {
                0 => self.add(*dir, sum),
                _ => self.get_mut(*dir).below = sum,
            }
        }
    }

    fn climb(&mut self, mut slot: Slot, sum: Sum) {
        while slot != NONE {
            let tally = self.get_mut(slot);
            tally.below = tally.below.plus(sum);
            slot = tally.above;
        }
    }

    fn note(&mut self, undo: Undo) {
        if let Some(notes) = &mut self.undo {
            notes.push(undo);
        }
    }

    /// From here on, until [`Tallies::commit`] or [`Tallies::roll_back`], changes can be taken back.
    pub(crate) fn begin(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// Keeps the changes since [`Tallies::begin`].
    pub(crate) fn commit(&mut self) {
        self.undo = None;
    }

    /// Takes the changes since [`Tallies::begin`] back.
    pub(crate) fn roll_back(&mut self) {
        for undo in self.undo.take().unwrap_or_default().into_iter().rev() {
            match undo {
                Undo::Add { slot, sum } => self.climb(slot, sum.negated()),
                Undo::Open(slot) => self.release(slot),
                Undo::Close(slot, tally) => {
                    // Closing put it at the front of the list, and everything since is taken back.
                    self.free = self.get(slot).above;
                    *self.get_mut(slot) = tally;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_counts_all_the_way_up() {
        let mut tallies = Tallies::new();
        let root = tallies.open(None);
        let dir = tallies.open(Some(root));
        tallies.add(root, Sum::of(1, 2));
        tallies.add(dir, Sum::of(10, 20));
        assert_eq!(tallies.below(root), Sum { znodes: 2, bytes: 11, path_bytes: 22 });
        assert_eq!(tallies.below(dir), Sum { znodes: 1, bytes: 10, path_bytes: 20 });
        tallies.add(dir, Sum::of(10, 20).negated());
        assert_eq!(tallies.below(root), Sum::of(1, 2));
    }

    #[test]
    fn a_chain_counts_as_its_znodes_one_by_one() {
        let mut tallies = Tallies::new();
        let root = tallies.open(None);
        let dir = tallies.open(Some(root));
        let new = tallies.open(Some(dir));
        tallies.add_chain(&[(dir, Sum::of(0, 2)), (new, Sum::of(5, 4))]);
        assert_eq!(tallies.below(new), Sum::of(5, 4));
        assert_eq!(tallies.below(dir), Sum { znodes: 2, bytes: 5, path_bytes: 6 });
        assert_eq!(tallies.below(root), tallies.below(dir));
    }

    #[test]
    fn rolling_back_restores_sums_and_slots() {
        let mut tallies = Tallies::new();
        let root = tallies.open(None);
        let dir = tallies.open(Some(root));
        tallies.add(dir, Sum::of(1, 1));
        tallies.begin();
        tallies.add(dir, Sum::of(1, 1).negated());
        tallies.close(dir);
        let other = tallies.open(Some(root));
        assert_eq!(other, dir, "a free slot is used again");
        tallies.add(other, Sum::of(5, 5));
        let fresh = tallies.open(Some(other));
        tallies.add(fresh, Sum::of(7, 7));
        tallies.roll_back();
        assert_eq!(tallies.below(dir), Sum::of(1, 1));
        assert_eq!(tallies.below(root), Sum::of(1, 1));
        assert_eq!(tallies.open(Some(root)), fresh, "what was opened is free again");
    }

    #[test]
    fn a_clone_keeps_what_it_had() {
        let mut tallies = Tallies::new();
        let root = tallies.open(None);
        let version = tallies.clone();
        tallies.add(root, Sum::of(1, 1));
        assert_eq!(version.below(root), Sum::default());
        assert_eq!(tallies.below(root), Sum::of(1, 1));
    }
}
