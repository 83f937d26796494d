use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::process_tree::descendants_but;
use super::watchdog::Lease;
use super::wire::{Order, Report, send_descriptor};
use super::{keeper, signals};
use crate::exit::Failure;

/// The keepers of this process that are alive as far as is known: what one of them keeps is not for another's end. Locked while
/// one is started, and while processes are killed, so that none is taken for a process that was left behind.
static KEEPERS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// What a command has for its standard input.
pub(super) enum Input {
    /// That of this process.
    Own,
    /// Something else.
    From(OwnedFd),
    /// Nothing; nor has it a share in this process's terminal.
    Nothing,
}

/// The end of `coordctl` of a keeper. Dropping it stops the command.
pub(super) struct Handle {
    keeper: Child,
    orders: OwnedWriteHalf,
    reports: Lines<BufReader<OwnedReadHalf>>,
}

impl Handle {
    /// Starts the keeper, which starts the command when it has the lease.
    pub(super) fn start(
        command: &[OsString],
        environment: &[(&str, String)],
        input: Input,
        lease: Lease,
    ) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::io("starting the keeper of the command", error);
        // If the keeper itself is killed, what it kept becomes a child of this process.
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(getpid())).map_err(|error| failed(error.into()))?;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let shares_terminal = !matches!(input, Input::Nothing) && signals::shares_terminal();
        let group = if shares_terminal { getpgrp().as_raw_nonzero().get() } else { 0 };
        let keeper = {
            let mut keepers = keepers();
            let keeper = Command::new(own_program().map_err(failed)?)
                .arg0(keeper::NAME)
                .arg(group.to_string())
                .args(command)
                .envs(environment.iter().map(|(name, value)| (name, value)))
                // What a terminal sends is not for the keeper.
                .process_group(0)
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .spawn()
                .map_err(failed)?;
            keepers.push(Pid::from_child(&keeper));
            keeper
        };
        match input {
            Input::Own => send_descriptor(&ours, std::io::stdin()),
            Input::From(input) => send_descriptor(&ours, input),
            Input::Nothing => {
                std::fs::File::open("/dev/null").and_then(|nothing| send_descriptor(&ours, nothing))
            }
        }
        .map_err(failed)?;
        (&ours).write_all(&line(&Order::Lease(lease))).map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let (reports, orders) = tokio::net::UnixStream::from_std(ours).map_err(failed)?.into_split();
        Ok(Self { keeper, orders, reports: BufReader::new(reports).lines() })
    }

    /// Tells the keeper something. A keeper that does not read for so long that there is no room for it does not read
    /// anything, and is dealt with by [`kill`](Self::kill).
    pub(super) fn order(&self, order: Order) {
        // Past the runtime, which would refuse until it has heard from the system that there is room.
        let _ = send(self.orders.as_ref(), &line(&order), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// What the keeper says next; `None` when it is gone. Safe to cancel.
    pub(super) async fn report(&mut self) -> Option<Report> {
        let line = self.reports.next_line().await.ok()??;
        serde_json::from_str(&line).ok()
    }

    /// Ends everything without the keeper's help: it was killed, or does not do its work.
    pub(super) async fn kill(&mut self) {
        let own = Pid::from_child(&self.keeper);
        loop {
            let is_over = {
                let keepers = keepers();
                let others: Vec<_> = keepers.iter().copied().filter(|keeper| *keeper != own).collect();
                let left = descendants_but(getpid(), &others);
                for pid in &left {
                    // Whoever has ended meanwhile does not need it.
                    let _ = kill_process(*pid, Signal::KILL);
                }
                left.is_empty()
            };
            // The keepers are the only children that were started here; others have come through a keeper's death, and
            // nobody else asks how they ended.
            let _ = self.keeper.try_wait();
            if is_over {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the keeper has ended, which it does at once when it has said how the command did; one that stands still is not
    /// waited for.
    pub(super) async fn reap(mut self) {
        let ended = async {
            while let Ok(None) = self.keeper.try_wait() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
    }
}

fn keepers() -> MutexGuard<'static, Vec<Pid>> {
    KEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The keeper notices that `orders` is closed, stops the command, and ends.
        let _ = self.keeper.try_wait();
        let own = Pid::from_child(&self.keeper);
        keepers().retain(|keeper| *keeper != own);
    }
}

fn line(order: &Order) -> Vec<u8> {
    let mut line = serde_json::to_vec(order).unwrap_or_default();
    line.push(b'\n');
    line
}

/// This program, also if its file was replaced meanwhile.
fn own_program() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}
