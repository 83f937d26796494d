//! Losses of power: what a store does to its disk is recorded, and every part of it that was not synced may be gone, in
//! any order. What was acknowledged before is found afterwards, and the node starts.

mod disk;
mod process;
mod promises;
mod rig;
mod trace;
mod world;

use disk::{Broken, Promise};
use rig::{Rig, Trial, after};
use world::World;

fn trial(seed: u64) -> Trial {
    Trial {
        seed,
        promise: if seed.is_multiple_of(2) { Promise::Posix } else { Promise::Journaled },
        sizes: "small",
        lives: 4,
        steps: 200,
        crash_points: 20,
        worlds: 3,
        classes: &World::ALL,
        ends_at_refusal: false,
        deadline: after(3600),
        worlds_min: 60,
    }
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// G1, against the loss of power. `COORDD_TESTS_SEED` chooses the lives and the worlds (the order of a life's threads is the
/// machine's), `COORDD_POWER_LOSS_SECONDS` and `COORDD_POWER_LOSS_ROUNDS` how long, `COORDD_POWER_LOSS_SIZES=node` takes files as
/// large as a node's, `COORDD_POWER_LOSS_EVERY` takes every moment of each life instead of some, `COORDD_POWER_LOSS_KEEP` is a directory for the disk that a failure was found on.
#[test]
fn everything_acknowledged_survives_a_loss_of_power() {
    let dir = tempfile::tempdir().unwrap();
    let seconds = number_of("COORDD_POWER_LOSS_SECONDS");
    let deadline = after(seconds.unwrap_or(8));
    let is_every = std::env::var_os("COORDD_POWER_LOSS_EVERY").is_some_and(|value| !value.is_empty());
    // Longer lives have more to lose, and take longer to be recorded.
    let steps = if seconds.is_some() && !is_every { 600 } else { 200 };
    let rounds = number_of("COORDD_POWER_LOSS_ROUNDS").unwrap_or(u64::MAX);
    let seed = number_of("COORDD_TESTS_SEED").unwrap_or(1);
    let crash_points = if is_every { usize::MAX } else { trial(seed).crash_points };
    let sizes = match std::env::var("COORDD_POWER_LOSS_SIZES").as_deref() {
        Ok("node") => "node",
        _ => "small",
    };
    let mut rig = Rig::new(dir.path(), sizes);
    for round in 0..rounds {
        let trial = Trial { deadline, sizes, steps, crash_points, ..trial(seed.wrapping_add(round)) };
        if rig.is_over(trial) {
            break;
        }
        rig.round(trial);
    }
    println!("{} seed={seed}", rig.figures);
    assert!(rig.figures.lost.is_empty(), "acknowledged and lost");
    assert_eq!(rig.figures.refused.len(), 0, "a loss of power alone must not keep a node from starting");
    assert!(rig.figures.worlds > 0 && rig.figures.promises > 0, "nothing was tried");
}

/// The test of the test: a store with one of its syncs taken out is found out, or this says why it need not be.
#[test]
fn a_store_without_its_fdatasync_is_found_out() {
    let sync = |path, data_only| Broken { path, data_only };
    let needed = [
        ("the journal's fdatasync", sync("var/data/wal/journal-*", Some(true))),
        ("the fsync of a new file of the journal", sync("var/data/wal/journal.tmp", Some(false))),
        ("the fsync of a file of the journal that is used again", sync("var/data/wal/spare-*", Some(false))),
        ("the journal's directory", sync("var/data/wal", None)),
        ("IDENTITY", sync("var/data/IDENTITY.tmp", None)),
        ("the data directory", sync("var/data", None)),
        ("the directory of the data directory", sync("var", None)),
        ("the directory of that one", sync("", None)),
        // Of its first content: later it is a lower bound, whatever version of it is on the disk.
        ("the watermark", sync("var/data/wal/watermark", None)),
        ("a snapshot's file", sync("var/data/snapshots/*", Some(false))),
        ("the snapshots' directory", sync("var/data/snapshots", None)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path(), "small");
    let trial = Trial {
        promise: Promise::Posix,
        steps: 300,
        crash_points: 40,
        worlds: 1,
        classes: &[World::Nothing, World::FirstOnes, World::SomeWrites, World::NamesAndSizes],
        ..trial(7)
    };
    let trace = rig.first_life(trial);
    for (name, broken) in needed {
        let is_fdatasync = broken.data_only == Some(true);
        let noticed =
            rig.notices(Trial { crash_points: 150, ends_at_refusal: !is_fdatasync, ..trial }, &trace, broken);
        println!("without {name}: {noticed:?}");
        assert!(noticed.is_some(), "nothing notices that {name} is not synced");
        // The others make a node refuse to start at least, this one loses what it has acknowledged.
        assert!(
            broken.data_only != Some(true) || noticed.is_some_and(|how| how.starts_with("lost")),
            "{name}"
        );
    }
}
