//! Replicates the tree: openraft adapters, the log on disk, snapshot files, the peer network, and [`Replica`], the handle
//! through which the server uses all of it.
//!
//! # The way of a write
//!
//! [`Replica::submit`] numbers a command and keeps it until this node has applied it. The `link` sends batches of what
//! waits to the leader over one ordered stream; the leader puts the batches of all nodes into one entry; the WAL thread
//! of each node makes it durable with one fdatasync; every node applies it; and on the node it came from the apply hands
//! the result to the [`Observer`]. Nothing travels back over the network, and no result is seen before this node shows
//! the write.
//!
//! After any failure what is not applied is sent again, in order, to whoever leads then. The tree takes each command of
//! each origin once and in order, so nothing happens twice and nothing is overtaken.
//!
//! # What is not here
//!
//! Meaning: this crate knows log ids, batches and bytes. What a znode or a session is, the tree knows; who waits for a
//! result and what an event is good for, the server knows. openraft's types do not leave this crate.

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod addresses;
mod clock;
mod convert;
mod disk;
mod formation;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod leader;
mod leadership;
mod link;
mod members;
mod network;
mod observer;
mod options;
mod proposer;
mod read_index;
mod replica;
mod retention;
mod rules;
mod seldom;
mod state_machine;
pub mod storage;
mod type_config;
mod waiting;

pub use disk::Shortage;
pub use formation::FormationError;
pub use leadership::Leadership;
pub use observer::{Observer, SignOfLife};
pub use options::{ReplicaOptions, Timing};
pub use proposer::Overloaded;
pub use read_index::NoQuorum;
pub use replica::{EXIT_OUTDATED, Replica, ReplicaStatus, StartError, TreeRef};
pub use type_config::{Member, NodeId, Payload, TypeConfig, types};
pub use waiting::Waiting;
