//! `coordd`: sessions, watches and the public API over a replicated tree.
//!
//! ```text
//! call or stream ─► grpc ─► session::connection ─► Replica::submit ─► (log, all nodes) ─► Hub::applied
//!                                │                                                           │ results, events
//!                                └─ reads on Replica::tree                                   ▼
//!                                                                                     session::outbox ─► client
//! ```
//!
//! What is not here: what a command does (the tree knows), how it is replicated (the raft crate knows), and any recipe.

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod admission;
mod announce;
mod client_memory;
mod configuration;
mod convert;
mod counters;
mod descriptors;
mod duties;
mod frames;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod hub;
mod incoming;
mod long_reads;
mod memory;
mod node;
pub mod options;
mod reads;
mod service;
mod session;
mod starting;
mod watch;
mod watchdog;

pub use configuration::{Changes, Configuration};
pub use memory::share_arenas;
pub use node::Node;
