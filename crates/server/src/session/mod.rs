//! Sessions as a node serves them: what is attached here, and, on the leader, who is alive.

pub(crate) mod connection;
pub(crate) mod outbox;
mod pending;
pub(crate) mod pipe;
pub(crate) mod tracker;
