use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use coordd_client::recipes::{Claim, Sessions, TaskQueue, TaskQueueOptions};
use coordd_client::{Bytes, Client, Error, ErrorKind};

use crate::context::Context;
use crate::exit::Failure;
use crate::notes::note;
use crate::owner::machine_name;
use crate::supervised::{CommandLine, Ending, Signals, run_with_input};

const PAUSE: Duration = Duration::from_secs(1);

const ENVIRONMENT: &str = "\
The command has what was put on its standard input, and in its environment:
  COORDD_TASK_ID, COORDD_TASK_ATTEMPT, COORDD_TASK_MAX_ATTEMPTS
                                    the task; its first attempt is 1
  COORDD_EPOCH, COORDD_GRANT_PATH   the claim: the epoch is higher than every earlier one's
  COORDD_SESSION, COORDD_ENDPOINTS  the session that holds it, and where the nodes are
  COORDCTL_ENDPOINTS, COORDCTL_AUTH, COORDCTL_GUARD
                                    so each coordctl that it runs reaches the same ensemble with the same credentials, and its
                                    writes are refused once the claim is lost
Exit code 0 completes the task. Any other counts as a failed attempt: the task comes back after a pause, or is a dead letter
when its attempts are used up. The command is stopped, with all it has started, before anybody else can have the task; but up to
a second after, if that was taken away by its claim timeout or by an operator.
SIGTERM stops it, INT, HUP and QUIT are handed on; the task goes back, unless it was done, and no attempt counts.";

/// Claims tasks and runs a command for each, one after the other.
#[derive(Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct Work {
    /// The queue.
    path: String,

    /// The name that others see at a task. Default: the name of the machine.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    worker: Option<String>,

    /// Do one task, and end with the exit code of its command.
    #[arg(long)]
    once: bool,

    /// End with 0 when no task is pending.
    #[arg(long)]
    until_empty: bool,

    #[command(flatten)]
    line: CommandLine,
}

impl Work {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if self.line.command.is_empty() {
            return Err(Failure::Usage("no command given: coordctl queue work PATH -- COMMAND".into()));
        }
        context.in_sessions(async |sessions, signals| self.work(context, sessions, signals).await).await
    }

    async fn work(
        &self,
        context: &Context,
        sessions: &Sessions,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        // Kept from task to task, so that it stands by to return those of dead workers.
        let mut queue: Option<(Client, TaskQueue)> = None;
        loop {
            let claimed = tokio::select! {
                claimed = self.claim(sessions, &mut queue) => claimed,
                signal = signals.end() => return Err(Failure::ended_by(signal)),
            };
            let (client, claim) = match claimed {
                Ok(Some(claimed)) => claimed,
                Ok(None) => return Ok(()),
                Err(error) if error.is_terminal() || error.is_retryable() => {
                    note!("claiming again: {error}");
                    let pause = tokio::time::sleep(error.retry_after.unwrap_or(PAUSE));
                    tokio::select! {
                        () = pause => continue,
                        signal = signals.end() => return Err(Failure::ended_by(signal)),
                    }
                }
                Err(error) => return Err(error.into()),
            };
            let result = self.carry_out(claim, &client, context, signals).await;
            if let Some(signal) = signals.ended_by() {
                return Err(Failure::ended_by(signal));
            }
            match result {
                Err(Failure::Operation(error)) if !self.once => {
                    note!("the task is not done by this worker: {error}");
                }
                Err(failure) => return Err(failure),
                Ok(0) if self.once => return Ok(()),
                Ok(code) if self.once => return Err(Failure::Exit(code)),
                Ok(_) => {}
            }
        }
    }

    /// The next task, in this session or in a later one; `None` if there is none and it is not waited for.
    async fn claim(
        &self,
        sessions: &Sessions,
        queue: &mut Option<(Client, TaskQueue)>,
    ) -> Result<Option<(Client, Claim)>, Error> {
        let live = sessions.live().await?;
        let (client, queue) = match queue {
            Some((client, queue)) if client.session_id() == live.session_id() => (&*client, &*queue),
            _ => {
                let worker = self.worker.clone().unwrap_or_else(machine_name);
                let options = TaskQueueOptions::new()
                    .worker(worker)
                    .grace(self.line.grace_before_deadline(live.session_timeout()));
                let opened = TaskQueue::open(&live, &self.path, options).await?;
                let (client, queue) = queue.insert((live, opened));
                (&*client, &*queue)
            }
        };
        let claim = match self.until_empty {
            true => queue.try_claim().await?,
            false => Some(queue.claim().await?),
        };
        Ok(claim.map(|claim| (client.clone(), claim)))
    }

    /// Runs the command and ends the claim by how it went. Returns the command's exit code.
    async fn carry_out(
        &self,
        claim: Claim,
        client: &Client,
        context: &Context,
        signals: &mut Signals,
    ) -> Result<u8, Failure> {
        let (attempt, max_attempts) = (claim.attempts() + 1, claim.max_attempts());
        note!("task {}, attempt {attempt} of {max_attempts}", claim.id());
        let environment = vec![
            ("COORDD_TASK_ID", claim.id().to_owned()),
            ("COORDD_TASK_ATTEMPT", attempt.to_string()),
            ("COORDD_TASK_MAX_ATTEMPTS", max_attempts.to_string()),
        ];
        let input = piped(claim.payload().clone())
            .map_err(|error| Failure::io("handing the task to the command", error))?;
        let under = (&*claim, client);
        let ending = run_with_input(under, &self.line, &context.options, (input, environment), signals).await;
        match ending {
            Ok(Ending::Exited(0)) => {
                claim.complete().await?;
                Ok(0)
            }
            // It may have ended because of the signal: nobody knows how it would have gone.
            Ok(Ending::Exited(code)) if signals.ended_by().is_some() => {
                claim.release().await?;
                Ok(code)
            }
            Ok(Ending::Exited(code)) => {
                claim.fail(&format!("exit code {code}")).await?;
                Ok(code)
            }
            Ok(Ending::AskedToEnd(code)) => {
                claim.release().await?;
                Ok(code)
            }
            Ok(Ending::Lost(loss)) => {
                let error = Error::new(ErrorKind::GrantLost, loss.to_string());
                Err(error.into())
            }
            // A command that cannot be started is no fault of the task.
            Err(failure) => {
                claim.release().await?;
                Err(failure)
            }
        }
    }
}

/// The end of a pipe from which these bytes come.
fn piped(bytes: Bytes) -> std::io::Result<OwnedFd> {
    let (reader, mut writer) = std::io::pipe()?;
    // A thread, because a command need not read, and a pipe holds less than a task can have. It ends with the command, whose
    // end of the pipe is the last one that is open.
    std::thread::Builder::new().name("task".into()).spawn(move || {
        // A command that has read enough closes its end.
        let _ = writer.write_all(&bytes);
    })?;
    Ok(reader.into())
}
