//! `coordctl watch`.

use std::process::Stdio;
use std::time::Duration;

use coordd_client::CreateMode;
use coordd_tests::{Ensemble, coordctl};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(30);

/// E21: a reader that is too slow is told `RESYNC`, and then what happens next.
#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_gets_a_resync() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(Duration::from_secs(60)).await;
    client.create("/w", "", CreateMode::Persistent).await.expect("a create");
    let mut command = Command::new(coordctl());
    command.env_remove("COORDCTL_AUTH").args(["watch", "/w", "--endpoints", &ensemble.endpoints().join(",")]);
    let mut watch =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
    while ensemble.watches().await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // More than the pipe and the buffer of the watcher hold.
    for _ in 0..12 {
        let sets: Vec<_> = (0..1000).map(|_| client.set("/w", "", None)).collect();
        for set in sets {
            set.await.expect("a set");
        }
    }
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut next = async || {
        tokio::time::timeout(SOON, lines.next_line())
            .await
            .expect("in time")
            .expect("a line")
            .expect("it goes on")
    };
    while !next().await.ends_with(" RESYNC") {}
    client.delete("/w", None).await.expect("a delete");
    while !next().await.ends_with(" NodeDeleted /w") {}
    let pid = rustix::process::Pid::from_raw(watch.id().expect("it runs").cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    assert!(watch.wait().await.expect("it ends").success());
}
