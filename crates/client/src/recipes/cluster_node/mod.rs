//! A node of a cluster that runs services, from its connection to its shutdown. See [`ClusterNode`].

mod builder;
mod calls;
mod event;
mod gateway;
mod metrics;
mod node;
mod parts;
mod service;

pub use builder::ClusterNodeBuilder;
pub use event::{ClusterEvent, Step};
pub use node::{ClusterNode, StartError};
pub use service::{ClusterService, NodeContext, ServiceClass};
