use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use clap::Args;
use coordd_client::recipes::{self, Grant, Json, Participant, ReadWriteLock, Semaphore, Sessions};
use coordd_client::{Client, Error, ErrorKind};
use coordd_process::plain;
use serde::Serialize;
use tokio::time::Instant;

use crate::context::{Context, GOODBYE, out_of_reach};
use crate::durations::duration;
use crate::exit::{Failure, exit_with};
use crate::notes::note;
use crate::output::time;
use crate::owner::{OwnerArgs, write_owner};
use crate::session_id::SessionId;
use crate::supervised::{CommandLine, ENVIRONMENT, Ending, Signals, hold};

const PAUSE: Duration = Duration::from_secs(1);
/// The list does not depend on it.
const ANY_PERMITS: u32 = 1;

/// Why the ensemble did not answer, if it has said so.
type Refusal = RefCell<Option<Error>>;

/// Takes a lock, and runs a command only while it has it.
///
/// When the command ends by itself, the lock is given back and its exit code is that of coordctl. When the lock is lost, the
/// command is stopped, and the exit code is 11. Without a command the lock is held until the program is ended.
#[derive(Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct Lock {
    /// The lock: everybody who asks for the same path takes turns, in the order in which they came.
    path: String,

    /// Share it with other readers.
    #[arg(long, conflicts_with = "permits")]
    read: bool,

    /// Have it alone, which is the default.
    #[arg(long, conflicts_with_all = ["read", "permits"])]
    write: bool,

    /// Take a permit of a semaphore that has so many. Everybody must name the same number.
    #[arg(long, value_name = "N")]
    permits: Option<u32>,

    #[command(flatten)]
    owner: OwnerArgs,

    /// Take it at once, or end with exit code 12 if somebody else has it. Ends with exit code 9 if no node
    /// says within the time of --timeout who has it.
    #[arg(long = "try", conflicts_with = "wait")]
    at_once: bool,

    /// Wait for so long, and then end with exit code 12 if somebody else has it. What is free is taken, also
    /// with 0s. Ends with exit code 9 if no node says who has it, within this time or --timeout, whichever is
    /// longer.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,

    /// Print who has the lock or a permit, and who waits, instead.
    #[arg(
        long,
        conflicts_with_all = ["command", "read", "write", "permits", "at_once", "wait", "id", "address", "data"]
    )]
    list: bool,

    #[command(flatten)]
    line: CommandLine,
}

#[derive(Serialize)]
struct ParticipantOutput {
    holds: bool,
    path: String,
    id: String,
    address: String,
    data: Json,
    epoch: u64,
    session_id: SessionId,
    since: String,
}

impl From<Participant> for ParticipantOutput {
    fn from(participant: Participant) -> Self {
        let Participant { owner, holds, path, epoch, session_id, since_ms } = participant;
        let (id, address, data) = (owner.id, owner.address, owner.data);
        Self {
            holds,
            path,
            id,
            address,
            data,
            epoch,
            session_id: SessionId(session_id),
            since: time(since_ms),
        }
    }
}

impl fmt::Display for ParticipantOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (holds, name) =
            (if self.holds { "holds" } else { "waits" }, self.path.rsplit('/').next().unwrap_or_default());
        write!(f, "{holds}  {} epoch {} since {} ", plain(name), self.epoch, self.since)?;
        write_owner(f, &self.id, &self.address, &self.data)
    }
}

#[derive(Serialize)]
struct Listed {
    participants: Vec<ParticipantOutput>,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.participants.is_empty() {
            return writeln!(f, "nobody holds");
        }
        self.participants.iter().try_for_each(|participant| writeln!(f, "{participant}"))
    }
}

impl Lock {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if self.list {
            return self.list(context).await;
        }
        context.in_sessions(async |sessions, signals| self.hold(context, sessions, signals).await).await
    }

    async fn hold(
        &self,
        context: &Context,
        sessions: &Sessions,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let (client, grant) = tokio::select! {
            acquired = self.acquire_in_time(context, sessions) => acquired?,
            signal = signals.end() => return Err(Failure::ended_by(signal)),
        };
        note!("holding {} with epoch {}", self.path, grant.epoch());
        let ending = hold(&grant, &client, &self.line, context, signals).await;
        // The command is gone by now.
        tokio::select! {
            released = tokio::time::timeout(GOODBYE, grant.release()) => drop(released),
            signal = signals.end() => return Err(Failure::ended_by(signal)),
        }
        match ending? {
            Ending::Exited(code) | Ending::AskedToEnd(code) => exit_with(code),
            Ending::Lost(loss) => Err(Error::new(ErrorKind::GrantLost, loss.to_string()).into()),
        }
    }

    async fn acquire_in_time(
        &self,
        context: &Context,
        sessions: &Sessions,
    ) -> Result<(Client, Grant), Failure> {
        let timeout = context.options.timeout;
        if self.at_once {
            return self.try_in_time(sessions, timeout).await?.ok_or_else(|| self.not_free());
        }
        let Some(wait) = self.wait else {
            let acquired = self.acquire(sessions, false, &Refusal::default()).await?;
            return acquired.ok_or_else(|| self.not_free());
        };
        // What is free is taken however short the time is: it says how long others are waited for, and not how long an answer takes.
        let since = Instant::now();
        if let Some(acquired) = self.try_in_time(sessions, wait.max(timeout)).await? {
            return Ok(acquired);
        }
        let left = wait.saturating_sub(since.elapsed());
        let acquired = tokio::time::timeout(left, self.acquire(sessions, false, &Refusal::default())).await;
        acquired.unwrap_or(Ok(None))?.ok_or_else(|| self.not_free())
    }

    /// Takes what is free. `None`: somebody else has it.
    ///
    /// # Errors
    ///
    /// That the ensemble did not say in this time whether it is free: nobody may have it.
    async fn try_in_time(
        &self,
        sessions: &Sessions,
        bound: Duration,
    ) -> Result<Option<(Client, Grant)>, Error> {
        let refusal = Refusal::default();
        if let Ok(answer) = tokio::time::timeout(bound, self.acquire(sessions, true, &refusal)).await {
            return answer;
        }
        if let Some(error) = refusal.into_inner() {
            return Err(error);
        }
        let message = format!("no answer whether {} is free within {bound:?}", self.path);
        Err(out_of_reach(&sessions.newest()?, message))
    }

    fn not_free(&self) -> Failure {
        Failure::NotFree(self.path.clone())
    }

    /// Acquires it in this session or in a later one. `refusal` is the last refusal that will pass.
    async fn acquire(
        &self,
        sessions: &Sessions,
        at_once: bool,
        refusal: &Refusal,
    ) -> Result<Option<(Client, Grant)>, Error> {
        loop {
            let client = sessions.live().await?;
            match self.ask(&client, at_once).await {
                Ok(grant) => return Ok(grant.map(|grant| (client, grant))),
                // The next session asks anew, and so does who was struck from the list.
                Err(error)
                    if error.is_terminal() || error.is_retryable() || error.kind == ErrorKind::GrantLost =>
                {
                    note!("asking again: {error}");
                    let pause = error.retry_after.unwrap_or(PAUSE);
                    if error.is_retryable() {
                        refusal.replace(Some(error));
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask(&self, client: &Client, at_once: bool) -> Result<Option<Grant>, Error> {
        let (owner, grace) = (self.owner.owner(), self.line.grace_before_deadline(client.session_timeout()));
        if let Some(permits) = self.permits {
            let semaphore = Semaphore::new(client, &self.path, permits)?.owner(owner).grace(grace);
            return match at_once {
                true => semaphore.try_acquire().await,
                false => semaphore.acquire().await.map(Some),
            };
        }
        if self.read {
            let lock = ReadWriteLock::new(client, &self.path).owner(owner).grace(grace);
            return if at_once { lock.try_read().await } else { lock.read().await.map(Some) };
        }
        let lock = recipes::Lock::new(client, &self.path).owner(owner).grace(grace);
        if at_once { lock.try_lock().await } else { lock.lock().await.map(Some) }
    }

    async fn list(&self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let mut participants = context.answer(recipes::Lock::new(client, &self.path).queue()).await?;
        let semaphore = Semaphore::new(client, &self.path, ANY_PERMITS)?;
        participants.extend(context.answer(semaphore.queue()).await?);
        let participants = participants.into_iter().map(ParticipantOutput::from).collect();
        context.output().result(&Listed { participants })
    }
}
