//! One method per operation, by what they do: write, read, watch, and the session's identities.

mod auth;
mod delete_in_batches;
pub(crate) mod read;
mod watch;
mod write;
