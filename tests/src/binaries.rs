use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The programs as they are now: built once per test run, with the profile of the tests. With `COORDD_TESTS_BIN_DIR` in the
/// environment nothing is built, and the programs in that directory are tested.
fn directory() -> &'static PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(directory) = std::env::var_os("COORDD_TESTS_BIN_DIR") {
            return directory.into();
        }
        build();
        profile_dir()
    })
}

/// Builds all programs and examples, with the profile of the tests, and with the features that they have in a test of the whole
/// workspace: so there is nothing left to do in one.
fn build() {
    let profile_dir = profile_dir();
    let target_dir = profile_dir.parent().expect("a profile's directory is in the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--workspace", "--bins", "--examples"])
        .arg("--target-dir")
        .arg(target_dir);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the programs do not build");
}

/// Where cargo puts the programs of this test's build.
fn profile_dir() -> PathBuf {
    // <target>/<profile>/deps/<test>
    let exe = std::env::current_exe().expect("the path of this test");
    exe.ancestors().nth(2).expect("a test lives in <target>/<profile>/deps").to_owned()
}

/// The path of `coordd`.
pub fn coordd() -> PathBuf {
    directory().join("coordd")
}

/// The path of `coordctl`.
pub fn coordctl() -> PathBuf {
    directory().join("coordctl")
}

/// The path of `coordbench`.
pub fn coordbench() -> PathBuf {
    directory().join("coordbench")
}

/// The path of an example of the SDK. They are built once per test run, also where the programs are not.
pub fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    profile_dir().join("examples").join(name)
}

/// The path of `contender`: a part of the tests, and so built with them.
pub fn contender() -> PathBuf {
    profile_dir().join("contender")
}
