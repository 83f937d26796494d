use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line for a person to the standard error. The line is lost if it cannot be written.
pub fn say(line: impl Display) {
    // In one piece, so that the lines of several processes do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Writes text to the standard output.
///
/// # Errors
///
/// The text could not be written. A reader that has gone is no error, because it has read what it wanted.
pub fn print(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.to_string().as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
