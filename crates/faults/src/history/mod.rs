//! What clients did, what they were told, and when: written while it happens, read by the checkers.
//!
//! A history is a directory: `clients-N.jsonl` of each process of clients, `faults.jsonl` of what was broken, `final.jsonl` of
//! what was there in the end. Each line is a [`Record`]. A client's line is written before what it announces is done, so that
//! the history of a client that is killed lacks nothing but answers.

mod op;
mod reader;
mod record;
mod writer;

pub(crate) use op::{Answer, Level, Mode, Op, SetOne};
#[cfg(test)]
pub(crate) use reader::FinalZnode;
pub(crate) use reader::{Client, Done, Fate, History};
pub(crate) use record::{Fault, Record, Told, WatchKind, What};
pub(crate) use writer::Writer;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock, which is the same for all of its processes.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from the start of the machine and is never negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
