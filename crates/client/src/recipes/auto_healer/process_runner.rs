use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::runner::{Exit, Job, Runner};

/// Starts the copies as children of this process, each in a process group of its own: SIGTERM to the group, and SIGKILL when the
/// time is over.
///
/// What it cannot do is end them when this process is killed by SIGKILL, or stands still. Their standard input is a pipe that ends
/// with this process, for commands that look at it; and guarded writes under the epoch in their environment are refused in
/// any case.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessRunner;

/// How often it is looked whether a group is empty.
const LOOK: Duration = Duration::from_millis(10);
/// Killed processes are gone in a moment; a machine on which nobody reaps them is not waited for.
const KILLED: Duration = Duration::from_secs(1);

/// Ends the processes of a group, at the latest when it is dropped.
struct Group(Pid);

impl Group {
    fn signal(&self, signal: Signal) {
        // Who has ended does not need it.
        let _ = kill_process_group(self.0, signal);
    }

    /// Waits until nobody is left in it.
    async fn emptied(&self) {
        while test_kill_process_group(self.0).is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn kill(&self) {
        self.signal(Signal::KILL);
        let _ = tokio::time::timeout(KILLED, self.emptied()).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Runner for ProcessRunner {
    async fn run(&self, job: Job) -> Exit {
        let not_started = |why: String| Exit::Ended(format!("cannot be started: {why}"));
        let Some((program, arguments)) = job.command.split_first() else {
            return not_started("there is no command".into());
        };
        let spawned = tokio::process::Command::new(program)
            .args(arguments)
            .envs(job.environment())
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return not_started(format!("{program}: {error}")),
        };
        // Held open: waiting for a child would close it.
        let _stdin = child.stdin.take();
        let Some((id, pid)) = child.id().and_then(|id| Some((id, Pid::from_raw(id.cast_signed())?))) else {
            return not_started("it has no process id".into());
        };
        let group = Group(pid);
        job.started(id);
        let within = tokio::select! {
            status = child.wait() => {
                // What it has left running would run beside the next one.
                group.kill().await;
                return Exit::Ended(describe(status));
            }
            within = job.stopped() => within,
        };
        group.signal(Signal::TERM);
        // Who is stopped does not see the signal before this.
        group.signal(Signal::CONT);
        let mut ending = std::pin::pin!(async {
            let _ = child.wait().await;
            // The first process may end at once, and those that it has started may need their time.
            group.emptied().await;
        });
        if tokio::time::timeout(within, &mut ending).await.is_err() {
            group.signal(Signal::KILL);
            let _ = tokio::time::timeout(KILLED, ending).await;
        }
        Exit::Stopped
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;

    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        },
        Err(error) => error.to_string(),
    }
}
