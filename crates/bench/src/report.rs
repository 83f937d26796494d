use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::options::{Operation, Options};
use crate::recorder::Recorder;

/// The figures of a run. Field names are the JSON output's.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) op: &'static str,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    pub(crate) value_bytes: u32,
    pub(crate) keys: u32,
    pub(crate) duration_s: f64,
    pub(crate) warmup_s: f64,
    /// Successes in the measured time.
    pub(crate) operations: u64,
    pub(crate) operations_per_second: f64,
    pub(crate) latency_ms: Latency,
    /// The full second with the fewest successes.
    pub(crate) worst_second: Option<WorstSecond>,
    /// The longest time in which no operation of any connection succeeded.
    pub(crate) longest_gap_ms: u64,
    /// The same for the connection that fared worst.
    pub(crate) longest_connection_gap_ms: u64,
    /// Failures by the name of the error, warm-up included.
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct WorstSecond {
    /// From 0.
    pub(crate) index: usize,
    pub(crate) operations: u64,
}

impl Report {
    pub(crate) fn new(options: &Options, total: &Recorder, longest_connection_gap_ms: u64) -> Self {
        let duration_s = options.duration.as_secs_f64();
        Self {
            op: options.op.name(),
            connections: options.connections,
            depth: options.depth,
            value_bytes: options.value_bytes,
            keys: options.keys,
            duration_s,
            warmup_s: options.warmup.as_secs_f64(),
            operations: total.successes(),
            operations_per_second: total.successes() as f64 / duration_s,
            latency_ms: Latency {
                p50: total.latency_ms(0.5),
                p99: total.latency_ms(0.99),
                p999: total.latency_ms(0.999),
                max: total.latency_max_ms(),
            },
            worst_second: total.worst_second().map(|(index, operations)| WorstSecond { index, operations }),
            longest_gap_ms: total.longest_gap_ms(),
            longest_connection_gap_ms,
            errors: total.errors().clone(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} connections", self.op, self.connections)?;
        if self.op != Operation::Lock.name() {
            write!(f, " x {} in flight, {}-byte values", self.depth, self.value_bytes)?;
        }
        writeln!(f, ", {} s after {} s of warm-up", self.duration_s, self.warmup_s)?;
        writeln!(f, "operations    {} ({:.0}/s)", self.operations, self.operations_per_second)?;
        let Latency { p50, p99, p999, max } = self.latency_ms;
        writeln!(f, "latency       p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")?;
        if let Some(WorstSecond { index, operations }) = self.worst_second {
            writeln!(f, "worst second  {operations}/s (second {})", index + 1)?;
        }
        writeln!(
            f,
            "longest gap   {} ms without a success, {} ms on the worst connection",
            self.longest_gap_ms, self.longest_connection_gap_ms
        )?;
        let errors: Vec<String> = self.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        writeln!(f, "errors        {}", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") })
    }
}
