//! Work assignment: an item has one owner at a time, whoever dies while it moves; in the end all are owned; and few move.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use coordd_client::recipes::{
    AssignedItem, AssignmentChange, AssignmentSettings, AssignmentStatus, AssignmentWorker, Loss, Strategy,
    WorkAssignment, WorkItem, WorkerProfile,
};
use coordd_client::{Client, CreateMode, ErrorKind};
use coordd_tests::{Ensemble, eventually, seed};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Nothing is assigned within this time: it takes tens of milliseconds where it is.
const QUIET: Duration = Duration::from_millis(300);
pub(crate) const GROUP: &str = "/app/flows";

/// Rebalances whenever that helps.
pub(crate) fn eager() -> AssignmentSettings {
    AssignmentSettings::new().threshold(0.0).window(Duration::ZERO)
}

/// Moves nothing between workers unless it is told to.
fn lazy() -> AssignmentSettings {
    AssignmentSettings::new().threshold(1e9)
}

pub(crate) async fn open(client: &Client) -> WorkAssignment {
    WorkAssignment::open(client, GROUP).await.expect("a group")
}

async fn join(ensemble: &Ensemble, name: &str) -> AssignmentWorker {
    let group = open(&ensemble.client(TIMEOUT).await).await;
    group.join(&WorkerProfile::new(name)).await.expect("a member")
}

async fn next(worker: &mut AssignmentWorker) -> AssignmentChange {
    let change = tokio::time::timeout(SOON, worker.next()).await.expect("a change in time");
    change.expect("it goes on").expect("it has not left")
}

async fn assigned(worker: &mut AssignmentWorker) -> AssignedItem {
    match next(worker).await {
        AssignmentChange::Assigned(item) => item,
        AssignmentChange::Revoked(item) => panic!("{item} is revoked"),
    }
}

async fn revoked(worker: &mut AssignmentWorker) -> String {
    match next(worker).await {
        AssignmentChange::Assigned(item) => panic!("{} is assigned", item.id()),
        AssignmentChange::Revoked(item) => item,
    }
}

async fn nothing(worker: &mut AssignmentWorker) {
    let change = tokio::time::timeout(QUIET, worker.next()).await;
    assert!(change.is_err(), "nothing was to be said, but {change:?} was");
}

pub(crate) async fn settled(group: &WorkAssignment, items: usize) -> AssignmentStatus {
    let mut status = group.status().await.expect("a status");
    eventually(Duration::from_secs(30), "all items are owned as they are assigned", async || {
        status = group.status().await.expect("a status");
        status.is_settled() && status.items.len() == items
    })
    .await;
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_moves_when_it_was_revoked_drained_and_given_back_and_not_before() {
    let ensemble = Ensemble::start(3).await;
    let group = open(&ensemble.client(TIMEOUT).await).await;
    group.configure(&lazy()).await.expect("configured");
    let put = async |id: &str| group.put(id, &WorkItem::new().data(id)).await.expect("put");
    put("x").await;
    put("y").await;
    let mut first = join(&ensemble, "first").await;
    let (x, y) = (assigned(&mut first).await, assigned(&mut first).await);
    assert_eq!((x.id(), x.data(), y.id()), ("x", &Value::from("x"), "y"));
    assert_eq!(group.owner("x").await.expect("a read").map(|owner| owner.epoch), Some(x.epoch()));

    // Another one comes: nothing moves until it is asked for, and then not before it is given back.
    let mut second = join(&ensemble, "second").await;
    nothing(&mut second).await;
    group.rebalance().await.expect("planned");
    assert_eq!(revoked(&mut first).await, "y");
    y.revoked().await;
    assert!(y.is_revoked() && !x.is_revoked());
    let status = group.status().await.expect("a status");
    let draining: Vec<_> = status.draining().map(|(item, owner)| (item, &*owner.worker)).collect();
    assert_eq!((draining, status.is_settled()), (vec![("y", "first")], false));
    assert_eq!((status.leader.as_deref(), status.moves, status.rebalances), (Some("first"), 3, 1));
    nothing(&mut second).await;
    y.write(|client| client.create("/last", "", CreateMode::Ephemeral)).await.expect("it is still ours");
    let epoch = y.epoch();
    y.done().await.expect("given back");
    let y = assigned(&mut second).await;
    assert!(y.id() == "y" && y.epoch() > epoch);
    assert!(settled(&group, 2).await.draining().next().is_none());

    // New items go to who has less; what is removed is revoked, and comes back when it is put again.
    put("z").await;
    put("z2").await;
    let (z, z2) = tokio::join!(assigned(&mut first), assigned(&mut second));
    assert_eq!(group.remove("x").await, Ok(true));
    assert_eq!(group.remove("x").await, Ok(false));
    assert_eq!(revoked(&mut first).await, "x");
    put("x").await;
    nothing(&mut first).await;
    drop(x);
    let x = assigned(&mut first).await;
    assert_eq!(x.id(), "x");

    // Removed and put again at once, it is revoked all the same, and comes back as what it is now.
    assert_eq!(group.remove("x").await, Ok(true));
    group.put("x", &WorkItem::new().data("another one")).await.expect("put");
    assert_eq!(revoked(&mut first).await, "x");
    nothing(&mut first).await;
    drop(x);
    let x = assigned(&mut first).await;
    assert_eq!((x.id(), x.data()), ("x", &Value::from("another one")));

    // Given up without having been revoked, it comes back to the same worker, and not at once.
    let (id, epoch) = (z.id().to_owned(), z.epoch());
    drop(z);
    nothing(&mut first).await;
    let z = assigned(&mut first).await;
    assert!(z.id() == id && z.epoch() > epoch);

    // Who leaves gives everything back; the leader, here, and the others go on.
    first.leave().await.expect("left");
    let leaves = BTreeSet::from([revoked(&mut first).await, revoked(&mut first).await]);
    assert_eq!(leaves, BTreeSet::from(["x".to_owned(), id]));
    nothing(&mut second).await;
    drop((x, z));
    assert!(matches!(first.next().await, Ok(None)));
    let came = [assigned(&mut second).await, assigned(&mut second).await];
    assert_eq!(came.iter().map(|item| item.id().to_owned()).collect::<BTreeSet<_>>(), leaves);
    drop(first);
    eventually(SOON, "another one leads", async || {
        group.status().await.expect("a status").leader.as_deref() == Some("second")
    })
    .await;

    // Dropped, a worker leaves, and its items tell who has them.
    let third = join(&ensemble, "third").await;
    drop(second);
    tokio::time::timeout(SOON, y.revoked()).await.expect("in time");
    drop((y, z2, came));
    let mut third = third;
    for _ in 0..4 {
        drop(assigned(&mut third).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_given_back_in_time_is_taken_and_a_worker_that_is_struck_out_has_nothing() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let group = open(&client).await;
    client.create("/written", "", CreateMode::Persistent).await.expect("a znode");
    let timeout = Duration::from_millis(500);
    group.configure(&lazy().drain_timeout(Some(timeout))).await.expect("configured");
    let items = ["a", "b", "c", "d"].map(|id| (id, WorkItem::new()));
    group.put_all(items.iter().map(|(id, item)| (*id, item))).await.expect("put");
    let mut slow = join(&ensemble, "slow").await;
    let mut held = BTreeMap::new();
    for _ in 0..4 {
        let item = assigned(&mut slow).await;
        held.insert(item.id().to_owned(), item);
    }
    let mut other = join(&ensemble, "other").await;
    group.rebalance().await.expect("planned");
    let (mut late, start) = (Vec::new(), std::time::Instant::now());
    for _ in 0..2 {
        late.push(held.remove(&revoked(&mut slow).await).expect("it was ours"));
    }
    let guarded = late[0].client().expect("still ours");
    let (taken, again) = (assigned(&mut other).await, assigned(&mut other).await);
    assert!(start.elapsed() >= timeout, "after {:?}", start.elapsed());
    for item in &late {
        assert_eq!(item.lost().await, Loss::Deleted);
        assert_eq!(item.check().expect_err("lost").kind, ErrorKind::GrantLost);
    }
    let refused = guarded.set("/written", "late", None).await.expect_err("guarded");
    assert_eq!(refused.kind, ErrorKind::GuardFailed);
    taken.write(|client| client.set("/written", "new", None)).await.expect("it is ours now");
    // Its end must not take the other's grant along.
    drop(late);
    client.sync().await.expect("a sync");
    assert_eq!(group.owner(again.id()).await.expect("a read").map(|owner| owner.epoch), Some(again.epoch()));

    // An operator strikes the worker out: it ends, and what it has goes to the other when it has given it back.
    client.delete(format!("{GROUP}/workers/slow"), None).await.expect("a delete");
    let end = tokio::time::timeout(SOON, slow.next()).await.expect("in time");
    assert_eq!(end.expect_err("struck out").kind, ErrorKind::GrantLost);
    let refused = slow.set_load(1.0).await.expect_err("no member");
    assert_eq!(refused.kind, ErrorKind::GuardFailed);
    drop(held);
    let rest = [assigned(&mut other).await, assigned(&mut other).await];

    // A name that is taken is waited for; its items wait with it.
    let waiting = tokio::spawn({
        let group = open(&ensemble.client(TIMEOUT).await).await;
        async move { group.join(&WorkerProfile::new("other")).await }
    });
    tokio::time::sleep(QUIET).await;
    assert!(!waiting.is_finished());
    drop((taken, again, rest, slow));
    other.group().status().await.expect("alive");
    drop(other);
    let mut other = waiting.await.expect("no panic").expect("a member");
    for _ in 0..4 {
        drop(assigned(&mut other).await);
    }

    // Bad input has an error that names it.
    for id in ["", "a/b", ".."] {
        assert_eq!(group.put(id, &WorkItem::new()).await.expect_err("bad").kind, ErrorKind::BadArguments);
        let error = group.join(&WorkerProfile::new(id)).await.expect_err("bad");
        assert!(
            error.kind == ErrorKind::BadArguments && error.message.contains("a worker's name"),
            "{error}"
        );
    }
    for number in [-1.0, f64::NAN, f64::INFINITY] {
        let errors = [
            group.put("e", &WorkItem::new().cost(number)).await.expect_err("bad"),
            group.join(&WorkerProfile::new("e").weight(number)).await.expect_err("bad"),
            other.set_load(number).await.expect_err("bad"),
            group.configure(&AssignmentSettings::new().threshold(number)).await.expect_err("bad"),
        ];
        assert!(errors.iter().all(|error| error.kind == ErrorKind::BadArguments), "{errors:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_follow_loads_and_weights_and_move_once_in_a_window() {
    let ensemble = Ensemble::start(3).await;
    let group = open(&ensemble.client(TIMEOUT).await).await;
    let window = Duration::from_secs(2);
    group.configure(&AssignmentSettings::new().window(window)).await.expect("configured");
    for item in 0..12 {
        group.put(&format!("i{item:02}"), &WorkItem::new()).await.expect("put");
    }
    let counts = async || {
        let status = group.status().await.expect("a status");
        status.distribution.workers.into_iter().map(|share| share.items).collect::<Vec<_>>()
    };
    let until = async |expected: &[usize]| {
        let mut last = Vec::new();
        let waited = eventually(SOON, "the items are balanced", async || {
            last = counts().await;
            last == expected
        });
        waited.await
    };
    let mut workers = Vec::new();
    for name in ["a", "b"] {
        // Whatever is revoked is given back.
        let worker = join(&ensemble, name).await;
        workers.push(tokio::spawn(tend(worker)));
        until(if name == "a" { &[12] } else { &[6, 6] }).await;
    }
    // The third one waits for the window, and for no more.
    let third = join(&ensemble, "c").await;
    let start = std::time::Instant::now();
    tokio::time::sleep(QUIET).await;
    assert_eq!(counts().await, [6, 6, 0]);
    until(&[4, 4, 4]).await;
    let waited = start.elapsed();
    assert!(waited > window / 2 && waited < window * 2, "{waited:?}");
    // What it bears beside the items counts.
    third.set_load(6.0).await.expect("reported");
    until(&[6, 6, 0]).await;
    third.set_load(0.0).await.expect("reported");
    third.set_weight(4.0).await.expect("reported");
    until(&[2, 2, 8]).await;
    let distribution = group.status().await.expect("a status").distribution;
    assert_eq!(
        (distribution.average_score, distribution.score_range, distribution.unassigned),
        (2.0, 0.0, 0)
    );
    // One that is to be emptied is.
    third.set_weight(0.0).await.expect("reported");
    until(&[6, 6, 0]).await;

    // By another strategy, when that is asked for.
    let settings = AssignmentSettings::new().strategy(Strategy::RoundRobin).window(window);
    group.configure(&settings).await.expect("configured");
    third.set_weight(0.5).await.expect("reported");
    group.rebalance().await.expect("planned");
    until(&[4, 4, 4]).await;
}

/// Takes what it is given and gives back what is revoked, until the session ends.
async fn tend(mut worker: AssignmentWorker) {
    let mut held = BTreeMap::new();
    while let Ok(Some(change)) = worker.next().await {
        match change {
            AssignmentChange::Assigned(item) => drop(held.insert(item.id().to_owned(), item)),
            AssignmentChange::Revoked(item) => drop(held.remove(&item)),
        }
    }
}

/// A hundred workers have a thousand items; some crash, others join, at random. All items are owned again after each
/// change, and fewer than 1.2 times the least number have moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_workers_come_and_go_and_few_of_a_thousand_items_move() {
    const WORKERS: usize = 100;
    const ITEMS: usize = 1000;
    const ROUNDS: usize = 10;
    let ensemble = Ensemble::start(3).await;
    let mut rng = StdRng::seed_from_u64(seed());
    let group = open(&ensemble.client(TIMEOUT).await).await;
    group.configure(&eager()).await.expect("configured");
    let mut sessions = BTreeMap::new();
    let come = async |name: String| {
        let client = ensemble.client(TIMEOUT).await;
        let worker = open(&client).await.join(&WorkerProfile::new(&name)).await.expect("a member");
        tokio::spawn(tend(worker));
        (name, client.session_id())
    };
    sessions.extend(join_all((0..WORKERS).map(|worker| come(format!("w{worker:03}")))).await);
    let items: Vec<_> = (0..ITEMS).map(|item| (format!("i{item:04}"), WorkItem::new())).collect();
    group.put_all(items.iter().map(|(id, item)| (id.as_str(), item))).await.expect("put");
    let mut before = balanced(&group, ITEMS, &sessions).await;
    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    let (mut moved, mut least) = (0, 0);
    for round in 0..ROUNDS {
        let how_many = rng.random_range(1..=3);
        if rng.random_bool(0.5) {
            let names = (0..how_many).map(|more| format!("w{}", 1000 + round * 10 + more));
            sessions.extend(join_all(names.map(come)).await);
        } else {
            for _ in 0..how_many {
                let names: Vec<_> = sessions.keys().cloned().collect();
                let name = names.choose(&mut rng).expect("there are some");
                let session = sessions.remove(name).expect("it is there");
                admin.kill_session(session, "the test").await.expect("ended");
            }
        }
        let after = balanced(&group, ITEMS, &sessions).await;
        moved += after.moves - before.moves;
        least += least_moves(&before, &sessions);
        before = after;
    }
    println!("{moved} moves, {least} had to be, {} workers in the end", sessions.len());
    assert!(moved as f64 <= 1.2 * least as f64, "{moved} moves, {least} had to be");
}

/// Waits until all items are owned by these workers, each having its share, rounded down or up.
pub(crate) async fn balanced<T>(
    group: &WorkAssignment,
    items: usize,
    workers: &BTreeMap<String, T>,
) -> AssignmentStatus {
    let (low, high) = (items / workers.len(), items.div_ceil(workers.len()));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = group.status().await.expect("a status");
        let shares = &status.distribution.workers;
        if status.items.len() == items
            && status.is_settled()
            && shares.iter().map(|share| &share.id).eq(workers.keys())
            && shares.iter().all(|share| (low..=high).contains(&share.items))
        {
            return status;
        }
        let names: Vec<_> = workers.keys().collect();
        assert!(Instant::now() < deadline, "{items} items are not balanced over {names:?}: {status:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The least number of moves to a state in which each of these workers has its share, rounded down or up.
fn least_moves(before: &AssignmentStatus, workers: &BTreeMap<String, u64>) -> u64 {
    let mut counts: BTreeMap<&str, usize> = workers.keys().map(|name| (name.as_str(), 0)).collect();
    let mut orphans = 0;
    for item in before.items.values() {
        let owner = item.owner.as_ref().expect("it is settled");
        match counts.get_mut(owner.worker.as_str()) {
            Some(count) => *count += 1,
            None => orphans += 1,
        }
    }
    let items = before.items.len();
    let (low, high) = (items / workers.len(), items.div_ceil(workers.len()));
    let over: usize = counts.values().map(|count| count.saturating_sub(high)).sum();
    let missing: usize = counts.values().map(|count| low.saturating_sub(*count)).sum();
    (over + orphans).max(missing) as u64
}
