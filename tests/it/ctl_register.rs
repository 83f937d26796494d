//! `coordctl register SERVICE -- COMMAND` and `coordctl services`: an instance is in rotation while its command and its checks
//! say so, and gone when they are.

use std::process::Command;
use std::time::Duration;

use coordd_tests::{Contender, Ensemble, coordctl, eventually, free_port};
use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);
const RUN: &str = "echo pid $$; exec sleep 1000";

async fn register(ensemble: &Ensemble, id: &str, options: &[&str], script: Option<&str>) -> Contender {
    let mut program = Command::new(coordctl());
    program.env_remove("COORDCTL_AUTH").env_remove("COORDCTL_REGISTRY");
    program.args(["register", "cart", "--host", "127.0.0.1", "--id", id, "--session-timeout", "2s"]);
    program.args(["--heartbeat", "300ms"]).args(options);
    if options.contains(&"--check") {
        program.args(["--interval", "100ms"]);
    }
    if !options.contains(&"--port") {
        program.args(["--port", "8080"]);
    }
    if let Some(script) = script {
        program.args(["--", "sh", "-c", script]);
    }
    Contender::start(ensemble, program, "COORDCTL_ENDPOINTS").await
}

/// The instances of the service, each with its status.
async fn listed(ensemble: &Ensemble) -> String {
    let text = ensemble.coordctl(&["services", "cart", "--output", "json"]).await.expect("a list");
    let service: Value = serde_json::from_str(&text).expect("JSON");
    let instances = service["instances"].as_array().expect("a list").iter();
    let one = |instance: &Value| format!("{} {}", instance["id"], instance["status"]).replace('"', "");
    instances.map(one).collect::<Vec<_>>().join(", ")
}

async fn lists(ensemble: &Ensemble, expected: &str) -> Duration {
    eventually(SOON, expected, async || listed(ensemble).await == expected).await
}

async fn said(contender: &mut Contender, beginning: &str) -> String {
    let line = contender.wait_for(SOON, beginning, |line| line.text.starts_with(beginning)).await;
    line.text[beginning.len()..].trim().to_owned()
}

async fn pid(contender: &mut Contender) -> Pid {
    Pid::from_raw(said(contender, "pid").await.parse().expect("a process id")).expect("a process id")
}

fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_there_while_its_command_runs_and_healthy_while_its_checks_pass() {
    let ensemble = Ensemble::start(3).await;
    let file = ensemble.scratch().join("ready");
    let port = free_port().to_string();
    let file_check = format!("cmd:test -e {}", file.display());
    let tcp_check = format!("tcp://127.0.0.1:{port}");
    let options =
        ["--port", &port, "--meta", "zone=3", "--weight", "2", "--check", &file_check, "--check", &tcp_check];
    let show = format!("echo $COORDD_SERVICE $COORDD_INSTANCE $COORDD_GRANT_PATH; {RUN}");
    let mut checked = register(&ensemble, "a", &options, Some(&show)).await;
    assert_eq!(checked.next(SOON).await.text, "cart a /registry/nodes/a");
    let command = pid(&mut checked).await;
    lists(&ensemble, "a unhealthy").await;
    std::fs::write(&file, "").expect("a file");
    // Both checks have to pass.
    let listener =
        tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port is free");
    let accepts = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    lists(&ensemble, "a healthy").await;
    accepts.abort();
    lists(&ensemble, "a unhealthy").await;
    let listener =
        tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port is free");
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    lists(&ensemble, "a healthy").await;

    let table = ensemble.coordctl(&["services", "cart"]).await.expect("a table");
    let address = format!("127.0.0.1:{port}");
    let row: Vec<_> = table.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!(row, ["a", &address, "healthy", "0.00", "2", "zone=3"], "{table}");
    assert!(table.contains("cart: distributed, round-robin, 5000 ms; 1 of 1 take calls"), "{table}");
    let table = ensemble.coordctl(&["services"]).await.expect("a table");
    assert!(table.lines().last().unwrap_or_default().ends_with("1/1      -"), "{table}");

    // It is still there, and so is its command, while coordctl stands still for less than its session; and the command
    // also when it stood still for longer, when it is registered anew.
    checked.pause();
    lists(&ensemble, "").await;
    assert!(is_alive(command));
    checked.resume();
    lists(&ensemble, "a healthy").await;
    assert!(is_alive(command));

    // Cut off: the same.
    checked.cut_off();
    lists(&ensemble, "").await;
    checked.heal();
    lists(&ensemble, "a healthy").await;
    assert!(is_alive(command));

    // SIGTERM: out of rotation first.
    let trap = "trap 'sleep 1; exit 3' TERM; echo pid $$; while :; do sleep 0.02; done";
    let mut draining = register(&ensemble, "b", &[], Some(trap)).await;
    pid(&mut draining).await;
    lists(&ensemble, "a healthy, b healthy").await;
    draining.signal(Signal::TERM);
    lists(&ensemble, "a healthy, b draining").await;
    assert_eq!(draining.wait_exit().await.code(), Some(3));
    lists(&ensemble, "a healthy").await;

    // kill -9: the command does not go on as an instance that nobody knows.
    checked.kill9();
    eventually(SOON, "the command is gone", async || !is_alive(command)).await;
    lists(&ensemble, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_and_signals_pass_through_and_the_list_is_watched() {
    let ensemble = Ensemble::start(1).await;
    let mut program = Command::new(coordctl());
    program.args(["services", "cart", "--watch", "--output", "json"]);
    let mut watcher = Contender::start(&ensemble, program, "COORDCTL_ENDPOINTS").await;
    let first = watcher.next(SOON).await;
    assert_eq!((first.json["mode"].as_str(), first.json["healthy"].as_u64()), (Some("distributed"), Some(0)));

    for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
        let mut registered = register(&ensemble, "a", &[], Some(script)).await;
        assert_eq!(registered.wait_exit().await.code(), Some(expected), "{script}");
        lists(&ensemble, "").await;
    }
    let seen = watcher.wait_for(SOON, "an instance", |line| line.json["healthy"] == 1).await;
    assert_eq!(seen.json["instances"][0]["address"], "127.0.0.1:8080");
    watcher.wait_for(SOON, "that it has gone", |line| line.json["healthy"] == 0).await;
    assert_eq!(watcher.terminate().await.code(), Some(0));

    let traps = "trap 'echo got USR1' USR1; trap 'echo got INT; exit 5' INT; echo pid $$; while :; do sleep 0.02; done";
    let mut trapper = register(&ensemble, "a", &[], Some(traps)).await;
    pid(&mut trapper).await;
    trapper.signal(Signal::USR1);
    assert_eq!(said(&mut trapper, "got").await, "USR1");
    trapper.signal(Signal::INT);
    assert_eq!(said(&mut trapper, "got").await, "INT");
    assert_eq!(trapper.wait_exit().await.code(), Some(5));

    // Without a command it lasts until it is ended.
    let mut alone = register(&ensemble, "a", &[], None).await;
    lists(&ensemble, "a healthy").await;
    assert_eq!(alone.terminate().await.code(), Some(0));
    lists(&ensemble, "").await;

    for (options, reason) in [
        (&["--check", "ftp://a:1"][..], "is no check"),
        (&["--meta", "zone"], "KEY=VALUE"),
        (&["--check", "tcp://h:1", "--interval", "0s"], "more than 0"),
        (&["--interval", "1s"], "--check"),
        (&["--port", "0"], "needs a host and a port"),
    ] {
        let mut args = vec!["register", "cart", "--host", "h"];
        args.extend(options);
        if !options.contains(&"--port") {
            args.extend(["--port", "1"]);
        }
        let refused = ensemble.coordctl(&args).await.expect_err("it makes no sense");
        assert!(refused.contains(reason), "{options:?}: {refused}");
    }
}
