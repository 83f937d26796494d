//! What `coordctl` prints: nothing that a terminal obeys, nothing that ends a command, and no session left behind.

use std::process::{Output, Stdio};
use std::time::Duration;

use coordd_client::{ConnectOptions, CreateMode};
use coordd_tests::{Ensemble, coordbench, coordctl, eventually};
use futures::TryStreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(20);
/// A session that nobody closes is there for longer than a test takes.
const LONG: Duration = Duration::from_secs(300);

fn command(ensemble: &Ensemble, args: &[&str]) -> Command {
    let mut command = Command::new(coordctl());
    for variable in ["COORDCTL_AUTH", "COORDCTL_REGISTRY", "COORDCTL_GUARD"] {
        command.env_remove(variable);
    }
    command.env("COORDCTL_ENDPOINTS", ensemble.endpoints().join(",")).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(ensemble: &Ensemble, args: &[&str]) -> Output {
    command(ensemble, args).output().await.expect("coordctl starts")
}

/// A shell's line in which `$CTL` is the program.
async fn shell(ensemble: &Ensemble, line: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.env("CTL", coordctl()).env("COORDCTL_ENDPOINTS", ensemble.endpoints().join(","));
    shell.env("DIR", ensemble.scratch()).args(["-c", line]).stdin(Stdio::null());
    shell.output().await.expect("a shell")
}

async fn sessions(ensemble: &Ensemble) -> Vec<String> {
    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    let sessions: Vec<_> = admin.sessions().try_collect().await.expect("the sessions");
    sessions.into_iter().map(|info| info.client_name).collect()
}

/// What the test ignores, under `nohup` for example, its programs ignore too.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default().trim();
    u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}

fn is_obeyed(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// B6: escape sequences, newlines, C1 controls and overrides of direction reach no terminal, whoever wrote them and where.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_escaped() {
    let ensemble = Ensemble::start(1).await;
    let evil = "evil\u{1b}[2J\u{1b}]0;title\u{7}\r\nforged line\u{9b}31m\u{7f}\u{202e}gpj";
    let options = ConnectOptions::new().session_timeout(LONG).client_name(evil);
    let client = options.connect(ensemble.endpoints()).await.expect("a session");
    let name = "/dir/a\u{202e}gpj\u{2066}";
    client.create("/dir", evil, CreateMode::Persistent).await.expect("a create");
    client.create(name, evil, CreateMode::Ephemeral).await.expect("a create");
    let json = serde_json::json!({ evil: evil }).to_string();
    client.create("/config", json, CreateMode::Persistent).await.expect("a create");
    let id = format!("{:#x}", client.session_id());
    let victim =
        ConnectOptions::new().client_name(evil).connect(ensemble.endpoints()).await.expect("a session");
    let killed = format!("{:#x}", victim.session_id());
    let kill = run(&ensemble, &["session", "kill", &killed, "--by", evil]).await;
    assert!(kill.status.success(), "{}", String::from_utf8_lossy(&kill.stderr));
    let owner = ["lock", "/lock", "--id", evil, "--address", evil, "--data", evil];
    let holder = command(&ensemble, &owner).spawn().expect("coordctl starts");
    eventually(SOON, "it is held", async || {
        String::from_utf8_lossy(&run(&ensemble, &["lock", "/lock", "--list"]).await.stdout).contains("holds")
    })
    .await;
    for args in [
        &["session", "list"][..],
        &["session", "why", &id],
        &["session", "why", &killed],
        &["ls", "/dir"],
        &["ls", "/dir", "-l"],
        &["tree", "/"],
        &["stat", name],
        &["get", "/no\u{202e}such"],
        &["create", "/dir/b\u{202e}", "x"],
        &["lock", "/lock", "--list"],
        &["config", "get", "/config"],
        &["config", "history", "/dir"],
        &["config", "get", "/dir"],
        &["delete", "/dir\u{1b}[31m"],
        &["status"],
    ] {
        for format in ["text", "json"] {
            let output = run(&ensemble, &[args, &["--output", format]].concat()).await;
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(text).expect("UTF-8");
            assert!(!text.contains(is_obeyed), "{args:?} as {format}: {text:?}");
            assert!(!text.lines().any(|line| line.starts_with("forged")), "{args:?} as {format}: {text:?}");
        }
    }
    // A value for a pipe is the value.
    assert_eq!(run(&ensemble, &["get", "/dir"]).await.stdout, evil.as_bytes());
    drop(holder);
}

/// B6: what another program says of a session's end reaches no terminal through `coordbench`, either.
#[tokio::test(flavor = "multi_thread")]
async fn bench_escapes_end_reasons() {
    let ensemble = Ensemble::start(1).await;
    let mut bench = Command::new(coordbench());
    bench.args(["--endpoints", &ensemble.endpoint(1), "--connections", "1", "--depth", "1", "--keys", "1"]);
    bench.args(["--duration", "60s"]).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let bench = bench.spawn().expect("coordbench starts");
    let admin = ensemble.admin(1).await.expect("an operator");
    let mut session_id = None;
    eventually(SOON, "its connection has a session", async || {
        let sessions: Vec<_> = admin.sessions().try_collect().await.expect("the sessions");
        let found = sessions.into_iter().find(|info| info.client_name == "coordbench-0");
        session_id = found.map(|info| info.session_id);
        session_id.is_some()
    })
    .await;
    let evil = "evil\u{1b}[2J\nforged\u{202e}";
    admin.kill_session(session_id.expect("it was found"), evil.to_owned()).await.expect("killed");
    let output =
        tokio::time::timeout(SOON, bench.wait_with_output()).await.expect("it ends").expect("a process");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("evil\\u{1b}[2J\\nforged\\u{202e}") && !said.contains(is_obeyed), "{said:?}");
}

/// E1: a full disk or a closed descriptor in the place of output keeps no command from running.
#[tokio::test(flavor = "multi_thread")]
async fn failed_output_stops_no_command() {
    let ensemble = Ensemble::start(1).await;
    for (index, ends) in
        ["2>/dev/full", ">/dev/full 2>/dev/full", "2>&-", ">&- 2>&- <&-"].into_iter().enumerate()
    {
        for (holds, args) in [
            ("lock", "lock /lock".to_owned()),
            ("elect", "elect /elect".to_owned()),
            ("register", "register cart --host h --port 1".to_owned()),
            ("work", format!("queue work /queue{index} --once")),
        ] {
            shell(&ensemble, &format!("\"$CTL\" queue put /queue{index} x")).await;
            let file = format!("ran-{holds}-{index}");
            let line = format!("\"$CTL\" {args} -- sh -c 'echo ran > \"$0\"; exit 7' \"$DIR/{file}\" {ends}");
            let output = shell(&ensemble, &line).await;
            let ran = std::fs::read_to_string(ensemble.scratch().join(&file)).unwrap_or_default();
            assert_eq!((ran.as_str(), output.status.code()), ("ran\n", Some(7)), "{line}");
        }
        let line = format!(
            "\"$CTL\" supervise /sup{index} --copies 1 --session-timeout 2s -- sh -c 'echo ran > \"$0\"; sleep 1000' \
             \"$DIR/sup-{index}\" {ends} & agent=$!; while ! [ -s \"$DIR/sup-{index}\" ]; do sleep 0.1; done; kill $agent; wait $agent"
        );
        assert_eq!(shell(&ensemble, &line).await.status.code(), Some(0), "{line}");
    }
    // What could not be told is an error, and never a panic.
    for args in ["get /", "ls /", "status", "session list", "--help", "man", "completions bash", "tree /"] {
        let output = shell(&ensemble, &format!("\"$CTL\" {args} >/dev/full 2>/dev/full")).await;
        let code = output.status.code();
        assert!(code == Some(0) || code == Some(10), "{args}: {output:?}");
    }
}

/// A reader that has read enough ends the program without a word, as it ends others.
#[tokio::test(flavor = "multi_thread")]
async fn closed_pipe_is_quiet() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(LONG).await;
    client.create("/many", "", CreateMode::Persistent).await.expect("a create");
    // More than a pipe holds.
    let creates: Vec<_> =
        (0..400).map(|n| client.create(format!("/many/{n:0250}"), "", CreateMode::Persistent)).collect();
    for create in creates {
        create.await.expect("a create");
    }
    for args in [&["ls", "/many"][..], &["tree", "/"], &["ls", "/many", "--output", "json"]] {
        let mut child = command(&ensemble, args).spawn().expect("coordctl starts");
        let mut line = String::new();
        let mut lines = BufReader::with_capacity(16, child.stdout.take().expect("a pipe"));
        lines.read_line(&mut line).await.expect("a line");
        drop(lines);
        let output = child.wait_with_output().await.expect("it ends");
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]), "{args:?}");
    }
}

/// C3: every command closes its session, also if it fails, is interrupted, or has nobody to print to.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_closes_its_session() {
    let ensemble = Ensemble::start(1).await;
    let long = ["--session-timeout", "300s"];
    for args in [
        &["get", "/"][..],
        &["get", "/absent"],
        &["services"],
        &["services", "cart"],
        &["config", "get", "/absent"],
        &["config", "set", "/c", "k", "1", "--version", "9"],
        &["config", "history", "/absent"],
        &["lock", "/lock", "--list"],
        &["lock", "/lock", "--", "false"],
        &["lock", "/lock", "--", "/no/such/program"],
        &["elect", "/elect", "--list"],
        &["elect", "/elect", "--", "true"],
        &["members", "/group"],
        &["queue", "ls", "/absent"],
        &["queue", "work", "/q", "--until-empty", "--", "true"],
        &["supervise", "/sup", "--status"],
        &["supervise", "/sup", "--scale", "1"],
        &["create", "/e", "--mode", "ephemeral", "--hold", "1ms"],
        &["outcome", "1", "1", "--password", "00"],
        &["stat", "/absent"],
        &["quota", "get", "/"],
        &["acl", "set", "/absent", "world:anyone:r"],
        &["sync"],
        &["health"],
        &["status"],
    ] {
        run(&ensemble, &[args, &long].concat()).await;
        assert_eq!(sessions(&ensemble).await, Vec::<String>::new(), "{args:?}");
    }
    // Until it is ended by a signal, of any kind that asks for it.
    for (args, first) in [
        (&["watch", "/", "-r"][..], false),
        (&["config", "watch", "/c"], true),
        (&["members", "/group", "--join", "me"], true),
        (&["members", "/group", "--watch"], false),
        (&["elect", "/elect", "--observe"], true),
        (&["services", "cart", "--watch"], true),
        (&["create", "/e", "--mode", "ephemeral"], true),
        (&["lock", "/lock"], false),
        (&["shell"], false),
    ] {
        for signal in
            [Signal::TERM, Signal::HUP, Signal::INT].into_iter().filter(|signal| !is_ignored(*signal))
        {
            let mut command = command(&ensemble, &[args, &long].concat());
            let mut child = command.stdin(Stdio::piped()).spawn().expect("coordctl starts");
            eventually(SOON, "its session is open", async || !sessions(&ensemble).await.is_empty()).await;
            if first {
                let mut byte = [0];
                child.stdout.as_mut().expect("a pipe").read_exact(&mut byte).await.expect("a first word");
            }
            let pid = Pid::from_raw(child.id().expect("it runs").cast_signed()).expect("a process");
            kill_process(pid, signal).expect("a signal");
            child.wait().await.expect("it ends");
            assert_eq!(sessions(&ensemble).await, Vec::<String>::new(), "{args:?} by {signal:?}");
        }
    }
}
