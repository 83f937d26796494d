//! Replicates the tree: openraft adapters, the log on sled, snapshot files, the peer network.

mod convert;
pub mod storage;
mod type_config;

pub use type_config::{Member, NodeId, Payload, TypeConfig, types};
