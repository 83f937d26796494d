use std::fmt;

use coordd_client::{Error, ErrorKind};
use coordd_process::{plain, plain_error};

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
  9   ConnectionLoss, NotServing, Throttled, NoSpace: no node could do it in time, or there is no room on the disks
  10  reading or writing here failed
  11  GrantLost: the lock or leadership was lost, and the command was stopped
  12  NotFree: the lock was not to be had at once, or in the time given
  141 nobody reads the output any more, as with `| head`; nothing is said about it
A command that was ended by a signal: 128 and its number. A command that was run under a lock or a leadership and ended by itself: its own exit code, 128 and the number of the signal
that ended it, 126 if it cannot be executed, 127 if there is none.";

/// What a command that was run has said with its exit code.
pub(crate) fn exit_with(code: u8) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure::Exit(code)) }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The ensemble refused, or was not reached.
    Operation(Error),
    /// The arguments make no sense together.
    Usage(String),
    /// Something on this machine failed.
    Io { what: String, error: std::io::Error },
    /// A lock at this path was not to be had in the time given.
    NotFree(String),
    /// A command that was to run cannot be started; the exit code is a shell's.
    NotStarted { code: u8, message: String },
    /// A command has run, or a signal has ended this program: nothing to say but the exit code.
    Exit(u8),
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>, error: std::io::Error) -> Self {
        Failure::Io { what: what.into(), error }
    }

    /// This program was ended by a signal, with nothing left to tidy up.
    pub(crate) fn ended_by(signal: rustix::process::Signal) -> Self {
        Failure::Exit(u8::try_from(128 + signal.as_raw()).unwrap_or(1))
    }

    /// Nothing to complain about: whoever read the output has gone, or the exit code is that of a command that had its own
    /// say.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Failure::Exit(_)) || self.is_broken_pipe()
    }

    fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Io { error, .. } if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// The name that programs look at.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Failure::Operation(error) => error.kind.name(),
            Failure::Usage(_) => "Usage",
            Failure::Io { .. } => "Io",
            Failure::NotFree(_) => "NotFree",
            Failure::NotStarted { .. } => "NotStarted",
            Failure::Exit(_) => "Exit",
        }
    }

    /// What people read, without the name.
    pub(crate) fn message(&self) -> String {
        match self {
            Failure::Operation(error) => error.message.clone(),
            _ => self.to_string(),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        let error = match self {
            Failure::Operation(error) => error,
            Failure::Usage(_) => return 2,
            // As if by the signal SIGPIPE, which is how others end then.
            Failure::Io { .. } if self.is_broken_pipe() => return 141,
            Failure::Io { .. } => return 10,
            Failure::NotFree(_) => return 12,
            Failure::NotStarted { code, .. } | Failure::Exit(code) => return *code,
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
            ErrorKind::ConnectionLoss | ErrorKind::NotServing | ErrorKind::Throttled | ErrorKind::NoSpace => {
                9
            }
            ErrorKind::GrantLost => 11,
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
            Failure::Operation(error) => f.write_str(&plain_error(&error.to_string())),
            Failure::Usage(message) | Failure::NotStarted { message, .. } => f.write_str(message),
            Failure::NotFree(path) => write!(f, "NotFree: {} was not to be had in time", plain(path)),
            Failure::Exit(code) => write!(f, "exit code {code}"),
            Failure::Io { what, error } => write!(f, "{}: {error}", plain(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B6 and C5: of what others say nothing but the lines of the endpoints breaks a line.
    #[test]
    fn errors_are_printable() {
        let shown = |message: &str| Failure::from(Error::new(ErrorKind::NotServing, message)).to_string();
        assert_eq!(shown("no\nroom\u{1b}[2J"), "NotServing: no\\nroom\\u{1b}[2J");
        assert_eq!(
            shown("none of 2 endpoints could be used:\n  a:1: refused\n  b:1: no \u{202e}leader"),
            "NotServing: none of 2 endpoints could be used:\n  a:1: refused\n  b:1: no \\u{202e}leader"
        );
    }

    /// A reader that has gone ends the program as SIGPIPE ends others, and is not complained about.
    #[test]
    fn broken_pipes_are_silent() {
        let failure = |kind| Failure::io("writing", std::io::Error::from(kind));
        let gone = failure(std::io::ErrorKind::BrokenPipe);
        assert!(gone.is_silent() && gone.exit_code() == 141);
        let full = failure(std::io::ErrorKind::StorageFull);
        assert!(!full.is_silent() && full.exit_code() == 10);
    }
}
