//! Counts as fast as it can, with 16 writes under way at once, until the time is over; then compares. Kill and restart
//! nodes meanwhile: every write is answered, each took effect once, and the order is that of the calls.
//!
//! `cargo run -p coordd-client --example counter -- 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 10`

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use coordd_client::{Client, CreateMode, Error, ReadLevel};

const DEPTH: usize = 16;
const PATH: &str = "/counter-";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let endpoints = args.next().unwrap_or_else(|| "127.0.0.1:7401".into());
    let seconds = args.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(10);

    let client = Client::connect(endpoints.split(',')).await?;
    let path = client.create(PATH, "", CreateMode::EphemeralSequential).await?.path;
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut sent, mut answered) = (0, 0);
    let (mut last_answer, mut longest_gap) = (Instant::now(), Duration::ZERO);
    let mut calls = VecDeque::new();
    while Instant::now() < until || !calls.is_empty() {
        while calls.len() < DEPTH && Instant::now() < until {
            sent += 1;
            calls.push_back(client.set(&path, sent.to_string(), None));
        }
        let Some(oldest) = calls.pop_front() else { break };
        let stat = oldest.await?;
        answered += 1;
        // Each write makes the version one more: a lost or doubled one would show here at once.
        assert_eq!(stat.version, answered, "write {answered} made version {}", stat.version);
        longest_gap = longest_gap.max(last_answer.elapsed());
        last_answer = Instant::now();
    }
    let (data, stat) = client.get(&path, ReadLevel::Linearizable).await?;
    assert_eq!((data, stat.version), (sent.to_string().into(), sent));
    println!("{sent} writes, each answered and applied once; longest time without an answer {longest_gap:?}");
    client.close().await
}
