//! Log lines on the standard error. Lines that cannot be written are lost and counted; lines that repeat themselves are counted.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata, callsite};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::environment::nearest;
use crate::repeats::{Held, Repeats};
use crate::sink::{LineSink, Sink, StandardError};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    /// For people.
    Human {
        /// With colours.
        ansi: bool,
    },
    /// One JSON object a line.
    Json,
}

/// The log of this process.
pub struct Log {
    lines: Lines<StandardError>,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// How often [`write_held`](Log::write_held) is of use.
    pub const TICK: Duration = Duration::from_secs(1);

    /// Begins the log of this process; called once. `filter` has passed [`check_filter`].
    ///
    /// # Errors
    ///
    /// The filter cannot be used, or there is a log already.
    pub fn begin(filter: &str, form: LogForm) -> Result<Log, String> {
        let lines = Lines::new(StandardError, form);
        // Lines get their time when they are written, so that equal ones are equal.
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let layer = fmt::layer().log_internal_errors(false).with_writer(lines.clone()).without_time();
        let layer = match form {
            LogForm::Human { ansi } => layer.with_ansi(ansi).boxed(),
            LogForm::Json => layer.json().boxed(),
        };
        let begun = tracing_subscriber::registry().with(filter).with(layer).try_init();
        begun.map_err(|error| error.to_string())?;
        Ok(Log { lines, filter: handle })
    }

    /// Replaces the filter.
    ///
    /// # Errors
    ///
    /// The filter cannot be used; the one before stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), String> {
        self.filter.reload(parse(filter)?).map_err(|error| error.to_string())
    }

    /// Writes the lines that were held back and whose pause is over; `all`: all that were held back. For a timer, and for the
    /// end of the process.
    pub fn write_held(&self, all: bool) {
        self.lines.write_held(Instant::now(), all);
    }
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    // The library takes no space between directives.
    let filter: Vec<&str> = filter.split(',').map(str::trim).collect();
    EnvFilter::builder().parse(filter.join(",")).map_err(|error| error.to_string())
}

/// Checks a filter: levels, or `TARGET=LEVEL` with a target that begins with one of `targets`, separated by commas.
///
/// # Errors
///
/// A directive that would be taken for something else, or that no line could ever match; names what may have been meant.
pub fn check_filter(filter: &str, targets: &[&str]) -> Result<(), String> {
    let one_of_levels = "off, error, warn, info, debug and trace";
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    for directive in filter.split(',').map(str::trim) {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, directive),
        };
        if !is_level(level) {
            let meant = |found| format!("{level:?} is no level; did you mean {found}?");
            let otherwise = || match target {
                None if targets.contains(&level.split("::").next().unwrap_or_default()) => {
                    format!("{level:?} has no level: write {level}=LEVEL; levels are {one_of_levels}")
                }
                _ => format!("{level:?} is no level; levels are {one_of_levels}"),
            };
            return Err(nearest(level, LEVELS).map_or_else(otherwise, meant));
        }
        let Some(target) = target else { continue };
        let program = target.split("::").next().unwrap_or_default();
        if !targets.contains(&program) {
            return Err(match nearest(program, targets.iter().copied()) {
                Some(found) => format!("no line has the target {target:?}; did you mean {found}?"),
                None => {
                    format!("no line has the target {target:?}; targets begin with {}", targets.join(", "))
                }
            });
        }
    }
    // What is right by these rules is right for the library, too.
    parse(filter).map(drop)
}

/// A place in the code that writes lines.
type Place = callsite::Identifier;

struct State<S> {
    sink: LineSink<S>,
    repeats: Repeats<Place>,
}

/// Writes lines. Clones write to the same place.
struct Lines<S> {
    form: LogForm,
    state: Arc<Mutex<State<S>>>,
}

impl<S> Clone for Lines<S> {
    fn clone(&self) -> Self {
        Lines { form: self.form, state: self.state.clone() }
    }
}

impl<S: Sink> Lines<S> {
    fn new(sink: S, form: LogForm) -> Self {
        let state = State { sink: LineSink::new(sink), repeats: Repeats::new() };
        Lines { form, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line without a time, or holds it back. `place`: `None` for a line that is written in any case.
    fn take(&self, place: Option<Place>, line: &str, now: Instant) {
        let mut state = self.state();
        let held = match place {
            Some(place) => state.repeats.admit(place, line, now),
            None => Some(Held::default()),
        };
        if let Some(held) = held {
            self.write(&mut state, line, held);
        }
    }

    fn write_held(&self, now: Instant, all: bool) {
        let mut state = self.state();
        for (line, held) in state.repeats.due(now, all) {
            self.write(&mut state, &line, held);
        }
    }

    fn write(&self, state: &mut State<S>, line: &str, held: Held) {
        let line = self.complete(line, held);
        state.sink.write_line(line.as_bytes(), |lost| self.complete(&self.loss(lost), Held::default()));
    }

    /// The line that says that lines were lost.
    fn loss(&self, lost: u64) -> String {
        match self.form {
            LogForm::Human { .. } => {
                format!(" WARN coordd_process: log lines were lost, because nobody took them lines={lost}\n")
            }
            LogForm::Json => format!(
                "{{\"level\":\"WARN\",\"fields\":{{\"message\":\"log lines were lost, because nobody took \
                 them\",\"lines\":{lost}}},\"target\":\"coordd_process\"}}\n"
            ),
        }
    }

    /// A line with its time and with what was held back.
    fn complete(&self, line: &str, held: Held) -> String {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let mut time = String::new();
        // A clock that is out of every range leaves the line without a time.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let counts = [("repeated", held.repeated), ("left_out", held.left_out)];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let mut complete = String::with_capacity(line.len() + 64);
        match self.form {
            LogForm::Human { ansi } => {
                let (dim, plain) = if ansi { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
                // A value with a newline must not look like a line of its own.
                let line = line.replace('\r', "\\r").replace('\n', "\\n");
                let _ = write!(complete, "{dim}{time}{plain} {line}");
                for (name, count) in counts {
                    let _ = write!(complete, " {name}={count}");
                }
            }
            LogForm::Json => {
                let rest = line.strip_prefix('{').and_then(|line| line.strip_suffix('}')).unwrap_or_default();
                let _ = write!(complete, "{{\"timestamp\":\"{time}\",{rest}");
                for (name, count) in counts {
                    let _ = write!(complete, ",\"{name}\":{count}");
                }
                complete.push('}');
            }
        }
        complete.push('\n');
        complete
    }
}

impl<'a, S: Sink + 'a> MakeWriter<'a> for Lines<S> {
    type Writer = LineWriter<'a, S>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter { lines: self, place: None }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        // Whoever asks for more than that wants all of it.
        let is_bounded = *metadata.level() <= Level::INFO;
        LineWriter { lines: self, place: is_bounded.then(|| metadata.callsite()) }
    }
}

/// Takes one line, in one piece.
struct LineWriter<'a, S> {
    lines: &'a Lines<S>,
    place: Option<Place>,
}

impl<S: Sink> io::Write for LineWriter<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.take(self.place.clone(), &String::from_utf8_lossy(bytes), Instant::now());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::fmt;

    use super::*;

    const TARGETS: [&str; 3] = ["coordd_server", "coordd_raft", "openraft"];

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Sink for Kept {
        fn is_ready(&mut self, _wait: Duration) -> bool {
            true
        }

        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(piece);
            Ok(piece.len())
        }
    }

    impl Kept {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    fn log_of(form: LogForm, work: impl FnOnce()) -> (Kept, Lines<Kept>) {
        let kept = Kept::default();
        let lines = Lines::new(kept.clone(), form);
        let builder = fmt().with_writer(lines.clone()).without_time();
        match form {
            LogForm::Human { ansi } => {
                tracing::subscriber::with_default(builder.with_ansi(ansi).finish(), work);
            }
            LogForm::Json => tracing::subscriber::with_default(builder.json().finish(), work),
        }
        (kept, lines)
    }

    /// Every directive has a level that there is, and a target that lines have.
    #[test]
    fn mistyped_filter_is_refused() {
        for good in ["info", "INFO", "info,openraft=error", "warn, coordd_raft::link=debug", "off"] {
            assert_eq!(check_filter(good, &TARGETS), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("inof", "\"inof\" is no level; did you mean info?"),
            ("nonsense=bogus", "\"bogus\" is no level; levels are off, error"),
            ("info,openraft=eror", "did you mean error?"),
            ("openraft", "write openraft=LEVEL"),
            ("coordd_sever=debug", "did you mean coordd_server?"),
            ("nonsense=info", "targets begin with coordd_server, coordd_raft, openraft"),
            ("", "\"\" is no level"),
            ("info,,warn", "\"\" is no level"),
            ("coordd_raft[span]=info", "no line has the target"),
            ("=info", "no line has the target"),
            ("openraft=", "\"\" is no level"),
        ] {
            let said = check_filter(bad, &TARGETS).unwrap_err();
            assert!(said.contains(says), "{bad}: {said}");
        }
    }

    /// A repeated line is there once and counted; in JSON the count is a number, and so are values.
    #[test]
    fn repeated_json_line_is_counted() {
        let (kept, lines) = log_of(LogForm::Json, || {
            for _ in 0..50 {
                tracing::warn!(leader = 1_u64, nobody = None::<u64>, "the leader is gone");
            }
            tracing::info!("another");
        });
        lines.write_held(Instant::now(), true);
        let lines: Vec<serde_json::Value> =
            kept.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0]["fields"], serde_json::json!({"message": "the leader is gone", "leader": 1}));
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(lines[0].get("repeated"), None);
        assert_eq!(lines[2]["repeated"], 49);
    }

    /// A line for people begins with its time, ends with the count, and is one line whatever its values hold.
    #[test]
    fn human_line_is_one_line() {
        let (kept, lines) = log_of(LogForm::Human { ansi: false }, || {
            for _ in 0..3 {
                tracing::info!(name = "a\nb", "a client");
            }
        });
        lines.write_held(Instant::now(), true);
        let lines = kept.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("Z  INFO coordd_process::log::tests: a client name="), "{lines:?}");
        assert!(lines[1].ends_with(" repeated=2"), "{lines:?}");
    }

    /// Debug lines were asked for, and are all there.
    #[test]
    fn debug_lines_are_all_written() {
        let kept = Kept::default();
        let lines = Lines::new(kept.clone(), LogForm::Human { ansi: false });
        let subscriber = fmt().with_max_level(Level::DEBUG).with_writer(lines).without_time().finish();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..50 {
                tracing::debug!("the same");
            }
        });
        assert_eq!(kept.lines().len(), 50);
    }

    /// The line about lost lines is as well formed as any other.
    #[test]
    fn loss_is_a_line() {
        let json = Lines::new(Kept::default(), LogForm::Json);
        let line = json.complete(&json.loss(7), Held::default());
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["fields"]["lines"], 7);
    }
}
