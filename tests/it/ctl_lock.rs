//! `coordctl lock PATH -- COMMAND` and `coordctl members PATH`: what the recipes do, for programs in any language.

use std::process::Command;
use std::time::Duration;

use coordd_client::{Bytes, ReadLevel};
use coordd_tests::{Contender, Ensemble, EnsembleOptions, coordctl, eventually};
use rustix::process::{Pid, Signal, test_kill_process};

const SOON: Duration = Duration::from_secs(15);
/// Says that it has the lock and with which epoch, and then that it runs, until it is killed; it does not mind SIGTERM.
const BEAT: &str =
    "trap '' TERM; echo pid $$; echo has $COORDD_EPOCH; while :; do echo beat; sleep 0.02; done";
const HAVE: &str = "echo has $COORDD_EPOCH; exec sleep 1000";

async fn start(ensemble: &Ensemble, args: &[&str]) -> Contender {
    let mut program = Command::new(coordctl());
    program.env_remove("COORDCTL_AUTH").args(args).args(["--session-timeout", "2s"]);
    Contender::start(ensemble, program, "COORDCTL_ENDPOINTS").await
}

async fn lock(ensemble: &Ensemble, options: &[&str], script: &str) -> Contender {
    let mut program = Command::new(coordctl());
    program.env_remove("COORDCTL_AUTH").args(["lock", "/job", "--session-timeout", "2s"]).args(options);
    program.args(["--", "sh", "-c", script]);
    Contender::start(ensemble, program, "COORDCTL_ENDPOINTS").await
}

/// Waits for a line that begins so; returns what follows.
async fn said(contender: &mut Contender, beginning: &str) -> String {
    let line = contender.wait_for(SOON, beginning, |line| line.text.starts_with(beginning)).await;
    line.text[beginning.len()..].trim().to_owned()
}

async fn epoch(contender: &mut Contender) -> u64 {
    said(contender, "has").await.parse().expect("an epoch")
}

async fn code(contender: &mut Contender) -> Option<i32> {
    contender.wait_exit().await.code()
}

async fn list(ensemble: &Ensemble, path: &str) -> String {
    ensemble.coordctl(&["lock", path, "--list"]).await.expect("a list")
}

async fn until_listed(ensemble: &Ensemble, path: &str, what: &str, times: usize) {
    eventually(SOON, what, async || list(ensemble, path).await.matches(what).count() == times).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_only_while_it_has_the_lock() {
    let ensemble = Ensemble::start(1).await;
    assert_eq!(list(&ensemble, "/job").await, "nobody holds\n");
    let mut done =
        lock(&ensemble, &[], "echo grant $COORDD_GRANT_PATH:$COORDD_EPOCH $COORDCTL_GUARD; exit 7").await;
    let said_grant = said(&mut done, "grant /job/write-").await;
    let (grant, guard) = said_grant.split_once(' ').expect("two words");
    assert!(guard.starts_with(&format!("/job/write-{grant}@")), "{guard}");
    assert_eq!(code(&mut done).await, Some(7));

    let mut first = lock(&ensemble, &["--id", "first"], HAVE).await;
    let first_epoch = epoch(&mut first).await;
    let mut second = lock(&ensemble, &["--id", "second", "--data", "{\"zone\":3}"], HAVE).await;
    until_listed(&ensemble, "/job", "waits", 1).await;
    let listed = list(&ensemble, "/job").await;
    let (holder, waiter) = listed.split_once('\n').expect("two lines");
    assert!(holder.starts_with("holds  write-") && holder.ends_with("first"), "{listed}");
    assert!(waiter.starts_with("waits  write-") && waiter.ends_with("second {\"zone\":3}\n"), "{listed}");
    for (options, reason) in [(&["--try"][..], "at once"), (&["--wait", "100ms"], "in time")] {
        let mut vain = lock(&ensemble, options, "echo has it").await;
        assert_eq!(code(&mut vain).await, Some(12), "{reason}");
        assert!(vain.lines().is_empty(), "{reason}");
    }
    assert_eq!(first.terminate().await.code(), Some(143));
    assert!(epoch(&mut second).await > first_epoch);
    second.signal(rustix::process::Signal::INT);
    assert_eq!(code(&mut second).await, Some(130));

    // Readers together, and no writer.
    let (mut one, mut two) =
        (lock(&ensemble, &["--read"], HAVE).await, lock(&ensemble, &["--read"], HAVE).await);
    epoch(&mut one).await;
    epoch(&mut two).await;
    assert_eq!(code(&mut lock(&ensemble, &["--write", "--try"], "exit 0").await).await, Some(12));
    // Without a command it is held until it is told to end.
    let mut held = start(&ensemble, &["lock", "/other"]).await;
    until_listed(&ensemble, "/other", "holds", 1).await;
    assert!(held.exited().is_none());
    held.terminate().await;
    assert_eq!(list(&ensemble, "/other").await, "nobody holds\n");

    // Two permits of one semaphore; who names another number is told so.
    let permit = |permits, script: &'static str| {
        let mut program = Command::new(coordctl());
        program.args(["lock", "/permits", "--permits", permits, "--", "sh", "-c", script]);
        Contender::start(&ensemble, program, "COORDCTL_ENDPOINTS")
    };
    let (mut one, mut two) = (permit("2", HAVE).await, permit("2", HAVE).await);
    epoch(&mut one).await;
    epoch(&mut two).await;
    assert_eq!(code(&mut permit("3", "exit 0").await).await, Some(2));
    let mut three = permit("2", HAVE).await;
    until_listed(&ensemble, "/permits", "waits", 1).await;
    until_listed(&ensemble, "/permits", "holds", 2).await;
    drop(one);
    assert_eq!(two.terminate().await.code(), Some(143));
    epoch(&mut three).await;
}

/// A command meets SIGHUP as one that a shell has started: `coordctl` catches the signal and never ignores
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_do_not_ignore_sighup() {
    const SHOW: &str = "grep SigIgn /proc/self/status";
    let ensemble = Ensemble::start(1).await;
    let elect = ["elect", "/leads", "--", "sh", "-c", SHOW];
    for mut command in [lock(&ensemble, &[], SHOW).await, start(&ensemble, &elect).await] {
        let ignored = said(&mut command, "SigIgn:").await;
        let ignored = u64::from_str_radix(&ignored, 16).expect("a set of signals");
        assert_eq!(ignored & (1 << (Signal::HUP.as_raw() - 1)), 0, "{ignored:x}");
        assert_eq!(code(&mut command).await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_is_gone_before_anybody_else_has_the_lock() {
    let ensemble = Ensemble::start(3).await;
    for disturb in [
        |first: &mut Contender| first.kill9(),
        |first: &mut Contender| first.pause(),
        |first: &mut Contender| first.cut_off(),
    ] {
        let mut first = lock(&ensemble, &[], BEAT).await;
        let command: i32 = said(&mut first, "pid").await.parse().expect("a process id");
        let first_epoch = epoch(&mut first).await;
        let mut second = lock(&ensemble, &[], HAVE).await;
        until_listed(&ensemble, "/job", "waits", 1).await;
        disturb(&mut first);
        assert!(epoch(&mut second).await > first_epoch, "epochs grow");
        assert!(test_kill_process(Pid::from_raw(command).expect("a process id")).is_err(), "it still runs");
        if first.exited().is_none() {
            first.resume();
            first.heal();
            assert_eq!(code(&mut first).await, Some(11), "the lock was lost");
        }
        assert_eq!(second.terminate().await.code(), Some(143));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_group_are_listed_and_watched() {
    let ensemble = Ensemble::start(3).await;
    let mut watcher = start(&ensemble, &["members", "/group", "--watch"]).await;
    let mut member = start(&ensemble, &["members", "/group", "--join", "host-7", "--data", "10.0.0.7"]).await;
    assert_eq!(said(&mut member, "/group/").await, "host-7");
    let joined = said(&mut watcher, "joined").await;
    assert!(joined.starts_with("host-7 epoch ") && joined.ends_with(" 10.0.0.7"), "{joined}");
    let listed = ensemble.coordctl(&["members", "/group", "--output", "json"]).await.expect("a list");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        (&listed["members"][0]["name"], &listed["members"][0]["data"]),
        (&"host-7".into(), &"10.0.0.7".into())
    );
    assert_eq!(member.terminate().await.code(), Some(0));
    said(&mut watcher, "left").await;
    assert_eq!(ensemble.coordctl(&["members", "/group"]).await.as_deref(), Ok(""));
    let mut refused = start(&ensemble, &["members", "/group", "--join", "a/b"]).await;
    assert_eq!(code(&mut refused).await, Some(2));
    assert_eq!(watcher.terminate().await.code(), Some(0));
}

/// E18: a lock that is free is taken however short the time for others is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_patience_takes_what_is_free() {
    let ensemble = Ensemble::start(3).await;
    for kind in [&["--write"][..], &["--read"], &["--permits", "1"]] {
        for wait in ["0s", "1us"] {
            let mut free = lock(&ensemble, &[kind, &["--wait", wait]].concat(), "exit 7").await;
            assert_eq!(code(&mut free).await, Some(7), "{kind:?} within {wait}");
        }
        let mut holder = lock(&ensemble, kind, HAVE).await;
        epoch(&mut holder).await;
        let other = if kind == ["--read"] { &["--write"][..] } else { kind };
        let mut vain = lock(&ensemble, &[other, &["--wait", "0s"]].concat(), "exit 7").await;
        assert_eq!(code(&mut vain).await, Some(12), "{kind:?} is taken");
        holder.terminate().await;
    }
}

/// A lock of which no node says whether it is free is not "not free": nobody may have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_not_a_holder() {
    let options = EnsembleOptions::new(1).env("COORDD_DISK_RESERVE_BYTES", "1000PiB");
    let ensemble = options.start().await;
    eventually(SOON, "growth is refused", async || ensemble.status_of(1).await.growth_refused).await;
    for options in [&["--wait", "100ms"][..], &["--try"]] {
        let args = [&["lock", "/job", "--timeout", "2s"][..], options, &["--", "true"]].concat();
        let mut program = tokio::process::Command::new(coordctl());
        program.env_remove("COORDCTL_AUTH").args(["--endpoints", &ensemble.endpoint(1)]).args(&args);
        let output = program.output().await.expect("coordctl starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(9), "{options:?}: {said}");
        assert!(said.lines().last().is_some_and(|line| line.starts_with("coordctl: NoSpace: ")), "{said}");
    }
}

/// E19: what a command runs reaches the same ensemble as the same client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_reach_the_command() {
    let ensemble = Ensemble::start(1).await;
    let auth = ["--auth", "ann:pw", "--auth", "bob:pw:2"];
    let secret = ["create", "/secret", "told", "--acl", "auth::r"];
    ensemble.coordctl(&[&secret[..], &auth[2..]].concat()).await.expect("created");
    ensemble.coordctl(&["get", "/secret"]).await.expect_err("it is a secret");
    let script = "echo \"$COORDCTL_ENDPOINTS $($CTL get /secret)\"";
    for args in [
        &["lock", "/auth-lock"][..],
        &["elect", "/auth-elect"],
        &["register", "cart", "--host", "h", "--port", "1"],
    ] {
        let mut program = Command::new(coordctl());
        program.env_remove("COORDCTL_AUTH").env("CTL", coordctl());
        program.args(args).args(auth).args(["--endpoints", &ensemble.endpoints().join(",")]);
        program.args(["--", "sh", "-c", script]);
        let output = program.output().expect("coordctl starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("{} told\n", ensemble.endpoints().join(",")), "{args:?}: {output:?}");
    }
}

/// E9: numbers, order and white space of `--data` stay as they are written, in the tree and in what is
/// printed of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_data_keeps_its_text() {
    const DATA: &str = r#"{ "z":1.10, "a":[1e10, 123456789012345678901234], "e":"\u00e9" }"#;
    let compact = r#"{"z":1.10,"a":[1e10,123456789012345678901234],"e":"\u00e9"}"#;
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(SOON).await;
    for command in ["lock", "elect"] {
        let (held, number) = (format!("/{command}"), format!("/{command}-number"));
        let mut holder = start(&ensemble, &[command, &held, "--id", "a", "--data", DATA]).await;
        let mut other = start(&ensemble, &[command, &number, "--id", "a", "--data", "1.10"]).await;
        for (path, data, shown) in [(&held, DATA, compact), (&number, "1.10", "1.10")] {
            let listed = async |output: &str| {
                ensemble.coordctl(&[command, path, "--list", "--output", output]).await.expect("a list")
            };
            eventually(SOON, "it is held", async || listed("text").await.contains(&format!(" a {shown}")))
                .await;
            let json = listed("json").await;
            assert!(json.contains(&format!("\"data\":{shown},")), "{json}");
            let children = client.children(path, ReadLevel::Linearizable).await.expect("a list");
            let mut stored = Vec::new();
            for name in children {
                stored.push(client.get(format!("{path}/{name}"), ReadLevel::Local).await.expect("a read").0);
            }
            let wanted = format!("\"data\":{data}}}");
            let is_kept = |stored: &Bytes| String::from_utf8_lossy(stored).contains(&wanted);
            assert!(stored.iter().any(is_kept), "{wanted} is not in {stored:?}");
        }
        holder.terminate().await;
        other.terminate().await;
    }
}
