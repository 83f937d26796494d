//! Whose directory it is.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use coordd_raft::storage::{DataDir, DataDirError};

#[test]
fn a_directory_remembers_its_node_and_counts_its_lives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/data");
    for incarnation in 1..4 {
        let mut dir = DataDir::open(&path, 3).unwrap();
        assert_eq!((dir.node_id(), dir.incarnation()), (3, incarnation));
        assert_eq!(dir.cluster_id(), (incarnation > 1).then_some("prod"));
        dir.set_cluster_id("prod").unwrap();
        assert!(dir.wal_dir().is_dir() && dir.snapshot_dir().is_dir());
    }
}

#[test]
fn the_next_identity_has_its_room_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path(), 1).unwrap());
    let next = dir.path().join("IDENTITY.tmp");
    let before = fs::metadata(&next).unwrap();
    assert_eq!(before.len(), fs::metadata(dir.path().join("IDENTITY")).unwrap().len());
    assert_eq!(DataDir::open(dir.path(), 1).unwrap().incarnation(), 2);
    let identity = fs::metadata(dir.path().join("IDENTITY")).unwrap();
    assert_eq!(identity.ino(), before.ino(), "the file that has its room is the one that is written");
    assert!(next.exists());
}

#[test]
fn two_processes_cannot_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataDir::open(dir.path(), 1).unwrap();
    let refused = DataDir::open(dir.path(), 1).unwrap_err();
    assert!(matches!(refused, DataDirError::InUse { .. }), "{refused}");
    drop(first);
    DataDir::open(dir.path(), 1).unwrap();
}

#[test]
fn another_nodes_directory_is_refused_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path(), 1).unwrap());
    let before = fs::read(dir.path().join("IDENTITY")).unwrap();
    let refused = DataDir::open(dir.path(), 2).unwrap_err();
    assert!(matches!(refused, DataDirError::OtherNode { found: 1, wanted: 2, .. }), "{refused}");
    assert_eq!(fs::read(dir.path().join("IDENTITY")).unwrap(), before);
}

#[test]
fn another_ensembles_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut dir = DataDir::open(dir.path(), 1).unwrap();
    dir.set_cluster_id("prod").unwrap();
    dir.set_cluster_id("prod").unwrap();
    let refused = dir.set_cluster_id("test").unwrap_err();
    assert!(matches!(refused, DataDirError::OtherCluster { .. }), "{refused}");
    for bad in ["", "a b", "a\nnode_id = 7", &"x".repeat(65)] {
        assert!(matches!(dir.set_cluster_id(bad), Err(DataDirError::BadValue(_))), "{bad:?}");
    }
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious.txt"), "not ours").unwrap();
    let refused = DataDir::open(dir.path(), 1).unwrap_err();
    assert!(matches!(&refused, DataDirError::NotOurs { found, .. } if found == "precious.txt"), "{refused}");
    fs::remove_file(dir.path().join("precious.txt")).unwrap();
    // The root of a fresh file system is empty enough.
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    DataDir::open(dir.path(), 1).unwrap();
}

#[test]
fn a_damaged_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path(), 1).unwrap());
    let path = dir.path().join("IDENTITY");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("node_id = 1", "node_id = 2")).unwrap();
    let refused = DataDir::open(dir.path(), 2).unwrap_err();
    assert!(refused.to_string().contains("the checksum does not match"), "{refused}");
    assert!(matches!(DataDir::open(dir.path(), 0), Err(DataDirError::BadValue(_))));
}

#[test]
fn a_crash_before_the_first_identity_leaves_a_directory_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("LOCK"), "").unwrap();
    fs::write(dir.path().join("IDENTITY.tmp"), "format").unwrap();
    assert_eq!(DataDir::open(dir.path(), 1).unwrap().incarnation(), 1);
}
