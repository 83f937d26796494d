//! The SDK follows the limits of a server that takes less than usual.

use std::time::Duration;

use coordd_client::recipes::{Lock, Sessions, TreeCache, WorkAssignment, WorkItem};
use coordd_client::{ConnectOptions, CreateMode, ErrorKind, Multi, ReadLevel, SessionState, WatchMode};
use coordd_tests::{Ensemble, EnsembleOptions, eventually};
use futures::future::join_all;

const TIMEOUT: Duration = Duration::from_secs(10);
const NAME: usize = 1000;

async fn small_node() -> Ensemble {
    let options = EnsembleOptions::new(1).env("COORDD_FRAME_BYTES_MAX", "64KiB");
    let options = options.env("COORDD_VALUE_BYTES_MAX", "32KiB").env("COORDD_OUTSTANDING_MAX", "20");
    options.start().await
}

fn long(number: usize) -> String {
    format!("/t/{number:04}{}", "x".repeat(NAME))
}

/// Subtrees with long names, deep paths, large groups and many watches, each of which takes many requests
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn batches_fit_a_small_node() {
    let ensemble = small_node().await;
    let client = ensemble.client(TIMEOUT).await;
    assert_eq!((client.limits().frame_bytes, client.limits().outstanding), (64 << 10, 20));
    client.create("/t", "", CreateMode::Persistent).await.expect("a create");
    let paths: Vec<String> = (0..600).map(long).collect();
    for part in paths.chunks(20) {
        let create = |multi: Multi, path: &String| multi.create(path, vec![7; 1000], CreateMode::Persistent);
        part.iter().fold(client.multi(), create).commit().await.expect("creates");
    }

    let cache = TreeCache::in_session(&client, "/t");
    cache.wait_ready().await.expect("it loads");
    assert_eq!(cache.view().len(), 601);
    let watchers = join_all(paths.iter().map(|path| client.watch(path, WatchMode::Persistent))).await;
    let watchers: Vec<_> = watchers.into_iter().map(|watcher| watcher.expect("a watch")).collect();

    let mut steps = 0;
    let gone = client.delete_tree_in_batches("/t", |_| steps += 1).await.expect("deleted");
    assert_eq!(gone, 601);
    // One by one it would be told of one step for each batch all the same: they are many because they are
    // small.
    assert!(steps > 600 * NAME / (64 << 10), "{steps} steps");
    drop(watchers);

    // A path whose levels do not fit into one request.
    let deep = "/0123456789012345678901234567890123456789".repeat(90);
    let lock = Lock::new(&client, deep).lock().await.expect("the lock");
    lock.release().await.expect("released");
}

/// The items of a group are put in batches that fit.
#[tokio::test(flavor = "multi_thread")]
async fn items_fit_a_small_node() {
    let ensemble = small_node().await;
    let sessions = Sessions::connect(ensemble.endpoints(), ConnectOptions::new()).await.expect("a session");
    let client = sessions.live().await.expect("a session");
    let group = WorkAssignment::open(&client, "/group").await.expect("a group");
    let data = "x".repeat(1000);
    let items: Vec<(String, WorkItem)> =
        (0..300).map(|n| (format!("item-{n}"), WorkItem::new().data(data.as_str()))).collect();
    group.put_all(items.iter().map(|(id, item)| (id.as_str(), item))).await.expect("put");
    let there = client.children("/group/items", ReadLevel::Linearizable).await.expect("a list");
    assert_eq!(there.len(), 300);
}

/// A node that comes back with a smaller `--frame-bytes-max` takes a session whose watches filled larger
/// frames. Requests that were made for the node as it was are refused one by one where they are too large,
/// and the others are carried out.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_smaller_frames() {
    let mut ensemble = Ensemble::start(1).await;
    let client = ensemble.client(Duration::from_secs(60)).await;
    client.create("/t", "", CreateMode::Persistent).await.expect("a create");
    let paths: Vec<String> = (0..600).map(long).collect();
    let watchers = join_all(paths.iter().map(|path| client.watch(path, WatchMode::Persistent))).await;
    let mut watchers: Vec<_> = watchers.into_iter().map(|watcher| watcher.expect("a watch")).collect();

    ensemble.kill9(1);
    eventually(TIMEOUT, "the session is suspended", async || client.suspended_for().is_some()).await;
    let large = client.create("/large", vec![7; 200 << 10], CreateMode::Persistent);
    let last = &paths[paths.len() - 1];
    let small = client.create(last, "x", CreateMode::Persistent);
    let read = paths[..200].iter().fold(client.multi_read(ReadLevel::Local), |read, path| read.exists(path));
    let read = read.send();
    ensemble.set_env("COORDD_FRAME_BYTES_MAX", "64KiB");
    ensemble.set_env("COORDD_VALUE_BYTES_MAX", "32KiB");
    ensemble.restart(1);

    for refused in [large.await.map(drop), read.await.map(drop)] {
        let error = refused.expect_err("it is too large");
        assert_eq!(error.kind, ErrorKind::BadArguments, "{error}");
        assert!(error.message.contains("--frame-bytes-max"), "{error}");
    }
    small.await.expect("created");
    assert!(matches!(client.state(), SessionState::Connected { .. }), "{:?}", client.state());
    assert_eq!(client.limits().frame_bytes, 64 << 10);
    assert_eq!(client.exists("/large", ReadLevel::Local).await, Ok(None));
    let event = watchers.last_mut().expect("a watcher").next().await.expect("an event");
    assert_eq!(event.event().map(|event| event.path.as_str()), Some(last.as_str()));
}
