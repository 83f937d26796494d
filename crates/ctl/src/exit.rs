use std::fmt;

use coordd_client::{Error, ErrorKind};

/// The exit codes, as `--help` and the manual page list them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   refused for another reason than those below
  2   the command line or an argument is wrong
  3   NoNode: there is no such znode
  4   NodeExists: there is one already
  5   BadVersion, BadEpoch, GuardFailed, CountMismatch: a condition does not hold
  6   NotEmpty: the znode has children
  7   NoAuth, AuthFailed: not allowed
  8   SessionExpired, SessionClosed, NoSession: the session has ended, or there is none
  9   ConnectionLoss, NotServing, Throttled: no node could do it in time
  10  reading or writing here failed";

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The ensemble refused, or was not reached.
    Operation(Error),
    /// The arguments make no sense together.
    Usage(String),
    /// Something on this machine failed.
    Io { what: String, error: std::io::Error },
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>, error: std::io::Error) -> Self {
        Failure::Io { what: what.into(), error }
    }

    /// Whoever read the output has gone: nothing to complain about.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Io { error, .. } if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// The name that programs look at.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Failure::Operation(error) => error.kind.name(),
            Failure::Usage(_) => "Usage",
            Failure::Io { .. } => "Io",
        }
    }

    /// What people read, without the name.
    pub(crate) fn message(&self) -> String {
        match self {
            Failure::Operation(error) => error.message.clone(),
            Failure::Usage(_) | Failure::Io { .. } => self.to_string(),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        let error = match self {
            Failure::Operation(error) => error,
            Failure::Usage(_) => return 2,
            Failure::Io { .. } => return 10,
        };
        match error.kind {
            ErrorKind::BadArguments | ErrorKind::InvalidAcl => 2,
            ErrorKind::NoNode => 3,
            ErrorKind::NodeExists => 4,
            ErrorKind::BadVersion
            | ErrorKind::BadEpoch
            | ErrorKind::GuardFailed
            | ErrorKind::CountMismatch => 5,
            ErrorKind::NotEmpty => 6,
            ErrorKind::NoAuth | ErrorKind::AuthFailed => 7,
            ErrorKind::SessionExpired | ErrorKind::SessionClosed | ErrorKind::NoSession => 8,
            ErrorKind::ConnectionLoss | ErrorKind::NotServing | ErrorKind::Throttled => 9,
            _ => 1,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Operation(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Operation(error) => error.fmt(f),
            Failure::Usage(message) => f.write_str(message),
            Failure::Io { what, error } => write!(f, "{what}: {error}"),
        }
    }
}
