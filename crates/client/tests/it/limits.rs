//! Limits: what may be armed can be armed again, frames fit the node, and a refusal that stays is told.

use std::collections::BTreeSet;
use std::time::Duration;

use coordd_client::{Client, EndReason, ErrorKind, PersistentWatcher, SessionState, WatchEvent, WatchMode};
use coordd_proto::v1;
use futures::future::join_all;

use crate::fake::{Fake, refusal};

/// In all about 6 MB of paths: more than a frame may have.
const LONG_PATHS: usize = 1500;

fn long_path(number: usize) -> String {
    format!("/{number:04}{}", "x".repeat(4000))
}

async fn watch_long_paths(client: &Client) -> Vec<PersistentWatcher> {
    let watching = (0..LONG_PATHS).map(|number| client.watch(long_path(number), WatchMode::Persistent));
    join_all(watching).await.into_iter().map(Result::unwrap).collect()
}

async fn reconnect(fake: &Fake, client: &Client, change: &[&str]) {
    let attaches = fake.world().attaches.len();
    {
        let mut world = fake.world();
        world.cut();
        world.change(change);
    }
    fake.until("a new stream", |world| world.attaches.len() > attaches).await;
    client.sync().await.unwrap();
    // What is armed again is armed behind what was asked for before.
    fake.until("all watches", |world| world.watch_count(client.session_id()) == LONG_PATHS).await;
}

/// An attach takes as many frames as the watches need, and none of them misses an event.
#[tokio::test]
async fn watches_beyond_a_frame_go_on() {
    let fake = Fake::start(2).await;
    let client = fake.connect().await;
    let mut watchers = watch_long_paths(&client).await;
    let (first, last) = (long_path(0), long_path(LONG_PATHS - 1));
    reconnect(&fake, &client, &[&first, &last]).await;
    assert_eq!(fake.world().watch_count(client.session_id()), LONG_PATHS);
    assert!(fake.world().frame_bytes <= 4 << 20, "{}", fake.world().frame_bytes);
    for (index, path) in [(0, first), (LONG_PATHS - 1, last)] {
        let event = watchers[index].next().await.unwrap();
        assert_eq!(event.event().map(|event| event.path.as_str()), Some(path.as_str()));
    }
}

/// A node of a version that takes one frame keeps what it was told. The other watches are armed again, and
/// are told that events are missing.
#[tokio::test]
async fn older_nodes_arm_the_rest_again() {
    let fake = Fake::start(1).await;
    fake.world().limits = None;
    let client = fake.connect().await;
    let mut watchers = watch_long_paths(&client).await;
    let (first, last) = (long_path(0), long_path(LONG_PATHS - 1));
    reconnect(&fake, &client, &[&first, &last]).await;
    assert_eq!(fake.world().watch_count(client.session_id()), LONG_PATHS);
    let event = watchers[0].next().await.unwrap();
    assert_eq!(event.event().map(|event| event.path.as_str()), Some(first.as_str()));
    let zxid = fake.world().zxid;
    assert_eq!(watchers[LONG_PATHS - 1].next().await.unwrap(), WatchEvent::Resync { zxid });
    // From there on nothing is missed.
    let next = fake.world().change(&[&last]);
    assert_eq!(watchers[LONG_PATHS - 1].next().await.unwrap().zxid(), next);
}

/// Frames fit a node that takes less than usual, and requests that cannot are refused before they are sent.
#[tokio::test]
async fn frames_fit_a_small_node() {
    const FRAME_BYTES: usize = 64 << 10;
    let fake = Fake::start(1).await;
    let limits = v1::Limits { frame_bytes: FRAME_BYTES as u32, outstanding: 50, ..Default::default() };
    fake.world().limits = Some(limits);
    let client = fake.connect().await;
    assert_eq!((client.limits().frame_bytes, client.limits().outstanding), (FRAME_BYTES, 50));
    let _watchers = watch_long_paths(&client).await;
    join_all((0..500).map(|number| client.set(format!("/{number}"), vec![7; 10_000], None))).await;
    reconnect(&fake, &client, &["/a"]).await;
    assert_eq!(fake.world().watch_count(client.session_id()), LONG_PATHS);
    assert!(fake.world().frame_bytes <= FRAME_BYTES, "{}", fake.world().frame_bytes);
    assert!(fake.world().frames.iter().all(|requests| *requests <= 50));
    let error = client.set("/a", vec![7; FRAME_BYTES], None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadArguments);
    assert!(error.message.contains("--frame-bytes-max"), "{error}");
}

/// A node that takes more than usual is given more.
#[tokio::test]
async fn large_requests_fit_a_large_node() {
    let fake = Fake::start(1).await;
    fake.world().limits = Some(v1::Limits { frame_bytes: 12 << 20, ..Default::default() });
    let client = fake.connect().await;
    assert!(client.set("/a", vec![7; 4 << 20], None).write_seq().is_some(), "it is sent");
}

/// A refusal that will not pass ends the session with its reason, once every node has given it.
#[tokio::test]
async fn lasting_refusals_end_the_session() {
    for (code, message) in [
        (v1::ErrorCode::Throttled, "2000 watches to resume; at most 1000 (--watches-max)"),
        (v1::ErrorCode::BadArguments, "a watch to resume has no spec"),
        (v1::ErrorCode::Protocol, "a frame cannot be read"),
    ] {
        let fake = Fake::start(3).await;
        let client = fake.connect().await;
        {
            let mut world = fake.world();
            world.refusal = Some(refusal(code, message));
            world.cut();
        }
        let ended = tokio::time::timeout(Duration::from_secs(5), client.ended()).await.expect("it ends");
        let SessionState::Expired(end) = ended else { panic!("{ended:?}") };
        assert_eq!(end.reason, EndReason::Refused);
        assert_eq!(end.detail.matches(message).count(), 3, "each node is named: {end}");
        let error = client.sync().await.unwrap_err();
        assert!(error.kind == ErrorKind::SessionExpired && error.message.contains(message), "{error}");
    }
}

/// A limit that passes comes with a time to wait, and is waited for.
#[tokio::test]
async fn passing_refusals_are_waited_for() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    {
        let mut world = fake.world();
        let busy = refusal(v1::ErrorCode::Throttled, "busy");
        world.refusal = Some(v1::Error { retry_after_ms: 20, ..busy });
        world.cut();
    }
    fake.until("three attempts", |world| world.attaches.len() >= 4).await;
    fake.world().refusal = None;
    client.sync().await.unwrap();
}

/// Every armed watch is named once in an attach.
#[tokio::test]
async fn each_watch_is_named_once() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let _watchers = watch_long_paths(&client).await;
    reconnect(&fake, &client, &["/a"]).await;
    let names: Vec<u64> = fake
        .world()
        .attaches
        .last()
        .unwrap()
        .watches
        .iter()
        .map(|watch| watch.spec.unwrap().watch_id)
        .collect();
    assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
}
