//! What a node writes and reads beside its API: log lines, files, signals, the environment. None of it ends a node.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordd_client::{Admin, ConnectOptions, CreateMode};
use coordd_proto::peer::HelloRequest;
use coordd_proto::peer::peer_client::PeerClient;
use coordd_proto::v1::StatusRequest;
use coordd_proto::v1::admin_client::AdminClient;
use coordd_tests::{Ensemble, EnsembleOptions, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(40);

/// A process of a test; killed when it is dropped.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("the process is ours");
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually(Duration::from_secs(20), "the process ends", async || {
            code = self.0.try_wait().expect("our process").map(|status| status.code());
            code.is_some()
        })
        .await;
        code.flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A single node that the test starts itself.
async fn single_node() -> Ensemble {
    EnsembleOptions::new(1).not_started().start().await
}

async fn serves(ensemble: &Ensemble) {
    eventually(START, "the node serves", async || {
        match Admin::connect(ensemble.endpoint(1), TIMEOUT).await {
            Ok(admin) => admin.status().await.is_ok_and(|status| status.not_serving.is_none()),
            Err(_) => false,
        }
    })
    .await;
}

/// The same command through a shell that does something first.
fn through_shell(command: &Command, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// The node serves with this standard error, keeps a write, and stops cleanly.
async fn lives_with(mut command: Command, ensemble: &Ensemble, stderr: Stdio) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let mut node = Process(command.spawn().expect("coordd starts"));
    serves(ensemble).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "1", CreateMode::Persistent).await.expect("a create");
    client.delete("/a", None).await.expect("a delete");
    client.close().await.expect("the session ends");
    assert_eq!(node.0.try_wait().expect("our process"), None, "it runs");
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code().await, Some(0));
}

/// Log lines on a full disk, in a pipe without a reader, and without a standard error are lost, and nothing else is.
#[tokio::test]
async fn lost_log_lines_end_nothing() {
    let ensemble = single_node().await;
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    lives_with(ensemble.command(1), &ensemble, full.into()).await;

    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    lives_with(ensemble.command(1), &ensemble, writer.into()).await;

    let closed = through_shell(&ensemble.command(1), "exec \"$0\" \"$@\" 2>&-");
    lives_with(closed, &ensemble, Stdio::null()).await;
}

/// A reader of the log that stands still, as a terminal that was stopped, holds up nothing.
#[tokio::test]
async fn stalled_log_reader_holds_up_nothing() {
    let ensemble = single_node().await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = ensemble.command(1);
    // More than a pipe takes, in a moment.
    command.env("COORDD_LOG", "trace");
    lives_with(command, &ensemble, writer.into()).await;
    drop(reader);
}

fn coordd(args: &[&str]) -> Command {
    let mut command = Command::new(coordd_tests::coordd());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COORDD_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("coordd starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `config check` prints a file that means the same; a closed pipe is no error, and a full disk is one.
#[test]
fn checked_configuration_is_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let ensemble = "1=localhost:7501,2=[::1]:7502,3=10.0.0.3:7503";
    let mut command = coordd(&["--ensemble", ensemble, "--sweep-interval", "90s", "config", "check"]);
    command.env("COORDD_VALUE_BYTES_MAX", "1000001B").env("COORDD_LOG_FORMAT", "json");
    let first = output(command);
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    let text = String::from_utf8(first.stdout).expect("text");
    for line in [
        "ensemble = \"1=localhost:7501,2=[::1]:7502,3=10.0.0.3:7503\"",
        "sweep-interval = \"1m 30s\"",
        "value-bytes-max = \"1000001B\"",
        "log-format = \"json\"",
        "session-timeout = \"10s\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    let file = dir.path().join("coordd.toml");
    std::fs::write(&file, &text).expect("a file");
    let file = file.to_str().expect("a name");
    let second = output(coordd(&["config", "check", "--config", file]));
    assert_eq!(second.status.code(), Some(0), "{}", said(&second));
    assert_eq!(String::from_utf8_lossy(&second.stdout), text);

    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = coordd(&["config", "check"]).stdout(writer).status().expect("coordd starts");
    assert_eq!(status.code(), Some(0), "nobody reads");
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let status =
        coordd(&["config", "check"]).stdout(full).stderr(Stdio::null()).status().expect("coordd starts");
    assert_eq!(status.code(), Some(1), "the output is lost");
}

/// What a start refuses, `config check` refuses: with the same words, and the right form or the nearest name.
#[test]
fn wrong_options_are_refused_alike() {
    for (args, variable, says) in [
        (&["--log", "inof"][..], None, "did you mean info?"),
        (&["--log", "nonsense=bogus"], None, "\"bogus\" is no level"),
        (&["--log", "coordd_sever=debug"], None, "did you mean coordd_server?"),
        (&["--ensemble", "1=::1:17421,2=[::1]:17422"], None, "[::1]:17421"),
        (&["--listen", "::1:17421"], None, "[::1]:17421"),
        (&["--peer-listen", "::1:17421"], None, "[::1]:17421"),
        (&["--ensemble", ""], None, "--ensemble: must not be empty"),
        (&["--listen", ""], None, "--listen: must not be empty"),
        (&["--sweep-interval", "500000000000years"], None, "--sweep-interval"),
        (&[], Some(("COORDD_ENSEMBEL", "1=a:1")), "did you mean COORDD_ENSEMBLE?"),
        (&[], Some(("COORDD_QQQQQQ", "1")), "COORDD_QQQQQQ: there is no such option"),
    ] {
        let command = |subcommand: &[&str]| {
            let mut command = coordd(args);
            command.args(subcommand).envs(variable);
            output(command)
        };
        let (start, check) = (command(&[]), command(&["config", "check"]));
        for output in [&start, &check] {
            assert_eq!(output.status.code(), Some(2), "{args:?} {variable:?}: {}", said(output));
            assert!(said(output).contains(says), "{args:?} {variable:?}: {}", said(output));
        }
        assert_eq!(said(&start), said(&check));
    }
}

/// An empty variable is an unset one, whichever option it is of.
#[test]
fn empty_variables_are_unset() {
    let help = output(coordd(&["--help"]));
    let help = String::from_utf8(help.stdout).expect("text");
    let variables: Vec<&str> = help
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split(['=', ']']).next())
        .filter(|name| name.starts_with("COORDD_"))
        .collect();
    assert!(variables.len() > 20, "{variables:?}");
    let mut command = coordd(&["config", "check"]);
    command.envs(variables.iter().map(|name| (name, "")));
    let (empty, unset) = (output(command), output(coordd(&["config", "check"])));
    assert_eq!(empty.status.code(), Some(0), "{}", said(&empty));
    assert_eq!(said(&empty), said(&unset));
}

/// SIGHUP takes over the log's filter from the file, names what needs a restart, and never ends a node: also not one that
/// has no file, or a bad one, or still waits for the others.
#[tokio::test]
async fn sighup_reads_the_file_again() {
    let mut ensemble = single_node().await;
    let file = ensemble.scratch().join("coordd.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("the file can be written");
    write("log = \"info\"");
    ensemble.set_env("COORDD_CONFIG", file.to_str().expect("a name"));
    ensemble.restart(1);
    ensemble.wait_serving().await;
    let hang_up = async |ensemble: &Ensemble, says: &str| {
        let pid = Pid::from_raw(ensemble.process_id(1).cast_signed()).expect("a process");
        kill_process(pid, Signal::HUP).expect("the process is ours");
        eventually(TIMEOUT, says, async || ensemble.log(1).contains(says)).await;
    };
    write("log = \"debug\"\nheartbeat = \"140ms\"");
    hang_up(&ensemble, "log lines are written by the new filter").await;
    assert!(ensemble.log(1).contains("options=\"heartbeat\""), "{}", ensemble.log(1));
    write("log = \"inof\"");
    hang_up(&ensemble, "the configuration is not usable").await;
    assert!(ensemble.log(1).contains("did you mean info?"));
    assert_eq!(ensemble.terminate(1).await.code(), Some(0));

    let mut waiting = EnsembleOptions::new(3).not_started().start_beside(&ensemble).await;
    waiting.restart(1);
    eventually(TIMEOUT, "it waits", async || waiting.log(1).contains("waiting for nodes")).await;
    hang_up(&waiting, "there is no file to read again").await;
    assert_eq!(waiting.terminate(1).await.code(), Some(0));
}

/// The value of a line of /proc/PID/status, as long as there is one.
fn process_status(pid: Pid, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// Sends SIGHUP to a process that was started with another umask, if its `main` runs: the umask is the first
/// thing that `main` changes after it has taken over the signal. Before `main` nobody can.
fn hang_up_in_main(pid: Pid) -> bool {
    let is = |name, value| process_status(pid, name).as_deref() == Some(value);
    is("Name", "coordd") && is("Umask", "0077") && kill_process(pid, Signal::HUP).is_ok()
}

/// SIGHUP does not end a process that has only just started: hangups come as fast as they can be sent, until
/// it has done what it was started for.
#[test]
fn sighup_at_start_is_survived() {
    for round in 0..100 {
        let mut command = through_shell(&coordd(&["config", "check"]), "umask 022; exec \"$0\" \"$@\"");
        let mut node =
            Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
        let pid = Pid::from_child(&node.0);
        let status = loop {
            hang_up_in_main(pid);
            if let Some(status) = node.0.try_wait().expect("our process") {
                break status;
            }
        };
        assert!(status.success(), "round {round}: {status}");
    }
}

/// Hangups are sent from the first moment of `main` until the node serves, and that is when it does.
#[tokio::test]
async fn sighup_until_serving_is_survived() {
    let ensemble = single_node().await;
    let mut command = through_shell(&ensemble.command(1), "umask 022; exec \"$0\" \"$@\"");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut node = Process(command.spawn().expect("coordd starts"));
    let pid = Pid::from_child(&node.0);
    let is_serving = Arc::new(AtomicBool::new(false));
    let seen = is_serving.clone();
    let hangups = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while !seen.load(Ordering::Relaxed) {
            sent += u64::from(hang_up_in_main(pid));
        }
        sent
    });
    serves(&ensemble).await;
    is_serving.store(true, Ordering::Relaxed);
    assert!(hangups.join().expect("a thread") > 10);
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code().await, Some(0));
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().expect("it is there").permissions().mode() & 0o7777
}

fn all_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("our directory") {
        let path = entry.expect("our directory").path();
        if path.is_dir() {
            all_below(&path, found);
        }
        found.push(path);
    }
}

fn assert_private(dir: &Path) {
    let mut found = vec![dir.to_owned()];
    all_below(dir, &mut found);
    assert!(found.len() > 6, "{found:?}");
    for path in found {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode_of(&path), wanted, "{}", path.display());
    }
}

/// The data directory is its user's alone, whatever the umask is, and also one that an earlier version has made: the journal
/// holds passwords of sessions.
#[tokio::test]
async fn data_is_private() {
    let ensemble = single_node().await;
    for umask in ["000", "022"] {
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let mut command = through_shell(&ensemble.command(1), &script);
        command.env("COORDD_SNAPSHOT_LOG_BYTES", "1MiB").env("COORDD_KEEP_LOG_BYTES", "0B");
        lives_with_snapshot(command, &ensemble).await;
        assert_private(ensemble.data_dir(1));
        // As an earlier version leaves it.
        let mut found = vec![ensemble.data_dir(1).to_owned()];
        all_below(ensemble.data_dir(1), &mut found);
        for path in found {
            let wide = if path.is_dir() { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(wide)).expect("our file");
        }
    }
    lives_with_snapshot(ensemble.command(1), &ensemble).await;
    assert_private(ensemble.data_dir(1));
}

/// Writes until there is a snapshot.
async fn lives_with_snapshot(mut command: Command, ensemble: &Ensemble) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut node = Process(command.spawn().expect("coordd starts"));
    serves(ensemble).await;
    let client = ensemble.client(TIMEOUT).await;
    for _ in 0..8 {
        let path = client.create("/a-", vec![7; 300_000], CreateMode::PersistentSequential).await;
        drop(path.expect("a create"));
    }
    let snapshots = ensemble.data_dir(1).join("snapshots");
    eventually(TIMEOUT, "a snapshot", async || {
        std::fs::read_dir(&snapshots).is_ok_and(|files| {
            files.filter_map(Result::ok).any(|file| file.file_name().to_string_lossy().starts_with("snap-"))
        })
    })
    .await;
    client.close().await.expect("the session ends");
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code().await, Some(0));
}

/// A lost majority is not told in hundreds of lines, a clean stop of all nodes at once tells no error, and values of JSON lines
/// are values.
#[tokio::test]
async fn json_log_is_short_and_clean() {
    let mut ensemble = EnsembleOptions::new(3).env("COORDD_LOG_FORMAT", "json").start().await;
    let leader = ensemble.leader().await;
    let others = ensemble.ids_but(leader);
    ensemble.kill9(leader);
    ensemble.kill9(others[0]);
    // So long that a line twice a second is seen to have been held back.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let count = |text: &str| ensemble.log(others[1]).lines().filter(|line| line.contains(text)).count();
    let gone = count("the leader is gone");
    assert!((1..=4).contains(&gone), "{gone} lines in 8 s");
    assert!(
        count("still not serving") == 1,
        "after three seconds, and then every minute: {}",
        ensemble.log(others[1])
    );
    let lines = ensemble.log(others[1]).lines().count();
    assert!(lines < 60, "{lines} lines: {}", ensemble.log(others[1]));
    for id in [leader, others[0]] {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    for id in ensemble.ids() {
        let pid = Pid::from_raw(ensemble.process_id(id).cast_signed()).expect("a process");
        kill_process(pid, Signal::TERM).expect("the process is ours");
    }
    for id in ensemble.ids() {
        assert_eq!(ensemble.wait_exit(id).await.code(), Some(0), "node {id}");
    }
    for id in ensemble.ids() {
        for line in ensemble.log(id).lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert_ne!(line["level"], "ERROR", "{line}");
            assert!(line["timestamp"].is_string(), "{line}");
            for (name, value) in line["fields"].as_object().expect("fields") {
                let text = value.as_str().unwrap_or_default();
                let is_debug = text.starts_with("Some(") || text == "None" || text.starts_with('[');
                assert!(!is_debug, "{name} in {line}");
            }
        }
    }
}

/// A client at the peer port, and a peer at the client port, are told where they are and where they belong; also while a node
/// waits for the others. A client with another endpoint goes there. HTTP/1 ends nothing.
#[tokio::test]
async fn wrong_port_is_named() {
    let mut ensemble = single_node().await;
    ensemble.set_env("COORDD_PEER_LISTEN", &ensemble.peer_endpoint(1));
    ensemble.restart(1);
    ensemble.wait_serving().await;
    let (peers, clients) = (ensemble.peer_endpoint(1), ensemble.endpoint(1));
    let belongs = format!("this is the peer port of node 1; clients use {clients}");
    let admin = Admin::connect(peers.clone(), TIMEOUT).await.expect("a connection");
    let refused = admin.status().await.expect_err("no client's port").to_string();
    assert!(refused.contains(&belongs), "{refused}");
    let options = ConnectOptions::new().connect_timeout(Duration::from_secs(2));
    let refused = options.clone().connect([peers.clone()]).await.expect_err("no client's port").to_string();
    assert!(refused.contains(&belongs), "{refused}");
    let client = options.connect([peers.clone(), clients.clone()]).await.expect("there is another endpoint");
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");

    let mut peer = PeerClient::connect(format!("http://{clients}")).await.expect("a connection");
    let hello = HelloRequest { protocol: 1, from: 2, to: 1 };
    let refused = peer.hello(hello).await.expect_err("no peers' port");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains(&format!("client port of node 1; peers use {peers}")), "{refused}");

    for address in [&peers, &clients] {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"\x16\x03\x01\x00\x01\x00",
            b"PRI * HTTP/2.0\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(bytes).await.expect("a write");
            stream.shutdown().await.expect("the end");
            let mut answer = Vec::new();
            let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut answer)).await;
            assert!(read.is_ok(), "{address} keeps a connection that speaks something else");
        }
    }
    client.set("/a", "still here", None).await.expect("the node goes on");

    let mut waiting = EnsembleOptions::new(3).not_started().start_beside(&ensemble).await;
    waiting.restart(1);
    eventually(TIMEOUT, "it waits", async || waiting.log(1).contains("waiting for nodes")).await;
    let admin = Admin::connect(waiting.endpoint(1), TIMEOUT).await.expect("a connection");
    let refused = admin.status().await.expect_err("it is starting").to_string();
    assert!(refused.contains("this node is starting"), "{refused}");
}

/// A node with the addresses of two others swapped says who answers where.
#[tokio::test]
async fn swapped_addresses_are_named() {
    let mut ensemble = EnsembleOptions::new(3).not_started().start().await;
    ensemble.restart(2);
    ensemble.restart(3);
    let mut command = ensemble.command(1);
    let (two, three) = (ensemble.peer_endpoint(2), ensemble.peer_endpoint(3));
    let swapped = format!("1={},2={three},3={two}", ensemble.peer_endpoint(1));
    let program = command.get_program().to_owned();
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = coordd(&[]);
    assert_eq!(command.get_program(), program);
    let own = ensemble.members();
    command.args(args.into_iter().map(|arg| if arg == *own { swapped.clone().into() } else { arg }));
    let log = ensemble.scratch().join("swapped.log");
    command.stdin(Stdio::null()).stderr(File::create(&log).expect("a log"));
    let _node = Process(command.spawn().expect("coordd starts"));
    let says = "node 3 answers there, not node 2: an address in --ensemble is that of another node";
    eventually(TIMEOUT, says, async || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.lines().any(|line| line.contains("WARN") && line.contains(&three) && line.contains(says))
    })
    .await;
}

/// A node whose snapshot was deleted says which directory it is missing from, what is lost, and what can be done.
#[tokio::test]
async fn missing_snapshot_is_named() {
    let ensemble = single_node().await;
    let with_snapshots = || {
        let mut command = ensemble.command(1);
        command.env("COORDD_SNAPSHOT_LOG_BYTES", "1MiB").env("COORDD_KEEP_LOG_BYTES", "0B");
        command
    };
    let purged = async || {
        let admin = AdminClient::connect(format!("http://{}", ensemble.endpoint(1))).await;
        let status = admin.expect("a connection").status(StatusRequest {}).await;
        status.is_ok_and(|status| status.into_inner().purged_index > 0)
    };
    let mut command = with_snapshots();
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut node = Process(command.spawn().expect("coordd starts"));
    serves(&ensemble).await;
    let client = ensemble.client(TIMEOUT).await;
    for _ in 0..16 {
        let path = client.create("/a-", vec![7; 300_000], CreateMode::PersistentSequential).await;
        drop(path.expect("a create"));
    }
    eventually(TIMEOUT, "the log is cut", purged).await;
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code().await, Some(0));
    let snapshots = ensemble.data_dir(1).join("snapshots");
    for file in std::fs::read_dir(&snapshots).expect("our directory") {
        std::fs::remove_file(file.expect("our directory").path()).expect("our file");
    }
    let output = output(with_snapshots());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let dir = snapshots.display().to_string();
    for says in [
        &*dir,
        "a snapshot is missing",
        "there is no snapshot",
        "is lost on this node",
        "do not start this node again",
    ] {
        assert!(said(&output).contains(says), "{says}: {}", said(&output));
    }
}

/// Times that nobody lives to see are times as any other to a command line.
#[tokio::test]
async fn endless_times_end_nothing() {
    let ensemble = Ensemble::start(1).await;
    let longest = "18446744073709551615s";
    let checked = [
        &["register", "shop", "--host", "h", "--port", "1", "--heartbeat", longest][..],
        &["--check", "cmd:false", "--interval", longest, "--check-timeout", longest, "--", "sleep", "1"],
    ]
    .concat();
    for command in [
        &["--timeout", "500000000000years", "get", "/"][..],
        &["--session-timeout", "500000000000years", "lock", "/a", "--", "true"],
        &["lock", "/a", "--grace", "500000000000years", "--", "true"],
        &["lock", "/a", "--wait", "500000000000years", "--", "true"],
        &["--timeout", "500000000000years", "session", "why", "0x1"],
        &["--timeout", "500000000000years", "session", "kill", "0x1"],
        &["--timeout", "500000000000years", "session", "list"],
        &["--timeout", "500000000000years", "status"],
        &checked,
    ] {
        let done = tokio::time::timeout(START, ensemble.coordctl(command)).await.expect("it ends");
        let said = done.unwrap_or_else(|said| said);
        assert!(!said.contains("panicked"), "{command:?}: {said}");
    }
}
