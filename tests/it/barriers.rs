//! Barriers and double barriers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coordd_client::recipes::{Barrier, DoubleBarrier};
use coordd_client::{ErrorKind, ReadLevel};
use coordd_proto::v1::CreateMode as WireMode;
use coordd_tests::{Ensemble, RawSession, create, eventually};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn who_waits_at_a_barrier_goes_on_when_it_is_removed() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let barrier = Barrier::new(&client, "/some/barrier");
    barrier.wait().await.expect("it is not set");
    assert_eq!(barrier.remove().await, Ok(false));
    assert_eq!(barrier.set().await, Ok(true));
    assert_eq!(barrier.set().await, Ok(false));
    let passed = Arc::new(AtomicUsize::new(0));
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let barrier = Barrier::new(&ensemble.client(TIMEOUT).await, "/some/barrier");
        // Set was answered to another session, on another node perhaps: it holds all the same.
        assert!(barrier.is_set().await.expect("a read"));
        let passed = passed.clone();
        waiting.spawn(async move {
            barrier.wait().await.expect("the session lives");
            passed.fetch_add(1, Ordering::Relaxed);
        });
    }
    // Whoever set it may go, and a node too: it stays.
    drop(barrier);
    client.close().await.expect("a live session");
    ensemble.kill9(ensemble.leader().await);
    let client = ensemble.client(TIMEOUT).await;
    let barrier = Barrier::new(&client, "/some/barrier");
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(passed.load(Ordering::Relaxed), 0);
    assert_eq!(barrier.remove().await, Ok(true));
    waiting.join_all().await;
    assert_eq!(passed.load(Ordering::Relaxed), 20);
}

/// Three go in together and out together, round after round; nobody of a round meets one of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_so_many_enter_a_double_barrier_together_and_nobody_leaves_before_all_do() {
    const PARTIES: usize = 3;
    const CLIENTS: usize = 2 * PARTIES;
    const ROUNDS: usize = 10;
    let ensemble = Ensemble::start(3).await;
    let inside = Arc::new(AtomicUsize::new(0));
    let rounds = Arc::new(AtomicUsize::new(0));
    let mut members = JoinSet::new();
    for _ in 0..CLIENTS {
        let client = ensemble.client(TIMEOUT).await;
        let (inside, rounds) = (inside.clone(), rounds.clone());
        members.spawn(async move {
            let barrier = DoubleBarrier::new(&client, "/double", PARTIES).expect("a few");
            for _ in 0..ROUNDS {
                let entered = barrier.enter().await.expect("enter");
                let number = inside.fetch_add(1, Ordering::SeqCst);
                assert!(number < PARTIES, "{number} were inside already");
                // The others must be able to come in before this one leaves.
                while inside.load(Ordering::SeqCst) % PARTIES != 0 {
                    tokio::task::yield_now().await;
                }
                rounds.fetch_add(1, Ordering::SeqCst);
                inside.store(0, Ordering::SeqCst);
                entered.leave().await.expect("leave");
            }
        });
    }
    let all = tokio::time::timeout(3 * TIMEOUT, members.join_all());
    all.await.expect("nobody hangs");
    assert_eq!(rounds.load(Ordering::SeqCst), CLIENTS * ROUNDS);
    let client = ensemble.client(TIMEOUT).await;
    let left = client.children("/double", ReadLevel::Linearizable).await.expect("it stays");
    assert_eq!(left, ["members"], "no round is left over");
    assert!(client.children("/double/members", ReadLevel::Local).await.expect("it stays").is_empty());
}

/// Members that are dropped, or die before a round and inside of it, hold nobody up for longer than their sessions last.
#[tokio::test]
async fn a_member_that_dies_in_a_double_barrier_holds_nobody_up_for_ever() {
    let ensemble = Ensemble::start(3).await;
    let clients = [ensemble.client(TIMEOUT).await, ensemble.client(TIMEOUT).await];
    let [one, two] = clients.clone().map(|client| DoubleBarrier::new(&client, "/double", 2).expect("two"));

    // One that gave up has not come.
    tokio::time::timeout(SECOND / 5, one.enter()).await.expect_err("it is alone");
    // One that dies before the others came does not count: the silent session ends in two seconds.
    let mut dead = RawSession::open(&ensemble.endpoint(1), 2 * SECOND).await;
    dead.write(1, create("/double/members/member-", "", WireMode::EphemeralSequential)).await;
    eventually(4 * SECOND, "its session expires", async || {
        let members = clients[0].children("/double/members", ReadLevel::Linearizable).await;
        members.expect("it stays").is_empty()
    })
    .await;
    tokio::time::timeout(SECOND / 5, one.enter()).await.expect_err("it is alone");

    // One that dies inside: with the same steps by hand, as another language would take them.
    let mut dead = RawSession::open(&ensemble.endpoint(2), 2 * SECOND).await;
    dead.write(1, create("/double/members/member-", "", WireMode::EphemeralSequential)).await;
    let entered = tokio::time::timeout(SECOND, one.enter()).await.expect("two are there").expect("enter");
    let started = tokio::time::Instant::now();
    tokio::time::timeout(4 * SECOND, entered.leave()).await.expect("it does not hang").expect("leave");
    assert!(started.elapsed() > SECOND / 2, "it did wait: {:?}", started.elapsed());

    // A round whose members have both died is not in the way of the next.
    let (a, b) = tokio::join!(one.enter(), two.enter());
    drop((a.expect("enter"), b.expect("enter")));
    let (a, b) = tokio::join!(one.enter(), two.enter());
    let (a, b) = (a.expect("enter"), b.expect("enter"));
    // Who drops it has left.
    drop(b);
    tokio::time::timeout(SECOND, a.leave()).await.expect("two has left").expect("leave");

    // The end of one's own session is told.
    let waiting = one.enter();
    let (end, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(SECOND / 5).await;
        clients[0].close().await.expect("a live session");
    });
    assert!(end.unwrap_err().is_terminal());
    assert_eq!(DoubleBarrier::new(&clients[1], "/x", 0).unwrap_err().kind, ErrorKind::BadArguments);
}
