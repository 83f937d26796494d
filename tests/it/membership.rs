//! What is there for as long as its process: persistent ephemerals, and the groups made of them.

use std::time::Duration;

use coordd_client::recipes::{PersistentEphemeral, PersistentEphemeralOptions, Sessions};
use coordd_client::{Client, ConnectOptions, CreateMode, CreateOptions, ErrorKind, ReadLevel};
use coordd_proto::v1::CreateMode as WireMode;
use coordd_tests::{Ensemble, RawSession, create, eventually};
use futures::StreamExt as _;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

async fn sessions(ensemble: &Ensemble, timeout: Duration) -> Sessions {
    let options = ConnectOptions::new().session_timeout(timeout);
    Sessions::connect(ensemble.endpoints(), options).await.expect("a session")
}

async fn data(client: &Client, path: &str) -> Option<String> {
    match client.get(path, ReadLevel::Linearizable).await {
        Ok((data, _)) => Some(String::from_utf8_lossy(&data).into_owned()),
        Err(error) if error.kind == ErrorKind::NoNode => None,
        Err(error) => panic!("{path}: {error}"),
    }
}

async fn end_session(ensemble: &Ensemble, sessions: &Sessions) -> u64 {
    let id = sessions.newest().expect("not closed").session_id();
    let node = ensemble.leader().await;
    let admin = ensemble.admin(node).await.expect("the leader answers");
    admin.kill_session(id, "a test").await.expect("the session is live");
    id
}

/// Created again when somebody deletes it and in each new session, with the newest data; gone when it is closed or dropped.
#[tokio::test]
async fn a_persistent_ephemeral_is_there_as_long_as_its_handle() {
    let mut ensemble = Ensemble::start(3).await;
    let other = ensemble.client(TIMEOUT).await;
    let sessions = sessions(&ensemble, TIMEOUT).await;
    let node = PersistentEphemeral::create(&sessions, "/a/b/node", "1").await.expect("a new path");
    assert_eq!(node.path(), "/a/b/node");
    assert_eq!(data(&other, "/a/b/node").await.as_deref(), Some("1"));
    let first = node.created().expect("there is one");
    let mut changes = node.changes();
    assert_eq!(changes.next().await, Some(Some(first.clone())));

    // Somebody deletes it.
    other.delete(node.path(), None).await.expect("a delete");
    eventually(TIMEOUT, "created again", async || data(&other, "/a/b/node").await.is_some()).await;
    eventually(TIMEOUT, "the handle knows", async || node.created().is_some_and(|now| now != first)).await;
    let second = node.created().expect("there is one");
    assert!(second.stat.czxid > first.stat.czxid, "another znode, another epoch");

    // Somebody deletes it and takes its place: waited for.
    let squatter = ensemble.client(TIMEOUT).await;
    let swap = squatter.multi().delete(node.path(), None);
    swap.create(node.path(), "squatter", CreateMode::Ephemeral).commit().await.expect("a swap");
    node.set_data("2").expect_pending(SECOND / 3).await;
    assert_eq!(data(&other, "/a/b/node").await.as_deref(), Some("squatter"));
    squatter.close().await.expect("a live session");
    eventually(TIMEOUT, "the set that waited", async || {
        data(&other, "/a/b/node").await.as_deref() == Some("2")
    })
    .await;

    // The session ends, and the leader with it.
    let ended = end_session(&ensemble, &sessions).await;
    ensemble.kill9(ensemble.leader().await);
    eventually(TIMEOUT, "created again in another session", async || {
        let stat = other.exists("/a/b/node", ReadLevel::Linearizable).await.expect("a read");
        stat.is_some_and(|stat| stat.ephemeral_owner != ended)
    })
    .await;
    assert_eq!(data(&other, "/a/b/node").await.as_deref(), Some("2"), "the newest data");
    node.set_data("3").await.expect("there is a session");
    assert_eq!(data(&other, "/a/b/node").await.as_deref(), Some("3"));

    // What is refused changes nothing, and the znode stays.
    let error = node.set_data(vec![b'x'; 2 << 20]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadArguments, "{error}");
    assert_eq!(data(&other, "/a/b/node").await.as_deref(), Some("3"));

    node.close().await;
    assert_eq!(data(&other, "/a/b/node").await, None, "closed");
    let node = PersistentEphemeral::create(&sessions, "/a/b/node", "4").await.expect("a free path");
    assert_eq!(data(&other, "/a/b/node").await.as_deref(), Some("4"));
    drop(node);
    eventually(TIMEOUT, "gone with the handle", async || data(&other, "/a/b/node").await.is_none()).await;
}

/// A waiting future is polled for a while, and dropped.
trait ExpectPending: Future + Sized {
    async fn expect_pending(self, within: Duration) {
        assert!(tokio::time::timeout(within, self).await.is_err(), "it did not wait");
    }
}

impl<F: Future> ExpectPending for F {}

/// A path that the last life of a program still holds is waited for; one that would never be free is an error; and a
/// number, once drawn, stays.
#[tokio::test]
async fn a_persistent_ephemeral_waits_for_the_session_of_its_last_life() {
    let ensemble = Ensemble::start(3).await;
    let other = ensemble.client(TIMEOUT).await;
    let mut last_life = RawSession::open(&ensemble.endpoint(1), 2 * SECOND).await;
    last_life.write(1, create("/node", "old", WireMode::Ephemeral)).await;

    let sessions = sessions(&ensemble, TIMEOUT).await;
    PersistentEphemeral::create(&sessions, "/node", "new").expect_pending(SECOND / 2).await;
    let node = PersistentEphemeral::create(&sessions, "/node", "new");
    let node = tokio::time::timeout(4 * SECOND, node).await.expect("its session expires").expect("a path");
    assert_eq!(data(&other, "/node").await.as_deref(), Some("new"));
    drop(last_life);

    // A call that was given up leaves nothing behind.
    let taken = PersistentEphemeral::create(&sessions, "/node", "twice");
    taken.expect_pending(SECOND / 5).await;
    node.close().await;
    tokio::time::sleep(SECOND / 5).await;
    assert_eq!(data(&other, "/node").await, None);

    other.create("/stays", "", CreateMode::Persistent).await.expect("a new path");
    let error = PersistentEphemeral::create(&sessions, "/stays", "").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NodeExists);
    let error = PersistentEphemeral::create(&sessions, "no path", "").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadArguments);

    let parents = CreateOptions::new(CreateMode::PersistentSequential).parents(true);
    other.create("/numbered/other-", "", parents).await.expect("a number");
    let options = PersistentEphemeralOptions::new().sequential(true);
    let numbered = PersistentEphemeral::create_with(&sessions, "/numbered/n-", "", options).await;
    let numbered = numbered.expect("a number");
    assert_eq!(numbered.path(), "/numbered/n-0000000001");
    let ended = end_session(&ensemble, &sessions).await;
    eventually(TIMEOUT, "the same number in another session", async || {
        let stat = other.exists("/numbered/n-0000000001", ReadLevel::Linearizable).await.expect("a read");
        stat.is_some_and(|stat| stat.ephemeral_owner != ended)
    })
    .await;

    // Closed sessions are the end of it.
    sessions.close().await.expect("a live session");
    assert_eq!(numbered.set_data("").await.unwrap_err().kind, ErrorKind::SessionClosed);
    assert_eq!(numbered.changes().collect::<Vec<_>>().await.last(), Some(&None));
}
