//! Snapshot files: complete and checked, or not there.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use coordd_raft::storage::{SnapshotFile, SnapshotStore};
use coordd_raft::types::{Membership, SnapshotMeta, StoredMembership};

use crate::support::log_id;

fn meta(index: u64) -> SnapshotMeta {
    let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2, 3])], []);
    SnapshotMeta {
        last_log_id: Some(log_id(2, index)),
        last_membership: StoredMembership::new(Some(log_id(1, 1)), membership),
    }
}

fn chunks() -> Vec<Vec<u8>> {
    (1..20u8).map(|n| vec![n; usize::from(n) * 1000]).collect()
}

fn write(store: &SnapshotStore, index: u64) -> SnapshotFile {
    let mut writer = store.writer(&meta(index)).unwrap();
    for chunk in chunks() {
        writer.write_chunk(&chunk).unwrap();
    }
    writer.finish().unwrap()
}

fn read(file: &SnapshotFile) -> io::Result<Vec<Vec<u8>>> {
    file.chunks()?.map(|chunk| chunk.map(|chunk| chunk.to_vec())).collect()
}

fn raw(file: &SnapshotFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.open_raw().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_is_read_back_as_it_was_written_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    assert!(store.latest().is_none());
    let file = write(&store, 70);
    assert_eq!(names(dir.path()), ["snap-2-1-70"]);
    assert_eq!(file.bytes, raw(&file).len() as u64);
    for store in [store, SnapshotStore::open(dir.path()).unwrap()] {
        let latest = store.latest().unwrap();
        assert_eq!((&latest.meta, latest.bytes), (&meta(70), file.bytes));
        assert_eq!(read(&latest).unwrap(), chunks());
    }
}

#[test]
fn the_newest_counts_and_older_ones_are_deleted_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    let old = write(&store, 9);
    let mut open_old = old.open_raw().unwrap();
    let newer = write(&store, 100);
    let older = write(&store, 50);
    assert_eq!(store.latest().unwrap().meta, meta(100));
    assert_eq!(SnapshotStore::open(dir.path()).unwrap().latest().unwrap().meta, meta(100));

    // One that is newer than what is kept stays: another task has finished it meanwhile.
    store.keep_only(&older).unwrap();
    assert_eq!(names(dir.path()), ["snap-2-1-100", "snap-2-1-50"]);
    store.keep_only(&newer).unwrap();
    assert_eq!(names(dir.path()), ["snap-2-1-100"]);

    // A follower that is being sent the deleted one gets all of it.
    let mut bytes = Vec::new();
    open_old.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, old.bytes);
}

#[test]
fn an_unfinished_snapshot_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    let mut writer = store.writer(&meta(5)).unwrap();
    writer.write_chunk(&[1; 100]).unwrap();
    assert_eq!(names(dir.path()), ["0.tmp"]);
    drop(writer);
    assert!(names(dir.path()).is_empty());

    // One that a killed process left.
    fs::write(dir.path().join("3.tmp"), b"half").unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    assert!(names(dir.path()).is_empty() && store.latest().is_none());
}

#[test]
fn a_received_file_is_the_leaders_byte_for_byte() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [leader, follower] = [0, 1].map(|n| SnapshotStore::open(dirs[n].path()).unwrap());
    let sent = write(&leader, 70);
    let mut receiver = follower.receive(&meta(70), sent.bytes).unwrap();
    for part in raw(&sent).chunks(777) {
        receiver.write(part).unwrap();
    }
    let received = receiver.finish().unwrap();
    assert_eq!(raw(&received), raw(&sent));
    assert_eq!(follower.latest().unwrap().meta, meta(70));
    assert_eq!(names(dirs[1].path()), ["snap-2-1-70"]);
}

#[test]
fn a_received_file_that_is_damaged_cut_too_long_or_another_is_refused_and_leaves_nothing() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [leader, follower] = [0, 1].map(|n| SnapshotStore::open(dirs[n].path()).unwrap());
    let sent = write(&leader, 70);
    let good = raw(&sent);
    let receive = |meta: &SnapshotMeta, announced: u64, bytes: &[u8]| {
        let mut receiver = follower.receive(meta, announced)?;
        receiver.write(bytes)?;
        receiver.finish()
    };
    for at in (0..good.len()).step_by(501) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(receive(&meta(70), sent.bytes, &bad).is_err(), "flipped byte {at}");
        assert!(receive(&meta(70), sent.bytes, &good[..at]).is_err(), "cut to {at}");
        assert!(receive(&meta(70), at as u64, &good[..at]).is_err(), "a whole part of {at}");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(receive(&meta(70), sent.bytes, &longer).is_err(), "more than announced");
    assert!(receive(&meta(70), sent.bytes + 1, &longer).is_err(), "something after the end");
    assert!(receive(&meta(71), sent.bytes, &good).is_err(), "another snapshot");
    assert!(names(dirs[1].path()).is_empty() && follower.latest().is_none());
    receive(&meta(70), sent.bytes, &good).unwrap();
}

/// A node that threw away its own snapshot for one that it cannot load would never start again.
#[test]
fn a_received_file_that_cannot_be_loaded_is_refused_and_leaves_nothing() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [leader, follower] = [0, 1].map(|n| SnapshotStore::open(dirs[n].path()).unwrap());
    let sent = write(&leader, 70);
    let mut receiver = follower.receive(&meta(70), sent.bytes).unwrap();
    receiver.write(&raw(&sent)).unwrap();
    let refused = receiver.finish_with(|_| Err::<(), _>(io::Error::other("of a later version"))).unwrap_err();
    assert_eq!(refused.to_string(), "of a later version");
    assert!(names(dirs[1].path()).is_empty() && follower.latest().is_none());
}

#[test]
fn a_damaged_snapshot_is_refused_and_no_older_one_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    write(&store, 50);
    let file = write(&store, 70);
    let good = raw(&file);
    for at in (0..good.len()).step_by(997) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        for bad in [bad, good[..at].to_vec()] {
            fs::write(&file.path, &bad).unwrap();
            let loaded = SnapshotStore::open(dir.path()).and_then(|store| {
                let latest = store.latest().expect("there are two");
                assert_eq!(latest.meta, meta(70), "fell back silently");
                read(&latest)
            });
            let refused = loaded.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
            assert!(refused.to_string().contains("snap-2-1-70"), "{refused}");
            assert!(refused.to_string().contains("do not start this node again"), "{refused}");
        }
    }
}

#[test]
fn a_chunk_of_an_impossible_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    let mut writer = store.writer(&meta(1)).unwrap();
    assert_eq!(writer.write_chunk(&[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(writer.write_chunk(&vec![0; (64 << 20) + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    writer.write_chunk(&[1]).unwrap();
    assert_eq!(read(&writer.finish().unwrap()).unwrap(), [[1]]);
}
