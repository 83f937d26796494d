use std::fmt;
use std::pin::pin;

use clap::Args;
use coordd_client::Client;
use coordd_client::recipes::{GroupMembership, Member, MemberChange};
use futures::StreamExt as _;
use serde::Serialize;

use crate::context::{Context, GOODBYE};
use crate::exit::Failure;
use crate::interrupt::interrupted;
use crate::output::{ValueOutput, time};
use crate::session_id::SessionId;

/// Prints the members of a group: who is there, and with --watch who comes and goes; or joins it.
#[derive(Args, Debug)]
pub(crate) struct Members {
    /// The group.
    path: String,

    /// Go on, and print every change.
    #[arg(long)]
    watch: bool,

    /// Be a member under this name until this program is ended, in one session after the other.
    #[arg(long, value_name = "NAME", conflicts_with = "watch")]
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
        write!(f, "{} epoch {} since {}", self.name, self.epoch, self.since)?;
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
        writeln!(f, "{}", self.path)
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
        let sessions = tokio::select! {
            sessions = context.sessions() => sessions?,
            () = interrupted() => return Ok(()),
        };
        let client = sessions.newest()?;
        let group = GroupMembership::new(&sessions, &self.path);
        let result = match &self.join {
            Some(name) => self.join(context, &group, name).await,
            None if self.watch => watch(context, &client, &group).await,
            None => list(context, &client, &group).await,
        };
        // If no node is in reach the session expires by itself, and the result is what matters.
        let _ = tokio::time::timeout(GOODBYE, sessions.close()).await;
        result
    }

    async fn join(&self, context: &Context, group: &GroupMembership, name: &str) -> Result<(), Failure> {
        let mut ended = pin!(interrupted());
        let membership = tokio::select! {
            membership = group.join(name, self.data.clone()) => membership?,
            () = &mut ended => return Ok(()),
        };
        context.output().result(&Joined { path: membership.path().to_owned() })?;
        ended.await;
        // The session that is closed next takes it along if no node is in reach now.
        let _ = tokio::time::timeout(GOODBYE, membership.leave()).await;
        Ok(())
    }
}

async fn watch(context: &Context, client: &Client, group: &GroupMembership) -> Result<(), Failure> {
    let (mut changes, mut ended) = (group.watch(), pin!(interrupted()));
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = &mut ended => return Ok(()),
        };
        // It ends where the group may not be read: another look says why.
        let Some(change) = change else { return list(context, client, group).await };
        context.output().result(&Changed::from(change))?;
    }
}

async fn list(context: &Context, client: &Client, group: &GroupMembership) -> Result<(), Failure> {
    let members = tokio::select! {
        members = context.answer_in(client, group.members()) => members?,
        () = interrupted() => return Ok(()),
    };
    context.output().result(&Listed { members: members.into_iter().map(MemberOutput::from).collect() })
}
