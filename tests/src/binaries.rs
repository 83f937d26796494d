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
        // <target>/<profile>/deps/<test>
        let exe = std::env::current_exe().expect("the path of this test");
        let profile_dir = exe.ancestors().nth(2).expect("a test lives in <target>/<profile>/deps");
        let target_dir = profile_dir.parent().expect("a profile's directory is in the target directory");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "-p", "coordd-server", "-p", "coordctl", "--target-dir"]);
        command.arg(target_dir);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let status = command.status().expect("cargo runs");
        assert!(status.success(), "coordd and coordctl do not build");
        profile_dir.to_owned()
    })
}

/// The path of `coordd`.
pub fn coordd() -> PathBuf {
    directory().join("coordd")
}

/// The path of `coordctl`.
pub fn coordctl() -> PathBuf {
    directory().join("coordctl")
}
