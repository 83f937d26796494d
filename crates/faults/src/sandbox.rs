use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

/// Set in the sandbox.
pub(crate) const INSIDE: &str = "COORDFAULT_INSIDE";

/// Goes on in namespaces of its own for network, mounts and processes: what is made in them goes with this process, however
/// it ends, and nothing of it is seen outside. Starts this program anew, if it is not in them already.
pub(crate) fn enter() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().context("this program's own path")?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("unshare, of util-linux")
}
