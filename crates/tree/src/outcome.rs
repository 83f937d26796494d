use serde::{Deserialize, Serialize};

use crate::{Event, OpError, SessionId, Stat, Zxid};

/// The answer to one operation of a client.
pub type OpResult = Result<Outcome, OpError>;

/// What an operation that was carried out has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A znode was created.
    Created {
        /// Its full path, with the number of a sequential one.
        path: String,
        /// As it was right then.
        stat: Stat,
    },
    /// A znode was deleted.
    Deleted,
    /// Data were replaced.
    DataSet(Stat),
    /// An ACL was replaced.
    AclSet(Stat),
    /// A check of a multi held.
    Checked,
    /// The answers of a multi that was carried out, in order.
    Multi(Vec<Outcome>),
    /// A subtree was deleted: how many znodes.
    TreeDeleted(u64),
    /// A quota was set.
    QuotaSet,
    /// A quota was removed.
    QuotaDeleted,
    /// The session is open.
    SessionOpened,
    /// The session has ended, and how many ephemerals with it.
    SessionEnded(u64),
    /// [`crate::Command::ExpireZnodes`]: how many went.
    ZnodesExpired(u64),
    /// [`crate::Command::Attach`]: the stream has the session.
    SessionAttached,
}

/// What `apply` says of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The command's place in history. For a repeated write: the place of the first time.
    pub zxid: Zxid,
    /// The answer.
    pub result: OpResult,
    /// What changed, in order; empty for a refused or repeated command.
    pub events: Vec<Event>,
    /// There were so many events that they were not kept: whoever watches anything has to read again.
    pub events_dropped: bool,
    /// The session that this command ended.
    pub ended: Option<SessionId>,
    /// The session that this command gave to another stream; its generation is `zxid`.
    pub attached: Option<SessionId>,
}

/// The fate of a numbered write, as `outcome(session, seq)` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was carried out, with this answer, at this place in history.
    Applied {
        /// Where.
        zxid: Zxid,
        /// The answer; an error is an answer too: the write was refused and changed nothing.
        result: OpResult,
    },
    /// It was carried out, and its answer is no longer kept, because the client said that it has it.
    Acknowledged,
    /// It was not carried out and never will be: its session has ended.
    Never,
    /// Not carried out so far; its session is live.
    NotYet,
    /// The session is unknown: it never was, or ended so long ago that it is forgotten.
    Unknown,
}
