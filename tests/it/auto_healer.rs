//! The auto-healer: as many copies as were asked for, each at most once, whatever becomes of copies, agents and the network.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use coordd_client::recipes::Sessions;
use coordd_client::recipes::auto_healer::{
    Agent, AgentOptions, AutoHealer, CopyState, HealerSpec, HealerStatus, ProcessRunner,
};
use coordd_client::{Client, ConnectOptions, CreateMode, ErrorKind, ReadLevel};
use coordd_tests::{Contender, Ensemble, contender, coordctl, eventually, example};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(30);
const PATH: &str = "/app/web";
const LOG: &str = "/log";

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed()).expect("a process id")
}

fn is_alive(id: u32) -> bool {
    // One that has ended and that nobody has asked how is still a process.
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    test_kill_process(pid(id)).is_ok() && !stat.contains(") Z ")
}

/// An agent as operators run it.
async fn supervise(ensemble: &Ensemble, host: &str, rest: &[&str]) -> Contender {
    let mut program = Command::new(coordctl());
    program.env_remove("COORDCTL_AUTH").args(["supervise", PATH, "--host", host, "--session-timeout", "2s"]);
    program.args(rest);
    Contender::start(ensemble, program, "COORDCTL_ENDPOINTS").await
}

/// Waits until all copies run, so many, and the status is as it should be; returns it.
async fn until(
    healer: &AutoHealer,
    copies: usize,
    what: &str,
    is_so: impl Fn(&HealerStatus) -> bool,
) -> HealerStatus {
    let all_run = |status: &HealerStatus| status.running() == copies && status.copies.len() == copies;
    status_when(healer, what, |status| all_run(status) && is_so(status)).await
}

async fn status_when(healer: &AutoHealer, what: &str, is_so: impl Fn(&HealerStatus) -> bool) -> HealerStatus {
    let start = std::time::Instant::now();
    loop {
        let status = healer.status().await.expect("a status");
        if is_so(&status) {
            return status;
        }
        assert!(start.elapsed() < SOON, "not in time: {what}: {status:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pids_on(status: &HealerStatus, agent: &str) -> Vec<u32> {
    let own = status.copies.iter().filter(|copy| copy.agent.as_deref() == Some(agent));
    own.filter_map(|copy| copy.pid).collect()
}

/// So many agents share the copies, and each copy runs where it is to.
fn has_spread(status: &HealerStatus, agents: usize) -> bool {
    let counts: Vec<_> = status.agents.iter().map(|agent| agent.copies as usize).collect();
    let is_even = counts.iter().max() <= counts.iter().min().map(|least| least + 1).as_ref();
    let has_settled =
        status.agents.iter().all(|agent| pids_on(status, &agent.id).len() == agent.copies as usize);
    counts.len() == agents && is_even && has_settled
}

/// The accepted writes of each copy: no process writes after another of the same copy has begun.
async fn assert_never_two(operator: &Client) {
    let mut writers = BTreeMap::<u64, Vec<(u64, u64)>>::new();
    let names = operator.children(LOG, ReadLevel::Linearizable).await.expect("a list");
    let reads: Vec<_> =
        names.iter().map(|name| operator.get(format!("{LOG}/{name}"), ReadLevel::Local)).collect();
    for read in reads {
        let (data, _) = read.await.expect("a read");
        let value: Value = serde_json::from_slice(&data).expect("JSON");
        let number = |field: &str| value[field].as_u64().expect("a number");
        let writers = writers.entry(number("copy")).or_default();
        let writer = (number("epoch"), number("pid"));
        if writers.last() != Some(&writer) {
            writers.push(writer);
        }
    }
    assert_eq!(writers.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    for (copy, writers) in writers {
        assert!(writers.is_sorted_by_key(|(epoch, _)| *epoch), "copy {copy}: {writers:?}");
        let mut processes: Vec<_> = writers.iter().map(|(_, pid)| pid).collect();
        processes.sort();
        processes.dedup();
        assert_eq!(processes.len(), writers.len(), "copy {copy}: two processes take turns: {writers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_run_once_and_all_of_them_whatever_becomes_of_copies_and_agents() {
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    operator.create(LOG, "", CreateMode::Persistent).await.expect("a create");
    let healer = AutoHealer::new(&operator, PATH).expect("a healer");
    let program = contender().display().to_string();
    let command =
        ["--copies", "4", "--grace", "300ms", "--pause", "50ms", "--", &program, "copy", "--log", LOG];
    let mut killed = supervise(&ensemble, "killed", &command).await;
    until(&healer, 4, "one agent runs all", |status| pids_on(status, "killed").len() == 4).await;
    let mut stopped = supervise(&ensemble, "stopped", &[]).await;
    let mut cut_off = supervise(&ensemble, "cut-off", &[]).await;
    let status = until(&healer, 4, "they are spread", |status| has_spread(status, 3)).await;

    // A copy.
    let victim = status.copies[2].pid.expect("it runs");
    kill_process(pid(victim), Signal::KILL).expect("it runs");
    let status =
        until(&healer, 4, "it is started again", |status| status.copies[2].pid != Some(victim)).await;
    assert_eq!(
        (status.copies[2].restarts, status.copies[2].last_exit.as_deref()),
        (1, Some("exit code 137"))
    );

    // An agent, and with it what it ran.
    let orphans = pids_on(&status, "killed");
    assert!(!orphans.is_empty(), "{status:?}");
    killed.kill9();
    let status = until(&healer, 4, "its copies run elsewhere", |status| has_spread(status, 2)).await;
    assert!(!orphans.iter().any(|pid| is_alive(*pid)), "they have ended without it");

    // One that stands still for longer than its session.
    let orphans = pids_on(&status, "stopped");
    stopped.pause();
    until(&healer, 4, "all run on the last one", |status| pids_on(status, "cut-off").len() == 4).await;
    assert!(!orphans.iter().any(|pid| is_alive(*pid)), "they have ended although it stands still");
    stopped.resume();
    let status = until(&healer, 4, "it takes part again", |status| has_spread(status, 2)).await;

    let orphans = pids_on(&status, "cut-off");
    cut_off.cut_off();
    until(&healer, 4, "all run on the other", |status| pids_on(status, "stopped").len() == 4).await;
    assert!(!orphans.iter().any(|pid| is_alive(*pid)), "they have ended where nobody could be asked");
    cut_off.heal();
    until(&healer, 4, "it takes part again", |status| has_spread(status, 2)).await;

    healer.scale(1).await.expect("scaled");
    until(&healer, 1, "one is left", |status| status.copies[0].copy == 0).await;
    healer.scale(3).await.expect("scaled");
    let status = until(&healer, 3, "three", |status| has_spread(status, 2)).await;

    // Who leaves in good order does not wait for the end of its session.
    let all: Vec<_> = status.copies.iter().filter_map(|copy| copy.pid).collect();
    assert!(stopped.terminate().await.success());
    until(&healer, 3, "the last one runs all", |status| pids_on(status, "cut-off").len() == 3).await;
    assert!(cut_off.terminate().await.success());
    assert!(!all.iter().any(|pid| is_alive(*pid)));
    let status = healer.status().await.expect("a status");
    assert_eq!((status.running(), status.agents.len(), &status.leader), (0, 0, &None));
    assert!(status.copies.iter().all(|copy| copy.state == CopyState::Unplaced), "{status:?}");
    assert_never_two(&operator).await;
}

async fn agent(ensemble: &Ensemble, options: AgentOptions) -> (Sessions, Agent) {
    let connect = ConnectOptions::new().session_timeout(TIMEOUT);
    let sessions = Sessions::connect(ensemble.endpoints(), connect).await.expect("a session");
    let agent = Agent::start(&sessions, PATH, options, ProcessRunner).await.expect("an agent");
    (sessions, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_move_when_they_keep_failing_and_follow_spec_capacity_and_session() {
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    let healer = AutoHealer::new(&operator, PATH).expect("a healer");
    assert_eq!(healer.scale(1).await.expect_err("undefined").kind, ErrorKind::NoNode);
    let refused = healer.define(&HealerSpec::new(1_001, ["x"])).await.expect_err("too many");
    assert_eq!(refused.kind, ErrorKind::BadArguments);
    // It runs where it finds its agent good.
    let script = r#"[ "$COORDD_AGENT" = good ] && exec sleep 1000; exit 3"#;
    let spec = HealerSpec { pause_ms: 20, grace_ms: 300, ..HealerSpec::new(2, ["sh", "-c", script]) };
    assert_eq!(healer.define_first(&spec).await, Ok(spec.clone()));
    assert_eq!(
        healer.define_first(&HealerSpec::new(9, ["x"])).await,
        Ok(spec.clone()),
        "it was defined before"
    );

    let (_bad_sessions, bad) = agent(&ensemble, AgentOptions::new("bad")).await;
    eventually(SOON, "they fail", async || {
        let status = healer.status().await.expect("a status");
        status.copies.iter().all(|copy| copy.restarts > 3 && copy.last_exit.as_deref() == Some("exit code 3"))
    })
    .await;
    let (sessions, good) = agent(&ensemble, AgentOptions::new("good").capacity(2)).await;
    let status = until(&healer, 2, "they moved", |status| pids_on(status, "good").len() == 2).await;
    let before: Vec<_> = status.copies.iter().filter_map(|copy| copy.pid).collect();

    // Another command replaces them where they are.
    let other = HealerSpec { command: vec!["sleep".into(), "2000".into()], ..spec.clone() };
    healer.define(&other).await.expect("defined");
    let is_new =
        |status: &HealerStatus| status.copies.iter().all(|copy| !before.contains(&copy.pid.unwrap_or(0)));
    // It has failed nowhere yet: one of them goes where the first command could not run.
    let status = until(&healer, 2, "others run", |status| is_new(status) && has_spread(status, 2)).await;
    assert!(!before.iter().any(|pid| is_alive(*pid)));

    // What cannot be carried out changes nothing, and a session that ends takes its copies with it.
    operator.set("/app/web/spec", r#"{"copies": 0}"#, None).await.expect("a set");
    let session_id = sessions.newest().expect("a session").session_id();
    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    let before: Vec<_> = status.copies.iter().filter_map(|copy| copy.pid).collect();
    assert!(before.iter().all(|pid| is_alive(*pid)));
    admin.kill_session(session_id, "the test").await.expect("ended");
    eventually(SOON, "its copies have ended", async || {
        before
            .iter()
            .zip(&status.copies)
            .all(|(pid, copy)| copy.agent.as_deref() != Some("good") || !is_alive(*pid))
    })
    .await;
    healer.define(&HealerSpec { copies: 5, ..other }).await.expect("defined");
    bad.stop().await;
    let status = status_when(&healer, "as many as there is room for", |status| {
        let unplaced = status.copies.iter().filter(|copy| copy.state == CopyState::Unplaced).count();
        (status.running(), unplaced, status.agents.len()) == (2, 3, 1)
    })
    .await;
    let pids = pids_on(&status, "good");
    drop(good);
    eventually(SOON, "a dropped agent leaves", async || {
        !pids.iter().any(|pid| is_alive(*pid)) && healer.status().await.expect("a status").agents.is_empty()
    })
    .await;
    let refused =
        Agent::start(&sessions, PATH, AgentOptions::new("a/b"), ProcessRunner).await.expect_err("no name");
    assert_eq!(refused.kind, ErrorKind::BadArguments);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_brings_copies_back_and_says_so() {
    let mut ensemble = Ensemble::start(3).await;
    let endpoints = ensemble.endpoints().join(",");
    let start = async |ensemble: &Ensemble, args: &[&str]| {
        let mut program = Command::new(example("auto_healer"));
        program.arg(&endpoints).args(args);
        Contender::start(ensemble, program, "UNUSED").await
    };
    let runs = |line: &coordd_tests::Line, what: &str| line.text.starts_with(what);
    // A copy of `cat` ends with its standard input, and so with its agent.
    let mut first = start(&ensemble, &["host-1", "3", "cat"]).await;
    first.wait_for(SOON, "all run", |line| runs(line, "3 of 3 run; host-1 leads; agents: host-1 (3)")).await;
    let mut second = start(&ensemble, &["host-2"]).await;
    first
        .wait_for(SOON, "a move", |line| {
            runs(line, "3 of 3 run; host-1 leads; agents: host-1 (2), host-2 (1)")
        })
        .await;
    second.wait_for(SOON, "its copy", |line| runs(line, "[host-2] starts copy 2 under epoch ")).await;
    let first_copy =
        first.wait_for(SOON, "a copy", |line| runs(line, "  copy 0: running on host-1, process ")).await;
    let id =
        first_copy.text.split([' ', ',']).filter_map(|word| word.parse().ok()).next().expect("a process");
    kill_process(pid(id), Signal::KILL).expect("it runs");
    first.wait_for(SOON, "the end", |line| runs(line, "[host-1] copy 0 has ended: signal 9")).await;
    first.wait_for(SOON, "all run", |line| runs(line, "3 of 3 run; host-1 leads")).await;
    first.kill9();
    second.wait_for(SOON, "all run", |line| runs(line, "3 of 3 run; host-2 leads; agents: host-2 (3)")).await;

    // The node of the ensemble that it is connected to is killed: it goes on by another one.
    let lines = second.lines();
    let node =
        lines.iter().rev().find_map(|line| line.text.split_once("connected to node ")).expect("it says so").1;
    let node = node.split(' ').next().and_then(|id| id.parse().ok()).expect("a number");
    ensemble.kill9(node);
    second.wait_for(SOON, "another node", |line| runs(line, "[host-2] reconnected to node ")).await;
    let healer = AutoHealer::new(&ensemble.client(SOON).await, "/examples/auto-healer").expect("a healer");
    until(&healer, 3, "all run", |status| pids_on(status, "host-2").len() == 3).await;
    second.signal(Signal::INT);
    second.wait_for(SOON, "a goodbye", |line| runs(line, "[host-2] leaves")).await;
    assert!(second.wait_exit().await.success());
}
