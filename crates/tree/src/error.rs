use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Detail, LimitName};

/// Why an operation was refused. Every one is deterministic: each node that applies the command refuses it alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpError {
    /// What a program looks at.
    pub kind: ErrorKind,
    /// The path it is about; empty if none.
    pub path: String,
    /// The index of the operation in a multi that failed it; `None` outside a multi.
    pub op_index: Option<u32>,
    /// The expected and actual values.
    pub detail: Detail,
}

impl OpError {
    /// A refusal outside a multi.
    pub fn new(kind: ErrorKind, path: impl Into<String>, detail: Detail) -> OpError {
        OpError { kind, path: path.into(), op_index: None, detail }
    }

    /// What a person reads: names the path and the expected and actual values.
    pub fn message(&self) -> String {
        Message(self).to_string()
    }

    pub(crate) fn no_node(path: &str) -> OpError {
        OpError::new(ErrorKind::NoNode, path, Detail::NoZnode)
    }

    /// A refusal for want of room under a limit whose use depends on the tree.
    pub(crate) fn limit(path: &str, limit: LimitName, max: u64, actual: u64) -> OpError {
        OpError::new(ErrorKind::LimitExceeded, path, Detail::Limit { limit, max, actual })
    }
}

struct Message<'a>(&'a OpError);

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.detail.fmt(&self.0.path, f)
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, Message(self))
    }
}

impl std::error::Error for OpError {}

/// A refusal with its sentence: what a node puts into its log for a write that it refuses at the door, and what was recorded
/// under rules 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What a program looks at.
    pub kind: ErrorKind,
    /// The path it is about; empty if none.
    pub path: String,
    /// The index of the operation in a multi that failed it; `None` outside a multi.
    pub op_index: Option<u32>,
    /// What a person reads.
    pub message: String,
}

impl From<Refusal> for OpError {
    fn from(refusal: Refusal) -> OpError {
        let Refusal { kind, path, op_index, message } = refusal;
        OpError { kind, path, op_index, detail: Detail::Text(message) }
    }
}

impl From<&OpError> for Refusal {
    fn from(error: &OpError) -> Refusal {
        let OpError { kind, path, op_index, .. } = error;
        Refusal { kind: *kind, path: path.clone(), op_index: *op_index, message: error.message() }
    }
}

/// The kinds of refusal, under ZooKeeper's names where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum ErrorKind {
    /// There is no such znode (for a create: no such parent).
    #[error("NoNode")]
    NoNode,
    /// There is one already.
    #[error("NodeExists")]
    NodeExists,
    /// The znode has another version.
    #[error("BadVersion")]
    BadVersion,
    /// The znode has children.
    #[error("NotEmpty")]
    NotEmpty,
    /// The parent is ephemeral.
    #[error("NoChildrenForEphemerals")]
    NoChildrenForEphemerals,
    /// The ACL does not allow it.
    #[error("NoAuth")]
    NoAuth,
    /// The ACL cannot be stored: empty, an unknown scheme, a malformed id, or `auth` without an identity.
    #[error("InvalidAcl")]
    InvalidAcl,
    /// An argument is wrong: a path, a TTL, a limit, a multi without operations.
    #[error("BadArguments")]
    BadArguments,
    /// A hard quota would be exceeded.
    #[error("QuotaExceeded")]
    QuotaExceeded,
    /// The session has ended.
    #[error("SessionExpired")]
    SessionExpired,
    /// No such session was ever open, or it is forgotten.
    #[error("NoSession")]
    NoSession,
    /// A guard of the write does not hold: the grant is gone, or another's.
    #[error("GuardFailed")]
    GuardFailed,
    /// An epoch check of a multi does not hold.
    #[error("BadEpoch")]
    BadEpoch,
    /// The subtree has another number of znodes than expected.
    #[error("CountMismatch")]
    CountMismatch,
    /// A write came out of its session's order; it was not executed.
    #[error("SequenceGap")]
    SequenceGap,
    /// The client has too many answers outstanding that it has not acknowledged; the write was not executed.
    #[error("TooManyUnacknowledged")]
    TooManyUnacknowledged,
    /// The node that took the write refused it for want of room on the disks: it would have made something larger.
    #[error("NoSpace")]
    NoSpace,
    /// A limit whose use depends on the tree would be exceeded; the write changed nothing.
    #[error("LimitExceeded")]
    LimitExceeded,
    /// A later stream has attached to the session; the write was not executed, and its number is free.
    #[error("SessionMoved")]
    SessionMoved,
}

/// Bytes that are not what they should be. For an entry of the log this is fatal: the node must stop.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a version this one does not know.
    #[error("{what} has format version {found}; this build knows up to {known}")]
    Version {
        /// What was read.
        what: &'static str,
        /// The version it says.
        found: u8,
        /// The newest one known.
        known: u8,
    },
    /// An entry that follows newer rules than this build knows.
    #[error("an entry follows rules {found}; this build knows them up to {known}: start a newer build")]
    Rules {
        /// The rules that it says.
        found: u32,
        /// The newest ones known.
        known: u32,
    },
    /// Not decodable.
    #[error("{what} cannot be decoded: {cause}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What the decoder said.
        cause: String,
    },
    /// Decodable, but not consistent in itself.
    #[error("{what} is not consistent: {cause}")]
    Inconsistent {
        /// What was read.
        what: &'static str,
        /// What does not fit.
        cause: String,
    },
}

impl DecodeError {
    pub(crate) fn malformed(what: &'static str, cause: impl ToString) -> DecodeError {
        DecodeError::Malformed { what, cause: cause.to_string() }
    }

    pub(crate) fn inconsistent(what: &'static str, cause: impl ToString) -> DecodeError {
        DecodeError::Inconsistent { what, cause: cause.to_string() }
    }
}
