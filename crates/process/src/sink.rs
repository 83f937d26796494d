//! The place that log lines are written to, which may be full, slow, or gone.

use std::io::{self, Write as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// A pipe takes so much in one piece when it is writable at all.
const PIECE_BYTES: usize = 4096;
/// How long a line waits for a reader that was not slow so far.
const PATIENCE: Duration = Duration::from_millis(5);

/// Where bytes go.
pub(crate) trait Sink: Send {
    /// Whether a piece can be written now, or within `wait`.
    fn is_ready(&mut self, wait: Duration) -> bool;

    /// Writes a piece, or a part of it.
    fn write(&mut self, piece: &[u8]) -> io::Result<usize>;
}

/// The standard error.
pub(crate) struct StandardError;

impl Sink for StandardError {
    fn is_ready(&mut self, wait: Duration) -> bool {
        let stderr = io::stderr();
        let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
        let wait = Timespec::try_from(wait).ok();
        match retry_on_intr(|| poll(&mut asked, wait.as_ref())) {
            // An error is found by the write.
            Ok(_) => !asked[0].revents().is_empty(),
            Err(_) => true,
        }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write(piece)
    }
}

/// Writes whole lines to a sink, and counts those that are lost.
pub(crate) struct LineSink<S> {
    sink: S,
    /// The reader of the last line was too slow: nobody waits for it again before it has read.
    is_stalled: bool,
    /// A part of a line was written.
    is_torn: bool,
    lost: u64,
}

impl<S: Sink> LineSink<S> {
    pub(crate) fn new(sink: S) -> Self {
        LineSink { sink, is_stalled: false, is_torn: false, lost: 0 }
    }

    /// Writes a line, which ends with a newline. If lines were lost before it, `note` says first how many.
    pub(crate) fn write_line(&mut self, line: &[u8], note: impl FnOnce(u64) -> String) {
        if self.lost > 0 {
            let note = note(self.lost);
            if !self.write_all(note.as_bytes()) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.write_all(line) {
            self.lost += 1;
        }
    }

    fn write_all(&mut self, line: &[u8]) -> bool {
        let mut written = 0;
        if self.is_torn {
            match self.write_some(b"\n") {
                true => self.is_torn = false,
                false => return false,
            }
        }
        for piece in line.chunks(PIECE_BYTES) {
            if !self.write_some(piece) {
                self.is_torn |= written > 0;
                return false;
            }
            written += piece.len();
        }
        true
    }

    fn write_some(&mut self, mut piece: &[u8]) -> bool {
        let whole = piece.len();
        while !piece.is_empty() {
            let wait = if self.is_stalled { Duration::ZERO } else { PATIENCE };
            let is_ready = self.sink.is_ready(wait);
            self.is_stalled = !is_ready;
            let written = match is_ready {
                true => self.sink.write(piece),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
            match written {
                Ok(written @ 1..) => piece = piece.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.is_torn |= piece.len() < whole;
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then none before it is given more room.
    #[derive(Default)]
    struct Pipe {
        taken: Vec<u8>,
        room: usize,
        waited: Duration,
        is_broken: bool,
    }

    impl Sink for &mut Pipe {
        fn is_ready(&mut self, wait: Duration) -> bool {
            if self.room == 0 {
                self.waited += wait;
            }
            self.room > 0 || self.is_broken
        }

        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            if self.is_broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let some = piece.len().min(self.room);
            self.room -= some;
            self.taken.extend_from_slice(&piece[..some]);
            Ok(some)
        }
    }

    fn note(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    /// A reader that does not read costs a moment once, and learns later how many lines it has missed.
    #[test]
    fn stalled_reader_loses_lines() {
        let mut pipe = Pipe { room: 7, ..Pipe::default() };
        let mut sink = LineSink::new(&mut pipe);
        for _ in 0..100 {
            sink.write_line(b"line\n", note);
        }
        assert_eq!(sink.sink.waited, PATIENCE);
        sink.sink.room = 100;
        sink.write_line(b"last\n", note);
        assert_eq!(String::from_utf8(pipe.taken).unwrap(), "line\nli\n99 lost\nlast\n");
    }

    /// A pipe without a reader, and a disk without room, lose lines and nothing else.
    #[test]
    fn failed_writes_are_counted() {
        let mut pipe = Pipe { is_broken: true, ..Pipe::default() };
        let mut sink = LineSink::new(&mut pipe);
        sink.write_line(b"one\n", note);
        sink.write_line(b"two\n", note);
        (sink.sink.is_broken, sink.sink.room) = (false, 100);
        sink.write_line(b"three\n", note);
        assert_eq!(String::from_utf8(pipe.taken).unwrap(), "2 lost\nthree\n");
    }
}
