//! `coordctl elect PATH -- COMMAND`: the command runs only while its `coordctl` leads, whatever becomes of that one, and meets it
//! as it would meet a shell.

use std::process::Command;
use std::time::Duration;

use coordd_client::ReadLevel;
use coordd_tests::{Contender, Ensemble, Line, coordctl, eventually};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const SOON: Duration = Duration::from_secs(15);
/// Says its process id, and then that it runs, until it is killed; it does not mind SIGTERM.
const BEAT: &str = "trap '' TERM; echo pid $$; while :; do echo beat $COORDD_EPOCH; sleep 0.02; done";
const LEAD: &str = "echo leads $COORDD_EPOCH; exec sleep 1000";

async fn elect(ensemble: &Ensemble, options: &[&str], command: &[&str]) -> Contender {
    let mut program = Command::new(coordctl());
    program.env_remove("COORDCTL_AUTH").env("PATH", path_with_coordctl());
    program.args(["elect", "/job", "--session-timeout", "2s"]).args(options).arg("--").args(command);
    Contender::start(ensemble, program, "COORDCTL_ENDPOINTS").await
}

async fn elect_shell(ensemble: &Ensemble, options: &[&str], script: &str) -> Contender {
    elect(ensemble, options, &["sh", "-c", script]).await
}

fn path_with_coordctl() -> String {
    let directory = coordctl().parent().expect("a directory").display().to_string();
    format!("{directory}:{}", std::env::var("PATH").unwrap_or_default())
}

/// Waits for a line that begins so; returns what follows.
async fn said(contender: &mut Contender, beginning: &str) -> String {
    let line = contender.wait_for(SOON, beginning, |line| line.text.starts_with(beginning)).await;
    line.text[beginning.len()..].trim().to_owned()
}

async fn pid(contender: &mut Contender, beginning: &str) -> Pid {
    Pid::from_raw(said(contender, beginning).await.parse().expect("a process id")).expect("a process id")
}

fn is_alive(pid: Pid) -> bool {
    // One that has ended and that nobody has asked how is still a process.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

async fn code(contender: &mut Contender) -> Option<i32> {
    contender.wait_exit().await.code()
}

fn last(contender: &Contender, beginning: &str) -> Line {
    let lines = contender.lines();
    let line = lines.into_iter().rfind(|line| line.text.starts_with(beginning));
    line.unwrap_or_else(|| panic!("no line {beginning:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_has_its_exit_code_its_signals_its_input_and_its_grant() {
    let ensemble = Ensemble::start(1).await;
    for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let mut elected = elect_shell(&ensemble, &[], script).await;
        assert_eq!(code(&mut elected).await, Some(expected), "{script}");
    }
    let mut missing = elect(&ensemble, &[], &["no-such-program"]).await;
    assert_eq!(code(&mut missing).await, Some(127));
    let mut forbidden = elect(&ensemble, &[], &["/etc/passwd"]).await;
    assert_eq!(code(&mut forbidden).await, Some(126));

    let mut reader = elect(&ensemble, &[], &["cat"]).await;
    reader.send("through");
    said(&mut reader, "through").await;
    reader.end_input();
    assert_eq!(code(&mut reader).await, Some(0));

    let traps = "for s in HUP INT QUIT USR1 USR2 WINCH; do trap \"echo got $s\" $s; done; trap 'echo got TERM; exit 3' TERM; \
                 echo ready; while :; do sleep 0.02; done";
    let mut trapper = elect_shell(&ensemble, &[], traps).await;
    said(&mut trapper, "ready").await;
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
        (Signal::TERM, "TERM"),
    ] {
        trapper.signal(signal);
        assert_eq!(said(&mut trapper, "got").await, name);
    }
    assert_eq!(code(&mut trapper).await, Some(3));

    let show = "echo grant $COORDD_GRANT_PATH:$COORDD_EPOCH; echo guard $COORDCTL_GUARD; echo at $COORDD_ENDPOINTS; \
                echo session $COORDD_SESSION";
    let mut shown = elect_shell(&ensemble, &[], show).await;
    let grant = said(&mut shown, "grant").await;
    assert!(grant.starts_with("/job/leader:"), "{grant}");
    let guard = said(&mut shown, "guard").await;
    let lineage = ensemble.client(SOON).await.lineage().expect("a lineage");
    assert_eq!(guard, format!("{grant}@{}", lineage.cluster_id));
    assert_eq!(said(&mut shown, "at").await, shown.ways()[0].endpoint());
    assert!(said(&mut shown, "session").await.starts_with("0x"));

    // While it waits, a signal ends it as it would end any program.
    let mut leader = elect_shell(&ensemble, &[], LEAD).await;
    said(&mut leader, "leads").await;
    let mut waiting = elect_shell(&ensemble, &[], LEAD).await;
    eventually(SOON, "it waits", async || {
        let listed = ensemble.coordctl(&["elect", "/job", "--list"]).await.expect("a list");
        listed.contains("waits")
    })
    .await;
    waiting.signal(Signal::INT);
    assert_eq!(code(&mut waiting).await, Some(130));
    leader.signal(Signal::TERM);
    assert_eq!(code(&mut leader).await, Some(143));
    assert!(ensemble.coordctl(&["elect", "/job", "--list"]).await.expect("a list").contains("nobody leads"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_command_has_started_survives_it() {
    let ensemble = Ensemble::start(1).await;
    // Left behind by a command that ends by itself, out of its process group and its session.
    let mut leaver = elect_shell(&ensemble, &[], "setsid sleep 300 & echo left $!; exit 4").await;
    let left = pid(&mut leaver, "left").await;
    assert_eq!(code(&mut leaver).await, Some(4));
    assert!(!is_alive(left), "what was left behind is stopped");

    // Stopped with the command, though neither minds SIGTERM.
    let stubborn =
        "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo child $!; echo pid $$; wait; wait";
    let mut stubborn = elect_shell(&ensemble, &["--grace", "200ms"], stubborn).await;
    let (child, parent) = (pid(&mut stubborn, "child").await, pid(&mut stubborn, "pid").await);
    stubborn.signal(Signal::TERM);
    assert_eq!(code(&mut stubborn).await, Some(137));
    assert!(!is_alive(child) && !is_alive(parent));

    // The keeper is killed: nobody would stop the command in time any more, so it does not go on.
    let mut orphan = elect_shell(&ensemble, &[], &format!("echo keeper $PPID; {BEAT}")).await;
    let (keeper, command) = (pid(&mut orphan, "keeper").await, pid(&mut orphan, "pid").await);
    kill_process(keeper, Signal::KILL).expect("it runs");
    assert_eq!(code(&mut orphan).await, Some(10));
    assert!(!is_alive(command));
}

/// Two candidates; the first one leads and is disturbed. Its command must be gone before the other one leads.
async fn disturb(ensemble: &Ensemble, disturb: impl AsyncFnOnce(&mut Contender)) -> (Contender, Contender) {
    let mut first = elect_shell(ensemble, &["--id", "first"], BEAT).await;
    let command = pid(&mut first, "pid").await;
    let first_epoch: u64 = said(&mut first, "beat").await.parse().expect("an epoch");
    let mut second = elect_shell(ensemble, &["--id", "second"], LEAD).await;
    eventually(SOON, "it waits", async || {
        ensemble.coordctl(&["elect", "/job", "--list"]).await.expect("a list").contains("waits")
    })
    .await;
    disturb(&mut first).await;
    let leads = second.wait_for(SOON, "that it leads", |line| line.text.starts_with("leads")).await;
    assert!(!is_alive(command), "the first one's command still runs");
    let epoch: u64 = leads.text["leads ".len()..].parse().expect("an epoch");
    assert!(epoch > first_epoch, "epochs grow");
    let last_beat = last(&first, "beat");
    println!("the second led {:?} after the first one's last sign of life", leads.at - last_beat.at);
    assert!(last_beat.at < leads.at);
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_is_gone_before_anybody_else_leads() {
    let ensemble = Ensemble::start(3).await;

    // kill -9 of coordctl.
    let (_, mut second) = disturb(&ensemble, async |first| first.kill9()).await;
    assert_eq!(second.terminate().await.code(), Some(143));

    // SIGSTOP of coordctl, beyond the session timeout. When it goes on, it is a candidate again, and leads in its turn.
    let (mut first, mut second) = disturb(&ensemble, async |first| first.pause()).await;
    first.resume();
    assert_eq!(second.terminate().await.code(), Some(143));
    let command = pid(&mut first, "pid").await;
    assert!(is_alive(command));
    assert_eq!(first.terminate().await.code(), Some(137));

    // A partition.
    let (mut first, mut second) = disturb(&ensemble, async |first| first.cut_off()).await;
    first.heal();
    assert_eq!(second.terminate().await.code(), Some(143));
    pid(&mut first, "pid").await;
    drop(first);

    // An operator ends the session: the keeper of a lost grant has a second at most. Only guards help until then.
    let mut first = elect_shell(&ensemble, &["--once"], BEAT).await;
    let command = pid(&mut first, "pid").await;
    let deleted = ensemble.coordctl(&["delete", "/job/leader"]).await;
    deleted.expect("it is there");
    assert_eq!(code(&mut first).await, Some(11));
    assert!(!is_alive(command));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_a_former_leaders_command_are_refused() {
    let ensemble = Ensemble::start(3).await;
    ensemble.coordctl(&["create", "/state", "none"]).await.expect("it is new");
    // The command tells its own guard, as a process that stood still for long would use it.
    let script = "coordctl set /state led; echo guard $COORDCTL_GUARD; exec sleep 1000";
    let mut former = elect_shell(&ensemble, &[], script).await;
    let guard = said(&mut former, "guard").await;
    let client = ensemble.client(Duration::from_secs(10)).await;
    let state = async || client.get("/state", ReadLevel::Linearizable).await.expect("it is there").0;
    assert_eq!(state().await, "led");
    ensemble.coordctl(&["set", "/state", "again", "--guard", &guard]).await.expect("it still leads");

    former.kill9();
    let mut next = elect_shell(&ensemble, &[], LEAD).await;
    said(&mut next, "leads").await;
    for write in [
        &["set", "/state", "late"][..],
        &["create", "/late", ""],
        &["delete", "/state"],
        &["quota", "set", "/state", "--count-soft", "1"],
        &["acl", "set", "/state", "world:anyone:r"],
    ] {
        let refused = ensemble.coordctl(&[write, &["--guard", &guard]].concat()).await;
        let refused = refused.expect_err("the grant is gone");
        assert!(refused.contains("GuardFailed"), "{write:?}: {refused}");
    }
    assert_eq!(state().await, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_is_observed() {
    let ensemble = Ensemble::start(1).await;
    let mut program = Command::new(coordctl());
    program.args(["elect", "/job", "--observe", "--output", "json"]);
    let mut observer = Contender::start(&ensemble, program, "COORDCTL_ENDPOINTS").await;
    assert!(observer.next(SOON).await.json["leader"].is_null());
    let options = ["--id", "host-7", "--address", "10.0.0.7:9000", "--data", "{\"zone\":3}"];
    let mut leader = elect_shell(&ensemble, &options, LEAD).await;
    let epoch: u64 = said(&mut leader, "leads").await.parse().expect("an epoch");
    let seen = observer.next(SOON).await.json["leader"].clone();
    assert_eq!((seen["id"].as_str(), seen["address"].as_str()), (Some("host-7"), Some("10.0.0.7:9000")));
    assert_eq!((seen["epoch"].as_u64(), seen["data"]["zone"].as_u64()), (Some(epoch), Some(3)));
    assert_eq!(leader.terminate().await.code(), Some(143));
    assert!(observer.next(SOON).await.json["leader"].is_null());
    assert_eq!(observer.terminate().await.code(), Some(0));
}
