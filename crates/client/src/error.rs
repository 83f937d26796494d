use std::fmt;
use std::time::Duration;

/// Why an operation failed.
///
/// What a program looks at is [`kind`](Error::kind); the rest is for people, logs and recovery. Two errors are equal
/// if all their fields are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What went wrong, under ZooKeeper's name where it has one.
    pub kind: ErrorKind,
    /// What a person reads: names the path and the expected and actual values.
    pub message: String,
    /// The path it is about; empty if none.
    pub path: String,
    /// The index of the operation in a multi that failed it; `None` outside a multi.
    pub op_index: Option<u32>,
    /// For [`ErrorKind::Throttled`]: when to try again.
    pub retry_after: Option<Duration>,
    /// For a write whose session ended, or whose caller gave up, before its answer arrived: its number, to
    /// ask [`Client::outcome`](crate::Client::outcome) for its fate.
    pub write_seq: Option<u64>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such znode; for a create: no such parent.
    NoNode,
    /// There is one already.
    NodeExists,
    /// The znode has another version than the request names.
    BadVersion,
    /// The znode has children.
    NotEmpty,
    /// The parent is ephemeral.
    NoChildrenForEphemerals,
    /// The ACL does not allow it.
    NoAuth,
    /// The ACL cannot be stored.
    InvalidAcl,
    /// An argument is wrong or over a limit.
    BadArguments,
    /// The data of a znode are not what a recipe keeps there: somebody else wrote them.
    MarshallingError,
    /// A hard quota would be exceeded.
    QuotaExceeded,
    /// The session has ended, and not by [`Client::close`](crate::Client::close).
    SessionExpired,
    /// The session was closed by this client.
    SessionClosed,
    /// No such session.
    NoSession,
    /// A guard of the write does not hold: the grant is gone, or another's.
    GuardFailed,
    /// An epoch check of a multi does not hold.
    BadEpoch,
    /// The subtree has another number of znodes than expected.
    CountMismatch,
    /// A numbered write came out of order and was not executed. The SDK handles this itself.
    SequenceGap,
    /// Too many answers are not acknowledged; the write was not executed. The SDK handles this itself.
    TooManyUnacknowledged,
    /// A password or credential is wrong.
    AuthFailed,
    /// The node is starting, stopping, cut off, or behind what the client has seen.
    NotServing,
    /// A limit of the node is reached; the message names it.
    Throttled,
    /// The disks of the ensemble are almost full: writes that may make something larger are refused until there is room;
    /// deletes, reads and sessions go on.
    NoSpace,
    /// A limit whose use depends on the tree would be exceeded: a subtree that is too large for one step, too many ephemerals
    /// of one session, too many quotas or ACLs. The message names it and the remedy.
    LimitExceeded,
    /// The write may or may not have taken effect. A [`Client`](crate::Client)'s writes never fail so.
    OutcomeUnknown,
    /// A frame or message breaks the protocol, or the node answered with something that is not an answer.
    Protocol,
    /// The node belongs to another ensemble than the request, or to the same one after it was restored from a
    /// backup. A session that meets this ends.
    OtherLineage,
    /// No watch of this name.
    NoWatcher,
    /// Another connection has attached to the session. The SDK handles this itself.
    SessionMoved,
    /// The call was not answered in its time. A write may have taken effect, or still will:
    /// [`Error::write_seq`] is its number.
    DeadlineExceeded,
    /// No node holds the session at the moment, and the call was not to wait for one. Of a write that was
    /// under way [`Error::write_seq`] is the number; without one nothing was sent.
    Suspended,
    /// No node could be reached in the time given.
    ConnectionLoss,
    /// The grant of a recipe (a lock, a leadership, a claim) is gone, or its holder can no longer be sure of it; decided
    /// here, before anything was sent.
    GrantLost,
    /// The watcher did not read its events for so long that its buffer is full; it was ended.
    WatcherLagged,
}

impl ErrorKind {
    /// The name as ZooKeeper writes it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::NoNode => "NoNode",
            ErrorKind::NodeExists => "NodeExists",
            ErrorKind::BadVersion => "BadVersion",
            ErrorKind::NotEmpty => "NotEmpty",
            ErrorKind::NoChildrenForEphemerals => "NoChildrenForEphemerals",
            ErrorKind::NoAuth => "NoAuth",
            ErrorKind::InvalidAcl => "InvalidAcl",
            ErrorKind::BadArguments => "BadArguments",
            ErrorKind::MarshallingError => "MarshallingError",
            ErrorKind::QuotaExceeded => "QuotaExceeded",
            ErrorKind::SessionExpired => "SessionExpired",
            ErrorKind::SessionClosed => "SessionClosed",
            ErrorKind::NoSession => "NoSession",
            ErrorKind::GuardFailed => "GuardFailed",
            ErrorKind::BadEpoch => "BadEpoch",
            ErrorKind::CountMismatch => "CountMismatch",
            ErrorKind::SequenceGap => "SequenceGap",
            ErrorKind::TooManyUnacknowledged => "TooManyUnacknowledged",
            ErrorKind::AuthFailed => "AuthFailed",
            ErrorKind::NotServing => "NotServing",
            ErrorKind::Throttled => "Throttled",
            ErrorKind::NoSpace => "NoSpace",
            ErrorKind::LimitExceeded => "LimitExceeded",
            ErrorKind::OutcomeUnknown => "OutcomeUnknown",
            ErrorKind::Protocol => "Protocol",
            ErrorKind::OtherLineage => "OtherLineage",
            ErrorKind::NoWatcher => "NoWatcher",
            ErrorKind::SessionMoved => "SessionMoved",
            ErrorKind::DeadlineExceeded => "DeadlineExceeded",
            ErrorKind::Suspended => "Suspended",
            ErrorKind::ConnectionLoss => "ConnectionLoss",
            ErrorKind::GrantLost => "GrantLost",
            ErrorKind::WatcherLagged => "WatcherLagged",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Error {
    /// An error about no path in particular. For programs that report their own failures under these names.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message, path: String::new(), op_index: None, retry_after: None, write_seq: None }
    }

    /// Nothing was changed, and the same request may succeed later or on another node. A request of a
    /// [`Client`](crate::Client) has been tried again already by the time it fails, within its session's life.
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            // The node refused before it did anything.
            ErrorKind::NotServing | ErrorKind::Throttled | ErrorKind::NoSpace => true,
            // Refused by the state machine without being executed.
            ErrorKind::SequenceGap | ErrorKind::TooManyUnacknowledged => true,
            // Only calls without a session fail so, and the calls without a session that change something
            // (killing a session) do no harm twice.
            ErrorKind::ConnectionLoss => true,
            // The events are gone from the buffer, but a new watcher can be made at once.
            ErrorKind::WatcherLagged => true,
            // A read, or nothing was sent. A write stays queued and takes effect once; repeating it could do
            // it twice.
            ErrorKind::DeadlineExceeded | ErrorKind::Suspended => self.write_seq.is_none(),
            // The fate of the write is not known: repeating it could do it twice.
            ErrorKind::OutcomeUnknown => false,
            // Answers: they stay true until somebody changes the tree.
            ErrorKind::NoNode
            | ErrorKind::NodeExists
            | ErrorKind::LimitExceeded
            | ErrorKind::BadVersion
            | ErrorKind::NotEmpty
            | ErrorKind::NoChildrenForEphemerals
            | ErrorKind::NoAuth
            | ErrorKind::InvalidAcl
            | ErrorKind::BadArguments
            | ErrorKind::MarshallingError
            | ErrorKind::QuotaExceeded
            | ErrorKind::GuardFailed
            | ErrorKind::BadEpoch
            | ErrorKind::CountMismatch
            | ErrorKind::NoSession
            | ErrorKind::OtherLineage
            | ErrorKind::NoWatcher
            | ErrorKind::GrantLost => false,
            // The session is over, or this client and the server do not understand each other.
            ErrorKind::SessionExpired
            | ErrorKind::SessionClosed
            | ErrorKind::SessionMoved
            | ErrorKind::AuthFailed
            | ErrorKind::Protocol => false,
        }
    }

    /// The session is over: every later call of this client fails too, and a new [`Client`](crate::Client) is needed.
    pub fn is_terminal(&self) -> bool {
        matches!(self.kind, ErrorKind::SessionExpired | ErrorKind::SessionClosed)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if !self.path.is_empty() && !self.message.contains(&self.path) {
            write!(f, " ({})", self.path)?;
        }
        if let Some(index) = self.op_index {
            write!(f, " (operation {index})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path_once() {
        let error = Error { path: "/a".into(), ..Error::new(ErrorKind::NoNode, "no znode /a") };
        assert_eq!(error.to_string(), "NoNode: no znode /a");
        let error = Error { path: "/a".into(), ..Error::new(ErrorKind::NoNode, "not there") };
        assert_eq!(error.to_string(), "NoNode: not there (/a)");
    }

    #[test]
    fn the_end_of_the_session_is_terminal_and_not_retryable() {
        for kind in [ErrorKind::SessionExpired, ErrorKind::SessionClosed] {
            let error = Error::new(kind, "");
            assert!(error.is_terminal() && !error.is_retryable());
        }
        let refused = Error::new(ErrorKind::BadVersion, "");
        assert!(!refused.is_terminal() && !refused.is_retryable());
        let busy = Error::new(ErrorKind::Throttled, "");
        assert!(!busy.is_terminal() && busy.is_retryable());
    }
}
