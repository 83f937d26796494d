use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::Found;

/// A datagram is lost now and then: the question is repeated so often until somebody has answered.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Once one has answered, the others of the same network do within this.
const QUIET: Duration = Duration::from_millis(50);
/// Answers to one question; more nodes than that, no ensemble has.
const ANSWERS_MAX: usize = 64;
const DATAGRAM_BYTES_MAX: usize = 1024;

/// What a client sends to the group.
#[derive(Serialize)]
struct Question<'a> {
    coordd: &'static str,
    version: u32,
    nonce: &'a str,
}

/// What a node answers, to the asker alone.
#[derive(Clone, Debug, Deserialize)]
struct Answer {
    coordd: String,
    nonce: String,
    node_id: u64,
    cluster_id: String,
    address: SocketAddr,
}

/// Asks a group who is there. `cluster`: the ensemble that this source has met before; others are passed over, because a
/// session of one means nothing to another. Ends soon after the first answer, and without one never.
pub(super) async fn ask(
    group: SocketAddrV4,
    interface: Ipv4Addr,
    cluster: &mut Option<String>,
) -> Result<Vec<Found>, String> {
    let socket = socket(interface).map_err(|error| error.to_string())?;
    let nonce = format!("{:016x}", rand::random::<u64>());
    let question = Question { coordd: "find", version: 1, nonce: &nonce };
    let question = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    while found.is_empty() {
        socket.send_to(&question, group).await.map_err(|error| error.to_string())?;
        let mut until = Instant::now() + ASK_AGAIN;
        while found.len() < ANSWERS_MAX {
            let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await else {
                break;
            };
            let (length, from) = received.map_err(|error| error.to_string())?;
            if let Some(node) = judge(&buffer[..length], from, &nonce, cluster) {
                found.push(node);
                until = Instant::now() + QUIET;
            }
        }
    }
    Ok(found)
}

fn socket(interface: Ipv4Addr) -> std::io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(interface, 0).into())?;
    if !interface.is_unspecified() {
        socket.set_multicast_if_v4(&interface)?;
    }
    // Nodes of the same machine and of this network; no router passes it on.
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(1)?;
    UdpSocket::from_std(socket.into())
}

/// A node, if this is an answer to our question from an ensemble that we may take.
pub(super) fn judge(
    datagram: &[u8],
    from: SocketAddr,
    nonce: &str,
    cluster: &mut Option<String>,
) -> Option<Found> {
    let answer: Answer = serde_json::from_slice(datagram).ok()?;
    if answer.coordd != "node" || answer.nonce != nonce {
        return None;
    }
    let met = cluster.get_or_insert_with(|| answer.cluster_id.clone());
    if *met != answer.cluster_id {
        tracing::warn!(node = answer.node_id, other = answer.cluster_id, %met, "two ensembles in one group");
        return None;
    }
    // A node that listens on all its addresses does not know which of them we can reach: the one it answered from.
    let ip = if answer.address.ip().is_unspecified() { from.ip() } else { answer.address.ip() };
    let address = SocketAddr::new(ip, answer.address.port());
    Some(Found::new(address, address.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(nonce: &str, cluster: &str, address: &str) -> Vec<u8> {
        let answer = serde_json::json!({
            "coordd": "node", "version": 1, "nonce": nonce, "node_id": 1, "cluster_id": cluster, "address": address,
            "since": "a field of a later version",
        });
        serde_json::to_vec(&answer).unwrap()
    }

    #[test]
    fn an_answer_counts_if_it_is_ours_and_of_the_ensemble_met_first() {
        let from = SocketAddr::from(([10, 0, 0, 9], 7400));
        let mut cluster = None;
        let mut judge = |datagram: &[u8]| {
            judge(datagram, from, "n1", &mut cluster).map(|found| found.address.to_string())
        };
        assert_eq!(judge(b"garbage"), None);
        assert_eq!(judge(&answer("n0", "aa", "10.0.0.1:7401")), None, "an answer to another question");
        assert_eq!(judge(&answer("n1", "aa", "10.0.0.1:7401")).as_deref(), Some("10.0.0.1:7401"));
        assert_eq!(judge(&answer("n1", "bb", "10.0.0.2:7401")), None, "another ensemble");
        assert_eq!(judge(&answer("n1", "aa", "0.0.0.0:7402")).as_deref(), Some("10.0.0.9:7402"));
    }
}
