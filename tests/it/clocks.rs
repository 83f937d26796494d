//! Clocks that are wrong: entries carry the time that most nodes agree on.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coordd_client::{CreateMode, ReadLevel};
use coordd_tests::{Ensemble, EnsembleOptions, eventually};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Where Debian's and Fedora's packages put it.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
];

/// Starts a node with a clock that is so far off, as faketime writes it.
fn start_with_clock(ensemble: &mut Ensemble, id: u64, offset: &str) {
    let library = LIBRARIES.iter().find(|path| Path::new(path).exists());
    let library = library.expect("this test needs libfaketime: apt-get install faketime");
    ensemble.set_env("LD_PRELOAD", library);
    ensemble.set_env("FAKETIME", offset);
    ensemble.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    ensemble.restart(id);
    ensemble.set_env("LD_PRELOAD", "");
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// Kills leaders until `id` is the leader. Its own clock is wrong, and so it is never killed.
async fn make_leader(ensemble: &mut Ensemble, id: u64) {
    for _ in 0..20 {
        let leader = ensemble.leader().await;
        if leader == id {
            return;
        }
        ensemble.kill9(leader);
        ensemble.leader().await;
        ensemble.restart(leader);
        ensemble.wait_serving().await;
    }
    panic!("node {id} was never elected");
}

/// One clock of three is 400 days ahead, or behind: under its leadership as well as under another's, and after a restart of
/// all, times are true and nothing is due that is not.
#[tokio::test]
async fn one_wrong_clock_has_no_effect() {
    for (offset, said) in [("+400d", "400 days ahead of"), ("-400d", "days behind")] {
        let options = EnsembleOptions::new(3).env("COORDD_SWEEP_INTERVAL", "1s").not_started();
        let mut ensemble = options.start().await;
        start_with_clock(&mut ensemble, 2, offset);
        for id in [1, 3] {
            ensemble.restart(id);
        }
        ensemble.wait_serving().await;
        let client = ensemble.client(TIMEOUT).await;
        let ttl = CreateMode::PersistentWithTtl;
        client.create("/hour", "", ttl(Duration::from_secs(3600))).await.expect("a create");
        for round in 0..2 {
            make_leader(&mut ensemble, 2).await;
            let path = format!("/second-{round}");
            client.create(&path, "", ttl(Duration::from_secs(1))).await.expect("a create");
            let stat = client.exists(&path, ReadLevel::Linearizable).await.expect("a read").expect("new");
            let now = now_ms();
            assert!(stat.mtime.abs_diff(now) < 60_000, "{offset}: {} is not {now}", stat.mtime);
            // What is due goes, so the sweep has looked at both.
            eventually(TIMEOUT, "the short one goes", async || {
                client.exists(&path, ReadLevel::Linearizable).await.expect("a read").is_none()
            })
            .await;
            assert!(
                client.exists("/hour", ReadLevel::Linearizable).await.expect("a read").is_some(),
                "{offset}"
            );
            let log = ensemble.log(2);
            assert!(log.contains("this node leads, and its clock is") && log.contains(said), "{log}");
            let status = ensemble.status_of(2).await;
            assert!(status.counters["clock_corrections"] > 0, "{:?}", status.counters);

            for id in ensemble.ids() {
                ensemble.kill9(id);
            }
            start_with_clock(&mut ensemble, 2, offset);
            for id in [1, 3] {
                ensemble.restart(id);
            }
            ensemble.wait_serving().await;
        }
    }
}
