//! The keeper: starts the command, hands signals on to it, and stops it when it is told to, when the lease runs out, or when
//! `coordctl` is gone.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, wait};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};

use super::boot_clock;
use super::process_tree::signal_descendants;
use super::watchdog::{Step, Watchdog};
use super::wire::{Order, Report, receive_descriptor};

/// The name under which `coordctl` starts itself as a keeper.
pub(crate) const NAME: &str = "coordctl-keeper";

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(50);
/// What is left when the command has ended, or when `coordctl` is gone, has so long; less if the lease ends before.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Whether this process was started as a keeper. Then its arguments are the command's process group (0: its own), and the
/// command; its standard input is the socket to `coordctl`.
pub(crate) fn is_keeper() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

pub(crate) fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let group = arguments.next().and_then(|group| group.to_str()?.parse().ok()).unwrap_or(0);
    let command: Vec<OsString> = arguments.collect();
    // One thread: two children are nothing to hurry for.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(keep(group, &command))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to report a failure of this to.
            let _ = std::io::stderr().write_all(format!("{NAME}: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

async fn keep(group: i32, command: &[OsString]) -> std::io::Result<()> {
    // What leaves the command's process tree becomes a child of this process, and is stopped with the rest.
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(getpid()))?;
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let stdin = receive_descriptor(&control)?;
    control.set_nonblocking(true)?;
    let (orders, reports) = tokio::net::UnixStream::from_std(control)?.into_split();
    let mut orders = BufReader::new(orders).lines();
    let Some(Order::Lease(lease)) = next_order(&mut orders).await else {
        return Err(std::io::Error::other("coordctl has given no lease"));
    };
    let keeper = Keeper {
        command: None,
        status: None,
        was_stopped: false,
        ran_out: false,
        group,
        watchdog: Watchdog::new(lease),
        orders: Some(orders),
        reports,
    };
    keeper.run(command, stdin).await
}

async fn next_order(orders: &mut Lines<BufReader<OwnedReadHalf>>) -> Option<Order> {
    let line = orders.next_line().await.ok()??;
    serde_json::from_str(&line).ok()
}

struct Keeper {
    /// The command's process, until it has ended.
    command: Option<Pid>,
    status: Option<WaitStatus>,
    /// It was told to end before it ended.
    was_stopped: bool,
    /// That was because the lease had run out.
    ran_out: bool,
    /// 0: the command leads a group of its own.
    group: i32,
    watchdog: Watchdog,
    /// `None` once `coordctl` is gone.
    orders: Option<Lines<BufReader<OwnedReadHalf>>>,
    reports: OwnedWriteHalf,
}

impl Keeper {
    async fn run(mut self, command: &[OsString], stdin: OwnedFd) -> std::io::Result<()> {
        let mut child_ended = signal(SignalKind::child())?;
        let mut asked_to_end = signal(SignalKind::terminate())?;
        let started = match self.start(command, stdin) {
            Ok(pid) => Report::Started { pid: pid.as_raw_nonzero().get() },
            Err(report) => return self.say(&report).await,
        };
        self.say(&started).await?;
        while self.reap() {
            if self.command.is_none() {
                // What it has left behind must not go on without the grant.
                self.watchdog.on_stop(boot_clock::now(), AFTERMATH);
            }
            self.act();
            let orders = &mut self.orders;
            let order = async {
                match orders {
                    Some(orders) => next_order(orders).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = order => self.obey(order),
                _ = child_ended.recv() => {}
                _ = asked_to_end.recv() => self.watchdog.on_stop(boot_clock::now(), AFTERMATH),
                () = tokio::time::sleep(TICK) => {}
            }
        }
        let code = self.status.and_then(WaitStatus::exit_status);
        let signal = self.status.and_then(WaitStatus::terminating_signal);
        let (was_stopped, ran_out) = (self.was_stopped, self.ran_out);
        self.say(&Report::Ended { code, signal, was_stopped, ran_out }).await
    }

    fn start(&mut self, command: &[OsString], stdin: OwnedFd) -> Result<Pid, Report> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| Report::NotStarted { code: 2, message: "there is no command".into() })?;
        let spawned =
            Command::new(program).args(arguments).process_group(self.group).stdin(Stdio::from(stdin)).spawn();
        match spawned {
            Ok(child) => {
                // Waited for by `reap`, with everything else that becomes a child of this process.
                let pid = Pid::from_child(&child);
                self.command = Some(pid);
                Ok(pid)
            }
            Err(error) => {
                let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                Err(Report::NotStarted { code, message: format!("{}: {error}", program.display()) })
            }
        }
    }

    /// Takes note of who has ended. Returns whether anybody is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.command => {
                    self.command = None;
                    self.status = Some(status);
                    self.was_stopped = self.watchdog.is_stopping();
                    self.ran_out = self.watchdog.has_run_out();
                }
                Ok(Some(_)) => {}
                Ok(None) => return true,
                // There are no children.
                Err(_) => return false,
            }
        }
    }

    fn obey(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Lease(lease)) => self.watchdog.on_lease(lease),
            Some(Order::Stop { within }) => self.watchdog.on_stop(boot_clock::now(), within),
            Some(Order::Signal(number)) => {
                let (Some(command), Some(signal)) = (self.command, Signal::from_named_raw(number)) else {
                    return;
                };
                // Whoever has ended meanwhile does not need it.
                let _ = match self.group {
                    0 => kill_process_group(command, signal),
                    _ => kill_process(command, signal),
                };
            }
            None => {
                self.orders = None;
                self.watchdog.on_stop(boot_clock::now(), AFTERMATH);
            }
        }
    }

    fn act(&mut self) {
        let me = getpid();
        match self.watchdog.step(boot_clock::now()) {
            Step::Wait => {}
            Step::Terminate => {
                signal_descendants(me, Signal::TERM);
                // Who is stopped does not see the signal before this.
                signal_descendants(me, Signal::CONT);
            }
            Step::Kill => signal_descendants(me, Signal::KILL),
        }
    }

    /// Nobody may be there to hear it; then the command is gone all the same.
    async fn say(&mut self, report: &Report) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        let _ = self.reports.write_all(&line).await;
        Ok(())
    }
}
