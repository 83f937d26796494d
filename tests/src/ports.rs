use std::collections::HashMap;
use std::net::{TcpListener, UdpSocket};
use std::sync::{LazyLock, Mutex};

use rand::Rng as _;

/// Below the range from which the kernel takes ports for outgoing connections: a client's connection must not sit on the
/// port of a node that is just being restarted.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A TCP port that nobody listens on, and that no process of tests has given out before.
pub fn free_port() -> u16 {
    // The UDP port of the same number, which nothing here uses, tells other processes that the port is given
    // out.
    static GIVEN: LazyLock<Mutex<HashMap<u16, UdpSocket>>> = LazyLock::new(Mutex::default);
    for _ in 0..1000 {
        let port = rand::rng().random_range(RANGE);
        let Ok(claim) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(port, claim);
            return port;
        }
    }
    panic!("no free port in {RANGE:?}")
}
