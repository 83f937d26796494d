//! The child process of the tests that need one: the example `wal_probe`.

use std::path::PathBuf;

/// Cargo builds the examples of a package before it runs the package's tests.
pub(crate) fn probe_path() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("tests are in target/<profile>/deps");
    let probe = profile.join("examples").join("wal_probe");
    assert!(probe.exists(), "build it first: cargo build -p coordd-raft --example wal_probe");
    probe
}
