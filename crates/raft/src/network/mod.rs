//! The peer network: Raft's messages, snapshots and forwarded writes between the nodes of an ensemble, over gRPC.

mod client;
mod peers;
mod service;

pub(crate) use client::NetworkFactory;
pub(crate) use peers::{Lane, Peers};
pub(crate) use service::{PeerService, serve};

/// The version of the peer protocol that this build speaks.
pub(crate) const PROTOCOL: u32 = 1;
/// The largest message between peers. Entries are bounded far below it.
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;
