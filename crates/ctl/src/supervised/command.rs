use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use coordd_client::Client;
use coordd_client::recipes::{Grant, Loss};
use rustix::process::Signal;
use tokio::time::Instant;

use super::boot_clock;
use super::handle::{Handle, Input};
use super::signals::{Signals, comes_from_terminal};
use super::watchdog::Lease;
use super::wire::{Order, Report};
use crate::context::{Context, GlobalOptions};
use crate::durations::duration;
use crate::exit::Failure;
use crate::guard::GuardArg;
use crate::session_id::SessionId;

/// A grant that an operator took away is somebody else's at once: then there is little time to end.
const TAKEN_AWAY: Duration = Duration::from_secs(1);
/// What a keeper that works takes to kill and to say so.
const KEEPER_SLACK: Duration = Duration::from_millis(500);

/// The end of the help of whatever runs a command under a grant.
pub(crate) const ENVIRONMENT: &str = "\
The command finds in its environment:
  COORDD_EPOCH, COORDD_GRANT_PATH   what it holds: the epoch is higher than every earlier one's
  COORDD_SESSION, COORDD_ENDPOINTS  the session that holds it, and where the nodes are
  COORDCTL_ENDPOINTS, COORDCTL_AUTH, COORDCTL_GUARD
                                    so each coordctl that it runs reaches the same ensemble with the same credentials, and its
                                    writes are refused once that is lost
It is stopped, with all it has started, before anybody else can hold it: also if coordctl is killed or stands still. If it ends
by itself, what it has left running is stopped too. SIGTERM stops it; INT, HUP, QUIT, USR1, USR2 and WINCH are handed on.";

/// A command to run under a grant.
#[derive(Args, Clone, Debug)]
pub(crate) struct CommandLine {
    /// How long the command and all it has started may take to end after SIGTERM, before SIGKILL. It never gets more than is
    /// left of the grant, which is a quarter of the session timeout when the ensemble is out of reach.
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub(crate) grace: Duration,

    /// The command and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How a command that ran under a grant came to its end. In each case nothing is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, or by a signal that was handed on to it: the exit code is the command's.
    Exited(u8),
    /// It was stopped because the grant is lost, or may be lost at any moment.
    Lost(Loss),
    /// It was stopped because `coordctl` was asked to end: the exit code is the command's.
    AskedToEnd(u8),
}

impl CommandLine {
    /// How long before the deadline of a grant the command is asked to end.
    pub(crate) fn grace_before_deadline(&self, session_timeout: Duration) -> Duration {
        self.grace.min(session_timeout / 4)
    }
}

/// Runs the command for as long as a grant is held; without one, holds it until it is lost or this program is asked to end.
pub(crate) async fn hold(
    grant: &Grant,
    client: &Client,
    line: &CommandLine,
    context: &Context,
    signals: &mut Signals,
) -> Result<Ending, Failure> {
    if !line.command.is_empty() {
        return run_under(grant, client, line, context, signals).await;
    }
    tokio::select! {
        loss = grant.lost() => Ok(Ending::Lost(loss)),
        // That is how such a grant is given back.
        _ = signals.end() => Ok(Ending::AskedToEnd(0)),
    }
}

/// Runs a command for as long as a grant is held. When this returns the command has ended, and all that it started; the grant
/// is still to be given back. Dropping the future stops the command too, and does not wait for it.
async fn run_under(
    grant: &Grant,
    client: &Client,
    line: &CommandLine,
    context: &Context,
    signals: &mut Signals,
) -> Result<Ending, Failure> {
    let environment = environment(grant, client, &context.options);
    Kept { grant, client, line, environment, input: Input::Own }.run(signals, |_| {}).await
}

/// Runs a command in the same way with another standard input than that of `coordctl`, and more in the environment.
pub(crate) async fn run_with_input(
    (grant, client): (&Grant, &Client),
    line: &CommandLine,
    options: &GlobalOptions,
    (input, environment): (OwnedFd, Vec<(&'static str, String)>),
    signals: &mut Signals,
) -> Result<Ending, Failure> {
    let environment = self::environment(grant, client, options).into_iter().chain(environment).collect();
    Kept { grant, client, line, environment, input: Input::From(input) }.run(signals, |_| {}).await
}

/// A command that runs beside others, with nothing of the terminal and the standard input of `coordctl`.
pub(crate) async fn run_beside(
    (grant, client): (&Grant, &Client),
    line: &CommandLine,
    options: &GlobalOptions,
    environment: Vec<(&'static str, String)>,
    signals: &mut Signals,
    started: impl FnMut(i32) + Send,
) -> Result<Ending, Failure> {
    let environment = self::environment(grant, client, options).into_iter().chain(environment).collect();
    Kept { grant, client, line, environment, input: Input::Nothing }.run(signals, started).await
}

/// A command and what it runs under.
struct Kept<'a> {
    grant: &'a Grant,
    client: &'a Client,
    line: &'a CommandLine,
    environment: Vec<(&'static str, String)>,
    input: Input,
}

impl Kept<'_> {
    /// `started` is told the process of the command.
    async fn run(
        self,
        signals: &mut Signals,
        mut started: impl FnMut(i32) + Send,
    ) -> Result<Ending, Failure> {
        let Kept { grant, client, line, environment, input } = self;
        let tenure = Tenure { client, grace: line.grace_before_deadline(client.session_timeout()) };
        let mut handle = Handle::start(&line.command, &environment, input, tenure.lease())?;
        let mut renewal = tokio::time::interval(client.session_timeout() / 20);
        let mut loss = None;
        // When the keeper has to be done at the latest, once the command is to end.
        let mut overdue_at = None;
        loop {
            let overdue = async {
                match overdue_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let stop_within = tokio::select! {
                report = handle.report() => match report {
                    Some(Report::Started { pid }) => {
                        started(pid);
                        continue;
                    }
                    Some(Report::NotStarted { code, message }) => {
                        handle.reap().await;
                        return Err(Failure::NotStarted { code, message });
                    }
                    Some(Report::Ended { code, signal, was_stopped, ran_out }) => {
                        handle.reap().await;
                        // The keeper may have known less of the lease than is known here.
                        let loss = loss.or(ran_out.then_some(Loss::Doubtful));
                        return Ok(ending(exit_code(code, signal), was_stopped, loss));
                    }
                    None => {
                        handle.kill().await;
                        let error = std::io::Error::other("it is gone; the command was killed");
                        return Err(Failure::io("the keeper of the command", error));
                    }
                },
                lost = grant.lost(), if loss.is_none() => {
                    loss = Some(lost);
                    match lost {
                        Loss::Doubtful => client.alive_for(),
                        Loss::Deleted | Loss::SessionEnded => TAKEN_AWAY.min(line.grace),
                    }
                }
                signal = signals.next() => {
                    if signal == Signal::TERM {
                        line.grace
                    } else {
                        if !comes_from_terminal(signal) {
                            handle.order(Order::Signal(signal.as_raw()));
                        }
                        continue;
                    }
                }
                _ = renewal.tick() => {
                    handle.order(Order::Lease(tenure.lease()));
                    continue;
                }
                () = overdue => {
                    handle.kill().await;
                    return Ok(ending(137, true, loss));
                }
            };
            handle.order(Order::Stop { within: stop_within });
            // A time that is too far away to be reached is never over.
            let done_at = Instant::now().checked_add(stop_within.saturating_add(KEEPER_SLACK));
            let Some(done_at) = done_at else { continue };
            overdue_at = Some(overdue_at.map_or(done_at, |earlier: Instant| earlier.min(done_at)));
        }
    }
}

/// What is told to the keeper about the session.
struct Tenure<'a> {
    client: &'a Client,
    grace: Duration,
}

impl Tenure<'_> {
    fn lease(&self) -> Lease {
        // The clock first: what passes between the two makes the lease shorter, not longer.
        let now = boot_clock::now();
        Lease { deadline: now + self.client.alive_for(), grace: self.grace }
    }
}

fn ending(code: u8, was_stopped: bool, loss: Option<Loss>) -> Ending {
    match (was_stopped, loss) {
        (false, _) => Ending::Exited(code),
        (true, Some(loss)) => Ending::Lost(loss),
        // This program was, or its keeper.
        (true, None) => Ending::AskedToEnd(code),
    }
}

/// As shells have it: 128 and the signal for a command that was ended by one.
pub(super) fn exit_code(code: Option<i32>, signal: Option<i32>) -> u8 {
    let number = code.or(signal.map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(number).unwrap_or(1)
}

/// What a command finds in its environment.
fn environment(grant: &Grant, client: &Client, options: &GlobalOptions) -> Vec<(&'static str, String)> {
    let mut guards: Vec<GuardArg> = options.guard.clone();
    guards.push(GuardArg::new(grant.path(), grant.epoch(), client.lineage()));
    let mut environment = options.environment();
    environment.extend([
        ("COORDD_EPOCH", grant.epoch().to_string()),
        ("COORDD_GRANT_PATH", grant.path().to_owned()),
        ("COORDD_SESSION", SessionId(client.session_id()).to_string()),
        ("COORDCTL_GUARD", GuardArg::join(&guards)),
    ]);
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_what_a_shell_would_say() {
        assert_eq!(exit_code(Some(0), None), 0);
        assert_eq!(exit_code(Some(255), None), 255);
        assert_eq!(exit_code(None, Some(9)), 137);
        assert_eq!(exit_code(None, None), 1);
    }
}
