use std::fmt;
use std::sync::Arc;

/// Where a session stands.
///
/// ```text
///   Connecting ──► Connected ◄──► Suspended
///       │              │              │
///       └──────────────┴──────┬───────┘
///                     Expired or Closed (terminal)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// No node has taken the session yet.
    Connecting,
    /// Attached to a node.
    Connected {
        /// The node.
        node_id: u64,
        /// Where it was reached.
        address: Arc<str>,
    },
    /// The connection is lost. The session may be alive: requests are kept and sent to the next node that takes it.
    /// A client that is cut off cannot know whether its session has ended meanwhile; it learns that when it reaches
    /// a node again. Who must stop working when in doubt asks
    /// [`Client::suspended_for`](crate::Client::suspended_for).
    Suspended,
    /// The session has ended, its ephemerals are gone, nothing more will succeed. Terminal.
    Expired(SessionEnd),
    /// This client closed the session. Terminal.
    Closed,
}

impl SessionState {
    /// No other state follows.
    pub fn is_terminal(&self) -> bool {
        matches!(self, SessionState::Expired(_) | SessionState::Closed)
    }

    /// Attached to a node.
    pub fn is_connected(&self) -> bool {
        matches!(self, SessionState::Connected { .. })
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Why.
    pub reason: EndReason,
    /// The reason in words; the server's, where it gave one.
    pub detail: String,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// It was closed.
    Closed,
    /// It was silent for its timeout.
    Expired,
    /// An operator ended it.
    Killed,
    /// The server does not take this client: wrong credentials, a limit, or a breach of the protocol.
    Refused,
    /// The nodes at the endpoints belong to another ensemble than the session, or to one that was restored
    /// from a backup.
    OtherEnsemble,
    /// This client cannot keep it any longer, because the runtime on which it was connected was shut down. At
    /// the server it expires by itself.
    Abandoned,
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            EndReason::Closed => "closed",
            EndReason::Expired => "expired",
            EndReason::Killed => "killed",
            EndReason::Refused => "refused",
            EndReason::OtherEnsemble => "the ensemble is another one",
            EndReason::Abandoned => "abandoned",
        };
        f.write_str(reason)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}
