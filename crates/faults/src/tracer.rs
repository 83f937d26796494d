//! A disk that is slow or fails, as a process sees it: its system calls are delayed or refused, by strace.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// Attached to a process until it is dropped.
pub(crate) struct Tracer {
    child: Child,
}

impl Tracer {
    /// Each fdatasync of the process takes so much longer.
    pub(crate) fn slow_syncs(process: u32, delay: Duration) -> anyhow::Result<Tracer> {
        Tracer::attach(process, &format!("fdatasync:delay_enter={}", delay.as_micros()))
    }

    /// Every call of this name that the process makes fails as those on a broken disk do.
    pub(crate) fn failing(process: u32, call: &str) -> anyhow::Result<Tracer> {
        Tracer::attach(process, &format!("{call}:error=EIO"))
    }

    fn attach(process: u32, inject: &str) -> anyhow::Result<Tracer> {
        let call = inject.split(':').next().unwrap_or_default();
        let mut command = Command::new("strace");
        command.args(["-f", "-qqq", "-o", "/dev/null", "-p", &process.to_string()]);
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={inject}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Tracer { child: command.spawn().context("strace, which makes a disk slow or broken")? })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of the process first, which SIGKILL would not give it the time for. It may have ended with the process.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        drop(self.child.wait());
    }
}
