use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use crate::printable::plain_lines;
use crate::sink::{Sink as _, StandardError};

/// How long a line waits for somebody who reads.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes a line for a person to the standard error, with what a terminal would obey escaped, except
/// newlines. The line is lost if it cannot be written: the disk is full, nobody reads, or whoever reads
/// stands still.
pub fn say(line: impl Display) {
    if StandardError.is_ready(PATIENCE) {
        // In one piece, so that the lines of several processes do not mix.
        let _ = StandardError.write(format!("{}\n", plain_lines(&line.to_string())).as_bytes());
    }
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
