//! What a loss of power takes of the changes that were not synced.

use super::disk::{Change, Disk, Fate, Promise, SECTOR_BYTES, sectors_of_write};

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A class of worlds. Each is one for itself in the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum World {
    /// Nothing of it reached the disk.
    Nothing,
    /// All of it did.
    Everything,
    /// The first ones did, the last of these in part.
    FirstOnes,
    /// The last ones did.
    LastOnes,
    /// All but a few in the middle did.
    AllButSome,
    /// A random part of the writes did, each whole.
    SomeWrites,
    /// A random part of the sectors did.
    SomeSectors,
    /// The changes of one file did, and no others.
    OneFile,
    /// All did but those of one file.
    AllButOneFile,
    /// Names and sizes did, the data did not.
    NamesAndSizes,
    /// The data did, names and sizes did not.
    Data,
}

impl World {
    pub(crate) const ALL: [World; 11] = [
        World::Nothing,
        World::Everything,
        World::FirstOnes,
        World::LastOnes,
        World::AllButSome,
        World::SomeWrites,
        World::SomeSectors,
        World::OneFile,
        World::AllButOneFile,
        World::NamesAndSizes,
        World::Data,
    ];

    /// A world of this class: the fate of each pending change of the disk.
    pub(crate) fn fates(self, disk: &Disk, random: &mut Random) -> Vec<Fate> {
        let pending = disk.pending();
        let count = pending.len();
        let cut = random.below(count + 1);
        let holes: Vec<usize> = (0..1 + random.below(3)).map(|_| random.below(count)).collect();
        let file = pending.get(random.below(count)).map(|pending| pending.path.clone());
        let percent = [3, 20, 50, 80, 97][random.below(5)];
        let mut fates: Vec<Fate> = Vec::with_capacity(count);
        for (at, change) in pending.iter().enumerate() {
            let is_file = Some(&change.path) == file.as_ref();
            let kept = |kept| if kept { Fate::Kept } else { Fate::Lost };
            fates.push(match self {
                World::Nothing => Fate::Lost,
                World::Everything => Fate::Kept,
                World::FirstOnes if at == cut => tear(&change.change, random, 50),
                World::FirstOnes => kept(at < cut),
                World::LastOnes => kept(at >= cut),
                World::AllButSome => kept(!holes.contains(&at)),
                World::SomeWrites => kept(random.percent(percent)),
                World::SomeSectors => tear(&change.change, random, percent),
                World::OneFile => kept(is_file),
                World::AllButOneFile => kept(!is_file),
                World::NamesAndSizes => match &change.change {
                    Change::Write { offset, data, .. } => Fate::Torn {
                        sectors: vec![false; sectors_of_write(*offset, data.len())],
                        grown: true,
                    },
                    _ => Fate::Kept,
                },
                World::Data => kept(!change.is_metadata()),
            });
        }
        if disk.promise() == Promise::Journaled {
            put_metadata_in_order(disk, &mut fates, random);
        }
        fates
    }
}

/// Of a write some of its sectors, of anything else all or nothing.
fn tear(change: &Change, random: &mut Random, percent: usize) -> Fate {
    match change {
        Change::Write { offset, data, .. } => {
            let sectors =
                (0..sectors_of_write(*offset, data.len())).map(|_| random.percent(percent)).collect();
            Fate::Torn { sectors, grown: random.percent(percent) }
        }
        _ if random.percent(percent) => Fate::Kept,
        _ => Fate::Lost,
    }
}

/// Makes names and sizes durable up to a place, and not beyond. The place is near to where the world had it.
fn put_metadata_in_order(disk: &Disk, fates: &mut [Fate], random: &mut Random) {
    let metadata: Vec<usize> = disk
        .pending()
        .iter()
        .enumerate()
        .filter(|(_, change)| change.is_metadata())
        .map(|(at, _)| at)
        .collect();
    let wanted = metadata.iter().filter(|at| fates[**at] != Fate::Lost).count();
    let kept = match wanted == 0 || wanted == metadata.len() {
        true => wanted,
        false => random.below(metadata.len() + 1),
    };
    for (number, at) in metadata.iter().enumerate() {
        let change = &disk.pending()[*at].change;
        let fate = &mut fates[*at];
        match change {
            // The blocks of a growing write are written before the size is.
            Change::Write { .. } if number < kept => *fate = Fate::Kept,
            // Blocks beyond the end are nowhere. Those that overwrite the last block go with it, for simplicity.
            Change::Write { .. } => *fate = Fate::Lost,
            _ => *fate = if number < kept { Fate::Kept } else { Fate::Lost },
        }
    }
}

#[test]
fn worlds_are_what_their_names_say() {
    use super::trace::DiskCall;
    use std::path::PathBuf;
    let path = PathBuf::from("file");
    let mut disk = Disk::new(Promise::Posix);
    disk.apply(0, &DiskCall::Open { path: path.clone(), truncate: false });
    disk.apply(
        1,
        &DiskCall::Write { path: path.clone(), offset: 0, data: vec![1; 3 * SECTOR_BYTES as usize] },
    );
    disk.apply(2, &DiskCall::Write { path, offset: SECTOR_BYTES, data: vec![2; 10] });
    let mut random = Random::new(1);
    let is = |fate: Fate| move |other: &Fate| *other == fate;
    assert!(World::Nothing.fates(&disk, &mut random).iter().all(is(Fate::Lost)));
    assert!(World::Everything.fates(&disk, &mut random).iter().all(is(Fate::Kept)));
    assert_eq!(World::Data.fates(&disk, &mut random), [Fate::Lost, Fate::Lost, Fate::Kept]);
    let torn = Fate::Torn { sectors: vec![false; 3], grown: true };
    assert_eq!(World::NamesAndSizes.fates(&disk, &mut random)[..2], [Fate::Kept, torn]);
    for _ in 0..100 {
        let fates = World::FirstOnes.fates(&disk, &mut random);
        let first_loss = fates.iter().position(|fate| *fate != Fate::Kept).unwrap_or(fates.len());
        assert!(fates.iter().skip(first_loss + 1).all(is(Fate::Lost)), "{fates:?}");
        let fates = World::LastOnes.fates(&disk, &mut random);
        assert!(fates.is_sorted_by_key(|fate| *fate == Fate::Kept), "{fates:?}");
    }
}
