//! The standard streams, log lines, text for a terminal, and the environment: all that our programs do alike
//! with their surroundings.
//!
//! Output never ends a process. A line that cannot be written is lost, and the program goes on: on a full disk, with a closed
//! pipe, or without a standard error. So no program uses `println!` and `eprintln!`, which panic then, and a lint says so.

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod environment;
mod log;
mod output;
mod printable;
mod repeats;
mod sink;

pub use environment::{UnknownVariable, nearest, unknown_variable};
pub use log::{Log, LogForm, check_filter};
pub use output::{print, say};
pub use printable::{is_printable, plain, plain_error, plain_lines, plain_value};
