//! How nodes start, refuse to start, and stop.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use coordd_client::{CreateMode, ReadLevel};
use coordd_tests::{Ensemble, EnsembleOptions, Load, eventually, free_port};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a command that is to end soon.
async fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let start = Instant::now();
    while child.try_wait().expect("our process").is_none() {
        if start.elapsed() > Duration::from_secs(15) {
            child.kill().expect("our process");
            let output = child.wait_with_output().expect("our process");
            panic!("it does not end: {}", String::from_utf8_lossy(&output.stderr));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.wait_with_output().expect("our process")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn is_refused(command: Command, reasons: &[&str]) {
    let output = run(command).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for reason in reasons {
        assert!(said.contains(reason), "{reason:?} is not in: {said}");
    }
}

/// Nodes that are started in any order, with time between, form one ensemble.
#[tokio::test]
async fn nodes_started_in_any_order_form_one_ensemble() {
    for order in [[3, 1, 2], [2, 3, 1]] {
        let mut ensemble = EnsembleOptions::new(3).not_started().start().await;
        for id in order {
            ensemble.restart(id);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        ensemble.wait_serving().await;
        let mut clusters = std::collections::BTreeSet::new();
        for id in ensemble.ids() {
            clusters.insert(ensemble.status(id).await.expect("the node answers").cluster_id);
        }
        assert_eq!(clusters.len(), 1, "{clusters:?}");
        let client = ensemble.client(TIMEOUT).await;
        client.create("/a", "", CreateMode::Persistent).await.expect("a create");
        ensemble.wait_equal().await;
    }
}

/// A node that waits for the others to form the ensemble says so, stops when it is told to, and can be killed: the
/// ensemble is formed when all are there.
#[tokio::test]
async fn a_node_can_stop_and_die_while_it_waits_for_the_others() {
    let mut ensemble = EnsembleOptions::new(3).not_started().start().await;
    ensemble.restart(1);
    eventually(TIMEOUT, "node 1 says that it waits", async || ensemble.log(1).contains("waiting for nodes"))
        .await;
    assert_eq!(ensemble.terminate(1).await.code(), Some(0));
    ensemble.restart(1);
    ensemble.restart(2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensemble.kill9(1);
    ensemble.restart(3);
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensemble.restart(1);
    ensemble.wait_serving().await;
}

/// A data directory is one node's, in one process.
#[tokio::test]
async fn a_data_directory_of_another_node_or_in_use_is_refused() {
    let mut ensemble = Ensemble::start(3).await;
    // Running: first its address is in the way, then, at another address, the lock.
    is_refused(ensemble.command(1), &["--listen", "cannot listen"]).await;
    let mut command = coordd(&[]);
    command
        .arg("--data-dir")
        .arg(ensemble.data_dir(1))
        .args(["--listen", &format!("127.0.0.1:{}", free_port())]);
    is_refused(command, &["in use by another process"]).await;

    ensemble.kill9(1);
    ensemble.kill9(2);
    let mut command =
        coordd(&["--id", "1", "--ensemble", &ensemble.members(), "--listen", &ensemble.endpoint(1)]);
    command.arg("--data-dir").arg(ensemble.data_dir(2));
    is_refused(command, &["belongs to node 2, not to node 1"]).await;
    for id in [1, 2] {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
}

/// A node of another ensemble is refused, with the names of both.
#[tokio::test]
async fn a_node_of_another_ensemble_is_refused() {
    let mut ours = Ensemble::start(3).await;
    let mut theirs = EnsembleOptions::new(3).start_beside(&ours).await;
    let cluster = |status: coordd_client::NodeStatus| status.cluster_id;
    let ids = [&ours, &theirs].map(|ensemble| ensemble.status(3));
    let [our_id, their_id] = futures::future::join_all(ids).await.try_into().expect("two");
    let (our_id, their_id) = (our_id.map(cluster).expect("an id"), their_id.map(cluster).expect("an id"));
    assert_ne!(our_id, their_id);
    ours.kill9(3);
    theirs.kill9(3);
    let mut command = coordd(&["--id", "3", "--ensemble", &ours.members(), "--listen", &ours.endpoint(3)]);
    command.arg("--data-dir").arg(theirs.data_dir(3));
    is_refused(command, &[our_id.as_str(), their_id.as_str()]).await;
    let client = ours.client_of(&[1, 2], TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("ours goes on");
}

/// An IDENTITY file that is damaged, or of a format of the future, is refused, and nothing is changed.
#[tokio::test]
async fn a_damaged_identity_and_an_unknown_format_are_refused() {
    let mut ensemble = Ensemble::start(1).await;
    ensemble.kill9(1);
    let file = ensemble.data_dir(1).join("IDENTITY");
    let good = std::fs::read(&file).expect("there is an identity");
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    std::fs::write(&file, &damaged).expect("the file can be written");
    is_refused(ensemble.command(1), &["IDENTITY", "damaged"]).await;
    assert_eq!(std::fs::read(&file).expect("it is there"), damaged);

    let body = "format = 9\nnode_id = 1\n";
    let checksum = crc32c::crc32c(body.as_bytes());
    std::fs::write(&file, format!("{body}crc32c = {checksum:08x}\n")).expect("the file can be written");
    is_refused(ensemble.command(1), &["data format 9"]).await;

    std::fs::remove_file(&file).expect("the file can be deleted");
    is_refused(ensemble.command(1), &["no IDENTITY"]).await;
    std::fs::write(&file, good).expect("the file can be written");
    ensemble.restart(1);
    ensemble.wait_serving().await;
}

/// G1: SIGTERM ends a node with exit code 0, under load, without a lost write; the leadership has moved before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_stops_cleanly_under_load_and_loses_nothing() {
    let mut ensemble = Ensemble::start(3).await;
    let load = Load::start(&ensemble.endpoints(), 4, TIMEOUT).await;
    for round in 1..=2 {
        load.more_successes(300).await;
        let leader = ensemble.leader().await;
        load.take_longest_gap();
        let asked = Instant::now();
        assert_eq!(ensemble.terminate(leader).await.code(), Some(0));
        let stopped = asked.elapsed();
        load.more_successes(300).await;
        let gap = load.take_longest_gap();
        println!("round {round}: leader {leader} stopped in {stopped:?}; longest gap {gap:?}");
        assert!(gap < Duration::from_secs(1), "{gap:?} without an acknowledged write");
        ensemble.restart(leader);
        ensemble.wait_serving().await;
    }
    let ledger = load.stop().await;
    let client = ensemble.client(TIMEOUT).await;
    ledger.verify(&client).await;
    ledger.verify_ephemerals(&client).await;
    // All, one after the other; the last have nobody to hand over to.
    for id in ensemble.ids() {
        assert_eq!(ensemble.terminate(id).await.code(), Some(0), "node {id}");
    }
    for id in ensemble.ids() {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    ledger.verify(&client).await;
}

/// `coordd` alone, with nothing but an address, is a node that serves, and comes back with its data.
#[tokio::test]
async fn coordd_alone_is_a_single_node() {
    // One node has no `--ensemble`; see `Ensemble::members`.
    let mut ensemble = Ensemble::start(1).await;
    assert_eq!(ensemble.members(), "");
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "1", CreateMode::Persistent).await.expect("a create");
    ensemble.kill9(1);
    ensemble.restart(1);
    ensemble.wait_serving().await;
    let (data, _) = client.get("/a", ReadLevel::Linearizable).await.expect("it is there");
    assert_eq!(data, "1");
}

fn coordd(args: &[&str]) -> Command {
    let mut command = Command::new(coordd_tests::coordd());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COORDD_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// A wrong option is refused before anything is touched, by its name.
#[tokio::test]
async fn a_wrong_option_is_refused_by_its_name() {
    for (args, name) in [
        (&["--heartbeat", "1ms"][..], "--heartbeat"),
        (&["--ensemble", "nonsense"], "--ensemble"),
        (&["--id", "7", "--ensemble", "1=a:1,2=b:2"], "--id"),
        (&["--value-bytes-max", "100MiB"], "--value-bytes-max"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--sweep-interval", "soon"], "--sweep-interval"),
        (&["--frobnicate"], "--frobnicate"),
        (&["--config", "/nonexistent/coordd.toml"], "--config"),
    ] {
        let output = run(coordd(args)).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(name), "{args:?}: {}", stderr(&output));
    }
}

/// The command line comes before the environment, that before the file, that before the default; `config check` says
/// what is in force.
#[tokio::test]
async fn the_command_line_comes_before_the_environment_before_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("coordd.toml");
    std::fs::write(
        &file,
        "id = 1\nheartbeat = \"110ms\"\nelection-min = \"410ms\"\nelection-max = \"610ms\"\n",
    )
    .expect("a file");
    let check = |file: &Path| {
        let mut command = coordd(&["--heartbeat", "130ms", "config", "check"]);
        command
            .arg("--config")
            .arg(file)
            .env("COORDD_HEARTBEAT", "120ms")
            .env("COORDD_ELECTION_MIN", "420ms");
        command
    };
    let output = run(check(&file)).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for in_force in [
        "heartbeat = \"130ms\"",
        "election-min = \"420ms\"",
        "election-max = \"610ms\"",
        "session-timeout = \"10s\"",
    ] {
        assert!(said.contains(in_force), "{in_force:?} is not in {said}");
    }
    std::fs::write(&file, "hartbeat = \"110ms\"\n").expect("a file");
    let output = run(check(&file)).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("hartbeat"), "{}", stderr(&output));
}
