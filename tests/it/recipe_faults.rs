//! Owners of grants, of places at barriers and in groups, each a process that is killed, stopped and cut off for longer than its session
//! lasts: the others go on in time and not before, and who comes back has no power by what it had.

use std::collections::BTreeMap;
use std::time::Duration;

use coordd_client::recipes::{
    Barrier, DoubleBarrier, Entered, GroupMembership, MemberChange, Participant, ReadWriteLock, Semaphore,
    Sessions,
};
use coordd_client::{Check, Client, ConnectOptions, CreateMode, ErrorKind, ReadLevel};
use coordd_tests::{Contender, Ensemble, eventually, monotonic};
use futures::StreamExt as _;
use serde_json::Value;

use crate::lock_faults::{assert_powerless, until_ended};

/// Of the sessions that are to end.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Promised is the session timeout and a second; the rest is for a busy machine.
const IN_TIME: Duration = Duration::from_secs(2 + 1 + 3);
const SOON: Duration = Duration::from_secs(30);

/// What becomes of the owner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    Killed,
    Stopped,
    CutOff,
}

impl Fault {
    pub(crate) const ALL: [Fault; 3] = [Fault::Killed, Fault::Stopped, Fault::CutOff];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Killed => "killed",
            Fault::Stopped => "stopped",
            Fault::CutOff => "cut-off",
        }
    }

    pub(crate) fn strike(self, owner: &mut Contender) {
        match self {
            Fault::Killed => owner.kill9(),
            Fault::Stopped => owner.pause(),
            Fault::CutOff => owner.cut_off(),
        }
    }

    /// Ends the fault. False if nobody comes back from it.
    pub(crate) fn end(self, owner: &Contender) -> bool {
        match self {
            Fault::Killed => return false,
            Fault::Stopped => owner.resume(),
            Fault::CutOff => owner.heal(),
        }
        true
    }
}

/// Four who want the same: one for each fault, and one who is spared.
struct Line {
    name: &'static str,
    path: String,
    log: String,
    contenders: Vec<Contender>,
    /// The epoch of who holds now.
    epoch: u64,
}

impl Line {
    async fn form(ensemble: &Ensemble, operator: &Client, name: &'static str, kinds: [&str; 4]) -> Self {
        let (path, log) = (format!("/app/{name}"), format!("/log-{name}"));
        operator.create(&log, "", CreateMode::Persistent).await.expect("a create");
        let mut line = Line { name, path, log, contenders: Vec::new(), epoch: 0 };
        let names = Fault::ALL.map(Fault::name).into_iter().chain(["spared"]);
        for (kind, name) in kinds.into_iter().zip(names) {
            let kind = if kind == "permit" { ["--permits", "1"] } else { ["--kind", kind] };
            let args =
                [&["--path", &line.path, "--name", name, "--session-timeout", "2s"], &kind[..]].concat();
            line.contenders.push(Contender::spawn(ensemble, "lock", &args).await);
            eventually(SOON, "it stands in the line", async || {
                line.queue(operator).await.len() == line.contenders.len()
            })
            .await;
        }
        line.epoch = line.contenders[0].event(SOON, "locked").await.number("epoch");
        line
    }

    async fn queue(&self, operator: &Client) -> Vec<Participant> {
        let queue = match self.name {
            "permit" => Semaphore::new(operator, &self.path, 1).expect("a permit").queue().await,
            _ => ReadWriteLock::new(operator, &self.path).queue().await,
        };
        queue.expect("a list")
    }

    /// What was accepted: who wrote, under which epoch, in order.
    async fn log(&self, operator: &Client) -> Vec<(String, u64)> {
        let mut names = operator.children(&self.log, ReadLevel::Linearizable).await.expect("a list");
        names.sort();
        let mut log = Vec::new();
        for name in names {
            let path = format!("{}/{name}", self.log);
            let (data, _) = operator.get(path, ReadLevel::Local).await.expect("it is there");
            let write: Value = serde_json::from_slice(&data).expect("JSON");
            let name = write["name"].as_str().expect("a name");
            log.push((name.to_owned(), write["epoch"].as_u64().expect("an epoch")));
        }
        log
    }

    /// Whoever holds is struck while it writes. Returns when that was, and its znode.
    async fn strike(&mut self, operator: &Client, index: usize) -> (Duration, String) {
        let queue = self.queue(operator).await;
        let holder = queue.into_iter().find(|participant| participant.epoch == self.epoch);
        let before = self.log(operator).await.len();
        // More than it will come to.
        self.contenders[index].send(&format!("append {} 20000", self.log));
        eventually(SOON, "it writes", async || {
            let written = operator.children(&self.log, ReadLevel::Linearizable).await.expect("a list");
            written.len() > before
        })
        .await;
        let struck_at = monotonic();
        Fault::ALL[index].strike(&mut self.contenders[index]);
        (struck_at, holder.expect("it holds").path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_a_holder_that_is_killed_stopped_or_cut_off_goes_to_the_next_and_has_no_power_afterwards()
{
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    operator.create("/nothing", "", CreateMode::Persistent).await.expect("a create");
    let mut lines = Vec::new();
    for (name, kinds) in [
        ("reentrant", ["reentrant"; 4]),
        ("multi", ["multi"; 4]),
        ("permit", ["permit"; 4]),
        ("reader-first", ["read", "write", "read", "write"]),
        ("writer-first", ["write", "read", "write", "read"]),
    ] {
        lines.push(Line::form(&ensemble, &operator, name, kinds).await);
    }
    for (index, fault) in Fault::ALL.into_iter().enumerate() {
        let mut struck = Vec::new();
        for line in &mut lines {
            struck.push(line.strike(&operator, index).await);
        }
        for (line, (struck_at, path)) in lines.iter_mut().zip(struck) {
            let next = line.contenders[index + 1].event(SOON, "locked").await;
            let took = next.at.saturating_sub(struck_at);
            println!("{}: handed over {took:?} after its holder was {}", line.name, fault.name());
            assert!(took < IN_TIME, "{}: {took:?}", line.name);
            let epoch = std::mem::replace(&mut line.epoch, next.number("epoch"));
            assert!(epoch < line.epoch, "{}: {epoch}, then {}", line.name, line.epoch);
            let zombie = &mut line.contenders[index];
            if fault.end(zombie) {
                // Its writes go on, and come to nothing.
                let wrote = zombie.event(SOON, "wrote").await;
                eventually(SOON, "its own check refuses", async || !zombie.events("refused").is_empty())
                    .await;
                let refused = &zombie.events("refused")[0];
                assert!(
                    refused.number("passed_ns") < next.number("at_ns"),
                    "{} but {}",
                    refused.text,
                    next.text
                );
                assert_powerless(zombie, &path, epoch, &operator).await;
                let log = line.log(&operator).await;
                let accepted = log.iter().filter(|(name, _)| name == fault.name()).count() as u64;
                // The answer to the last one may have been lost.
                let told = wrote.number("accepted");
                assert!((told..=told + 1).contains(&accepted), "{accepted} are there, {}", wrote.text);
            }
        }
    }
    for line in &mut lines {
        let spared = line.contenders.last_mut().expect("four");
        spared.send(&format!("append {} 10", line.log));
        assert_eq!(spared.event(SOON, "wrote").await.number("accepted"), 10);
        spared.send("release");
        assert!(spared.wait_exit().await.success());
        assert_eq!(line.queue(&operator).await, Vec::new());
        let mut log = line.log(&operator).await;
        assert!(log.is_sorted_by_key(|(_, epoch)| *epoch), "{}: two wrote at a time: {log:?}", line.name);
        log.dedup();
        let names: Vec<_> = log.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["killed", "stopped", "cut-off", "spared"], "{}", line.name);
    }
}

async fn spawn_at(ensemble: &Ensemble, path: &str) -> Contender {
    let args = ["--path", path, "--parties", "2", "--session-timeout", "2s"];
    Contender::spawn(ensemble, "barrier", &args).await
}

/// What it waited for came to nothing, because its session has ended.
async fn assert_told_of_its_end(contender: &mut Contender) {
    let refused = contender.event(SOON, "refused").await;
    assert_eq!(refused.string("kind"), ErrorKind::SessionExpired.name(), "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_stands_when_who_set_it_is_killed_stopped_or_cut_off_and_lets_nobody_through_early() {
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    let mut setters = Vec::new();
    for fault in Fault::ALL {
        let path = format!("/barrier-{}", fault.name());
        let mut setter = spawn_at(&ensemble, &path).await;
        setter.send("set");
        setter.event(SOON, "set").await;
        // Who set it waits at it, too.
        setter.send("wait");
        setter.event(SOON, "command").await;
        let (barrier, other) = (Barrier::new(&operator, &path), Barrier::new(&operator, &path));
        let waiting = tokio::spawn(async move { other.wait().await });
        fault.strike(&mut setter);
        setters.push((fault, setter, barrier, waiting));
    }
    for (fault, mut setter, barrier, waiting) in setters {
        until_ended(&ensemble, &setter).await;
        assert!(barrier.is_set().await.expect("a read") && !waiting.is_finished(), "{fault:?}");
        assert_eq!(barrier.remove().await, Ok(true), "{fault:?}");
        let passed = tokio::time::timeout(SOON, waiting).await.expect("in time");
        passed.expect("no panic").expect("the session lives");
        if fault.end(&setter) {
            assert_told_of_its_end(&mut setter).await;
        }
        assert!(setter.events("passed").is_empty(), "{fault:?}");
    }
}

/// One that is struck before the others have come, one that is struck inside, and one who is inside with it.
struct Rounds {
    fault: Fault,
    before: Contender,
    inside: Contender,
    entered: Entered,
}

fn double(client: &Client, fault: Fault, which: &str) -> DoubleBarrier {
    DoubleBarrier::new(client, format!("/{which}-{}", fault.name()), 2).expect("two")
}

async fn members(operator: &Client, fault: Fault, which: &str) -> Vec<String> {
    let path = format!("/{which}-{}/members", fault.name());
    operator.children(path, ReadLevel::Linearizable).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_stopped_or_cut_off_holds_no_round_up_for_ever_and_counts_in_none() {
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    let mut all = Vec::new();
    for fault in Fault::ALL {
        let mut before = spawn_at(&ensemble, &format!("/before-{}", fault.name())).await;
        let mut inside = spawn_at(&ensemble, &format!("/inside-{}", fault.name())).await;
        before.send("enter");
        inside.send("enter");
        let entered = double(&operator, fault, "inside").enter().await.expect("two are there");
        inside.event(SOON, "entered").await;
        eventually(SOON, "it has come", async || members(&operator, fault, "before").await.len() == 1).await;
        all.push(Rounds { fault, before, inside, entered });
    }
    let mut leaving = Vec::new();
    for Rounds { fault, mut before, mut inside, entered } in all {
        fault.strike(&mut before);
        fault.strike(&mut inside);
        let struck_at = monotonic();
        let leave = tokio::spawn(async move {
            entered.leave().await.expect("the session lives");
            monotonic() - struck_at
        });
        leaving.push((fault, before, inside, leave));
    }
    for (fault, mut before, mut inside, leave) in leaving {
        let took = tokio::time::timeout(SOON, leave).await.expect("in time").expect("no panic");
        println!("left {took:?} after the other one was {}", fault.name());
        // Until its session has ended it is inside, and the others wait for it.
        assert!(TIMEOUT / 4 < took && took < IN_TIME, "{fault:?}: {took:?}");

        // One that is gone does not count: it takes two others.
        until_ended(&ensemble, &before).await;
        let two = [0, 1].map(|_| double(&operator, fault, "before"));
        let [one, other] = two.map(|barrier| tokio::spawn(async move { barrier.enter().await }));
        let entered = futures::future::join(one, other);
        let (one, other) = tokio::time::timeout(SOON, entered).await.expect("in time");
        let (one, other) = (one.expect("no panic").expect("in"), other.expect("no panic").expect("in"));
        let ready = format!("/before-{}/ready", fault.name());
        let (round, _) = operator.get(ready, ReadLevel::Linearizable).await.expect("a round");
        let round: Value = serde_json::from_slice(&round).expect("JSON");
        let there = members(&operator, fault, "before").await;
        assert_eq!(round["members"].as_array().map(Vec::len), Some(2), "{round}");
        assert!(
            there.iter().all(|name| round.to_string().contains(name)) && there.len() == 2,
            "{there:?}: {round}"
        );
        let left = futures::future::join(one.leave(), other.leave());
        let (one, other) = tokio::time::timeout(SOON, left).await.expect("in time");
        assert_eq!((one, other), (Ok(()), Ok(())));

        if fault.end(&before) && fault.end(&inside) {
            assert_told_of_its_end(&mut before).await;
            inside.send("leave");
            assert_told_of_its_end(&mut inside).await;
        }
        assert!(before.events("entered").is_empty(), "{fault:?}");
        for which in ["before", "inside"] {
            assert_eq!(members(&operator, fault, which).await, Vec::<String>::new(), "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_stopped_or_cut_off_goes_in_time_and_comes_back_once_with_another_epoch() {
    const PATH: &str = "/app/group";
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    operator.create("/guarded", "", CreateMode::Persistent).await.expect("a create");
    let options = ConnectOptions::new().session_timeout(SOON);
    let sessions = Sessions::connect(ensemble.endpoints(), options).await.expect("a session");
    let mut changes = GroupMembership::new(&sessions, PATH).watch();
    let mut next =
        async || tokio::time::timeout(SOON, changes.next()).await.expect("in time").expect("it goes on");

    let spawn = async |name: &str| {
        let own: &[&str] = if name.starts_with("ephemeral") { &["--ephemeral"] } else { &[] };
        let args = [&["--path", PATH, "--name", name, "--session-timeout", "2s"], own].concat();
        Contender::spawn(&ensemble, "member", &args).await
    };
    let mut present = BTreeMap::new();
    let mut owners = Vec::new();
    for fault in Fault::ALL {
        for kind in ["member", "ephemeral"] {
            let name = format!("{kind}-{}", fault.name());
            let mut owner = spawn(&name).await;
            let epoch = owner.event(SOON, "joined").await.number("epoch");
            match next().await {
                MemberChange::Joined(member) => assert_eq!((&member.name, member.epoch), (&name, epoch)),
                other => panic!("{other:?}"),
            }
            present.insert(name.clone(), epoch);
            owners.push((fault, name, owner));
        }
    }
    let (first, struck_at) = (present.clone(), monotonic());
    let mut successors = Vec::new();
    for (fault, _, owner) in &mut owners {
        fault.strike(owner);
    }
    for (_, name, _) in owners.iter().filter(|(fault, ..)| *fault == Fault::Killed) {
        // Its next life, which waits for the end of the last.
        successors.push(spawn(name).await);
    }
    let mut back = BTreeMap::new();
    while back.len() < owners.len() {
        match next().await {
            MemberChange::Left(member) => {
                let took = monotonic() - struck_at;
                println!("{} has left after {took:?}", member.name);
                assert!(took < IN_TIME, "{}: {took:?}", member.name);
                assert_eq!(present.remove(&member.name), Some(member.epoch), "{}", member.name);
                let owner = owners.iter().find(|(_, name, _)| *name == member.name);
                let (fault, _, owner) = owner.expect("one of them");
                fault.end(owner);
            }
            MemberChange::Joined(member) => {
                assert_eq!(present.insert(member.name.clone(), member.epoch), None, "{} twice", member.name);
                assert!(member.epoch > first[&member.name], "{}", member.name);
                back.insert(member.name, member.epoch);
            }
            other => panic!("{other:?}"),
        }
    }
    for (name, epoch) in back {
        let guarded = |epoch| operator.guarded([Check::epoch(format!("{PATH}/{name}"), epoch)]);
        let refused = guarded(first[&name]).set("/guarded", "", None).await.expect_err("of its last life");
        assert_eq!(refused.kind, ErrorKind::GuardFailed, "{name}");
        guarded(epoch).set("/guarded", "", None).await.expect("it is there");
    }
}
