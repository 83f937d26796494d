use serde::{Deserialize, Serialize};

/// Why an operation was refused. Every one is deterministic: each node that applies the command refuses it alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct OpError {
    /// What a program looks at.
    pub kind: ErrorKind,
    /// The path it is about; empty if none.
    pub path: String,
    /// The index of the operation in a multi that failed it; `None` outside a multi.
    pub op_index: Option<u32>,
    /// What a person reads: names the path and the expected and actual values.
    pub message: String,
}

impl OpError {
    /// A refusal outside a multi.
    pub fn new(kind: ErrorKind, path: impl Into<String>, message: impl Into<String>) -> OpError {
        OpError { kind, path: path.into(), op_index: None, message: message.into() }
    }

    pub(crate) fn no_node(path: &str) -> OpError {
        OpError::new(ErrorKind::NoNode, path, format!("no znode {path:?}"))
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
