//! Trees that hands make: copied directories, deleted parents, znodes in the way. No recipe loses anything to them, or waits
//! for what nobody would ever end.

use std::sync::Arc;
use std::time::Duration;

use coordd_client::recipes::auto_healer::{Agent, AgentOptions, AutoHealer, HealerSpec, ProcessRunner};
use coordd_client::recipes::{
    Barrier, Candidate, DoubleBarrier, GroupMembership, LeaderElection, Lock, Master, MasterWorker,
    MemberChange, MultiLock, ReadWriteLock, Semaphore, Sessions, TaskOptions, TaskQueue, TaskQueueOptions,
    TaskState, WorkAssignment, WorkItem, WorkerProfile,
};
use coordd_client::{Client, ConnectOptions, CreateMode, CreateOptions, Error, ErrorKind, ReadLevel};
use coordd_tests::{Ensemble, EnsembleOptions, eventually};
use futures::StreamExt as _;
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_secs(10);
/// All claims and running tasks are compared every 15 s.
const SOON: Duration = Duration::from_secs(25);

async fn in_time<T>(what: impl Future<Output = Result<T, Error>>) -> T {
    tokio::time::timeout(TIMEOUT, what).await.expect("in time").expect("done")
}

async fn make(client: &Client, path: &str, data: &str) {
    let options = CreateOptions::new(CreateMode::Persistent).parents(true);
    client.create(path, data.to_owned(), options).await.expect(path);
}

async fn is_there(client: &Client, path: &str) -> bool {
    client.exists(path, ReadLevel::Linearizable).await.expect("a read").is_some()
}

async fn names(client: &Client, path: &str) -> Vec<String> {
    client.children(path, ReadLevel::Linearizable).await.expect("a list")
}

async fn counts(queue: &TaskQueue) -> (u64, u64, u64, u64) {
    let stats = queue.stats().await.expect("stats");
    (stats.pending, stats.delayed, stats.running, stats.dead)
}

async fn open(client: &Client, path: &str) -> TaskQueue {
    TaskQueue::open(client, path, TaskQueueOptions::new()).await.expect("a queue")
}

fn once() -> TaskOptions {
    TaskOptions::new().max_attempts(1)
}

/// The directory that gives tasks their numbers was deleted, so the next task gets the number of a dead letter. Both become
/// dead letters. Public report: kazoo#366.
#[tokio::test]
async fn dead_letters_never_collide() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;
    for payload in ["first", "second", "third"] {
        let id = queue.put(payload, &once()).await.expect("put");
        let claim = in_time(queue.claim()).await;
        assert_eq!(claim.id(), id);
        match payload {
            // Its worker ends it, or rejects it, or gives it up.
            "first" => claim.fail("no").await.expect("failed"),
            "second" => claim.reject("no").await.expect("rejected"),
            _ => drop(claim),
        }
        let dead =
            ["first", "second", "third"].iter().position(|other| *other == payload).expect("known") as u64;
        eventually(TIMEOUT, "a dead letter", async || counts(&queue).await == (0, 0, 0, dead + 1)).await;
        client.delete_tree("/q/pending", None).await.expect("deleted");
    }
    let dead = queue.list(TaskState::Dead, None, 10).await.expect("a list");
    let mut payloads: Vec<_> = dead.iter().map(|entry| entry.payload.to_vec()).collect();
    payloads.sort();
    assert_eq!(payloads, [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()]);
    // Each of them can be given its attempts again, also under the name that it has now.
    for entry in dead {
        assert_eq!(queue.requeue(&entry.id).await, Ok(true), "{}", entry.id);
    }
    for _ in 0..3 {
        in_time(queue.claim()).await.complete().await.expect("completed");
    }
    assert_eq!(counts(&queue).await, (0, 0, 0, 0));
}

/// Tasks under the names of others, in every directory, without claims or with claims of nobody, and with children: each of
/// them can be claimed in the end, or is a dead letter.
#[tokio::test]
async fn no_state_loses_a_task() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;
    // A queue that somebody has copied by Get and Create, claims included, while its keeper is at work.
    queue.keep();
    let task = |payload: &str| format!(r#"{{"payload": "{payload}", "max_attempts": 3}}"#);
    make(&client, "/q/pending/100-p0000000000", &task("pending")).await;
    make(&client, "/q/pending/100-p0000000001", &task("with a child")).await;
    make(&client, "/q/pending/100-p0000000001/child", "").await;
    make(&client, "/q/running/100-p0000000000", &task("of the same name")).await;
    make(&client, "/q/running/100-p0000000007", &task("without a claim")).await;
    make(&client, "/q/running/100-p0000000008", &task("with a claim of nobody")).await;
    make(&client, "/q/claims/100-p0000000008", "{}").await;
    make(&client, "/q/claims/100-p0000000008/child", "").await;
    make(&client, "/q/running/100-p0000000008/child", "").await;
    make(&client, "/q/claims/100-p0000000009", "{}").await;
    make(&client, "/q/delayed/by-hand", &task("delayed under an odd name")).await;
    make(&client, "/q/delayed/000000000000001.1.100-p0000000000", &task("delayed under a taken name")).await;
    client.delete("/q/dead", None).await.expect("deleted");

    let expected = [
        "delayed under a taken name",
        "delayed under an odd name",
        "of the same name",
        "pending",
        "with a child",
        "with a claim of nobody",
        "without a claim",
    ];
    let mut done = Vec::new();
    while done.len() < expected.len() {
        let claim = tokio::time::timeout(SOON, queue.claim()).await.expect("in time").expect("a claim");
        done.push(String::from_utf8(claim.payload().to_vec()).expect("text"));
        if done.len() % 2 == 0 {
            // Also where its worker is done with it.
            make(&client, &format!("/q/running/{}/child", claim.id()), "").await;
        }
        claim.complete().await.expect("completed");
    }
    done.sort();
    assert_eq!(done, expected);
    eventually(SOON, "nothing is left", async || {
        counts(&queue).await == (0, 0, 0, 0) && names(&client, "/q/claims").await.is_empty()
    })
    .await;

    // Who deletes a task that is claimed has deleted it.
    queue.put("deleted", &once()).await.expect("put");
    let claim = in_time(queue.claim()).await;
    client.delete(format!("/q/running/{}", claim.id()), None).await.expect("deleted");
    assert_eq!(claim.complete().await.expect_err("it is gone").kind, ErrorKind::GrantLost);
    eventually(TIMEOUT, "no claim is left", async || names(&client, "/q/claims").await.is_empty()).await;
}

/// Copies of lines, by Get and Create: their znodes are persistent and belong to nobody. Everybody passes them over.
#[tokio::test]
async fn copied_lines_hold_nobody_up() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    for name in ["write-0000000000", "read-0000000001", "write-0000000005"] {
        make(&client, &format!("/lock/{name}"), "{}").await;
    }
    let lock = Lock::new(&client, "/lock");
    let grant = in_time(lock.lock()).await;
    assert!(lock.try_lock().await.expect("an answer").is_none(), "somebody holds it");
    let queue = lock.queue().await.expect("a queue");
    assert_eq!(queue.iter().map(|one| (&*one.path, one.holds)).collect::<Vec<_>>(), [(grant.path(), true)]);
    grant.release().await.expect("released");
    in_time(lock.try_lock()).await.expect("nobody holds it").release().await.expect("released");
    let both = ReadWriteLock::new(&client, "/lock");
    in_time(both.read()).await.release().await.expect("released");
    in_time(both.write()).await.release().await.expect("released");
    let all = MultiLock::new(&client, ["/lock", "/other"]).expect("a lock");
    in_time(all.try_lock()).await.expect("nobody holds it").release().await.expect("released");

    // Two who come after the copies have an order.
    let first = in_time(lock.lock()).await;
    let second = tokio::spawn({
        let lock = lock.clone();
        async move { lock.lock().await }
    });
    eventually(TIMEOUT, "it waits", async || lock.queue().await.is_ok_and(|queue| queue.len() == 2)).await;
    let epoch = first.epoch();
    first.release().await.expect("released");
    let second = in_time(async { second.await.expect("no panic") }).await;
    assert!(second.epoch() > epoch);

    for name in ["leader", "candidate-99-0000000000", "candidate-00-0000000003"] {
        make(&client, &format!("/election/{name}"), r#"{"id": "copy"}"#).await;
    }
    make(&client, "/election/leader/child", "").await;
    let election = LeaderElection::new(&client, "/election");
    assert_eq!(election.leader().await, Ok(None), "a copy leads nobody");
    let leadership = in_time(election.campaign(&Candidate::new("host-7"))).await;
    assert_eq!(election.leader().await.expect("a read").map(|leader| leader.id), Some("host-7".into()));
    drop(leadership);

    for name in ["waiting/waiter-0000000000", "permits/permit-0000000000", "permits/permit-0000000001"] {
        make(&client, &format!("/semaphore/{name}"), "{}").await;
    }
    let semaphore = Semaphore::new(&client, "/semaphore", 1).expect("a semaphore");
    let permit = in_time(semaphore.acquire()).await;
    assert!(semaphore.try_acquire().await.expect("an answer").is_none());
    assert_eq!(semaphore.queue().await.expect("a queue").len(), 1);
    permit.release().await.expect("released");
    in_time(semaphore.try_acquire()).await.expect("there is one");

    make(&client, "/barrier/members/member-0000000000", "").await;
    make(&client, "/barrier/ready", r#"{"members": ["member-0000000000"]}"#).await;
    let barrier = DoubleBarrier::new(&client, "/barrier", 2).expect("a barrier");
    let (one, two) = in_time(async { tokio::try_join!(barrier.enter(), barrier.enter()) }).await;
    in_time(async { tokio::try_join!(one.leave(), two.leave()) }).await;

    make(&client, "/group/workers/w", "{}").await;
    let group = WorkAssignment::open(&client, "/group").await.expect("a group");
    drop(in_time(group.join(&WorkerProfile::new("w"))).await);

    for (path, waiter) in [("/q/waiters", "waiter-"), ("/q/keepers", "keeper-")] {
        make(&client, &format!("{path}/{waiter}0000000000"), "").await;
    }
    let queue = open(&client, "/q").await;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.claim().await }
    });
    eventually(TIMEOUT, "it waits", async || names(&client, "/q/waiters").await.len() == 2).await;
    queue.put("x", &TaskOptions::new()).await.expect("put");
    in_time(async { waiting.await.expect("no panic") }).await.complete().await.expect("completed");
}

/// Copies of members, workers and agents, by Get and Create: nobody sees them, and nothing is given to them.
#[tokio::test(flavor = "multi_thread")]
async fn copied_members_count_for_nobody() {
    let ensemble = Ensemble::start(3).await;
    let sessions = Sessions::connect(ensemble.endpoints(), ConnectOptions::new()).await.expect("a session");
    let client = sessions.newest().expect("a session");
    for path in ["/members/copy", "/assignment/workers/copy", "/healer/agents/copy", "/crunch/workers/copy"] {
        make(&client, path, "{}").await;
    }
    make(&client, "/healer/running/0000", r#"{"agent": "copy", "state": "running"}"#).await;

    let members = GroupMembership::new(&sessions, "/members");
    assert_eq!(members.members().await, Ok(Vec::new()));
    let mut changes = members.watch();
    let _member = in_time(members.join("m", "")).await;
    let first = tokio::time::timeout(TIMEOUT, changes.next()).await.expect("in time").expect("a change");
    assert!(matches!(&first, MemberChange::Joined(member) if member.name == "m"), "{first:?}");
    let names: Vec<_> = members.members().await.expect("a list").into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["m"]);

    let group = WorkAssignment::open(&client, "/assignment").await.expect("a group");
    for item in ["i", "j", "k", "l"] {
        group.put(item, &WorkItem::default()).await.expect("put");
    }
    let mut worker = in_time(group.join(&WorkerProfile::new("w"))).await;
    let _reader = tokio::spawn(async move {
        let mut items = Vec::new();
        while let Ok(Some(change)) = worker.next().await {
            items.push(change);
        }
    });
    eventually(TIMEOUT, "the worker has every item", async || {
        let status = group.status().await.expect("a status");
        let workers: Vec<_> = status.distribution.workers.iter().map(|one| one.id.as_str()).collect();
        assert!(!workers.contains(&"copy"), "{workers:?}");
        status.items.len() == 4 && status.is_settled()
    })
    .await;

    let healer = AutoHealer::new(&client, "/healer").expect("a healer");
    healer.define(&HealerSpec::new(2, ["sleep", "60"])).await.expect("defined");
    let status = healer.status().await.expect("a status");
    assert!(status.agents.is_empty() && status.running() == 0, "{status:?}");
    let agent = in_time(Agent::start(&sessions, "/healer", AgentOptions::new("host"), ProcessRunner)).await;
    eventually(TIMEOUT, "both copies run on the only agent", async || {
        let status = healer.status().await.expect("a status");
        status.running() == 2 && status.copies.iter().all(|copy| copy.agent.as_deref() == Some("host"))
    })
    .await;
    agent.stop().await;

    let node = MasterWorker::new(&sessions, "/crunch", Candidate::new("host")).expect("a node");
    let (seen_tx, mut seen) = mpsc::unbounded_channel();
    let lead = |master: Arc<Master>| {
        seen_tx.send(master.workers()).expect("somebody listens");
        std::future::pending()
    };
    let seen = tokio::select! {
        ended = node.run(|_| std::future::pending(), lead) => panic!("it has ended: {ended:?}"),
        seen = tokio::time::timeout(TIMEOUT, seen.recv()) => seen.expect("in time").expect("a master"),
    };
    assert_eq!(seen, []);
}

/// Names that are in use, with the counter of their parent below them, as in a directory that was copied by Get and Create: the
/// next free number is taken. Public reports: zk_shell#114, zkcopy#15.
#[tokio::test]
async fn numbers_in_use_are_passed() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    for name in ["write-0000000001", "write-0000000002", "write-0000000003"] {
        // Its creations bring the counter to the first, and then to each further one.
        make(&client, &format!("/lock/{name}"), "{}").await;
    }
    for number in 1..=4 {
        make(&client, &format!("/election/candidate-99-000000000{number}"), "{}").await;
        make(&client, &format!("/q/pending/100-p000000000{number}"), r#"{"payload": "copied"}"#).await;
    }
    let lock = Lock::new(&client, "/lock");
    let grant = in_time(lock.lock()).await;
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.lock().await }
    });
    eventually(TIMEOUT, "it waits", async || lock.queue().await.is_ok_and(|queue| queue.len() == 2)).await;
    assert_eq!(lock.queue().await.expect("a queue")[0].path, grant.path(), "the first one holds it");
    grant.release().await.expect("released");
    drop(in_time(async { waiting.await.expect("no panic") }).await);
    drop(in_time(LeaderElection::new(&client, "/election").campaign(&Candidate::new("x"))).await);

    let queue = open(&client, "/q").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(queue.put("new", &TaskOptions::new()).await.expect("put"));
    }
    assert!(ids.is_sorted(), "{ids:?}");
    for number in 0..7 {
        let claim = in_time(queue.claim()).await;
        assert_eq!(&claim.payload()[..], if number < 4 { &b"copied"[..] } else { b"new" });
        claim.complete().await.expect("completed");
    }
}

/// A path that has no room for the names below it is refused, and nothing is left behind.
#[tokio::test]
async fn long_paths_leave_nothing() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let sessions = Sessions::connect(ensemble.endpoints(), ConnectOptions::new()).await.expect("a session");
    let path =
        |bytes: usize| format!("/top{}", format!("/{}", "x".repeat(99)).repeat(60)[..bytes - 4].to_owned());
    for bytes in [4_078, 4_080, 4_096] {
        let path = path(bytes);
        assert_eq!(path.len(), bytes);
        let short = bytes == 4_078;
        let locked = Lock::new(&client, &*path).lock().await.map(drop);
        let tried = Lock::new(&client, &*path).try_lock().await.map(drop);
        assert_eq!((locked.is_ok(), tried.is_ok()), (short, short), "{locked:?} {tried:?}");
        let mut refused = Vec::new();
        if !short {
            refused.extend([locked, tried]);
            refused.push(MultiLock::new(&client, ["/a", &*path]).expect("a lock").lock().await.map(drop));
        }
        refused.push(LeaderElection::new(&client, &*path).campaign(&Candidate::new("x")).await.map(drop));
        refused.push(Semaphore::new(&client, &*path, 1).expect("one").acquire().await.map(drop));
        refused.push(DoubleBarrier::new(&client, &*path, 1).expect("one").enter().await.map(drop));
        refused.push(TaskQueue::open(&client, &*path, TaskQueueOptions::new()).await.map(drop));
        refused.push(WorkAssignment::open(&client, &*path).await.map(drop));
        refused.push(GroupMembership::new(&sessions, &*path).join(&"m".repeat(30), "").await.map(drop));
        for refused in refused {
            let error = refused.expect_err("there is no room");
            assert_eq!(error.kind, ErrorKind::BadArguments, "{error}");
            assert!(error.message.contains("4096"), "{error}");
        }
        if short {
            client.delete_tree("/top", None).await.expect("what the lock has made");
        }
        assert!(!is_there(&client, "/top").await && !is_there(&client, "/a").await, "{bytes}");
    }
}

/// The parents that recipes make are containers, at every depth, so they go when nobody has used them for a while.
#[tokio::test]
async fn parents_go_when_unused() {
    let ensemble = EnsembleOptions::new(3).env("COORDD_SWEEP_INTERVAL", "200ms").start().await;
    let sessions = Sessions::connect(ensemble.endpoints(), ConnectOptions::new()).await.expect("a session");
    let client = sessions.newest().expect("a session");
    // Whose parents stay, because somebody else has made them.
    make(&client, "/mine", "").await;
    let lock = in_time(Lock::new(&client, "/mine/lock/a/b").lock()).await;
    let leadership =
        in_time(LeaderElection::new(&client, "/election/a").campaign(&Candidate::new("x"))).await;
    let permit = in_time(Semaphore::new(&client, "/semaphore/a", 1).expect("one").acquire()).await;
    let barrier = Barrier::new(&client, "/barrier/a/b");
    assert_eq!(barrier.set().await, Ok(true));
    let entered = in_time(DoubleBarrier::new(&client, "/double/a", 1).expect("one").enter()).await;
    let member = in_time(GroupMembership::new(&sessions, "/group/a").join("m", "")).await;
    let tops = ["/mine/lock", "/election", "/semaphore", "/barrier", "/double", "/group"];
    for top in tops {
        assert!(is_there(&client, top).await, "{top}");
    }
    lock.release().await.expect("released");
    leadership.resign().await.expect("resigned");
    permit.release().await.expect("released");
    assert_eq!(barrier.remove().await, Ok(true));
    entered.leave().await.expect("left");
    member.leave().await;
    for top in tops {
        eventually(TIMEOUT, top, async || !is_there(&client, top).await).await;
    }
    assert!(is_there(&client, "/mine").await);
    // They come again with the next use.
    in_time(Lock::new(&client, "/mine/lock/a/b").lock()).await.release().await.expect("released");
}
