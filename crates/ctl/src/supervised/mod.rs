//! A command that may run only while something is held: a leadership, a lock. Or that is only kept company (`free.rs`).
//!
//! Between `coordctl` and the command stands the *keeper*, a process of its own (`keeper.rs`) that knows until when the grant
//! is good and stops the command before that, whatever becomes of `coordctl`: killed, stopped, or starved. So it is the
//! session, in `coordctl`, that can stand still, and the command is stopped all the same.
//!
//! The command has a process group of its own, unless its standard input is a terminal: then it shares the group of
//! `coordctl`, so that the terminal's job control works. What it starts is stopped with it, also what has left its group: the
//! keeper is the subreaper of all of them.

mod boot_clock;
mod command;
mod free;
mod handle;
pub(crate) mod keeper;
mod process_tree;
mod signals;
mod watchdog;
mod wire;

pub(crate) use command::{CommandLine, ENVIRONMENT, Ending, hold, run_beside, run_with_input};
pub(crate) use free::FreeCommand;
pub(crate) use signals::Signals;
