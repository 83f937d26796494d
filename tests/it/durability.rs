//! What is acknowledged is on the disk (G1), as the kernel saw it.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coordd_client::CreateMode;
use coordd_tests::{Ensemble, eventually};
use rustix::process::{Pid, Signal, kill_process};

const TIMEOUT: Duration = Duration::from_secs(30);
const WRITES: usize = 30;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}

/// Begin and end of each call in the output of `strace -f -ttt -T`: `1234 1700000000.123456 fdatasync(9) = 0 <0.000321>`.
fn syncs(trace: &str) -> Vec<(f64, f64)> {
    let mut syncs = Vec::new();
    for line in trace.lines().filter(|line| line.contains("fdatasync(")) {
        let begin: f64 = line.split_whitespace().nth(1).and_then(|at| at.parse().ok()).expect("a time");
        let took = line.rsplit_once('<').and_then(|(_, took)| took.strip_suffix('>')?.parse::<f64>().ok());
        let took = took.unwrap_or_else(|| panic!("one sync at a time was expected: {line}"));
        assert!(line.contains("= 0"), "a sync failed: {line}");
        syncs.push((begin, begin + took));
    }
    syncs
}

/// G1: a lone writer waits for one fdatasync per write: no fewer, because the write would not be durable; no more, because
/// that is what a write costs.
#[tokio::test]
async fn each_write_of_a_lone_writer_waits_for_exactly_one_fdatasync() {
    let has_strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
    assert!(has_strace, "this test needs strace: apt-get install strace");
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");

    let trace = ensemble.scratch().join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-ttt", "-T", "-e", "trace=fdatasync", "-o"])
        .arg(&trace)
        .args(["-p", &ensemble.process_id(1).to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace starts");
    let status = format!("/proc/{}/status", ensemble.process_id(1));
    eventually(TIMEOUT, "strace has attached", async || {
        std::fs::read_to_string(&status).is_ok_and(|status| !status.contains("TracerPid:\t0"))
    })
    .await;
    // All threads, not only the first.
    tokio::time::sleep(Duration::from_millis(500)).await;

    let mut writes = Vec::new();
    for number in 0..WRITES {
        let begin = now();
        client.set("/a", number.to_string(), None).await.expect("a set");
        writes.push((begin, now()));
    }
    kill_process(Pid::from_child(&strace), Signal::INT).expect("strace is ours");
    strace.wait().expect("strace is ours");

    let trace = std::fs::read_to_string(&trace).expect("strace has written");
    let syncs = syncs(&trace);
    for (number, (begin, end)) in writes.iter().enumerate() {
        let within = syncs.iter().filter(|(from, to)| from >= begin && to <= end).count();
        assert_eq!(within, 1, "syncs between write {number} and its answer:\n{trace}");
    }
}
