//! Locks: one has it at a time, in the order in which they came, and who gives up leaves nothing behind.

use std::time::{Duration, Instant};

use coordd_client::recipes::{
    Grant, Lock, Loss, MultiLock, Owner, Participant, ReadWriteLock, ReentrantLock, Semaphore,
};
use coordd_client::{Client, CreateMode, Error, ErrorKind, ReadLevel};
use coordd_tests::{Ensemble, eventually};
use futures::FutureExt as _;
use tokio::task::JoinHandle;

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(5);
/// Long enough for what must not happen.
const WHILE: Duration = Duration::from_millis(150);
const PATH: &str = "/app/lock";

type Asking<T> = JoinHandle<Result<T, Error>>;

async fn granted<T>(asking: Asking<T>) -> T {
    let joined = tokio::time::timeout(SOON, asking).await.expect("granted in time");
    joined.expect("no panic").expect("granted")
}

/// Asks for the lock, and returns when it stands in the line behind so many.
async fn ask<T: Send + 'static>(
    client: &Client,
    behind: usize,
    asking: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Asking<T> {
    let asking = tokio::spawn(asking);
    let lock = Lock::new(client, PATH);
    eventually(SOON, "it stands in the line", async || {
        lock.queue().await.expect("a list").len() == behind + 1
    })
    .await;
    asking
}

fn ask_for(client: &Client, name: &str) -> impl Future<Output = Result<Grant, Error>> + Send + use<> {
    let lock = Lock::new(client, PATH).owner(Owner::new(name));
    async move { lock.lock().await }
}

fn names(queue: &[Participant]) -> Vec<(&str, bool)> {
    queue.iter().map(|participant| (participant.owner.id.as_str(), participant.holds)).collect()
}

async fn until_empty(client: &Client, path: &str) {
    eventually(SOON, "nothing is left", async || {
        client.children(path, ReadLevel::Linearizable).await.unwrap_or_default().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_had_by_one_at_a_time_in_the_order_in_which_they_came() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let lock = Lock::new(&client, PATH).owner(Owner::new("first").address("here:1").data(7));
    assert_eq!(lock.queue().await, Ok(Vec::new()));
    let first = lock.try_lock().await.expect("an answer").expect("it is free");
    let mut waiting = Vec::new();
    for (behind, name) in [(1, "second"), (2, "third")] {
        let other = ensemble.client(TIMEOUT).await;
        waiting.push(ask(&client, behind, ask_for(&other, name)).await);
    }
    let queue = lock.queue().await.expect("a list");
    assert_eq!(names(&queue), [("first", true), ("second", false), ("third", false)]);
    assert_eq!((queue[0].owner.address.as_str(), &queue[0].owner.data), ("here:1", &7.into()));
    assert_eq!((queue[0].epoch, queue[0].path.as_str()), (first.epoch(), first.path()));
    assert_eq!(queue[0].session_id, client.session_id());

    assert!(lock.try_lock().await.expect("an answer").is_none());
    assert!(lock.lock_within(WHILE).await.expect("an answer").is_none());
    eventually(SOON, "who gave up has left", async || lock.queue().await.expect("a list").len() == 3).await;

    client.create("/app/data", "", CreateMode::Persistent).await.expect("a create");
    let mut epoch = first.epoch();
    first.write(|client| client.set("/app/data", "first", None)).await.expect("it has the lock");
    let late = first.client().expect("it has the lock");
    first.release().await.expect("released");
    for asking in waiting {
        let grant = granted(asking).await;
        assert!(grant.epoch() > epoch, "epochs grow");
        epoch = grant.epoch();
        grant.check().expect("it has the lock");
        let refused = late.set("/app/data", "late", None).await.expect_err("guarded");
        assert_eq!(refused.kind, ErrorKind::GuardFailed);
    }
    until_empty(&client, PATH).await;
    let (data, _) = client.get("/app/data", ReadLevel::Linearizable).await.expect("a read");
    assert_eq!(data, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_at_any_moment_leaves_nothing_and_holds_nobody_up() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let first = granted(ask(&client, 0, ask_for(&client, "first")).await).await;
    let quitter = ask(&client, 1, ask_for(&client, "quitter")).await;
    let patient = ask(&client, 2, ask_for(&client, "patient")).await;
    quitter.abort();
    let lock = Lock::new(&client, PATH);
    eventually(SOON, "the place is given up", async || {
        names(&lock.queue().await.expect("a list")) == [("first", true), ("patient", false)]
    })
    .await;
    drop(first);
    drop(granted(patient).await);
    // While it joins, looks, is granted: after so many polls.
    let both = MultiLock::new(&client, [PATH, "/app/other"]).expect("two paths");
    for polls in 0..40 {
        let mut single = Box::pin(lock.lock());
        let mut double = Box::pin(both.lock());
        for _ in 0..polls {
            let either = async {
                tokio::select! { _ = &mut single => {}, _ = &mut double => {} }
            };
            if tokio::time::timeout(Duration::from_micros(200), either).await.is_ok() {
                break;
            }
        }
    }
    until_empty(&client, PATH).await;
    until_empty(&client, "/app/other").await;
    drop(granted(ask(&client, 0, ask_for(&client, "last")).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_may_lock_again_and_gives_the_lock_back_with_its_last_grant() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let (own, other) = (ReentrantLock::new(&client, PATH), ReentrantLock::new(&client, PATH));
    let outer = own.lock().await.expect("granted");
    let inner = own.clone().lock().await.expect("granted");
    let third = own.try_lock().await.expect("an answer").expect("it has it");
    assert_eq!((outer.epoch(), outer.epoch()), (inner.epoch(), third.epoch()));
    assert_eq!(own.queue().await.expect("a list").len(), 1);
    assert!(other.try_lock().await.expect("an answer").is_none(), "another owner");
    let asking = tokio::spawn(async move { other.lock().await });
    outer.release().await.expect("one of three");
    drop(inner);
    tokio::time::sleep(WHILE).await;
    assert!(!asking.is_finished(), "one grant is left");
    third.check().expect("it has it still");
    third.release().await.expect("the last");
    let others = granted(asking).await;
    assert!(own.lock_within(WHILE).await.expect("an answer").is_none());

    // Taken away: what is left of it must go before the owner locks again.
    drop(others);
    let outer = own.lock().await.expect("granted");
    client.delete(outer.path(), None).await.expect("a delete");
    assert_eq!(outer.lost().await, Loss::Deleted);
    assert_eq!(own.lock().await.expect_err("lost").kind, ErrorKind::GrantLost);
    drop(outer);
    own.lock().await.expect("granted").check().expect("anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_go_together_and_writers_alone_in_the_order_in_which_they_came() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let lock = ReadWriteLock::new(&client, PATH);
    let first = lock.read().await.expect("granted");
    let second = lock.try_read().await.expect("an answer").expect("readers share");
    assert!(lock.try_write().await.expect("an answer").is_none());
    let ask_write = |behind| {
        let lock = lock.clone();
        ask(&client, behind, async move { lock.write().await })
    };
    let ask_read = |behind| {
        let lock = lock.clone();
        ask(&client, behind, async move { lock.read().await })
    };
    let writer = ask_write(2).await;
    let (third, fourth) = (ask_read(3).await, ask_read(4).await);
    let last = ask_write(5).await;
    assert!(lock.try_read().await.expect("an answer").is_none(), "writers wait");
    let holds = async || {
        let queue = lock.queue().await.expect("a list");
        queue.iter().map(|participant| participant.holds).collect::<Vec<_>>()
    };
    assert_eq!(holds().await, [true, true, false, false, false, false]);
    drop(second);
    tokio::time::sleep(WHILE).await;
    assert!(!writer.is_finished(), "a reader is left");
    drop(first);
    let writer = granted(writer).await;
    assert!(!third.is_finished() && !fourth.is_finished());
    assert_eq!(holds().await, [true, false, false, false]);

    // From the writer to a reader, together with the readers behind it, and before the last writer.
    let (epoch, was) = (writer.epoch(), writer.client().expect("it writes"));
    let reader = writer.downgrade().await.expect("it wrote");
    assert_ne!(reader.epoch(), epoch);
    assert_eq!(was.set(PATH, "", None).await.expect_err("guarded").kind, ErrorKind::GuardFailed);
    let (third, fourth) = (granted(third).await, granted(fourth).await);
    assert_eq!(holds().await, [true, true, true, false]);
    drop((third, fourth));
    tokio::time::sleep(WHILE).await;
    assert!(!last.is_finished(), "the one that was a writer reads");
    reader.check().expect("it reads");
    reader.release().await.expect("released");
    let last = granted(last).await;
    client.delete(last.path(), None).await.expect("a delete");
    assert_eq!(last.downgrade().await.expect_err("lost").kind, ErrorKind::GrantLost);
    until_empty(&client, PATH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_locks_are_had_all_or_none_and_never_wait_in_a_circle() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    for paths in [&[][..], &["/a", "/a"][..]] {
        let refused = MultiLock::new(&client, paths.iter().copied()).expect_err("no such lock");
        assert_eq!(refused.kind, ErrorKind::BadArguments);
    }
    let many = (0..65).map(|number| format!("/{number}"));
    assert_eq!(MultiLock::new(&client, many).expect_err("too many").kind, ErrorKind::BadArguments);

    // Everybody wants two of three, in every order.
    let mut asking = Vec::new();
    for turn in 0..30 {
        let paths = ["/l/a", "/l/b", "/l/c"];
        let pair = [paths[turn % 3], paths[(turn + 1 + turn / 3 % 2) % 3]];
        let lock = MultiLock::new(&client, pair).expect("two paths");
        asking.push(tokio::spawn(async move {
            let grant = lock.lock().await?;
            grant.check()?;
            let epochs: Vec<_> = grant.grants().iter().map(Grant::epoch).collect();
            assert_eq!(epochs, [grant.epoch(); 2]);
            grant.release().await
        }));
    }
    for asking in asking {
        granted(asking).await;
    }

    let all = MultiLock::new(&client, ["/l/c", "/l/a", "/l/b"]).expect("three paths");
    let single = Lock::new(&client, "/l/b").lock().await.expect("granted");
    assert!(all.try_lock().await.expect("an answer").is_none());
    assert!(all.lock_within(WHILE).await.expect("an answer").is_none());
    let free = MultiLock::new(&client, ["/l/a", "/l/c"]).expect("two paths");
    eventually(SOON, "the others are let go", async || {
        free.try_lock().await.expect("an answer").is_some_and(|grant| grant.check().is_ok())
    })
    .await;
    drop(single);
    let grant = all.lock().await.expect("granted");
    client.create("/data", "", CreateMode::Persistent).await.expect("a create");
    grant.write(|client| client.set("/data", "mine", None)).await.expect("it has all");
    let late = grant.client().expect("it has all");
    client.delete(grant.grants()[1].path(), None).await.expect("a delete");
    assert_eq!(grant.lost().await, Loss::Deleted);
    assert_eq!(grant.check().expect_err("one is lost").kind, ErrorKind::GrantLost);
    assert_eq!(late.set("/data", "late", None).await.expect_err("guarded").kind, ErrorKind::GuardFailed);
    grant.release().await.expect("what is left");
    for path in ["/l/a", "/l/b", "/l/c"] {
        until_empty(&client, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_semaphore_gives_its_permits_in_the_order_in_which_they_were_asked_for() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    for permits in [0, 10_001] {
        let refused = Semaphore::new(&client, PATH, permits).expect_err("no such semaphore");
        assert_eq!(refused.kind, ErrorKind::BadArguments);
    }
    let semaphore = Semaphore::new(&client, PATH, 2).expect("two permits");
    assert_eq!(semaphore.queue().await, Ok(Vec::new()));
    let first = semaphore.acquire().await.expect("granted");
    let second = semaphore.try_acquire().await.expect("an answer").expect("there is one");
    assert!(semaphore.try_acquire().await.expect("an answer").is_none());
    assert!(semaphore.acquire_within(WHILE).await.expect("an answer").is_none());
    let other = Semaphore::new(&client, PATH, 3).expect("three permits");
    for refused in [other.acquire().await, other.try_acquire().await.map(|_| panic!("a permit"))] {
        let error = refused.expect_err("another number");
        assert_eq!(error.kind, ErrorKind::BadArguments);
        assert!(error.message.contains("has 2 permits, not 3"), "{error}");
    }

    let mut waiting = Vec::new();
    for name in ["third", "fourth", "fifth"] {
        let semaphore = semaphore.clone().owner(Owner::new(name));
        waiting.push(tokio::spawn(async move { semaphore.acquire().await }));
        let count = 2 + waiting.len();
        let queue = async || semaphore_queue(&client).await.len() == count;
        eventually(SOON, "it waits", queue).await;
    }
    let queue = semaphore_queue(&client).await;
    let waits = [("third", false), ("fourth", false), ("fifth", false)];
    assert_eq!(names(&queue), [&[("", true), ("", true)][..], &waits].concat());
    assert_eq!((queue[0].epoch, queue[1].epoch), (first.epoch(), second.epoch()));
    let fifth = waiting.pop().expect("three");
    let fourth = waiting.pop().expect("two");
    let third = waiting.pop().expect("one");
    // The one in the middle gives up; the second permit is given back before the first.
    fourth.abort();
    drop(second);
    let third = granted(third).await;
    tokio::time::sleep(WHILE).await;
    assert!(!fifth.is_finished(), "two permits are taken");
    client.delete(first.path(), None).await.expect("a delete");
    assert_eq!(first.lost().await, Loss::Deleted);
    let fifth = granted(fifth).await;
    assert!(fifth.epoch() > third.epoch());
    drop(fifth);
    third.release().await.expect("released");
    eventually(SOON, "nothing is left", async || semaphore_queue(&client).await.is_empty()).await;

    client.create("/app/else", "something", CreateMode::Persistent).await.expect("a create");
    let elsewhere = Semaphore::new(&client, "/app/else", 2).expect("two permits");
    assert_eq!(elsewhere.acquire().await.expect_err("no semaphore").kind, ErrorKind::MarshallingError);
}

async fn semaphore_queue(client: &Client) -> Vec<Participant> {
    Semaphore::new(client, PATH, 2).expect("two permits").queue().await.expect("a list")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_taken_under_a_leadership_goes_when_that_is_lost_and_it_is_released() {
    let ensemble = Ensemble::start(3).await;
    let (client, other) = (ensemble.client(TIMEOUT).await, ensemble.client(TIMEOUT).await);
    let leadership = Lock::new(&client, "/app/leader").lock().await.expect("it is free");
    let guarded = leadership.client().expect("it is held");
    let released = Lock::new(&guarded, "/app/released").lock().await.expect("it is free");
    let dropped = Lock::new(&guarded, "/app/dropped").lock().await.expect("it is free");
    let holder = Lock::new(&other, PATH).lock().await.expect("it is free");
    let waiting = ask(&other, 1, ask_for(&guarded, "waiting")).await;

    leadership.release().await.expect("released");
    released.release().await.expect("released");
    drop(dropped);
    waiting.abort();
    // The session goes on, and nothing of what was had under the leadership is left.
    for path in ["/app/released", "/app/dropped"] {
        until_empty(&other, path).await;
    }
    holder.release().await.expect("released");
    until_empty(&other, PATH).await;
    assert!(client.ended().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_that_leaves_no_time_to_hold_anything_is_refused() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let (longest, longer) = (TIMEOUT / 2, TIMEOUT / 2 + Duration::from_millis(1));
    let refused = Lock::new(&client, PATH).grace(longer).lock().await.expect_err("too long");
    assert_eq!(refused.kind, ErrorKind::BadArguments);
    assert!(refused.message.contains("1.001s") && refused.message.contains("1s"), "{refused}");
    drop(Lock::new(&client, PATH).grace(longest).lock().await.expect("it is free"));
}

/// docs/recipes/lock.md says what it takes; this says it without depending on the machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_given_back_costs_the_next_one_less_than_ten_writes() {
    const TURNS: usize = 100;
    let ensemble = Ensemble::start(3).await;
    let timeout = Duration::from_secs(20);
    let clients = [ensemble.client(timeout).await, ensemble.client(timeout).await];
    clients[0].create("/alone", "", CreateMode::Persistent).await.expect("a create");
    let (mut writes, mut turns) = (Vec::new(), Vec::new());
    let mut grant = Lock::new(&clients[0], PATH).lock().await.expect("granted");
    for turn in 1..=TURNS {
        let asking = ask(&clients[0], 1, {
            let locking = ask_for(&clients[turn % 2], "next");
            async { Ok((locking.await?, Instant::now())) }
        })
        .await;
        // In turn with what it is compared with, so that a busy moment of the machine is one for both.
        let start = Instant::now();
        clients[0].set("/alone", "", None).await.expect("a set");
        writes.push(start.elapsed());
        let start = Instant::now();
        drop(grant);
        let (next, granted_at) = granted(asking).await;
        turns.push(granted_at - start);
        grant = next;
    }
    let [write, turn] = [writes, turns].map(|mut times| {
        times.sort();
        times[TURNS / 2]
    });
    println!("a write takes {write:?}, a turn {turn:?}");
    assert!(turn < write * 10, "a write takes {write:?}, a turn {turn:?}");
}

/// `…_within` takes what is free however short its time is, and waits for nobody with no time. While no node
/// answers it gives up after the time for one attempt, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn short_patience_takes_free_locks() {
    let mut ensemble = Ensemble::start(1).await;
    let client = ensemble.client(Duration::from_secs(60)).await;
    let lock = Lock::new(&client, PATH);
    let semaphore = Semaphore::new(&client, "/app/semaphore", 1).expect("a semaphore");
    for patience in [Duration::ZERO, Duration::from_micros(1)] {
        let grant = lock.lock_within(patience).await.expect("an answer").expect("it is free");
        assert!(lock.lock_within(patience).await.expect("an answer").is_none(), "it is taken");
        grant.release().await.expect("released");
        let permit = semaphore.acquire_within(patience).await.expect("an answer").expect("it is free");
        assert!(semaphore.acquire_within(patience).await.expect("an answer").is_none(), "it is taken");
        permit.release().await.expect("released");
    }

    ensemble.kill9(1);
    eventually(SOON, "the session is suspended", async || client.suspended_for().is_some()).await;
    let since = Instant::now();
    assert!(lock.lock_within(Duration::ZERO).await.expect("an answer").is_none());
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    ensemble.restart(1);
    ensemble.wait_serving().await;
    until_empty(&client, PATH).await;
    drop(lock.lock_within(Duration::ZERO).await.expect("an answer").expect("it is free"));
}
