//! How nodes start, refuse to start, and stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
            clusters.insert(ensemble.status_of(id).await.cluster_id);
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
    let (our_id, their_id) = (ours.status_of(3).await.cluster_id, theirs.status_of(3).await.cluster_id);
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

/// The files below a directory, and what is in them.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for file in std::fs::read_dir(dir).expect("a directory") {
        let path = file.expect("a file").path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).expect("a file"))),
        }
    }
    found
}

/// A node, started by hand with another id or list. Without a list it is alone.
fn with_list(ensemble: &Ensemble, id: u64, as_id: u64, list: &str) -> Command {
    let mut command = Command::new(coordd_tests::coordd());
    command.args(["--id", &as_id.to_string(), "--listen", &ensemble.endpoint(id)]);
    command.arg("--data-dir").arg(ensemble.data_dir(id));
    command.args(["--peer-listen", &ensemble.peer_endpoint(id)]);
    if !list.is_empty() {
        command.args(["--ensemble", list]);
    }
    command
}

/// Ids at addresses where nobody listens, but the first, which is at its own.
fn list(ensemble: &Ensemble, ids: &[u64]) -> String {
    let own = ensemble.ids()[0];
    let address = |id: u64| match id == own {
        true => ensemble.peer_endpoint(id),
        false => format!("127.0.0.1:{}", free_port()),
    };
    ids.iter().map(|id| format!("{id}={}", address(*id))).collect::<Vec<_>>().join(",")
}

/// G1, G2: a node is started with the list that its ensemble was formed with, or not at all. With another one it could take
/// itself for a majority. It is refused each time, with both lists, and nothing is written.
#[tokio::test]
async fn another_list_of_nodes_is_refused() {
    let mut alone = Ensemble::start(1).await;
    let client = alone.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    alone.kill9(1);
    let before = contents(alone.data_dir(1));
    for ids in [&[1, 2, 3][..], &[1, 2], &[1, 2, 3, 4, 5]] {
        let said = format!("names the nodes {ids:?}");
        for _ in 0..3 {
            is_refused(with_list(&alone, 1, 1, &list(&alone, ids)), &[&said, "formed with the nodes [1]"])
                .await;
        }
    }
    assert!(contents(alone.data_dir(1)) == before, "a refused start wrote something");
    alone.restart(1);
    alone.wait_serving().await;

    let mut three = EnsembleOptions::new(3).start_beside(&alone).await;
    let client = three.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    for id in [1, 3] {
        three.kill9(id);
        let before = contents(three.data_dir(id));
        // Another id in the list, more and fewer of them, and none.
        for ids in [&[1, 3, 4][..], &[1, 2, 3, 4], &[1, 2, 3, 4, 5], &[]] {
            let said = if ids.is_empty() { format!("names the nodes [{id}]") } else { format!("{ids:?}") };
            is_refused(
                with_list(&three, id, id, &list(&three, ids)),
                &[&said, "formed with the nodes [1, 2, 3]"],
            )
            .await;
        }
        let other_id = with_list(&three, id, 2, &three.members());
        is_refused(other_id, &[&format!("belongs to node {id}, not to node 2")]).await;
        assert!(contents(three.data_dir(id)) == before, "a refused start wrote something");
        three.restart(id);
        three.wait_serving().await;
    }
}

/// A directory of a version that did not keep the list: it is found in the log, and kept from then on. The same nodes at new
/// addresses are the same nodes.
#[tokio::test]
async fn the_list_of_an_older_directory_is_found() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    ensemble.wait_equal().await;
    for id in ensemble.ids() {
        ensemble.kill9(id);
        let file = ensemble.data_dir(id).join("IDENTITY");
        let text = std::fs::read_to_string(&file).expect("there is an identity");
        let body = text.split("has_watermark").next().expect("the older part");
        assert!(text.contains("formed_with = 1,2,3"), "{text}");
        let older = format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes()));
        std::fs::write(&file, older).expect("the file can be written");
    }
    let before = contents(ensemble.data_dir(1));
    for ids in [&[1, 2, 3, 4][..], &[]] {
        is_refused(with_list(&ensemble, 1, 1, &list(&ensemble, ids)), &["formed with the nodes [1, 2, 3]"])
            .await;
    }
    assert!(contents(ensemble.data_dir(1)) == before, "a refused start wrote something");
    ensemble.move_peers();
    for id in ensemble.ids() {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    for id in ensemble.ids() {
        let text = std::fs::read_to_string(ensemble.data_dir(id).join("IDENTITY")).expect("an identity");
        assert!(text.contains("formed_with = 1,2,3\n") && text.contains("has_watermark = true\n"), "{text}");
    }
    client.set("/a", "2", None).await.expect("a set");
}

/// G1: what is missing of a directory that has begun is not taken for what was never there.
#[tokio::test]
async fn missing_files_of_a_begun_directory_are_refused() {
    // The log is cut behind a snapshot all the time.
    let mut ensemble = EnsembleOptions::new(1)
        .env("COORDD_SNAPSHOT_LOG_BYTES", "4MiB")
        .env("COORDD_KEEP_LOG_BYTES", "1MiB")
        .start()
        .await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    for _ in 0..30 {
        client.set("/a", vec![b'x'; 500_000], None).await.expect("a set");
    }
    eventually(TIMEOUT, "the log is cut", async || {
        let status = ensemble.status(1).await;
        status.is_some_and(|status| status.purged_index > 0)
    })
    .await;
    assert_eq!(ensemble.terminate(1).await.code(), Some(0));
    let dir = ensemble.data_dir(1).to_owned();
    let aside = ensemble.scratch().join("aside");
    for (name, said) in [
        ("snapshots", &["there is no snapshot", "snapshots"][..]),
        ("wal/watermark", &["wal/watermark", "it is missing"]),
        ("wal", &["the log is empty"]),
        ("IDENTITY", &["no IDENTITY"]),
    ] {
        std::fs::rename(dir.join(name), &aside).expect("it is there");
        is_refused(ensemble.command(1), said).await;
        let made = dir.join(name);
        if made.is_dir() {
            std::fs::remove_dir_all(&made).expect("made by the start");
        }
        std::fs::rename(&aside, made).expect("it can be put back");
    }
    ensemble.restart(1);
    ensemble.wait_serving().await;
}
