//! What is said to people beside the result, on the standard error. It is worth nothing against what is being done: a note that
//! cannot be written is lost, and one that cannot be written at once is not waited for.

use std::fmt;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use coordd_process::plain;

/// Says something on the standard error, after the name of the program and in one line.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::notes::say(format_args!($($text)*))
    };
}
pub(crate) use note;

/// For so long a note is waited for, so that it stands before what a command prints that is started next.
const PATIENCE: Duration = Duration::from_millis(200);
/// So many may wait for a standard error that takes nothing; the others are lost.
const WAITING_MAX: usize = 64;

/// A line, and where to say that it is written.
type Line = (String, SyncSender<()>);

/// See [`note!`].
pub(crate) fn say(text: fmt::Arguments<'_>) {
    if let Some(written) = submit(text) {
        // A reader of the standard error that stands still must not hold up a lock or its command.
        let _ = written.recv_timeout(PATIENCE);
    }
}

/// Says the same without waiting until it is written.
pub(crate) fn say_without_waiting(text: fmt::Arguments<'_>) {
    drop(submit(text));
}

/// Hands a line to the thread that writes. Returns where that thread says that it is written; `None` if the
/// line is lost.
fn submit(text: fmt::Arguments<'_>) -> Option<Receiver<()>> {
    static WRITER: OnceLock<Option<SyncSender<Line>>> = OnceLock::new();
    let line = format!("coordctl: {}\n", plain(&text.to_string()));
    let lines = WRITER.get_or_init(start_writer).as_ref()?;
    let (written_tx, written) = sync_channel(1);
    lines.try_send((line, written_tx)).ok()?;
    Some(written)
}

fn start_writer() -> Option<SyncSender<Line>> {
    let (lines_tx, lines): (_, Receiver<Line>) = sync_channel(WAITING_MAX);
    let write = move || {
        for (line, written) in lines {
            let _ = std::io::stderr().write_all(line.as_bytes());
            let _ = written.try_send(());
        }
    };
    std::thread::Builder::new().name("notes".into()).spawn(write).ok()?;
    Some(lines_tx)
}
