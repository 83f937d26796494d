//! Connections that speak something else, half of something, or nothing (G9).

use std::time::{Duration, Instant};

use coordd_client::{Client, CreateMode};
use coordd_tests::Ensemble;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn garbage(seed: u64) -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut blobs: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: coordd\r\n\r\n".to_vec(),
        b"POST /coordd.v1.Coordd/Get HTTP/1.0\r\nContent-Length: 99999999\r\n\r\n{}".to_vec(),
        PREFACE[..11].to_vec(),
        // A ClientHello of TLS, cut off.
        [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 64]].concat(),
        // ZooKeeper's four-letter words, and a connect request of its protocol.
        b"ruok".to_vec(),
        [&[0, 0, 0, 44, 0, 0, 0, 0][..], &[0; 40]].concat(),
        // A frame of 16 MiB that does not come; a frame of an unknown kind; data for a stream that is not open.
        [PREFACE, SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        [PREFACE, SETTINGS, &[0, 0, 1, 0xee, 0, 0, 0, 0, 0, 1]].concat(),
        [PREFACE, SETTINGS, &[0, 0, 1, 0, 1, 0, 0, 0, 9, 1]].concat(),
    ];
    for _ in 0..20 {
        let bytes = rng.random_range(1..5000);
        blobs.push((0..bytes).map(|_| rng.random()).collect());
        let mut behind_a_preface = [PREFACE, SETTINGS].concat();
        behind_a_preface.extend((0..bytes).map(|_| rng.random::<u8>()));
        blobs.push(behind_a_preface);
    }
    blobs
}

/// Sends it, and reads for a moment what comes back.
async fn throw(address: &str, blob: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    // The other side may hang up before it has read all.
    let _ = stream.write_all(blob).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(20), stream.read_to_end(&mut answer)).await;
}

/// The slowest of so many sets, one after the other.
/// How long nine of ten sets take at most: the slowest ones are the disk's.
async fn slow_set(client: &Client, sets: usize) -> Duration {
    let mut times = Vec::with_capacity(sets);
    for _ in 0..sets {
        let start = Instant::now();
        client.set("/a", "x", None).await.expect("a set");
        times.push(start.elapsed());
    }
    times.sort();
    times[sets * 9 / 10]
}

/// G9: whatever is thrown at the ports for clients and for peers, the node goes on, leads on, and serves on.
#[tokio::test]
async fn garbage_on_any_port_disturbs_nobody() {
    let seed = coordd_tests::seed();
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let (leader, term) = {
        let leader = ensemble.leader().await;
        (leader, ensemble.status_of(leader).await.term)
    };
    for id in ensemble.ids() {
        for address in [ensemble.endpoint(id), ensemble.peer_endpoint(id)] {
            for blob in garbage(seed) {
                throw(&address, &blob).await;
            }
            client.set("/a", "x", None).await.expect("a set");
        }
    }
    let status = ensemble.status_of(leader).await;
    assert_eq!((status.role.as_str(), status.term), ("leader", term), "the leader leads on");
    ensemble.wait_serving().await;
    ensemble.wait_equal().await;
}

/// G9: connections that say nothing, or stop in the middle of a word, cost others nothing. How many:
/// `COORDD_TESTS_IDLE_CONNECTIONS`; more than some thousands need a higher `ulimit -n`.
#[tokio::test]
async fn idle_and_half_open_connections_hold_nobody_up() {
    const HALF_OPEN: usize = 500;
    let idle = std::env::var("COORDD_TESTS_IDLE_CONNECTIONS").ok();
    let idle = idle.map_or(2000, |count| count.parse().expect("COORDD_TESTS_IDLE_CONNECTIONS is a number"));
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let undisturbed = slow_set(&client, 100).await;

    let mut connections = Vec::new();
    for index in 0..idle + HALF_OPEN {
        let connecting = TcpStream::connect(ensemble.endpoint(1)).await;
        let mut stream = connecting.unwrap_or_else(|error| panic!("connection {index}: {error}; ulimit -n?"));
        if index < HALF_OPEN {
            stream.write_all(&[PREFACE, &SETTINGS[..5]].concat()).await.expect("the node reads");
        }
        connections.push(stream);
    }
    let disturbed = slow_set(&client, 100).await;
    println!("90 of 100 sets: {undisturbed:?} alone, {disturbed:?} among {}", connections.len());
    assert!(disturbed < undisturbed + Duration::from_millis(200), "{disturbed:?} instead of {undisturbed:?}");
    let start = Instant::now();
    let newcomer = ensemble.client(TIMEOUT).await;
    newcomer.set("/a", "x", None).await.expect("a set");
    assert!(start.elapsed() < Duration::from_secs(3), "a new client waited {:?}", start.elapsed());
}
