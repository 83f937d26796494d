use std::collections::BTreeMap;
use std::time::Duration;

use coordd_client::ErrorKind;
use hdrhistogram::Histogram;

/// What one connection saw during the measured time; several add up.
pub(crate) struct Recorder {
    /// Latencies of successes in microseconds.
    latencies: Histogram<u64>,
    /// Successes in each second of the measured time.
    seconds: Vec<u64>,
    /// Whether there was a success in each millisecond of the measured time.
    milliseconds: Vec<bool>,
    errors: BTreeMap<&'static str, u64>,
}

impl Recorder {
    pub(crate) fn new(duration: Duration) -> Self {
        let millis = usize::try_from(duration.as_millis()).unwrap_or(usize::MAX).max(1);
        Self {
            // Three digits.
            latencies: Histogram::new(3).expect("three significant digits are valid"),
            seconds: vec![0; millis.div_ceil(1000)],
            milliseconds: vec![false; millis],
            errors: BTreeMap::new(),
        }
    }

    /// A success at `at` in the measured time; one after its end does not count.
    pub(crate) fn on_success(&mut self, at: Duration, latency: Duration) {
        let millis = at.as_millis() as usize;
        let Some(slot) = self.milliseconds.get_mut(millis) else { return };
        *slot = true;
        self.seconds[millis / 1000] += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // Grows to what it is given; a latency that no histogram can hold counts as the longest that this one can.
        if self.latencies.record(micros).is_err() {
            self.latencies.saturating_record(micros);
        }
    }

    pub(crate) fn on_error(&mut self, kind: ErrorKind) {
        *self.errors.entry(kind.name()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Recorder) {
        self.latencies += &other.latencies;
        for (sum, count) in self.seconds.iter_mut().zip(&other.seconds) {
            *sum += count;
        }
        for (any, success) in self.milliseconds.iter_mut().zip(&other.milliseconds) {
            *any |= success;
        }
        for (kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
    }

    pub(crate) fn successes(&self) -> u64 {
        self.latencies.len()
    }

    /// Milliseconds, at a quantile from 0 to 1.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn latency_max_ms(&self) -> f64 {
        self.latencies.max() as f64 / 1000.0
    }

    /// The full second with the fewest successes: its index and their number. `None` if there was no full second.
    pub(crate) fn worst_second(&self) -> Option<(usize, u64)> {
        let full = self.milliseconds.len() / 1000;
        self.seconds[..full].iter().copied().enumerate().min_by_key(|(_, count)| *count)
    }

    /// The longest time without a success, to the millisecond; the start and end of the measured time count as
    /// successes.
    pub(crate) fn longest_gap_ms(&self) -> u64 {
        self.milliseconds.split(|success| *success).map(|gap| gap.len() as u64).max().unwrap_or(0)
    }

    pub(crate) fn errors(&self) -> &BTreeMap<&'static str, u64> {
        &self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_worst_second_is_a_full_one() {
        let mut recorder = Recorder::new(2500 * MS);
        for at in [0, 100, 200, 1500, 1600] {
            recorder.on_success(at * MS, MS);
        }
        assert_eq!(recorder.worst_second(), Some((1, 2)), "the half second at the end is not full");
        assert_eq!(Recorder::new(999 * MS).worst_second(), None);
    }

    #[test]
    fn a_gap_is_one_of_all_connections_together() {
        let (mut one, mut other) = (Recorder::new(1000 * MS), Recorder::new(1000 * MS));
        one.on_success(100 * MS, MS);
        one.on_success(700 * MS, MS);
        assert_eq!(one.longest_gap_ms(), 599);
        other.on_success(400 * MS, MS);
        one.add(&other);
        assert_eq!(one.longest_gap_ms(), 299);
        assert_eq!(one.successes(), 3);
    }

    #[test]
    fn latencies_of_any_size_are_kept() {
        let (mut sum, mut one) = (Recorder::new(1000 * MS), Recorder::new(1000 * MS));
        one.on_success(Duration::ZERO, Duration::from_micros(3));
        one.on_success(Duration::ZERO, Duration::from_secs(70));
        sum.add(&one);
        assert!((69_900.0..70_100.0).contains(&sum.latency_max_ms()), "{}", sum.latency_max_ms());
        assert!(sum.latency_ms(0.5) < 0.01);
    }

    #[test]
    fn nothing_at_all_is_one_long_gap() {
        assert_eq!(Recorder::new(1000 * MS).longest_gap_ms(), 1000);
    }

    #[test]
    fn what_comes_after_the_end_does_not_count() {
        let mut recorder = Recorder::new(1000 * MS);
        recorder.on_success(1000 * MS, MS);
        assert_eq!(recorder.successes(), 0);
    }
}
