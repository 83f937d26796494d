//! `coordctl` as a program: what it prints and how it exits, as far as no ensemble is needed. What it does to an
//! ensemble is tested with real nodes in the workspace's `tests`.

use std::net::TcpListener;
use std::process::{Command, Output};

fn coordctl(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
    command.env_remove("COORDCTL_ENDPOINTS").env_remove("COORDCTL_AUTH");
    command.args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An address where nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn an_ensemble_out_of_reach_is_exit_code_9_in_time() {
    let endpoint = nobody();
    for command in [&["get", "/a"][..], &["status"], &["health"], &["session", "list"]] {
        let args = [command, &["--endpoints", &endpoint, "--timeout", "300ms"]].concat();
        let output = coordctl(&args);
        assert_eq!(output.status.code(), Some(9), "{command:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(&endpoint), "{command:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_failure_is_json_where_that_was_asked_for() {
    let endpoint = nobody();
    let output = coordctl(&["--output", "json", "get", "/a", "--endpoints", &endpoint, "--timeout", "300ms"]);
    let failure: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(failure["error"]["kind"], "ConnectionLoss");
    assert_eq!(failure["error"]["exit_code"], 9);
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for args in [
        &["frobnicate"][..],
        &["set", "/a"],
        &["create", "/a", "--ttl", "1s"],
        &["get"],
        &["multi", "/dev/stdin", "x"],
    ] {
        assert_eq!(coordctl(args).status.code(), Some(2), "{args:?}");
    }
    let endpoint = coordctl(&["get", "/a", "--endpoints", "nowhere"]);
    assert_eq!(endpoint.status.code(), Some(2), "{}", stderr(&endpoint));
}

#[test]
fn a_file_that_cannot_be_read_is_exit_code_10() {
    let output = coordctl(&["set", "/a", "--file", "/does/not/exist"]);
    assert_eq!(output.status.code(), Some(10));
    assert!(stderr(&output).contains("/does/not/exist"));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let names = [
        "create", "get", "set", "delete", "ls", "tree", "stat", "watch", "multi", "session", "outcome",
        "status",
    ];
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&coordctl(&["completions", shell]));
        assert!(names.iter().all(|name| script.contains(name)), "{shell}");
    }
    let page = stdout(&coordctl(&["man"]));
    assert!(page.starts_with(".ie"), "it is roff: {page:.60}");
    assert!(names.iter().all(|name| page.contains(&format!("coordctl\\-{name}"))), "{page}");
    assert!(page.contains("NodeExists: there is one already"), "the exit codes are in the page");
}

/// E8: a mistyped option is refused with the one that was meant, wherever a value could stand in its place.
#[test]
fn mistyped_options_are_no_data() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "set /a --verison=7\n").unwrap();
    let multi = file.path().to_str().unwrap();
    for (args, meant) in [
        (&["create", "/t1", "--ephemeral"][..], "'--mode ephemeral'"),
        (&["create", "/t1", "--parent"], "'--parents'"),
        (&["set", "/t1", "--verison=7"], "'--version'"),
        (&["config", "set", "/c", "k", "--authr=x"], "'--author'"),
        (&["config", "set", "/c", "--fiel", "x"], "'--file'"),
        (&["queue", "put", "/q", "--prioriy=1"], "'--priority'"),
        (&["multi", multi], "'--version'"),
        (&["lock", "/l", "--wiat=1s", "--", "true"], "'--wait'"),
        (&["set", "/t1", "-x"], "'-x'"),
    ] {
        let output = coordctl(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(meant), "{args:?}: {}", stderr(&output));
    }
    // A number is none, and behind `--` everything is data.
    let endpoint = nobody();
    for args in [&["set", "/t1", "-1.5"][..], &["create", "/t1", "--", "--ephemeral"], &["set", "/t1", "-"]] {
        let args = [&["--endpoints", &endpoint, "--timeout", "100ms"], args].concat();
        assert_eq!(coordctl(&args).status.code(), Some(9), "{args:?}");
    }
}

/// E16: an empty variable of the environment is none, and an empty option is refused.
#[test]
fn empty_variables_are_unset() {
    let endpoint = nobody();
    let variables = ["AUTH", "GUARD", "REGISTRY", "SESSION_PASSWORD"].map(|name| format!("COORDCTL_{name}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
    command.envs(variables.iter().map(|name| (name, ""))).env("USER", "");
    command.args(["services", "--endpoints", &endpoint, "--timeout", "100ms"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{}", stderr(&output));
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
    command.env("COORDCTL_ENDPOINTS", "").args(["get", "--help"]);
    assert!(stdout(&command.output().unwrap()).contains("[default: 127.0.0.1:7401]"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
    command.env("COORDCTL_SESSION_PASSWORD", "").args(["outcome", "1", "1", "--endpoints", &endpoint]);
    let output = command.output().unwrap();
    assert!(stderr(&output).contains("--password"), "it is required: {}", stderr(&output));
    for args in [
        &["get", "/", "--endpoints", ""][..],
        &["get", "/", "--endpoints", "127.0.0.1:1,"],
        &["get", "/", "--auth", ""],
        &["get", "/", "--guard", ""],
        &["services", "--root", ""],
        &["lock", "/l", "--id", ""],
        &["config", "set", "/c", "", "5"],
        &["config", "set", "/c", "k", "{bad"],
    ] {
        assert_eq!(coordctl(args).status.code(), Some(2), "{args:?}");
    }
}

/// C6: a mistyped variable of the environment is refused with the one that was meant; those of other
/// programs, and those that a container is told, are let alone.
#[test]
fn mistyped_variables_are_refused() {
    let endpoint = nobody();
    let args = ["get", "/a", "--endpoints", &endpoint, "--timeout", "100ms"];
    let with = |name: &str, value: &str| {
        Command::new(env!("CARGO_BIN_EXE_coordctl")).env(name, value).args(args).output().unwrap()
    };
    for (name, meant) in [
        ("COORDCTL_ENDPOINT", "COORDCTL_ENDPOINTS"),
        ("COORDCTL_ATUH", "COORDCTL_AUTH"),
        ("COORDCTL_SESSION_PASWORD", "COORDCTL_SESSION_PASSWORD"),
        ("COORDCTL_REGISTRI", "COORDCTL_REGISTRY"),
        ("COORDCTL_OUTPUT", "--help"),
    ] {
        let output = with(name, "x");
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(name) && stderr(&output).contains(meant), "{}", stderr(&output));
    }
    for (name, value) in
        [("COORDCTL_ENDPOINT", ""), ("COORDD_ENDPOINT", "x"), ("COORDCTL_SERVICE_HOST", "10.0.0.1")]
    {
        assert_eq!(with(name, value).status.code(), Some(9), "{name}");
    }
}

/// B6: words of the command line may be names of others.
#[test]
fn refused_words_are_escaped() {
    let output = coordctl(&["get", "--\u{1b}[2J\u{202e}x"]);
    assert_eq!(output.status.code(), Some(2));
    // A sequence that begins with ESC is left out by clap, where nobody looks at a terminal.
    assert!(
        stderr(&output).contains("\\u{202e}x") && !stderr(&output).contains('\u{1b}'),
        "{}",
        stderr(&output)
    );
}
