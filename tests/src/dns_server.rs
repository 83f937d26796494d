use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const A: u16 = 1;
const SRV: u16 = 33;
const NAME_ERROR: u8 = 3;

/// A DNS server that says what a test tells it, over UDP. It ends when it is dropped.
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

/// One record of a name.
#[derive(Clone, Debug)]
pub enum DnsRecord {
    /// An address.
    A(Ipv4Addr),
    /// A service: priority, weight, port and target.
    Srv(u16, u16, u16, String),
}

#[derive(Default)]
struct Zone {
    /// By name, in lower case and without the last dot.
    records: BTreeMap<String, Vec<DnsRecord>>,
    is_silent: bool,
    questions: usize,
}

impl DnsServer {
    /// Starts it on a port of its own, without records.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("a bound socket");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let answers = zone.clone();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let reply = answers.lock().expect("no panic").answer(&buffer[..length]);
                if let Some(reply) = reply {
                    // A client that is gone does not want to know.
                    let _ = socket.send_to(&reply, from).await;
                }
            }
        });
        Self { address, zone, task }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the records of a name.
    pub fn set(&self, name: &str, records: Vec<DnsRecord>) {
        self.zone.lock().expect("no panic").records.insert(name.to_owned(), records);
    }

    /// Answers nothing any more, or again.
    pub fn silence(&self, is_silent: bool) {
        self.zone.lock().expect("no panic").is_silent = is_silent;
    }

    /// Questions that came so far.
    pub fn questions(&self) -> usize {
        self.zone.lock().expect("no panic").questions
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Zone {
    fn answer(&mut self, question: &[u8]) -> Option<Vec<u8>> {
        self.questions += 1;
        if self.is_silent {
            return None;
        }
        let (name, end) = read_name(question, 12)?;
        let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
        let records = self.records.get(&name.to_lowercase());
        let rdata: Vec<Vec<u8>> =
            records.into_iter().flatten().filter_map(|record| record.rdata(kind)).collect();
        let code = if records.is_some() { 0 } else { NAME_ERROR };
        let count = u8::try_from(rdata.len()).expect("few records");
        // The id; an authoritative response; one question, some answers.
        let mut reply = question[..2].to_vec();
        reply.extend([0x85, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        reply.extend(&question[12..end + 4]);
        for rdata in rdata {
            // The name is the one at offset 12; a TTL of an hour, which nobody should wait for.
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0x0e, 0x10]);
            reply.extend(u16::try_from(rdata.len()).expect("a short record").to_be_bytes());
            reply.extend(rdata);
        }
        Some(reply)
    }
}

impl DnsRecord {
    fn rdata(&self, kind: u16) -> Option<Vec<u8>> {
        match (self, kind) {
            (DnsRecord::A(address), A) => Some(address.octets().to_vec()),
            (DnsRecord::Srv(priority, weight, port, target), SRV) => {
                let mut rdata: Vec<u8> =
                    [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
                for label in target.split('.') {
                    rdata.push(u8::try_from(label.len()).expect("a short label"));
                    rdata.extend(label.as_bytes());
                }
                rdata.push(0);
                Some(rdata)
            }
            _ => None,
        }
    }
}

/// A name without compression, and where it ends.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).into_owned());
        at += length;
    }
}
