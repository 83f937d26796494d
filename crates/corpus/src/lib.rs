//! The inputs under `tests/fuzz/corpus`, for the tests that replay them without a fuzzer.
//!
//! Each fuzz target has a directory. `seed-*` are what the code itself writes, made by the tests of the crate that has the
//! target; `crash-*` once made it fail; all others were found by the fuzzer and reach code that nothing before them does.

use std::fs;
use std::path::PathBuf;

/// Set, it makes [`keep_seeds`] write the seeds instead of comparing them: the same variable as for golden scripts.
const UPDATE: &str = "UPDATE_GOLDENFILES";

fn directory(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus")).join(target)
}

/// Runs `target`, the function of the fuzz target of that name, on everything that its corpus has.
///
/// # Panics
///
/// Where the function does: the name of the input is printed first. And where there is no corpus.
pub fn replay(target: &str, run: fn(&[u8])) {
    let directory = directory(target);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> =
        files.map(|file| file.expect("a directory that can be read").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    for path in paths {
        // Shown by the test harness if the next line fails, and only then.
        println!("{}", path.display());
        run(&fs::read(&path).expect("a file that can be read"));
    }
}

/// Checks that the corpus has these inputs, as `seed-<name>`: they are what the code writes today, so that a fuzzer never
/// starts from a format of the past. With `UPDATE_GOLDENFILES=1` in the environment it writes them.
///
/// # Panics
///
/// If one is missing or another.
pub fn keep_seeds(target: &str, seeds: &[(&str, Vec<u8>)]) {
    let directory = directory(target);
    let is_update = std::env::var_os(UPDATE).is_some();
    if is_update {
        fs::create_dir_all(&directory).expect("a directory that can be made");
    }
    for (name, bytes) in seeds {
        let path = directory.join(format!("seed-{name}"));
        if is_update {
            fs::write(&path, bytes).expect("a file that can be written");
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(kept == *bytes, "{} is not what the code writes; {UPDATE}=1 writes it anew", path.display());
    }
}
