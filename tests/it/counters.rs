//! Values that many change at once: counters and shared values.

use std::collections::BTreeSet;
use std::time::Duration;

use coordd_client::recipes::{Counter, SharedValue};
use coordd_client::{Client, CreateMode, ErrorKind, ReadLevel};
use coordd_tests::{Ensemble, eventually};
use futures::StreamExt as _;
use tokio::task::JoinSet;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Every add counts once and gets a number of its own, while the leader is killed and the counter is deleted at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adds_of_many_writers_count_exactly_once_whichever_node_dies() {
    const WRITERS: usize = 8;
    const ADDS: usize = 60;
    let mut ensemble = Ensemble::start(3).await;
    let mut adding = JoinSet::new();
    for _ in 0..WRITERS {
        let counter = Counter::new(&ensemble.client(TIMEOUT).await, "/some/where/counter");
        // Two calls of a session at once get into each other's way no more than those of others.
        for _ in 0..2 {
            let counter = counter.clone();
            adding.spawn(async move {
                let mut sums = Vec::new();
                for _ in 0..ADDS / 2 {
                    sums.push(counter.add(1).await.expect("the session lives"));
                }
                sums
            });
        }
    }
    let client = ensemble.client(TIMEOUT).await;
    let counter = Counter::new(&client, "/some/where/counter");
    eventually(TIMEOUT, "they count", async || {
        counter.get(ReadLevel::Local).await.is_ok_and(|sum| sum >= 40)
    })
    .await;
    let leader = ensemble.leader().await;
    ensemble.kill9(leader);
    let sums: Vec<i64> = adding.join_all().await.into_iter().flatten().collect();
    let total = (WRITERS * ADDS) as i64;
    assert_eq!(counter.get(ReadLevel::Linearizable).await, Ok(total));
    assert_eq!(sums.iter().copied().collect::<BTreeSet<_>>(), (1..=total).collect(), "each number once");
}

#[tokio::test]
async fn a_counter_says_what_it_found_and_refuses_what_it_cannot_hold() {
    let ensemble = Ensemble::start(3).await;
    let ids = ensemble.ids();
    let clients =
        [ensemble.client_of(&ids[..1], TIMEOUT).await, ensemble.client_of(&ids[1..2], TIMEOUT).await];
    let [one, two] = clients.clone().map(|client| Counter::new(&client, "/c"));
    assert_eq!(one.get(ReadLevel::Linearizable).await, Ok(0), "none is 0");
    assert_eq!(one.compare_and_set(1, 5).await, Ok(0));
    assert!(clients[0].exists("/c", ReadLevel::Local).await.unwrap().is_none(), "nothing was written");
    assert_eq!(one.compare_and_set(0, 5).await, Ok(0));
    for round in 0..50 {
        // `two` remembers what it wrote; `one` is on another node, which may be behind.
        assert_eq!(two.add(1).await, Ok(6 + 3 * round));
        assert_eq!(one.compare_and_set(6 + 3 * round, 8 + 3 * round).await, Ok(6 + 3 * round));
    }
    let now = one.get(ReadLevel::Linearizable).await.unwrap();
    assert_eq!(two.compare_and_set(now - 2, 0).await, Ok(now), "not what it remembers");

    one.set(i64::MAX).await.expect("a set");
    let error = two.add(1).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadArguments);
    assert!(error.message.contains(&i64::MAX.to_string()), "{error}");
    assert_eq!(two.add(-1).await, Ok(i64::MAX - 1));

    // Deleted and made again with the same version: not the same counter.
    let version = clients[0].exists("/c", ReadLevel::Linearizable).await.unwrap().expect("there").version;
    clients[0].delete("/c", None).await.expect("a delete");
    clients[0].create("/c", "7", CreateMode::Persistent).await.expect("a create");
    for _ in 0..version {
        clients[0].set("/c", "7", None).await.expect("a set");
    }
    assert_eq!(two.add(1).await, Ok(8));

    clients[0].set("/c", "seven", None).await.expect("a set");
    assert_eq!(one.get(ReadLevel::Local).await.unwrap_err().kind, ErrorKind::MarshallingError);
    assert_eq!(two.add(1).await.unwrap_err().kind, ErrorKind::MarshallingError);
    two.set(1).await.expect("set mends it");
    assert_eq!(one.add(1).await, Ok(2));
}

async fn next_number(values: &mut (impl futures::Stream<Item = Number> + Unpin)) -> Option<u32> {
    let next = tokio::time::timeout(TIMEOUT, values.next()).await.expect("in time");
    next.expect("the stream goes on").expect("a number").map(|found| found.value)
}

type Number = Result<Option<coordd_client::recipes::Versioned<u32>>, coordd_client::Error>;

#[tokio::test]
async fn a_shared_value_is_replaced_only_by_who_has_seen_it_and_followed_to_its_newest() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let value = SharedValue::new(&client, "/settings/replicas");
    let follower: Client = ensemble.client(TIMEOUT).await;
    let followed = SharedValue::new(&follower, "/settings/replicas");
    let mut values = followed.watch_json::<u32>();
    assert_eq!(next_number(&mut values).await, None);

    assert_eq!(value.get(ReadLevel::Local).await, Ok(None));
    let stat = value.compare_and_set(None, "1").await.unwrap().expect("there was none");
    assert_eq!(value.compare_and_set(None, "2").await, Ok(None), "there is one");
    assert_eq!(next_number(&mut values).await, Some(1));
    let newer = value.compare_and_set(Some(&stat), "2").await.unwrap().expect("as it was seen");
    assert_eq!(newer.version, stat.version + 1);
    assert_eq!(value.compare_and_set(Some(&stat), "3").await, Ok(None), "changed meanwhile");
    assert_eq!(next_number(&mut values).await, Some(2));

    // Ten that raise it at once, with the leader killed.
    let mut raising = JoinSet::new();
    for _ in 0..10 {
        let value = SharedValue::new(&ensemble.client(TIMEOUT).await, "/settings/replicas");
        raising.spawn(async move {
            for _ in 0..10 {
                value.update_json(|n: Option<u32>| Ok(n.unwrap_or(0) + 1)).await.expect("the session lives");
            }
        });
    }
    let leader = ensemble.leader().await;
    ensemble.kill9(leader);
    raising.join_all().await;
    assert_eq!(value.get_json(ReadLevel::Linearizable).await.unwrap().map(|found| found.value), Some(102));
    let mut last = 2;
    while last != 102 {
        let next = next_number(&mut values).await.expect("it stays");
        assert!(next > last, "{next} after {last}");
        last = next;
    }

    // A bad value is told, and the stream goes on; so it does over a delete.
    client.set("/settings/replicas", "many", None).await.expect("a set");
    let error = values.next().await.expect("the stream goes on").unwrap_err();
    assert_eq!(error.kind, ErrorKind::MarshallingError);
    assert_eq!(value.get_json::<u32>(ReadLevel::Local).await.unwrap_err().kind, ErrorKind::MarshallingError);
    let refused = value.update_json(|_: Option<u32>| Ok(0)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::MarshallingError, "what cannot be read is not replaced");
    client.delete("/settings/replicas", None).await.expect("a delete");
    assert_eq!(next_number(&mut values).await, None);
    value.set_json(&7).await.expect("created again");
    assert_eq!(next_number(&mut values).await, Some(7));
    follower.close().await.expect("a live session");
    let end = values.next().await.expect("the end is told").unwrap_err();
    assert!(end.is_terminal(), "{end}");
    assert!(values.next().await.is_none());
}
