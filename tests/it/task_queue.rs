//! The task queue: no task is lost, none is completed twice, and each failed attempt counts once, whatever becomes of workers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use coordd_client::recipes::{
    Claim, Sessions, TaskOptions, TaskQueue, TaskQueueOptions, TaskState, TaskStats, work,
};
use coordd_client::{
    AclEntry, Client, ConnectOptions, CreateMode, CreateOptions, ErrorKind, MultiResult, Perms, ReadLevel,
};
use coordd_tests::{Contender, Ensemble, eventually};

const TIMEOUT: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(10);
/// Of workers that die.
const SHORT: &str = "1s";

async fn open(client: &Client, path: &str) -> TaskQueue {
    TaskQueue::open(client, path, TaskQueueOptions::new().worker("test")).await.expect("a queue")
}

async fn put(queue: &TaskQueue, payload: &str, options: TaskOptions) -> String {
    queue.put(payload, &options).await.expect("put")
}

async fn claim(queue: &TaskQueue) -> Claim {
    tokio::time::timeout(SOON, queue.claim()).await.expect("a task in time").expect("a claim")
}

fn text(claim: &Claim) -> &str {
    std::str::from_utf8(claim.payload()).expect("text")
}

async fn stats(queue: &TaskQueue) -> (u64, u64, u64, u64) {
    let TaskStats { pending, delayed, running, dead } = queue.stats().await.expect("stats");
    (pending, delayed, running, dead)
}

/// Retries at once.
fn eager() -> TaskOptions {
    TaskOptions::new().backoff(Duration::ZERO, Duration::ZERO)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_go_by_priority_and_age_and_come_back_until_their_attempts_are_used_up() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/queues/order").await;
    for (payload, priority) in [("third", 100), ("fourth", 100), ("last", 999), ("first", 0), ("second", 99)]
    {
        put(&queue, payload, TaskOptions::new().priority(priority)).await;
    }
    let mut order = Vec::new();
    for _ in 0..5 {
        let claim = claim(&queue).await;
        order.push(text(&claim).to_owned());
        claim.complete().await.expect("completed");
    }
    assert_eq!(order, ["first", "second", "third", "fourth", "last"]);
    assert_eq!(queue.try_claim().await.expect("a look").map(|claim| claim.id().to_owned()), None);

    // Every failure counts; the last one makes it a dead letter, which can be given its attempts again.
    let id = put(&queue, "hard", eager().max_attempts(3)).await;
    for attempts in 0..3 {
        let claim = claim(&queue).await;
        assert_eq!((claim.id(), claim.attempts()), (id.as_str(), attempts));
        assert_eq!(claim.last_error(), (attempts > 0).then_some("too hard"));
        claim.fail("too hard").await.expect("failed");
    }
    assert_eq!(stats(&queue).await, (0, 0, 0, 1));
    let dead = queue.list(TaskState::Dead, None, 10).await.expect("a list");
    assert_eq!((dead[0].attempts, dead[0].last_error.as_deref()), (3, Some("too hard")));
    assert_eq!(queue.requeue(&id).await, Ok(true));
    assert_eq!(queue.requeue(&id).await, Ok(false));
    let again = claim(&queue).await;
    assert_eq!((again.attempts(), text(&again)), (0, "hard"));

    // Given back, it is where it was, and nothing counts; rejected, it is dead at once.
    again.release().await.expect("released");
    let again = claim(&queue).await;
    assert_eq!(again.attempts(), 0);
    again.reject("nobody can").await.expect("rejected");
    assert_eq!(queue.discard(TaskState::Dead, &id).await, Ok(true));
    assert_eq!(stats(&queue).await, (0, 0, 0, 0));

    // What is no task does not stop the queue, and is not lost.
    let alien = CreateOptions::new(CreateMode::Persistent);
    client.create("/queues/order/pending/000-alien", "not json", alien).await.expect("a znode");
    put(&queue, "after it", TaskOptions::new()).await;
    assert_eq!(text(&claim(&queue).await), "after it");
    let dead = queue.list(TaskState::Dead, None, 10).await.expect("a list");
    assert_eq!((dead[0].id.as_str(), &dead[0].payload[..]), ("000-alien", &b"not json"[..]));
    assert_eq!(queue.requeue("000-alien").await.expect_err("it is no task").kind, ErrorKind::BadArguments);

    // Limits are named.
    let error = queue.put(vec![0; 700_001], &TaskOptions::new()).await.expect_err("too large");
    assert!(error.message.contains("700000"), "{error}");
    queue.put(vec![0; 700_000], &TaskOptions::new()).await.expect("the limit itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_task_is_not_claimed_before_its_time_and_soon_after() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;
    let (delay, start) = (Duration::from_millis(700), Instant::now());
    let late = put(&queue, "late", TaskOptions::new().delay(delay)).await;
    let later = put(&queue, "later", TaskOptions::new().delay(delay * 2)).await;
    assert_eq!(stats(&queue).await, (0, 2, 0, 0));
    let listed = queue.list(TaskState::Delayed, None, 1).await.expect("a list");
    let more = queue.list(TaskState::Delayed, listed.first(), 5).await.expect("a list");
    assert_eq!([&listed[0].id, &more[0].id], [&late, &later]);
    assert!(listed[0].due_ms.is_some_and(|due_ms| due_ms >= listed[0].since_ms + 700));
    for (payload, due) in [("late", delay), ("later", delay * 2)] {
        let claim = claim(&queue).await;
        assert_eq!(text(&claim), payload);
        let waited = start.elapsed();
        assert!(waited >= due && waited < due + Duration::from_secs(3), "{payload} after {waited:?}");
        claim.complete().await.expect("completed");
    }

    // A failed task waits for its pause, by the same clock.
    let options = TaskOptions::new().backoff(Duration::from_millis(400), Duration::from_secs(1));
    put(&queue, "again", options).await;
    claim(&queue).await.fail("once").await.expect("failed");
    let failed = Instant::now();
    let again = claim(&queue).await;
    assert!(failed.elapsed() >= Duration::from_millis(390), "after {:?}", failed.elapsed());
    assert_eq!(again.attempts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_wait_are_woken_one_by_one_and_get_different_tasks() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;
    let mut workers = Vec::new();
    for _ in 0..8 {
        let queue = open(&ensemble.client(TIMEOUT).await, "/q").await;
        workers.push(tokio::spawn(async move {
            let claim = queue.claim().await.expect("a claim");
            let id = claim.id().to_owned();
            claim.complete().await.expect("completed");
            id
        }));
    }
    let waiting =
        async || client.children("/q/waiters", ReadLevel::Local).await.map_or(0, |names| names.len());
    eventually(SOON, "all wait", async || waiting().await == 8).await;
    // One task, one worker: the others stay in line.
    let mut ids = BTreeSet::from([put(&queue, "x", TaskOptions::new()).await]);
    eventually(SOON, "one goes", async || waiting().await == 7).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(waiting().await, 7);
    for _ in 0..7 {
        ids.insert(put(&queue, "x", TaskOptions::new()).await);
    }
    let mut got = BTreeSet::new();
    for worker in workers {
        got.insert(tokio::time::timeout(SOON, worker).await.expect("in time").expect("no panic"));
    }
    assert_eq!(got, ids);

    // Dropping a claim that waits leaves the line; dropping one that has just been given loses no task and no attempt.
    for round in 0..30 {
        let id = {
            let waiting = queue.claim();
            tokio::pin!(waiting);
            let until = Duration::from_micros(round * 300);
            let putting = async {
                let id = put(&queue, "y", TaskOptions::new()).await;
                tokio::time::sleep(until).await;
                id
            };
            tokio::select! {
                biased;
                id = putting => id,
                claimed = &mut waiting => {
                    let claimed = claimed.expect("a claim");
                    let id = claimed.id().to_owned();
                    claimed.release().await.expect("released");
                    id
                }
            }
        };
        eventually(SOON, "nothing is left behind", async || {
            waiting().await == 0 && stats(&queue).await == (1, 0, 0, 0)
        })
        .await;
        let task = claim(&queue).await;
        assert_eq!((task.id(), task.attempts()), (id.as_str(), 0), "round {round}");
        task.complete().await.expect("completed");
    }

    // A claim that is dropped by its worker counts.
    put(&queue, "z", TaskOptions::new()).await;
    drop(claim(&queue).await);
    assert_eq!(claim(&queue).await.attempts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_not_renewed_is_taken_away_and_refused_afterwards() {
    let ensemble = Ensemble::start(3).await;
    let (busy, other) = (ensemble.client(TIMEOUT).await, ensemble.client(TIMEOUT).await);
    let (busy, other) = (open(&busy, "/q").await, open(&other, "/q").await);
    let timeout = Duration::from_millis(600);
    put(&busy, "x", TaskOptions::new().claim_timeout(Some(timeout))).await;
    let silent = claim(&busy).await;
    for percent in 0..6 {
        tokio::time::sleep(timeout / 3).await;
        silent.heartbeat(percent * 10).await.expect("it is held");
    }
    let listed = other.list(TaskState::Running, None, 10).await.expect("a list");
    assert_eq!(listed[0].progress, Some(50.into()));
    assert_eq!((listed[0].worker.as_deref(), listed[0].epoch), (Some("test"), Some(silent.epoch())));
    let again = claim(&other).await;
    assert_eq!((again.id(), again.attempts()), (silent.id(), 1));
    assert!(again.epoch() > silent.epoch());
    let error = silent.complete().await.expect_err("it was taken away");
    assert!(matches!(error.kind, ErrorKind::GrantLost | ErrorKind::GuardFailed), "{error}");
    again.complete().await.expect("completed");
    assert_eq!(stats(&other).await, (0, 0, 0, 0));
}

/// `work` lets go of a task as soon as its claim is gone, and goes on with the next; what has ended its claim is not disturbed.
#[tokio::test(flavor = "multi_thread")]
async fn what_works_at_a_task_that_is_taken_away_is_stopped() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;
    let options = ConnectOptions::new().session_timeout(TIMEOUT);
    let sessions = Sessions::connect(ensemble.endpoints(), options).await.expect("a session");
    let (told_tx, mut told_rx) = tokio::sync::mpsc::unbounded_channel();
    let working = tokio::spawn(async move {
        work(&sessions, "/q", &TaskQueueOptions::new(), |claim| {
            let told_tx = told_tx.clone();
            async move {
                let stopped = Told(told_tx.clone(), format!("{} stopped", claim.attempts()));
                let _ = told_tx.send(format!("{} begun", claim.attempts()));
                if claim.attempts() < 2 {
                    std::future::pending::<()>().await;
                }
                claim.complete().await.expect("completed");
                // Longer than the deletion of its claim takes to be noticed.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let _ = told_tx.send("done".to_owned());
                std::mem::forget(stopped);
            }
        })
        .await
    });
    let mut told = async |expected: &str| {
        let told = tokio::time::timeout(SOON, told_rx.recv()).await.unwrap_or_else(|_| panic!("{expected}"));
        assert_eq!(told.as_deref(), Some(expected));
    };
    let timeout = Duration::from_millis(500);
    let id = put(&queue, "x", TaskOptions::new().claim_timeout(Some(timeout))).await;
    told("0 begun").await;
    // It is silent for the claim timeout.
    told("0 stopped").await;
    told("1 begun").await;
    client.delete(format!("/q/claims/{id}"), None).await.expect("an operator takes it");
    told("1 stopped").await;
    told("2 begun").await;
    told("done").await;
    assert_eq!(stats(&queue).await, (0, 0, 0, 0));
    working.abort();
}

/// Says so when it is dropped.
struct Told(tokio::sync::mpsc::UnboundedSender<String>, String);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(std::mem::take(&mut self.1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_done_to_the_znodes_stops_no_worker() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;

    // As many as a listing has, and more, whose names are taken everywhere else: tasks get other names.
    for _ in 0..40 {
        let id = put(&queue, "in the way", TaskOptions::new().priority(0)).await;
        client.create(format!("/q/dead/{id}"), "", CreateMode::Persistent).await.expect("a znode");
        client.create(format!("/q/running/{id}"), "", CreateMode::Persistent).await.expect("a znode");
        client.create(format!("/q/claims/{id}"), "", CreateMode::Persistent).await.expect("a znode");
    }
    put(&queue, "free", TaskOptions::new()).await;
    for number in 0..41 {
        let claimed = claim(&queue).await;
        assert_eq!(text(&claimed), if number < 40 { "in the way" } else { "free" });
        claimed.complete().await.expect("completed");
    }
    // What stood among the running is no task, and nobody has claimed it.
    eventually(2 * SOON, "it goes to the dead letters", async || stats(&queue).await == (0, 0, 0, 80)).await;

    // What is missing is made again.
    let queue = open(&client, "/r").await;
    put(&queue, "x", TaskOptions::new()).await;
    for directory in ["running", "claims"] {
        client.delete(format!("/r/{directory}"), None).await.expect("deleted");
    }
    claim(&queue).await.complete().await.expect("completed");
    client.delete("/r/pending", None).await.expect("deleted");
    put(&queue, "x", TaskOptions::new()).await;
    claim(&queue).await.complete().await.expect("completed");
    let waiting = queue.clone();
    let waiting = tokio::spawn(async move { waiting.claim().await });
    eventually(SOON, "it waits", async || {
        client.children("/r/waiters", ReadLevel::Local).await.is_ok_and(|names| names.len() == 1)
    })
    .await;
    client.delete("/r/pending", None).await.expect("deleted");
    put(&queue, "after all", TaskOptions::new()).await;
    let claimed =
        tokio::time::timeout(SOON, waiting).await.expect("in time").expect("no panic").expect("a claim");
    assert_eq!(text(&claimed), "after all");
    claimed.complete().await.expect("completed");

    // Who may only read can open a queue that is there, and look at it.
    let readable = CreateOptions::new(CreateMode::Persistent).acl([AclEntry::world(Perms::READ)]);
    client.create("/s", "", CreateMode::Persistent).await.expect("a znode");
    for directory in ["pending", "delayed", "running", "claims", "dead"] {
        client.create(format!("/s/{directory}"), "", readable.clone()).await.expect("a znode");
    }
    client.set_acl("/s", vec![AclEntry::world(Perms::READ)], None).await.expect("closed");
    let queue = open(&client, "/s").await;
    assert_eq!(stats(&queue).await, (0, 0, 0, 0));
    let error = TaskQueue::open(&client, "/s/t", TaskQueueOptions::new()).await.expect_err("it is closed");
    assert_eq!(error.kind, ErrorKind::NoAuth);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_costs_the_same_however_many_tasks_are_pending() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;
    let median = async || {
        let mut times = Vec::new();
        for _ in 0..21 {
            let start = Instant::now();
            let claim = claim(&queue).await;
            times.push(start.elapsed());
            claim.release().await.expect("released");
        }
        times.sort();
        times[10]
    };
    put(&queue, "x", TaskOptions::new()).await;
    let few = median().await;
    for _ in 0..10 {
        let (queue, options) = (&queue, &TaskOptions::new());
        let puts: Vec<_> = (0..1000).map(|_| queue.put("x", options)).collect();
        futures::future::try_join_all(puts).await.expect("put");
    }
    let many = median().await;
    println!("a claim: {few:?} with 1 task pending, {many:?} with 10,001");
    assert!(many < few * 3 + Duration::from_millis(20), "{few:?} with one task, {many:?} with 10,001");
    assert_eq!(stats(&queue).await.0, 10_001);
}

async fn worker(ensemble: &Ensemble, name: &str, args: &[&str]) -> Contender {
    let all =
        [&["--path", "/q", "--done", "/done", "--name", name, "--session-timeout", SHORT], args].concat();
    let mut worker = Contender::spawn(ensemble, "queue", &all).await;
    worker.event(SOON, "connected").await;
    worker
}

async fn claims(worker: &mut Contender, attempts: u64) -> String {
    worker.send("claim");
    let claimed = worker.event(SOON, "claimed").await;
    assert_eq!(claimed.number("attempts"), attempts, "{}", claimed.text);
    claimed.string("id").to_owned()
}

/// A worker is killed, stopped for longer than its timeout, or cut off while it has a task: the task comes back once, with
/// one attempt counted, although several watch; and what the worker does later is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_a_dead_worker_comes_back_once_and_a_zombie_cannot_complete_it() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    for path in ["/done", "/log"] {
        client.create(path, "", CreateMode::Persistent).await.expect("a znode");
    }
    let queue = open(&client, "/q").await;
    let others = [
        open(&ensemble.client(TIMEOUT).await, "/q").await,
        open(&ensemble.client(TIMEOUT).await, "/q").await,
    ];
    others.iter().for_each(TaskQueue::keep);

    let mut killed = worker(&ensemble, "killed", &[]).await;
    let id = put(&queue, "x", TaskOptions::new()).await;
    assert_eq!(claims(&mut killed, 0).await, id);
    killed.kill9();
    let back = claim(&queue).await;
    assert_eq!((back.id(), back.attempts()), (id.as_str(), 1));
    back.complete().await.expect("completed");

    for zombie_is in ["stopped", "cut off"] {
        let mut zombie = worker(&ensemble, zombie_is, &[]).await;
        let id = put(&queue, "x", TaskOptions::new()).await;
        assert_eq!(claims(&mut zombie, 0).await, id);
        if zombie_is == "stopped" {
            zombie.pause()
        } else {
            zombie.cut_off()
        }
        let back = claim(&queue).await;
        assert_eq!((back.id(), back.attempts()), (id.as_str(), 1), "{zombie_is}");
        if zombie_is == "stopped" {
            zombie.resume()
        } else {
            zombie.send("check")
        }
        if zombie_is == "cut off" {
            // It knows by itself, without hearing anybody.
            let checked = zombie.event(SOON, "checked").await;
            assert_eq!(checked.json["held"], false);
            zombie.heal();
        }
        zombie.send("append /log 1000");
        let wrote = zombie.event(SOON, "wrote").await;
        assert_eq!(wrote.number("accepted"), 0, "{zombie_is}: {}", wrote.text);
        zombie.send("complete");
        zombie.event(SOON, "refused").await;
        let epoch = back.epoch();
        back.complete_with(|multi| multi.create(format!("/log/{zombie_is}"), "", CreateMode::Persistent))
            .await
            .map(|results| {
                assert!(matches!(&results[..], [MultiResult::Create(made)] if made.stat.czxid > epoch))
            })
            .expect("completed");
        assert_eq!(stats(&queue).await, (0, 0, 0, 0), "{zombie_is}: one task, returned once");
    }
    assert_eq!(client.children("/log", ReadLevel::Linearizable).await.expect("it is there").len(), 2);

    // The keeper is one of the dead: another takes over, and finds what it left.
    let mut keeper = worker(&ensemble, "keeper", &[]).await;
    drop(others);
    let id = put(&queue, "y", TaskOptions::new()).await;
    assert_eq!(claims(&mut keeper, 0).await, id);
    drop(queue);
    client.close().await.expect("closed");
    keeper.kill9();
    let client = ensemble.client(TIMEOUT).await;
    let queue = open(&client, "/q").await;
    let back = claim(&queue).await;
    assert_eq!((back.id(), back.attempts()), (id.as_str(), 1));
}

/// Tasks are worked at while workers are killed, stopped and cut off, and the ensemble's leader is killed: in the end each task
/// is done, and its completion, a create, was accepted once.
#[tokio::test(flavor = "multi_thread")]
async fn no_task_is_lost_and_none_completed_twice_whoever_dies() {
    const TASKS: usize = 400;
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/done", "", CreateMode::Persistent).await.expect("a znode");
    let queue = open(&client, "/q").await;
    let mut workers = Vec::new();
    for name in ["killed", "stopped", "cut off", "lucky"] {
        workers.push(worker(&ensemble, name, &["--auto"]).await);
    }
    let mut ids = BTreeSet::new();
    let done = async || client.children("/done", ReadLevel::Linearizable).await.expect("it is there");
    for batch in 0..4 {
        for _ in 0..TASKS / 4 {
            ids.insert(put(&queue, "x", eager().max_attempts(100)).await);
        }
        match batch {
            0 => workers[0].kill9(),
            1 => workers[1].pause(),
            2 => workers[2].cut_off(),
            _ => ensemble.kill9(ensemble.leader().await),
        }
    }
    eventually(Duration::from_secs(60), "all are done", async || done().await.len() == TASKS).await;
    workers[1].resume();
    workers[2].heal();
    for unlucky in [1, 2] {
        workers[unlucky].event(SOON, "ended").await;
    }
    assert_eq!(done().await.into_iter().collect::<BTreeSet<_>>(), ids);
    eventually(SOON, "nothing is left", async || stats(&queue).await == (0, 0, 0, 0)).await;
    let said: Vec<_> = workers.iter().flat_map(|worker| worker.events("done")).collect();
    let said_once: BTreeSet<_> = said.iter().map(|line| line.string("id").to_owned()).collect();
    assert_eq!(said.len(), said_once.len(), "nobody was told of a completion of what another has completed");
    // At most one task was in the hands of each of the unlucky.
    let attempts: u64 = said.iter().map(|line| line.number("attempts")).sum();
    assert!(attempts <= 3, "{attempts} attempts of the dead were counted");
}
