//! Log lines do not flood. A line that repeats itself is written once, then with growing pauses and a count; and one place in the
//! code writes a few different lines in a short time, and counts the others.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::time::{Duration, Instant};

/// A line that repeats itself is written again after this, then after twice this, and so on.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// One place writes so many different lines within a window.
const LINES_OF_A_PLACE: u32 = 20;
const WINDOW_MIN: Duration = Duration::from_secs(10);
const WINDOW_MAX: Duration = Duration::from_secs(120);
/// More different lines are not remembered.
const LINES_MAX: usize = 2048;

/// What is written with a line that is let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// So often the same line was held back before.
    pub(crate) repeated: u64,
    /// So many other lines of the same place were held back before.
    pub(crate) left_out: u64,
}

#[derive(Debug)]
struct Repeat {
    said: Instant,
    pause: Duration,
    held: u64,
    line: String,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    length: Duration,
    said: u32,
    held: u64,
    line: String,
}

/// The lines of the recent past. `P`: a place in the code.
#[derive(Debug)]
pub(crate) struct Repeats<P> {
    hasher: RandomState,
    lines: HashMap<(P, u64), Repeat>,
    places: HashMap<P, Window>,
}

impl<P: Clone + Eq + Hash> Repeats<P> {
    pub(crate) fn new() -> Self {
        Repeats { hasher: RandomState::new(), lines: HashMap::new(), places: HashMap::new() }
    }

    /// Whether a line of a place is written now. `None`: it is held back, and counted.
    pub(crate) fn admit(&mut self, place: P, line: &str, now: Instant) -> Option<Held> {
        let key = (place.clone(), self.hasher.hash_one(line));
        if let Some(repeat) = self.lines.get_mut(&key) {
            let since = now.saturating_duration_since(repeat.said);
            if since < repeat.pause {
                if repeat.held == 0 {
                    line.clone_into(&mut repeat.line);
                }
                repeat.held += 1;
                return None;
            }
            let repeated = std::mem::take(&mut repeat.held);
            let is_new = repeated == 0 && since >= PAUSE_MAX.max(repeat.pause * 2);
            repeat.pause = if is_new { PAUSE_MIN } else { (repeat.pause * 2).min(PAUSE_MAX) };
            repeat.said = now;
            return Some(Held { repeated, left_out: 0 });
        }
        let left_out = self.admit_place(place, line, now)?;
        if self.lines.len() >= LINES_MAX {
            self.lines.retain(|_, repeat| repeat.held > 0);
        }
        if self.lines.len() < LINES_MAX {
            let repeat = Repeat { said: now, pause: PAUSE_MIN, held: 0, line: String::new() };
            self.lines.insert(key, repeat);
        }
        Some(Held { repeated: 0, left_out })
    }

    fn admit_place(&mut self, place: P, line: &str, now: Instant) -> Option<u64> {
        let window = self.places.entry(place).or_insert_with(|| Window {
            begun: now,
            length: WINDOW_MIN,
            said: 0,
            held: 0,
            line: String::new(),
        });
        let mut left_out = 0;
        if now.saturating_duration_since(window.begun) >= window.length {
            left_out = window.begin_again(now);
        }
        if window.said >= LINES_OF_A_PLACE {
            window.held += 1;
            line.clone_into(&mut window.line);
            return None;
        }
        window.said += 1;
        Some(left_out)
    }

    /// The lines that were held back and whose pause is over; `all`: those, too, whose pause is not.
    pub(crate) fn due(&mut self, now: Instant, all: bool) -> Vec<(String, Held)> {
        let mut due = Vec::new();
        for repeat in self.lines.values_mut() {
            if repeat.held > 0 && (all || now.saturating_duration_since(repeat.said) >= repeat.pause) {
                let repeated = std::mem::take(&mut repeat.held);
                repeat.pause = (repeat.pause * 2).min(PAUSE_MAX);
                repeat.said = now;
                due.push((std::mem::take(&mut repeat.line), Held { repeated, left_out: 0 }));
            }
        }
        for window in self.places.values_mut() {
            if window.held > 0 && (all || now.saturating_duration_since(window.begun) >= window.length) {
                let line = std::mem::take(&mut window.line);
                // The line itself is one of them.
                let left_out = window.begin_again(now) - 1;
                due.push((line, Held { repeated: 0, left_out }));
            }
        }
        self.lines.retain(|_, repeat| {
            repeat.held > 0 || now.saturating_duration_since(repeat.said) < PAUSE_MAX.max(repeat.pause * 2)
        });
        due
    }
}

impl Window {
    /// Returns how many lines were held back in the last one.
    fn begin_again(&mut self, now: Instant) -> u64 {
        let held = std::mem::take(&mut self.held);
        self.length = if held > 0 { (self.length * 2).min(WINDOW_MAX) } else { WINDOW_MIN };
        (self.begun, self.said) = (now, 0);
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A line every 465 ms for ten minutes is written less and less often, and every one is counted.
    #[test]
    fn repeated_line_is_counted() {
        let start = Instant::now();
        let mut repeats = Repeats::new();
        let (mut written, mut counted) = (Vec::new(), 0);
        for number in 0..1290_u32 {
            let at = seconds(0.465) * number;
            if let Some(held) = repeats.admit(1, "the leader is gone", start + at) {
                written.push(at.as_secs());
                counted += 1 + held.repeated;
            }
        }
        let (last, held) = repeats.due(start + seconds(700.0), true).pop().unwrap();
        assert_eq!(last, "the leader is gone");
        assert_eq!(counted + held.repeated, 1290);
        assert!(written.len() <= 16, "{written:?}");
        assert_eq!(written[0], 0);
        let pauses: Vec<u64> = written.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted_by(|a, b| *b + 2 >= *a), "{pauses:?}");
        assert!(pauses.last() >= Some(&60), "{pauses:?}");
    }

    /// A line that comes once in a while is written each time.
    #[test]
    fn rare_line_is_written() {
        let start = Instant::now();
        let mut repeats = Repeats::new();
        for number in 0..10_u32 {
            let held = repeats.admit(1, "cutting a snapshot", start + seconds(120.0) * number);
            assert_eq!(held, Some(Held::default()), "{number}");
        }
    }

    /// What was held back is written when its pause is over, also if the line does not come again.
    #[test]
    fn last_repetition_is_written() {
        let start = Instant::now();
        let mut repeats = Repeats::new();
        assert!(repeats.admit(1, "a", start).is_some());
        assert!(repeats.admit(1, "a", start + seconds(0.1)).is_none());
        assert!(repeats.admit(2, "a", start + seconds(0.1)).is_some(), "another place");
        assert!(repeats.due(start + seconds(0.5), false).is_empty());
        let due = repeats.due(start + seconds(1.5), false);
        assert_eq!(due, [("a".to_owned(), Held { repeated: 1, left_out: 0 })]);
        assert!(repeats.due(start + seconds(9.0), false).is_empty());
    }

    /// A place that writes other lines each time, such as one with the address of a client, is bounded as well.
    #[test]
    fn different_lines_are_bounded() {
        let start = Instant::now();
        let mut repeats = Repeats::new();
        let (mut written, mut counted) = (0, 0);
        for number in 0..30_000_u32 {
            let at = start + Duration::from_millis(10) * number;
            if let Some(held) = repeats.admit(1, &format!("refused {number}"), at) {
                written += 1;
                counted += 1 + held.left_out;
            }
            for (_, held) in repeats.due(at, false) {
                written += 1;
                counted += 1 + held.left_out;
            }
        }
        for (_, held) in repeats.due(start + seconds(300.0), true) {
            counted += 1 + held.left_out;
        }
        assert_eq!(counted, 30_000);
        assert!(written <= 130, "{written} lines in five minutes");
        assert!(repeats.lines.len() <= LINES_MAX);
    }
}
