use std::ffi::OsString;
use std::time::Duration;

use rustix::process::Signal;

use super::boot_clock;
use super::command::exit_code;
use super::handle::{Handle, Input};
use super::signals::comes_from_terminal;
use super::watchdog::Lease;
use super::wire::{Order, Report};
use crate::exit::Failure;

/// What a keeper that works takes to kill and to say so.
const KEEPER_SLACK: Duration = Duration::from_millis(500);

/// A command that needs no grant: it runs until it ends, is stopped, or this program is gone, whatever becomes of the session.
pub(crate) struct FreeCommand {
    handle: Handle,
}

impl FreeCommand {
    pub(crate) fn start(command: &[OsString], environment: &[(&str, String)]) -> Result<Self, Failure> {
        // Nothing runs out. The keeper adds to this, and what it adds must not overflow.
        let deadline = boot_clock::now() + Duration::from_secs(u64::from(u32::MAX));
        let lease = Lease { deadline, grace: Duration::ZERO };
        Ok(Self { handle: Handle::start(command, environment, Input::Own, lease)? })
    }

    /// Waits until the command has ended, and all that it started; returns its exit code, as shells have it. Safe to cancel.
    pub(crate) async fn ended(&mut self) -> Result<u8, Failure> {
        loop {
            match self.handle.report().await {
                Some(Report::Started { .. }) => {}
                Some(Report::NotStarted { code, message }) => {
                    return Err(Failure::NotStarted { code, message });
                }
                Some(Report::Ended { code, signal, .. }) => return Ok(exit_code(code, signal)),
                None => {
                    self.handle.kill().await;
                    let error = std::io::Error::other("it is gone; the command was killed");
                    return Err(Failure::io("the keeper of the command", error));
                }
            }
        }
    }

    /// Hands a signal on to the command.
    pub(crate) fn signal(&self, signal: Signal) {
        if !comes_from_terminal(signal) {
            self.handle.order(Order::Signal(signal.as_raw()));
        }
    }

    /// Ends it, and all that it started, by SIGTERM, and by SIGKILL after that time; returns its exit code.
    pub(crate) async fn stop(&mut self, within: Duration) -> Result<u8, Failure> {
        self.handle.order(Order::Stop { within });
        match tokio::time::timeout(within.saturating_add(KEEPER_SLACK), self.ended()).await {
            Ok(ended) => ended,
            Err(_) => {
                self.handle.kill().await;
                Ok(137)
            }
        }
    }
}
