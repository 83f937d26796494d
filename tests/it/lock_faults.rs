//! Locks whose holders are killed, stopped and cut off: nobody else has one meanwhile, no waiter is lost, and an end wakes one.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coordd_client::recipes::{Grant, Lock};
use coordd_client::{
    Check, Client, CreateMode, Error, ErrorKind, EventType, ReadLevel, SessionRecord, WatchMode,
};
use coordd_tests::{Contender, Ensemble, eventually, seed};
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(5);
/// For a busy disk: what is measured with it is not how fast it is.
const PATIENCE: Duration = Duration::from_secs(60);
const PATH: &str = "/app/lock";

async fn until_waiting(lock: &Lock, count: usize) {
    eventually(SOON, "they stand in the line", async || lock.queue().await.expect("a list").len() == count)
        .await;
}

/// The zombie's writes are refused whichever way they come; `nothing` is what it must not write to.
pub(crate) async fn assert_powerless(zombie: &mut Contender, path: &str, epoch: u64, operator: &Client) {
    for command in ["set /nothing 1000", "late /nothing 1000"] {
        zombie.send(command);
        let wrote = zombie.event(SOON, "wrote").await;
        assert_eq!(wrote.number("accepted"), 0, "{command}: {}", wrote.text);
    }
    // With a session that is alive, only the server stands in the way.
    let late = operator.guarded([Check::epoch(path, epoch)]);
    let writes = futures::stream::iter(0..1000).map(|_| late.set("/nothing", "late", None)).buffered(100);
    let refused = |written: Result<_, Error>| written.expect_err("guarded").kind == ErrorKind::GuardFailed;
    assert!(writes.all(async |written| refused(written)).await);
    let stat = operator.exists("/nothing", ReadLevel::Linearizable).await.expect("a read");
    assert_eq!(stat.expect("it is there").version, 0, "nobody has written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_killed_stopped_or_cut_off_is_replaced_and_has_no_power_afterwards() {
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    operator.create("/nothing", "", CreateMode::Persistent).await.expect("a create");
    let lock = Lock::new(&operator, PATH);
    let mut contenders = Vec::new();
    for name in ["killed", "stopped", "cut off", "last"] {
        let args = ["--path", PATH, "--name", name, "--session-timeout", "2s"];
        contenders.push(Contender::spawn(&ensemble, "lock", &args).await);
        until_waiting(&lock, contenders.len()).await;
    }
    let paths: Vec<_> = lock.queue().await.expect("a list").into_iter().map(|waiter| waiter.path).collect();
    let [mut killed, mut stopped, mut cut_off, mut last] =
        <[Contender; 4]>::try_from(contenders).unwrap_or_else(|_| unreachable!("four"));
    let within = TIMEOUT + Duration::from_secs(1);

    let first = killed.event(SOON, "locked").await;
    let killed_at = Instant::now();
    killed.kill9();
    let second = stopped.event(within, "locked").await;
    println!("handed over {:?} after kill -9", killed_at.elapsed());
    assert!(second.number("epoch") > first.number("epoch"));

    stopped.pause();
    let third = cut_off.event(within, "locked").await;
    stopped.resume();
    let refused = stopped.event(SOON, "refused").await;
    assert!(refused.number("passed_ns") < third.number("at_ns"), "{} but {}", refused.text, third.text);
    assert_powerless(&mut stopped, &paths[1], second.number("epoch"), &operator).await;

    cut_off.cut_off();
    let lost = cut_off.event(within, "lost").await;
    let refused = cut_off.event(within, "refused").await;
    let fourth = last.event(within, "locked").await;
    assert!(lost.number("at_ns") < fourth.number("at_ns"), "told in time");
    assert!(refused.number("passed_ns") < fourth.number("at_ns"), "{} but {}", refused.text, fourth.text);
    cut_off.heal();
    assert_powerless(&mut cut_off, &paths[2], third.number("epoch"), &operator).await;

    last.send("set /nothing 10");
    assert_eq!(last.event(SOON, "wrote").await.number("accepted"), 10);
    last.send("release");
    assert!(last.wait_exit().await.success());
    assert_eq!(lock.queue().await, Ok(Vec::new()));
}

/// Who is inside, by kind, replayed from every event there was: `check` is given each state.
async fn replay(operator: &Client, path: &'static str, check: fn(&BTreeMap<String, usize>)) -> Replay {
    let mut watcher = operator.watch(path, WatchMode::PersistentRecursive).await.expect("a watch");
    let peaks = Arc::new(std::sync::Mutex::new(BTreeMap::<String, (usize, usize)>::new()));
    let seen = peaks.clone();
    let task = tokio::spawn(async move {
        let mut inside = BTreeMap::<String, usize>::new();
        loop {
            let event = watcher.next().await.expect("it goes on").event().expect("no gap").clone();
            let Some((kind, _)) = event.path[path.len()..].trim_start_matches('/').rsplit_once('-') else {
                continue;
            };
            let count = inside.entry(kind.to_owned()).or_default();
            match event.event_type {
                EventType::NodeCreated => *count += 1,
                EventType::NodeDeleted => *count -= 1,
                other => panic!("{other:?} of {}", event.path),
            }
            check(&inside);
            if event.event_type == EventType::NodeCreated {
                let mut seen = seen.lock().expect("no panic");
                let (turns, peak) = seen.entry(kind.to_owned()).or_default();
                *turns += 1;
                *peak = (*peak).max(inside[kind]);
            }
        }
    });
    Replay { peaks, task }
}

struct Replay {
    /// By kind: how many went in, and how many were inside at once.
    peaks: Arc<std::sync::Mutex<BTreeMap<String, (usize, usize)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Replay {
    fn of(&self, kind: &str) -> (usize, usize) {
        self.peaks.lock().expect("no panic").get(kind).copied().unwrap_or_default()
    }
}

/// Waits until the servers have ended the newest session of a contender.
pub(crate) async fn until_ended(ensemble: &Ensemble, contender: &Contender) {
    let session_id = contender.events("connected").last().expect("it has connected").number("session_id");
    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    eventually(PATIENCE, "its session has ended", async || {
        matches!(admin.session(session_id).await.expect("a record"), SessionRecord::Ended { .. })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_writer_meets_anybody_and_no_permit_is_given_twice_while_holders_and_nodes_die() {
    const CONTENDERS: usize = 8;
    const PERMITS: usize = 2;
    let mut rng = StdRng::seed_from_u64(seed());
    let mut ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(Duration::from_secs(20)).await;
    for path in ["/locked", "/permitted"] {
        operator.create(path, "", CreateMode::Persistent).await.expect("a create");
    }
    let locked = replay(&operator, "/locked", |inside| {
        let count = |kind| inside.get(kind).copied().unwrap_or_default();
        let (readers, writers) = (count("read"), count("write"));
        assert!(writers == 0 || (writers, readers) == (1, 0), "{writers} writers, {readers} readers");
    })
    .await;
    let permitted = replay(&operator, "/permitted", |inside| {
        assert!(inside.get("permit").copied().unwrap_or_default() <= PERMITS, "{inside:?}");
    })
    .await;
    let spawn = async |ensemble: &Ensemble, index: usize| {
        let name = format!("contender-{index}");
        let own = match index % 2 {
            0 => &["--path", "/lock", "--inside", "/locked"][..],
            _ => &["--path", "/semaphore", "--inside", "/permitted", "--permits", "2"][..],
        };
        let common = ["--name", &name, "--session-timeout", "2s"];
        Contender::spawn(ensemble, "lock", &[own, &common].concat()).await
    };
    let mut contenders = Vec::new();
    for index in 0..CONTENDERS {
        contenders.push(spawn(&ensemble, index).await);
    }
    let progress = || locked.of("write").0.min(permitted.of("permit").0);
    for round in 0..6 {
        let before = progress();
        eventually(PATIENCE, "both go on", async || progress() > before + 5).await;
        let index = rng.random_range(0..CONTENDERS);
        let contender = &mut contenders[index];
        match rng.random_range(0..3) {
            0 => contender.kill9(),
            1 => contender.pause(),
            _ => contender.cut_off(),
        }
        if round == 3 {
            let leader = ensemble.leader().await;
            ensemble.kill9(leader);
            ensemble.restart(leader);
            ensemble.wait_serving().await;
        }
        // What it was replaced with works while it finds out.
        let mut zombie = std::mem::replace(contender, spawn(&ensemble, index).await);
        if round % 2 == 0 {
            let before = progress();
            eventually(PATIENCE, "nobody waits for the dead", async || progress() > before + 5).await;
            if zombie.exited().is_none() {
                // With two permits the others go on before that.
                until_ended(&ensemble, &zombie).await;
                zombie.resume();
                zombie.heal();
                zombie.event(PATIENCE, "ended").await;
            }
        }
    }
    for contender in &mut contenders {
        contender.end_input();
    }
    for contender in &mut contenders {
        assert!(contender.wait_exit().await.success());
    }
    assert!(!locked.task.is_finished() && !permitted.task.is_finished(), "every state was a good one");
    assert_eq!(permitted.of("permit").1, PERMITS, "all permits were used");
    assert!(locked.of("read").1 > 1, "readers were inside together");
    println!(
        "readers {:?}, writers {:?}, permits {:?}",
        locked.of("read"),
        locked.of("write"),
        permitted.of("permit")
    );
    eventually(SOON, "nobody waits any more", async || {
        let lock = Lock::new(&operator, "/lock").queue().await.expect("a list");
        let waiting = operator.children("/semaphore/waiting", ReadLevel::Linearizable).await;
        lock.is_empty() && waiting.unwrap_or_default().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_waiters_each_has_its_turn_and_each_release_wakes_one() {
    const WAITERS: usize = 1000;
    const QUITTERS: usize = 1000;
    let ensemble = Ensemble::start(3).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(ensemble.client(Duration::from_secs(20)).await);
    }
    let lock = Lock::new(&sessions[0], PATH);
    let first = lock.lock().await.expect("granted");
    let polls: Arc<Vec<AtomicUsize>> = Arc::new((0..WAITERS).map(|_| AtomicUsize::new(0)).collect());
    let (locked_tx, mut locked_rx) = mpsc::unbounded_channel::<(usize, Grant)>();
    let mut tasks = Vec::new();
    for index in 0..WAITERS {
        let (lock, polls, locked_tx) =
            (Lock::new(&sessions[index % sessions.len()], PATH), polls.clone(), locked_tx.clone());
        tasks.push(tokio::spawn(async move {
            let mut locking = pin!(lock.lock());
            let grant = poll_fn(|context| {
                polls[index].fetch_add(1, Ordering::Relaxed);
                locking.as_mut().poll(context)
            })
            .await;
            let _ = locked_tx.send((index, grant.expect("granted")));
        }));
    }
    let counts = || polls.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    // Each watches one other, and the holder its own znode.
    eventually(Duration::from_secs(60), "a thousand watch one other", async || {
        ensemble.watches().await == WAITERS as u64 + 1
    })
    .await;
    let mut before = Vec::new();
    eventually(Duration::from_secs(60), "a thousand wait quietly", async || {
        before = counts();
        tokio::time::sleep(Duration::from_millis(300)).await;
        before == counts()
    })
    .await;
    assert_eq!(lock.queue().await.expect("a list").len(), WAITERS + 1);
    drop(first);
    let (_, second) = tokio::time::timeout(SOON, locked_rx.recv()).await.expect("in time").expect("somebody");
    // What the release set in motion is over when somebody else has seen it.
    sessions[1].sync().await.expect("a sync");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let woken = counts().iter().zip(&before).filter(|(now, before)| now > before).count();
    assert_eq!(woken, 1, "of {WAITERS} waiters");

    // Some give up, all over the line; each of the others has its turn, in order.
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..QUITTERS {
        tasks[rng.random_range(0..WAITERS)].abort();
    }
    drop(locked_tx);
    let (start, mut epoch, mut turns) = (Instant::now(), second.epoch(), 1);
    drop(second);
    while let Some((_, grant)) = tokio::time::timeout(PATIENCE, locked_rx.recv()).await.expect("in time") {
        assert!(grant.epoch() > epoch, "epochs grow");
        (epoch, turns) = (grant.epoch(), turns + 1);
    }
    println!("{turns} turns, {:?} from one to the next", start.elapsed() / turns);
    let mut quitters = 0;
    for task in tasks {
        quitters += u32::from(task.await.is_err_and(|error| error.is_cancelled()));
    }
    assert_eq!((turns + quitters) as usize, WAITERS, "{quitters} gave up");
    let polled: usize = counts().iter().sum::<usize>() - before.iter().sum::<usize>();
    assert!(polled < WAITERS * 10, "{polled} wake-ups");
    eventually(SOON, "nothing is left", async || lock.queue().await == Ok(Vec::new())).await;
}
