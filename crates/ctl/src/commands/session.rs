use std::fmt;

use clap::{Args, Subcommand};
use coordd_client::{EndReason, SessionInfo, SessionRecord};
use futures::TryStreamExt as _;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::time;
use crate::session_id::SessionId;

/// Lists sessions, ends one, or asks why one ended.
#[derive(Args, Debug)]
pub(crate) struct Session {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Subcommand, Debug)]
enum SessionCommand {
    /// List the live sessions of the ensemble.
    List,
    /// End a session; its ephemerals go with it.
    Kill {
        /// Its id, as `session list` prints it.
        session_id: SessionId,
        /// For the record.
        #[arg(long, default_value = "coordctl")]
        by: String,
    },
    /// Print what is known of a session, live or ended, and why it ended. Ended sessions are kept for an hour.
    Why {
        /// Its id.
        session_id: SessionId,
    },
}

#[derive(Serialize)]
struct LiveOutput {
    session_id: SessionId,
    state: &'static str,
    client_name: String,
    timeout_ms: u64,
    opened: String,
    opened_zxid: u64,
    last_write_seq: u64,
    ephemerals: u64,
    unacknowledged: u64,
    attached_here: bool,
}

impl From<SessionInfo> for LiveOutput {
    fn from(info: SessionInfo) -> Self {
        Self {
            session_id: SessionId(info.session_id),
            state: "live",
            client_name: info.client_name,
            timeout_ms: u64::try_from(info.timeout.as_millis()).unwrap_or(u64::MAX),
            opened: time(info.opened_ms),
            opened_zxid: info.opened_zxid,
            last_write_seq: info.last_write_seq,
            ephemerals: info.ephemerals,
            unacknowledged: info.unacknowledged,
            attached_here: info.attached_here,
        }
    }
}

impl fmt::Display for LiveOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is alive", self.session_id)?;
        writeln!(f, "client          {}", self.client_name)?;
        writeln!(f, "timeout         {} ms", self.timeout_ms)?;
        writeln!(f, "opened          {} at zxid {}", self.opened, self.opened_zxid)?;
        writeln!(f, "last write      {}", self.last_write_seq)?;
        writeln!(f, "ephemerals      {}", self.ephemerals)?;
        writeln!(f, "unacknowledged  {}", self.unacknowledged)
    }
}

#[derive(Serialize)]
struct EndedOutput {
    session_id: SessionId,
    state: &'static str,
    client_name: String,
    reason: &'static str,
    detail: String,
    ended: String,
    zxid: u64,
    last_write_seq: u64,
    /// If it expired.
    silent_ms: Option<u64>,
    /// If it expired: the node it was last heard through, 0 if none.
    last_node: Option<u64>,
}

impl fmt::Display for EndedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} has ended: {}", self.session_id, self.reason)?;
        if !self.detail.is_empty() {
            writeln!(f, "detail      {}", self.detail)?;
        }
        writeln!(f, "client      {}", self.client_name)?;
        writeln!(f, "ended       {} at zxid {}", self.ended, self.zxid)?;
        writeln!(f, "last write  {}", self.last_write_seq)?;
        if let (Some(silent_ms), Some(last_node)) = (self.silent_ms, self.last_node) {
            writeln!(f, "silent      {silent_ms} ms, last heard through node {last_node}")?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct KillOutput {
    session_id: SessionId,
    ephemerals: u64,
}

impl fmt::Display for KillOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} has ended, and {} ephemerals with it", self.session_id, self.ephemerals)
    }
}

impl Session {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let admin = context.admin().await?;
        let output = context.output();
        match self.command {
            SessionCommand::List => {
                let mut sessions = admin.sessions();
                while let Some(info) = sessions.try_next().await? {
                    let live = LiveOutput::from(info);
                    if output.is_json() {
                        output.json(&live)?;
                    } else {
                        let LiveOutput { session_id, opened, timeout_ms, ephemerals, client_name, .. } = live;
                        let session_id = session_id.to_string();
                        output.line(format_args!(
                            "{session_id:<18}  {opened}  {timeout_ms:>6} ms  {ephemerals:>4} ephemerals  {client_name}"
                        ))?;
                    }
                }
                Ok(())
            }
            SessionCommand::Kill { session_id, by } => {
                let ephemerals = admin.kill_session(session_id.0, by).await?;
                output.result(&KillOutput { session_id, ephemerals })
            }
            SessionCommand::Why { session_id } => match admin.session(session_id.0).await? {
                SessionRecord::Live(info) => output.result(&LiveOutput::from(info)),
                SessionRecord::Ended {
                    client_name, end, zxid, ended_ms, last_write_seq, silence, ..
                } => output.result(&EndedOutput {
                    session_id,
                    state: "ended",
                    client_name,
                    reason: reason(end.reason),
                    detail: end.detail,
                    ended: time(ended_ms),
                    zxid,
                    last_write_seq,
                    silent_ms: silence.map(|(time, _)| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                    last_node: silence.map(|(_, node)| node),
                }),
            },
        }
    }
}

fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Closed => "closed",
        EndReason::Expired => "expired",
        EndReason::Killed => "killed",
        EndReason::Refused => "refused",
    }
}
