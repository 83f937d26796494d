use std::collections::HashSet;
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
    cluster_id: String,
    address: SocketAddr,
}

/// The ensemble that a source has met, and where. Others are passed over, because a session of one means
/// nothing to another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Met {
    cluster: Option<String>,
    addresses: HashSet<SocketAddr>,
}

impl Met {
    fn is_other(&self, cluster: &str) -> bool {
        self.cluster.as_deref().is_some_and(|met| met != cluster)
    }

    /// Returns the nodes of the ensemble among those that have answered, by their ensembles. If none of its
    /// nodes has, and another ensemble is where it was, it has been replaced by that one.
    fn choose(&mut self, answers: Vec<(String, Found)>) -> Vec<Found> {
        if answers.iter().all(|(cluster, _)| self.is_other(cluster)) {
            let is_successor = |(_, found): &&(String, Found)| self.addresses.contains(&found.address);
            if let Some((successor, found)) = answers.iter().find(is_successor) {
                tracing::warn!(
                    met = self.cluster,
                    successor,
                    address = %found.address,
                    "another ensemble has taken the place of the one that was met"
                );
                *self = Self::default();
                self.cluster = Some(successor.clone());
            }
        }
        let mut chosen = Vec::new();
        for (cluster, found) in answers {
            let met = self.cluster.get_or_insert_with(|| cluster.clone());
            if *met == cluster {
                self.addresses.insert(found.address);
                chosen.push(found);
            } else {
                tracing::warn!(address = %found.address, other = cluster, %met, "two ensembles in one group");
            }
        }
        chosen
    }
}

/// Asks a group who is there. Ends soon after the first answer of the ensemble that was met, and without one
/// never.
pub(super) async fn ask(
    group: SocketAddrV4,
    interface: Ipv4Addr,
    met: &mut Met,
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
        let mut answers = Vec::new();
        while answers.len() < ANSWERS_MAX {
            let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await else {
                break;
            };
            let (length, from) = received.map_err(|error| error.to_string())?;
            if let Some((cluster, node)) = judge(&buffer[..length], from, &nonce) {
                if !met.is_other(&cluster) {
                    until = Instant::now() + QUIET;
                }
                answers.push((cluster, node));
            }
        }
        found = met.choose(answers);
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

/// A node and its ensemble, if this is an answer to our question.
pub(super) fn judge(datagram: &[u8], from: SocketAddr, nonce: &str) -> Option<(String, Found)> {
    let answer: Answer = serde_json::from_slice(datagram).ok()?;
    if answer.coordd != "node" || answer.nonce != nonce {
        return None;
    }
    // A node that listens on all its addresses does not know which of them we can reach: the one it answered from.
    let ip = if answer.address.ip().is_unspecified() { from.ip() } else { answer.address.ip() };
    let address = SocketAddr::new(ip, answer.address.port());
    Some((answer.cluster_id, Found::new(address, address.to_string())))
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
    fn only_answers_to_the_question_count() {
        let from = SocketAddr::from(([10, 0, 0, 9], 7400));
        let judge = |datagram: &[u8]| {
            judge(datagram, from, "n1").map(|(cluster, found)| format!("{cluster} {}", found.address))
        };
        assert_eq!(judge(b"garbage"), None);
        assert_eq!(judge(&answer("n0", "aa", "10.0.0.1:7401")), None, "an answer to another question");
        assert_eq!(judge(&answer("n1", "aa", "10.0.0.1:7401")).as_deref(), Some("aa 10.0.0.1:7401"));
        assert_eq!(judge(&answer("n1", "aa", "0.0.0.0:7402")).as_deref(), Some("aa 10.0.0.9:7402"));
    }

    /// A source stays with the ensemble that it has met, beside another one. It goes to another one that has
    /// taken its place: none of its nodes answers, and one of the other is where one of its nodes was.
    #[test]
    fn replaced_ensemble_is_followed() {
        let mut met = Met::default();
        let mut choose = |answers: &[(&str, u16)]| -> Vec<u16> {
            let found = |port| Found::new(SocketAddr::from(([10, 0, 0, 1], port)), "");
            let answers = answers.iter().map(|(cluster, port)| (cluster.to_string(), found(*port)));
            met.choose(answers.collect()).iter().map(|found| found.address.port()).collect()
        };
        assert_eq!(choose(&[]), [0; 0]);
        assert_eq!(choose(&[("aa", 1), ("bb", 4), ("aa", 2)]), [1, 2]);
        assert_eq!(choose(&[("bb", 4), ("aa", 3)]), [3]);
        assert_eq!(choose(&[("bb", 4), ("bb", 5)]), [0; 0], "its nodes may come back");
        assert_eq!(choose(&[("bb", 1), ("aa", 2)]), [2], "one of its nodes is there");
        assert_eq!(choose(&[("bb", 4), ("cc", 6), ("cc", 1)]), [6, 1], "replaced");
        assert_eq!(choose(&[("aa", 2), ("cc", 6)]), [6]);
        assert_eq!(choose(&[("aa", 2)]), [0; 0], "the one before is another one now");
    }
}
