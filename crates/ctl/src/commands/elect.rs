use std::fmt;
use std::time::Duration;

use clap::Args;
use coordd_client::recipes::{Candidate, Json, Leader, LeaderElection, Leadership, Owner, Sessions};
use coordd_client::{Client, Error, ErrorKind};
use futures::TryStreamExt as _;
use serde::Serialize;

use crate::context::Context;
use crate::exit::{Failure, exit_with};
use crate::notes::note;
use crate::output::time;
use crate::owner::{OwnerArgs, write_owner};
use crate::session_id::SessionId;
use crate::supervised::{CommandLine, ENVIRONMENT, Ending, Signals, hold};

const PAUSE: Duration = Duration::from_secs(1);

/// Campaigns for a leadership, and runs a command only while it leads.
///
/// When the leadership is lost the command is stopped, and the candidate campaigns again. When the command ends by itself, the
/// leadership is given up and its exit code is that of coordctl. Without a command the leadership is held until the
/// program is ended.
#[derive(Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct Elect {
    /// The election: everybody who campaigns under the same path is a candidate of it.
    path: String,

    #[command(flatten)]
    owner: OwnerArgs,

    /// 0 to 99; of those who wait the one with the highest leads next.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=99))]
    priority: u16,

    /// End when the leadership is lost, with exit code 11.
    #[arg(long, conflicts_with = "repeat")]
    once: bool,

    /// Campaign again, and run the command again, when it has ended by itself.
    #[arg(long = "loop", requires = "command")]
    repeat: bool,

    /// Print who leads, and every change of it, instead.
    #[arg(long, conflicts_with_all = ["command", "once", "repeat", "list", "id", "address", "data", "priority"])]
    observe: bool,

    /// Print who leads and who waits, instead.
    #[arg(long, conflicts_with_all = ["command", "once", "repeat", "id", "address", "data", "priority"])]
    list: bool,

    #[command(flatten)]
    line: CommandLine,
}

#[derive(Serialize)]
struct LeaderOutput {
    id: String,
    address: String,
    data: Json,
    epoch: u64,
    session_id: SessionId,
    since: String,
}

impl From<Leader> for LeaderOutput {
    fn from(leader: Leader) -> Self {
        let Leader { id, address, data, epoch, session_id, since_ms } = leader;
        Self { id, address, data, epoch, session_id: SessionId(session_id), since: time(since_ms) }
    }
}

impl fmt::Display for LeaderOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} since {} ", self.epoch, self.since)?;
        write_owner(f, &self.id, &self.address, &self.data)
    }
}

#[derive(Serialize)]
struct Observed {
    leader: Option<LeaderOutput>,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader {
            Some(leader) => writeln!(f, "{leader}"),
            None => writeln!(f, "nobody leads"),
        }
    }
}

#[derive(Serialize)]
struct Listed {
    leader: Option<LeaderOutput>,
    candidates: Vec<LeaderOutput>,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader {
            Some(leader) => writeln!(f, "leads  {leader}")?,
            None => writeln!(f, "nobody leads")?,
        }
        self.candidates.iter().try_for_each(|candidate| writeln!(f, "waits  {candidate}"))
    }
}

impl Elect {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if self.observe {
            return self.observe(context).await;
        }
        if self.list {
            return self.list(context).await;
        }
        context.in_sessions(async |sessions, signals| self.lead(context, sessions, signals).await).await
    }

    async fn lead(
        &self,
        context: &Context,
        sessions: &Sessions,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let candidate = self.candidate(sessions.newest()?.session_timeout());
        loop {
            let (client, leadership) = tokio::select! {
                elected = campaign(sessions, &self.path, &candidate) => elected?,
                signal = signals.end() => return Err(Failure::ended_by(signal)),
            };
            note!("leading {} with epoch {}", self.path, leadership.epoch());
            let ending = hold(&leadership, &client, &self.line, context, signals).await;
            match &ending {
                Ok(Ending::Lost(loss)) => note!("no longer leading {}: {loss}", self.path),
                _ => note!("resigning from {}", self.path),
            }
            // The command is gone by now.
            tokio::select! {
                resigned = tokio::time::timeout(client.session_timeout(), leadership.resign()) => drop(resigned),
                signal = signals.end() => return Err(Failure::ended_by(signal)),
            }
            let asked = signals.ended_by();
            match ending? {
                Ending::Exited(_) if self.repeat && asked.is_none() => tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    signal = signals.end() => return Err(Failure::ended_by(signal)),
                },
                Ending::Exited(code) | Ending::AskedToEnd(code) => return exit_with(code),
                Ending::Lost(loss) if self.once => {
                    return Err(Error::new(ErrorKind::GrantLost, loss.to_string()).into());
                }
                // The signal came while the command was being stopped, or before.
                Ending::Lost(_) => {
                    if let Some(signal) = asked {
                        return Err(Failure::ended_by(signal));
                    }
                }
            }
        }
    }

    fn candidate(&self, session_timeout: Duration) -> Candidate {
        let Owner { id, address, data } = self.owner.owner();
        Candidate::new(id)
            .address(address)
            .data(data)
            .priority(self.priority)
            .grace(self.line.grace_before_deadline(session_timeout))
    }

    async fn observe(&self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let mut leaders = LeaderElection::new(client, &self.path).observe();
        context.interrupts.are_the_end();
        loop {
            let Some(leader) = leaders.try_next().await? else { return Ok(()) };
            context.output().result(&Observed { leader: leader.map(LeaderOutput::from) })?;
        }
    }

    async fn list(&self, context: &Context) -> Result<(), Failure> {
        let election = LeaderElection::new(context.client().await?, &self.path);
        let leader = context.answer(election.leader()).await?.map(LeaderOutput::from);
        let candidates = context.answer(election.candidates()).await?;
        let candidates = candidates.into_iter().map(LeaderOutput::from).collect();
        context.output().result(&Listed { leader, candidates })
    }
}

/// In this session or in a later one.
async fn campaign(
    sessions: &Sessions,
    path: &str,
    candidate: &Candidate,
) -> Result<(Client, Leadership), Error> {
    loop {
        let client = sessions.live().await?;
        match LeaderElection::new(&client, path).campaign(candidate).await {
            Ok(leadership) => return Ok((client, leadership)),
            // The next session campaigns anew, and so does who was struck from the list.
            Err(error)
                if error.is_terminal() || error.is_retryable() || error.kind == ErrorKind::GrantLost =>
            {
                note!("campaigning again: {error}");
                tokio::time::sleep(error.retry_after.unwrap_or(PAUSE)).await;
            }
            Err(error) => return Err(error),
        }
    }
}
