//! The peer network: Raft's messages, snapshots and forwarded writes between the nodes of an ensemble, over gRPC.

mod client;
mod followers;
mod gate;
mod incoming;
mod peers;
mod requests;
mod service;

pub(crate) use client::{NetworkFactory, reason};
#[cfg(any(test, fuzzing))]
pub(crate) use client::{append_reply, vote_reply};
pub(crate) use gate::Gate;
pub(crate) use peers::{Lane, Peers};
#[cfg(any(test, fuzzing))]
pub(crate) use requests::{append_request, check_batch, snapshot_start, transfer_request, vote_request};
pub(crate) use service::{PeerService, Streams, contradiction, serve};

/// The version of the peer protocol that this build speaks.
pub(crate) const PROTOCOL: u32 = 1;
/// The largest message between peers. Entries are bounded far below it.
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;
