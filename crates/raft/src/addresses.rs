//! Where the clients of each node reach it. The configuration names the peers' addresses only; this one the nodes tell each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;

use crate::NodeId;
use crate::formation::hello;
use crate::observer::Observer;
use crate::replica::Node;

/// How often a node is asked that has not said its address.
const RETRY: Duration = Duration::from_secs(1);
/// How often all are asked again: a node may have been started with another address.
const REFRESH: Duration = Duration::from_secs(15);
/// Of a name and a port.
const ADDRESS_BYTES_MAX: usize = 262;

/// What the nodes have said.
#[derive(Debug, Default)]
pub(crate) struct ClientAddresses(Mutex<BTreeMap<NodeId, String>>);

impl ClientAddresses {
    pub(crate) fn get(&self, id: NodeId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// An address that is none is not passed on to anybody.
    pub(crate) fn set(&self, id: NodeId, address: &str) {
        if is_host_and_port(address) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, address.to_owned());
        }
    }
}

fn is_host_and_port(address: &str) -> bool {
    let is_part_of_a_name =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    address.len() <= ADDRESS_BYTES_MAX
        && address.chars().all(is_part_of_a_name)
        && address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Asks the other nodes, for as long as this one runs.
pub(crate) async fn run_addresses<O: Observer>(node: Arc<Node<O>>) {
    let mut rounds = 0;
    loop {
        let is_refresh = rounds % (REFRESH.as_secs() / RETRY.as_secs()) == 0;
        let unknown = |id: &NodeId| is_refresh || node.peers.client_addresses().get(*id).is_none();
        let ask = async |id: NodeId| {
            if let Ok(reply) = hello(&node.peers, id).await
                && (reply.node_id, reply.cluster_id.as_str()) == (id, node.peers.cluster_id())
            {
                node.peers.client_addresses().set(id, &reply.client_address);
            }
        };
        join_all(node.peers.others().filter(unknown).map(ask)).await;
        tokio::time::sleep(RETRY).await;
        rounds += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a peer says is passed on to clients, so only what can be an address is kept.
    #[test]
    fn only_addresses_are_kept() {
        let addresses = ClientAddresses::default();
        for wrong in
            ["", "h", ":1", "h:", "h:70000", "h\u{1b}[2J:1", "a b:1", &format!("{}:1", "h".repeat(300))]
        {
            addresses.set(2, wrong);
            assert_eq!(addresses.get(2), None, "{wrong:?}");
        }
        for right in ["10.0.0.1:7401", "node-1.example.com:7401", "[::1]:7401"] {
            addresses.set(2, right);
            assert_eq!(addresses.get(2).as_deref(), Some(right));
        }
    }
}
