//! Says where this node is to whoever asks in a multicast group.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::Instant;

const QUESTION_BYTES_MAX: usize = 512;
/// Questions that are answered in a second. Datagrams are not authenticated, so an answer may go to somebody who has not
/// asked: he must not be drowned in them.
const ANSWERS_PER_SECOND: u32 = 200;
const NONCE_BYTES_MAX: usize = 64;

/// The group, and the interface through which it is joined: `GROUP:PORT` or `GROUP:PORT@INTERFACE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceGroup {
    /// The group and its port.
    pub group: SocketAddrV4,
    /// An address of this machine; unspecified: the system chooses one interface.
    pub interface: Ipv4Addr,
}

impl FromStr for AnnounceGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (group, interface) = text.split_once('@').unwrap_or((text, "0.0.0.0"));
        let expected = || {
            format!(
                "{text:?} is not GROUP:PORT or GROUP:PORT@INTERFACE, with an IPv4 group from 224.0.0.0 to 239.255.255.255"
            )
        };
        let group: SocketAddrV4 = group.parse().map_err(|_| expected())?;
        let interface = interface.parse().map_err(|_| expected())?;
        match group.ip().is_multicast() && group.port() != 0 {
            true => Ok(Self { group, interface }),
            false => Err(expected()),
        }
    }
}

impl fmt::Display for AnnounceGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.interface.is_unspecified() {
            true => write!(f, "{}", self.group),
            false => write!(f, "{}@{}", self.group, self.interface),
        }
    }
}

#[derive(Deserialize)]
struct Question {
    coordd: String,
    nonce: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    coordd: &'static str,
    version: u32,
    nonce: &'a str,
    node_id: u64,
    cluster_id: &'a str,
    address: SocketAddr,
}

/// Answers questions of the form `{"coordd": "find", "nonce": "..."}` in a group.
pub(crate) struct Announcer {
    socket: UdpSocket,
    node_id: u64,
    address: SocketAddr,
}

impl Announcer {
    /// Joins the group. `address`: where clients connect; with an unspecified IP they take the one the answer comes from.
    pub(crate) fn join(at: AnnounceGroup, node_id: u64, address: SocketAddr) -> std::io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        // Several nodes of one machine share the port of the group.
        socket.set_reuse_address(true)?;
        // Bound to the group, not to every address: else Linux delivers what other groups of this machine get on the port.
        socket.bind(&at.group.into())?;
        socket.join_multicast_v4(at.group.ip(), &at.interface)?;
        if address.ip().is_loopback() && !at.interface.is_loopback() {
            tracing::warn!(group = %at, %address, "what is announced is reached from this machine only: see --listen");
        }
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, node_id, address })
    }

    /// Answers until it is dropped.
    pub(crate) async fn run(self, cluster_id: String) {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        let mut allowance = Allowance::new(Instant::now());
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // The network is down, or an answer before could not be delivered.
                    tracing::debug!(%error, "no question");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(answer) = self.answer(&buffer[..length], &cluster_id) else { continue };
            if !allowance.take(Instant::now()) {
                continue;
            }
            if let Err(error) = self.socket.send_to(&answer, from).await {
                tracing::debug!(%error, %from, "an answer was not sent");
            }
        }
    }

    fn answer(&self, datagram: &[u8], cluster_id: &str) -> Option<Vec<u8>> {
        answer(datagram, self.node_id, cluster_id, self.address)
    }
}

/// `None` to what is no question.
pub(crate) fn answer(
    datagram: &[u8],
    node_id: u64,
    cluster_id: &str,
    address: SocketAddr,
) -> Option<Vec<u8>> {
    let question: Question = serde_json::from_slice(datagram).ok()?;
    if question.coordd != "find" || question.nonce.len() > NONCE_BYTES_MAX {
        return None;
    }
    let nonce = question.nonce.as_str();
    serde_json::to_vec(&Answer { coordd: "node", version: 1, nonce, node_id, cluster_id, address }).ok()
}

/// So many answers in each second.
struct Allowance {
    since: Instant,
    left: u32,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { since: now, left: ANSWERS_PER_SECOND }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_as_it_is_written() {
        for text in ["239.7.4.1:7400", "239.7.4.1:7400@10.0.0.1"] {
            assert_eq!(text.parse::<AnnounceGroup>().unwrap().to_string(), text);
        }
        for bad in ["", "239.7.4.1", "10.0.0.1:7400", "239.7.4.1:0", "239.7.4.1:7400@eth0", "[ff02::1]:7400"]
        {
            assert!(bad.parse::<AnnounceGroup>().unwrap_err().contains("GROUP:PORT"), "{bad}");
        }
    }

    #[test]
    fn a_flood_of_questions_gets_so_many_answers_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let answered = |allowance: &mut Allowance, now| (0..1000).filter(|_| allowance.take(now)).count();
        assert_eq!(answered(&mut allowance, start), 200);
        assert_eq!(answered(&mut allowance, start + Duration::from_millis(999)), 0);
        assert_eq!(answered(&mut allowance, start + Duration::from_secs(1)), 200);
    }

    #[tokio::test]
    async fn only_a_question_is_answered() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let announcer = Announcer { socket, node_id: 7, address: "0.0.0.0:7401".parse().unwrap() };
        for bad in ["", "hello", "{}", r#"{"coordd":"node","nonce":"a"}"#, r#"{"coordd":"find"}"#] {
            assert_eq!(announcer.answer(bad.as_bytes(), "c"), None, "{bad}");
        }
        let question = br#"{"coordd":"find","version":9,"nonce":"a"}"#;
        let answer: serde_json::Value =
            serde_json::from_slice(&announcer.answer(question, "c").unwrap()).unwrap();
        let expected = serde_json::json!({
            "coordd": "node", "version": 1, "nonce": "a", "node_id": 7, "cluster_id": "c", "address": "0.0.0.0:7401",
        });
        assert_eq!(answer, expected);
    }
}
