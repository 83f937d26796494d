use std::fmt;
use std::time::Duration;

use clap::Args;
use coordd_client::Client;
use coordd_client::recipes::{GroupMembership, Member, MemberChange};
use coordd_process::plain;
use futures::StreamExt as _;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::notes::note;
use crate::output::{ValueOutput, time};
use crate::session_id::SessionId;

/// How long joining may take before the user is told what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints the members of a group: who is there, and with --watch who comes and goes; or joins it.
#[derive(Args, Debug)]
pub(crate) struct Members {
    /// The group.
    path: String,

    /// Go on, and print every change.
    #[arg(long)]
    watch: bool,

    /// Be a member under this name until this program is ended, in one session after the other.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "watch",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    join: Option<String>,

    /// What the member says of itself.
    #[arg(long, requires = "join", default_value = "")]
    data: String,
}

#[derive(Serialize)]
struct MemberOutput {
    name: String,
    epoch: u64,
    session_id: SessionId,
    since: String,
    #[serde(flatten)]
    data: ValueOutput,
}

impl From<Member> for MemberOutput {
    fn from(member: Member) -> Self {
        let Member { name, data, epoch, session_id, since_ms } = member;
        Self { name, epoch, session_id: SessionId(session_id), since: time(since_ms), data: data.into() }
    }
}

impl fmt::Display for MemberOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} epoch {} since {}", plain(&self.name), self.epoch, self.since)?;
        match self.data.to_string() {
            data if data.is_empty() => Ok(()),
            data => write!(f, " {data}"),
        }
    }
}

#[derive(Serialize)]
struct Listed {
    members: Vec<MemberOutput>,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.members.iter().try_for_each(|member| writeln!(f, "{member}"))
    }
}

#[derive(Serialize)]
struct Joined {
    path: String,
}

impl fmt::Display for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", plain(&self.path))
    }
}

#[derive(Serialize)]
struct Changed {
    change: &'static str,
    member: MemberOutput,
}

impl From<MemberChange> for Changed {
    fn from(change: MemberChange) -> Self {
        let (change, member) = match change {
            MemberChange::Joined(member) => ("joined", member),
            MemberChange::Updated { new, .. } => ("updated", new),
            MemberChange::Left(member) => ("left", member),
        };
        Self { change, member: member.into() }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:7}  {}", self.change, self.member)
    }
}

impl Members {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let sessions = context.sessions().await?;
        let client = sessions.newest()?;
        let group = GroupMembership::new(&sessions, &self.path);
        match &self.join {
            Some(name) => self.join(context, &group, name).await,
            None if self.watch => watch(context, &client, &group).await,
            None => list(context, &client, &group).await,
        }
    }

    /// Until the program is ended. The session that is closed then takes the member along.
    async fn join(&self, context: &Context, group: &GroupMembership, name: &str) -> Result<(), Failure> {
        context.interrupts.are_the_end();
        let mut joining = std::pin::pin!(group.join(name, self.data.clone()));
        let membership = match tokio::time::timeout(PATIENCE, &mut joining).await {
            Ok(joined) => joined?,
            Err(_) => {
                let path = &self.path;
                note!("{name} is not a member of {path} yet; waiting for a node, or for the name");
                joining.await?
            }
        };
        // The member is there, also if nobody could be told so.
        if let Err(failure) = context.output().result(&Joined { path: membership.path().to_owned() }) {
            context.output().failure(&failure);
        }
        std::future::pending().await
    }
}

async fn watch(context: &Context, client: &Client, group: &GroupMembership) -> Result<(), Failure> {
    context.interrupts.are_the_end();
    let mut changes = group.watch();
    while let Some(change) = changes.next().await {
        context.output().result(&Changed::from(change))?;
    }
    // It ends where the group may not be read: another look says why.
    list(context, client, group).await
}

async fn list(context: &Context, client: &Client, group: &GroupMembership) -> Result<(), Failure> {
    let members = context.answer_in(client, group.members()).await?;
    context.output().result(&Listed { members: members.into_iter().map(MemberOutput::from).collect() })
}
