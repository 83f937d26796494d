use super::state::EndReason;
use crate::{Error, ErrorKind};

/// What it means for a session that a node does not take it. This is the only place that decides whether another attempt can
/// help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The session has ended, for every node.
    Ended(EndReason),
    /// No node will take this client: its credentials are wrong.
    Everywhere,
    /// This node will not take it, however often it is asked. One with other limits, or of another version, may.
    Here,
    /// Another attempt can help, here or elsewhere.
    Passing,
}

impl Refusal {
    /// The meaning of an error that answers an attach.
    pub(super) fn of(error: &Error) -> Self {
        match error.kind {
            ErrorKind::SessionExpired | ErrorKind::NoSession => Refusal::Ended(EndReason::Expired),
            // Another endpoint may still be of the session's own ensemble.
            ErrorKind::OtherLineage => Refusal::Here,
            // The password was right when the session was opened: this is about the added credentials.
            ErrorKind::AuthFailed | ErrorKind::NoAuth => Refusal::Everywhere,
            // A limit that goes away again comes with a time to wait; one that stays does not.
            ErrorKind::Throttled if error.retry_after.is_none() => Refusal::Here,
            ErrorKind::BadArguments | ErrorKind::Protocol | ErrorKind::InvalidAcl => Refusal::Here,
            ErrorKind::Throttled
            | ErrorKind::NotServing
            | ErrorKind::ConnectionLoss
            | ErrorKind::NoSpace
            | ErrorKind::OutcomeUnknown
            | ErrorKind::SessionMoved
            | ErrorKind::TooManyUnacknowledged
            | ErrorKind::SequenceGap => Refusal::Passing,
            // Answers to operations: a node that gives them to an attach does not speak this protocol.
            ErrorKind::NoNode
            | ErrorKind::NodeExists
            | ErrorKind::BadVersion
            | ErrorKind::NotEmpty
            | ErrorKind::NoChildrenForEphemerals
            | ErrorKind::MarshallingError
            | ErrorKind::QuotaExceeded
            | ErrorKind::LimitExceeded
            | ErrorKind::SessionClosed
            | ErrorKind::GuardFailed
            | ErrorKind::BadEpoch
            | ErrorKind::CountMismatch
            | ErrorKind::NoWatcher
            | ErrorKind::GrantLost
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Suspended
            | ErrorKind::WatcherLagged => Refusal::Here,
        }
    }

    /// The meaning of an error that ends a stream which was attached. What was sent on it is sent again on the next one, so what
    /// breaks the protocol once breaks it every time.
    pub(super) fn of_stream(error: &Error) -> Self {
        match error.kind {
            ErrorKind::Protocol | ErrorKind::AuthFailed => Refusal::Everywhere,
            _ => Refusal::Passing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn limits_that_stay_are_refusals() {
        let stays = Error::new(ErrorKind::Throttled, "60000 watches to resume; at most 50000");
        assert_eq!(Refusal::of(&stays), Refusal::Here);
        let passes = Error { retry_after: Some(Duration::from_millis(100)), ..stays };
        assert_eq!(Refusal::of(&passes), Refusal::Passing);
        for kind in [ErrorKind::NotServing, ErrorKind::ConnectionLoss, ErrorKind::SessionMoved] {
            assert_eq!(Refusal::of(&Error::new(kind, "")), Refusal::Passing);
        }
        for kind in [ErrorKind::SessionExpired, ErrorKind::NoSession] {
            assert!(matches!(Refusal::of(&Error::new(kind, "")), Refusal::Ended(_)));
        }
        assert_eq!(Refusal::of(&Error::new(ErrorKind::AuthFailed, "")), Refusal::Everywhere);
        assert_eq!(Refusal::of_stream(&Error::new(ErrorKind::Protocol, "")), Refusal::Everywhere);
        assert_eq!(Refusal::of_stream(&Error::new(ErrorKind::Throttled, "")), Refusal::Passing);
    }
}
