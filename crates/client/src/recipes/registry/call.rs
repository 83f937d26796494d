use std::time::Duration;

use crate::Error;

/// How one call is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    pub(crate) key: Option<String>,
    pub(crate) idempotent: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait: bool,
}

impl CallOptions {
    /// No key, not idempotent, the timeout of the service's configuration, and no waiting for an instance.
    pub fn new() -> Self {
        Self::default()
    }

    /// What consistent hashing hashes, and for what a sticky choice is remembered.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Doing it twice is as good as doing it once: the call may be tried again, once, on another instance.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// How long the call may take, a retry included; else the service's configuration says it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Where nobody can be called, wait for somebody until the timeout, instead of failing at once: bridges the time in
    /// which a leader is elected.
    #[must_use]
    pub fn wait_for_instance(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }
}

/// Why a call of a service failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody could be called. Nothing was sent.
    #[error("{service:?} cannot be called: {reason}")]
    Unavailable {
        /// The service.
        service: String,
        /// Why nobody could.
        reason: String,
    },
    /// No connection to the instance. Nothing was sent.
    #[error("no connection to {instance:?}: {reason}")]
    NotSent {
        /// The instance.
        instance: String,
        /// What the network said.
        reason: String,
    },
    /// The instance did not answer in time; it may have done what was asked.
    #[error("{instance:?} did not answer within {after:?}")]
    TimedOut {
        /// The instance.
        instance: String,
        /// How long it was given.
        after: Duration,
    },
    /// The connection broke, or the instance answered that it cannot work; it may have done what was asked.
    #[error("the call of {instance:?} broke: {reason}")]
    Broken {
        /// The instance.
        instance: String,
        /// What was seen of it.
        reason: String,
    },
    /// The service answered, with an error.
    #[error("{instance:?} answered {status}: {message}")]
    Refused {
        /// The instance.
        instance: String,
        /// The HTTP status.
        status: u16,
        /// What the service said.
        message: String,
    },
    /// The coordination service could not be asked.
    #[error(transparent)]
    Coordination(#[from] Error),
}

impl CallError {
    /// Nothing was sent: the call did not take effect, and can be made again in any case.
    pub fn is_unsent(&self) -> bool {
        matches!(self, CallError::Unavailable { .. } | CallError::NotSent { .. } | CallError::Coordination(_))
    }

    /// The instance is to blame, not the call: its circuit breaker counts it.
    pub(crate) fn blames_instance(&self) -> bool {
        matches!(self, CallError::NotSent { .. } | CallError::TimedOut { .. } | CallError::Broken { .. })
    }
}

/// Whether a call that failed so may be made again, on another instance.
pub(crate) fn may_retry(error: &CallError, idempotent: bool) -> bool {
    match error {
        CallError::NotSent { .. } => true,
        CallError::TimedOut { .. } | CallError::Broken { .. } => idempotent,
        CallError::Unavailable { .. } | CallError::Refused { .. } | CallError::Coordination(_) => false,
    }
}

/// An error and what caused it, in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_sent_is_sent_again_unless_it_is_idempotent() {
        let instance = || "a".to_owned();
        let errors = [
            (CallError::NotSent { instance: instance(), reason: String::new() }, true, true),
            (CallError::TimedOut { instance: instance(), after: Duration::ZERO }, false, true),
            (CallError::Broken { instance: instance(), reason: String::new() }, false, true),
            (CallError::Refused { instance: instance(), status: 422, message: String::new() }, false, false),
            (CallError::Unavailable { service: "s".into(), reason: String::new() }, false, false),
        ];
        for (error, once, idempotent) in errors {
            assert_eq!((may_retry(&error, false), may_retry(&error, true)), (once, idempotent), "{error}");
        }
    }
}
