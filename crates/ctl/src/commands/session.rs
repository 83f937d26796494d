use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use coordd_client::{Admin, EndReason, SessionInfo, SessionRecord};
use coordd_process::plain;
use futures::TryStreamExt as _;
use serde::Serialize;

use crate::context::Context;
use crate::everybody::{Everybody, Heard, Inquiry, nobody};
use crate::exit::Failure;
use crate::output::time;
use crate::session_id::SessionId;
use crate::table::Table;

/// Lists sessions, ends one, or asks why one ended.
#[derive(Args, Debug)]
pub(crate) struct Session {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Subcommand, Debug)]
enum SessionCommand {
    /// List the live sessions of the ensemble: where the client is, as the node says that it is attached to, the number of its last
    /// write, and its age.
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
    /// To the first node that answered.
    attached_here: bool,
    /// To any node that answered.
    attached: bool,
    client_address: Option<String>,
    age_ms: u64,
}

impl LiveOutput {
    /// `info` is of the node that the session is attached to, or of any node if it is attached to none.
    /// `attached_here`: the session is attached to the first node that answered.
    fn new(info: SessionInfo, attached_here: bool) -> Self {
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
            attached_here,
            attached: info.attached_here,
            client_address: info.client_address,
            age_ms: unix_ms().saturating_sub(info.opened_ms),
        }
    }
}

impl fmt::Display for LiveOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is alive", self.session_id)?;
        writeln!(f, "client          {}", plain(&self.client_name))?;
        writeln!(f, "address         {}", self.address())?;
        writeln!(f, "timeout         {} ms", self.timeout_ms)?;
        writeln!(f, "opened          {} at zxid {}, {} ago", self.opened, self.opened_zxid, self.age())?;
        writeln!(f, "last write      {}", self.last_write_seq)?;
        writeln!(f, "ephemerals      {}", self.ephemerals)?;
        writeln!(f, "unacknowledged  {}", self.unacknowledged)
    }
}

impl LiveOutput {
    fn address(&self) -> String {
        self.client_address.as_ref().map_or_else(|| "-".to_owned(), |address| plain(address).into_owned())
    }

    /// In whole seconds.
    fn age(&self) -> humantime::FormattedDuration {
        humantime::format_duration(Duration::from_secs(self.age_ms / 1000))
    }
}

struct Listed(Vec<LiveOutput>);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table =
            Table::new(["SESSION", "ADDRESS", "AGE", "TIMEOUT", "LAST WRITE", "EPHEMERALS", "CLIENT"]);
        for live in &self.0 {
            table.row([
                live.session_id.to_string(),
                live.address(),
                live.age().to_string(),
                format!("{} ms", live.timeout_ms),
                live.last_write_seq.to_string(),
                live.ephemerals.to_string(),
                live.client_name.clone(),
            ]);
        }
        table.fmt(f)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
            writeln!(f, "detail      {}", plain(&self.detail))?;
        }
        writeln!(f, "client      {}", plain(&self.client_name))?;
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
        let output = context.output();
        match self.command {
            SessionCommand::List => {
                let sessions = live(context).await?;
                match output.is_json() {
                    true => sessions.iter().try_for_each(|session| output.json(session)),
                    false => output.line(Listed(sessions).to_string().trim_end()),
                }
            }
            SessionCommand::Kill { session_id, by } => {
                let ephemerals = context.admin().await?.kill_session(session_id.0, by).await?;
                output.result(&KillOutput { session_id, ephemerals })
            }
            SessionCommand::Why { session_id } => match why(context, session_id).await? {
                (SessionRecord::Live(info), attached_here) => {
                    output.result(&LiveOutput::new(info, attached_here))
                }
                (
                    SessionRecord::Ended {
                        client_name, end, zxid, ended_ms, last_write_seq, silence, ..
                    },
                    _,
                ) => output.result(&EndedOutput {
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

/// Once one node has said which sessions there are, the others only add where clients are.
const GRACE: Duration = Duration::from_secs(1);

/// The live sessions, as the nodes say that they are attached to, in the order of their ids.
async fn live(context: &Context) -> Result<Vec<LiveOutput>, Failure> {
    let inquiry = Inquiry::new(context, Some(GRACE));
    let everybody = Everybody::ask(&inquiry).await?;
    let list = async |admin: Admin, heard: &Heard| {
        let sessions = admin.sessions().inspect_ok(|_| heard.now());
        sessions.try_collect::<Vec<_>>().await
    };
    let answers = inquiry.ask(everybody.endpoints(), list).await;
    let mut failures = everybody.failures();
    let (mut sessions, mut has_answer) = (BTreeMap::<u64, (SessionInfo, bool)>::new(), false);
    for node in answers {
        match node.answer {
            Ok(listed) => {
                for info in listed {
                    let attached_here = info.attached_here && !has_answer;
                    match sessions.entry(info.session_id) {
                        Entry::Vacant(entry) => {
                            entry.insert((info, attached_here));
                        }
                        Entry::Occupied(mut entry) if info.attached_here => entry.get_mut().0 = info,
                        Entry::Occupied(_) => {}
                    }
                }
                has_answer = true;
            }
            Err(error) => failures.push(error),
        }
    }
    match has_answer {
        true => Ok(sessions.into_values().map(|(info, here)| LiveOutput::new(info, here)).collect()),
        false => Err(nobody(failures)),
    }
}

/// Returns the record of a session, and whether the first node that answered has the session attached. The
/// record of a live session is that of the node to which it is attached.
async fn why(context: &Context, session_id: SessionId) -> Result<(SessionRecord, bool), Failure> {
    let record = context.admin().await?.session(session_id.0).await?;
    match &record {
        SessionRecord::Live(info) if !info.attached_here => {}
        _ => return Ok((record, true)),
    }
    let inquiry = Inquiry::new(context, Some(GRACE));
    let everybody = Everybody::ask(&inquiry).await?;
    let ask = async |admin: Admin, _: &Heard| admin.session(session_id.0).await;
    let answers = inquiry.ask(everybody.endpoints(), ask).await;
    let attached = answers.into_iter().find_map(|node| match node.answer {
        Ok(SessionRecord::Live(info)) if info.attached_here => Some(SessionRecord::Live(info)),
        _ => None,
    });
    Ok((attached.unwrap_or(record), false))
}

fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Closed => "closed",
        EndReason::Expired => "expired",
        EndReason::Killed => "killed",
        EndReason::Refused => "refused",
        // Reasons that only the session's own client knows.
        _ => "unknown",
    }
}
