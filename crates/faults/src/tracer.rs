//! A disk that is slow or fails, as a process sees it: its system calls are delayed or refused, by strace.

use std::io::ErrorKind;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::ensemble::PATIENCE;

/// Attached to a process until it is dropped.
pub(crate) struct Tracer {
    child: Child,
}

impl Tracer {
    /// Each call of this name that the process makes takes so much longer.
    pub(crate) async fn slow(process: u32, call: &str, delay: Duration) -> anyhow::Result<Tracer> {
        Tracer::attach(process, &format!("{call}:delay_enter={}", delay.as_micros())).await
    }

    /// Every call of this name that the process makes fails as those on a broken disk do.
    pub(crate) async fn failing(process: u32, call: &str) -> anyhow::Result<Tracer> {
        Tracer::attach(process, &format!("{call}:error=EIO")).await
    }

    /// Returns when every thread of the process is traced.
    async fn attach(process: u32, inject: &str) -> anyhow::Result<Tracer> {
        let call = inject.split(':').next().unwrap_or_default();
        let mut command = Command::new("strace");
        command.args(["-f", "-qqq", "-o", "/dev/null", "-p", &process.to_string()]);
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={inject}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut tracer =
            Tracer { child: command.spawn().context("strace, which makes a disk slow or broken")? };
        let start = Instant::now();
        while !is_traced(process)? {
            if let Some(exit) = tracer.child.try_wait()? {
                bail!("strace ended with {exit} instead of tracing process {process}");
            }
            ensure!(start.elapsed() < PATIENCE, "strace does not trace process {process}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(tracer)
    }
}

/// Whether every thread of a process has a tracer. One that has ended by what the tracer did to it needs none any more.
fn is_traced(process: u32) -> anyhow::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let status = match std::fs::read_to_string(thread?.path().join("status")) {
            Ok(status) => status,
            // The thread has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let has = |line: &str| status.lines().any(|other| other.starts_with(line));
        if has("TracerPid:\t0") && !has("State:\tZ") {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of the process first, which SIGKILL would not give it the time for. It may have ended with the process.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        drop(self.child.wait());
    }
}
