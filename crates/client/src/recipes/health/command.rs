use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// A shell in a process group of its own, which is killed with it.
struct Shell {
    child: Child,
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It has an id as long as nobody has asked how it ended, so that its group is no other's.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // It may have ended by itself a moment ago.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a shell command; fails unless it ends with exit code 0.
pub(super) async fn attempt(line: &str) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| format!("sh cannot be started: {error}"))?;
    let mut shell = Shell { child };
    let status = shell.child.wait().await.map_err(|error| error.to_string())?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("exit code {code}")),
        (None, signal) => Err(format!("ended by signal {}", signal.unwrap_or_default())),
    }
}
