use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};
use coordd_client::{CreateMode, CreateOptions, Error, ErrorKind, SessionState};
use coordd_process::plain;
use serde::Serialize;

use super::acl::AclArg;
use crate::context::Context;
use crate::durations::duration;
use crate::exit::Failure;
use crate::output::StatOutput;
use crate::value::Value;

/// Creates a znode and prints its path.
///
/// An ephemeral znode lives as long as its session: outside the shell the command then stays until it is interrupted,
/// or for as long as --hold says.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The path; for a sequential mode its prefix, which may end in "/".
    path: String,

    #[command(flatten)]
    value: Value,

    #[command(flatten)]
    kind: Kind,

    /// Create missing parents too.
    #[arg(short, long)]
    parents: bool,

    /// An ACL entry, SCHEME:ID:PERMS with letters of cdrwa; may be repeated. Default: world:anyone:cdrwa.
    #[arg(long, value_name = "SCHEME:ID:PERMS")]
    acl: Vec<AclArg>,

    /// How long to keep the session of an ephemeral znode.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    hold: Option<Duration>,
}

/// Which kind of znode; also of a create in a multi.
#[derive(Args, Clone, Debug)]
pub(crate) struct Kind {
    /// The kind of znode.
    #[arg(short, long, value_enum, default_value_t = Mode::Persistent)]
    mode: Mode,

    /// For the TTL modes: how long the znode may be childless and unmodified.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    ttl: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Stays until deleted.
    Persistent,
    /// Goes with its session.
    Ephemeral,
    /// Persistent, with a number appended.
    PersistentSequential,
    /// Ephemeral, with a number appended.
    EphemeralSequential,
    /// Goes once its last child has gone.
    Container,
    /// Goes when it was childless and unmodified for --ttl.
    PersistentWithTtl,
    /// The same, with a number appended.
    PersistentSequentialWithTtl,
}

impl Kind {
    pub(crate) fn mode(&self) -> Result<CreateMode, Failure> {
        let ttl = || self.ttl.ok_or_else(|| Failure::Usage("this mode needs --ttl".into()));
        let mode = match self.mode {
            Mode::Persistent => CreateMode::Persistent,
            Mode::Ephemeral => CreateMode::Ephemeral,
            Mode::PersistentSequential => CreateMode::PersistentSequential,
            Mode::EphemeralSequential => CreateMode::EphemeralSequential,
            Mode::Container => CreateMode::Container,
            Mode::PersistentWithTtl => return Ok(CreateMode::PersistentWithTtl(ttl()?)),
            Mode::PersistentSequentialWithTtl => return Ok(CreateMode::PersistentSequentialWithTtl(ttl()?)),
        };
        match self.ttl {
            Some(_) => Err(Failure::Usage("--ttl needs one of the TTL modes".into())),
            None => Ok(mode),
        }
    }

    fn is_ephemeral(&self) -> bool {
        matches!(self.mode, Mode::Ephemeral | Mode::EphemeralSequential)
    }
}

#[derive(Serialize)]
struct CreateOutput {
    path: String,
    stat: StatOutput,
}

impl fmt::Display for CreateOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", plain(&self.path))
    }
}

impl Create {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let options = CreateOptions::new(self.kind.mode()?)
            .parents(self.parents)
            .acl(self.acl.into_iter().map(|entry| entry.0));
        let data = self.value.read()?.unwrap_or_default();
        let client = context.writer().await?;
        let created = context.answer(client.create(self.path, data, options)).await?;
        let printed =
            context.output().result(&CreateOutput { path: created.path, stat: created.stat.into() });
        if !self.kind.is_ephemeral() || context.in_shell {
            return printed;
        }
        // The znode is there, also if nobody could be told its path.
        if let Err(failure) = printed {
            context.output().failure(&failure);
        }
        context.interrupts.are_the_end();
        let held = async {
            match self.hold {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = held => Ok(()),
            state = client.ended() => {
                let message = match state {
                    SessionState::Expired(end) => end.to_string(),
                    _ => "the session has ended".into(),
                };
                Err(Error::new(ErrorKind::SessionExpired, message).into())
            }
        }
    }
}
