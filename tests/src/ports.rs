use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};

use rand::Rng as _;

/// Below the range from which the kernel takes ports for outgoing connections: a client's connection must not sit on the
/// port of a node that is just being restarted.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A port that nobody listens on, and that this process has not given out before.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    for _ in 0..1000 {
        let port = rand::rng().random_range(RANGE);
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free && GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(port) {
            return port;
        }
    }
    panic!("no free port in {RANGE:?}")
}
