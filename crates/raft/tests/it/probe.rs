//! The child processes of the tests that need one: the examples of this package.

use std::path::PathBuf;

/// The example that is a process with a log.
pub(crate) fn probe_path() -> PathBuf {
    example_path("wal_probe")
}

/// Cargo builds the examples of a package before it runs the package's tests.
pub(crate) fn example_path(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("tests are in target/<profile>/deps");
    let example = profile.join("examples").join(name);
    assert!(example.exists(), "build it first: cargo build -p coordd-raft --example {name}");
    example
}
