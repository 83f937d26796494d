//! Sessions live as long as their clients are heard, and no longer (G6).

use std::time::{Duration, Instant};

use coordd_client::{Client, CreateMode, EndReason, ErrorKind, ReadLevel, SessionRecord, WatchMode};
use coordd_proto::v1::{CreateMode as WireMode, CreateReply, reply};
use coordd_tests::{Ensemble, RawSession, create, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// A session that says nothing by itself, with an ephemeral.
async fn silent_session(ensemble: &Ensemble, node: u64, timeout: Duration, path: &str) -> RawSession {
    let mut session = RawSession::open(&ensemble.endpoint(node), timeout).await;
    let reply = session.write(1, create(path, "", WireMode::Ephemeral)).await;
    assert!(matches!(reply.result, Some(reply::Result::Create(CreateReply { .. }))), "{reply:?}");
    session
}

/// Whether a node shows a znode, by its own state.
async fn shows(client: &Client, path: &str) -> bool {
    client.exists(path, ReadLevel::Local).await.expect("a local read").is_some()
}

async fn client_of_each(ensemble: &Ensemble, session_timeout: Duration) -> Vec<Client> {
    let mut clients = Vec::new();
    for id in ensemble.ids() {
        clients.push(ensemble.client_of(&[id], session_timeout).await);
    }
    clients
}

/// G6: a client that has gone, and one that is there but says nothing, are silent for their timeout: then, and not
/// before, the session ends and its ephemerals vanish on every node.
#[tokio::test]
async fn a_silent_session_ends_after_its_timeout_and_not_before() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let ensemble = Ensemble::start(3).await;
    let observers = client_of_each(&ensemble, 10 * SECOND).await;
    let follower = ensemble.follower().await;
    let gone = silent_session(&ensemble, follower, TIMEOUT, "/of-one-that-went").await;
    let paused = silent_session(&ensemble, follower, TIMEOUT, "/of-one-that-is-silent").await;
    let silent_since = Instant::now();
    let ids = [gone.attached.session_id, paused.attached.session_id];
    drop(gone);

    let paths = ["/of-one-that-went", "/of-one-that-is-silent"];
    let mut first_gone = None;
    for observer in &observers {
        for path in paths {
            eventually(TIMEOUT + 2 * SECOND, "the ephemeral vanishes", async || !shows(observer, path).await)
                .await;
            first_gone.get_or_insert_with(|| silent_since.elapsed());
        }
    }
    let (first, last) = (first_gone.unwrap_or_default(), silent_since.elapsed());
    println!("a timeout of {TIMEOUT:?}: ephemerals vanished after {first:?} to {last:?}");
    // The create was heard a moment before the clock here was started.
    assert!(first > TIMEOUT - SECOND / 4, "after {first:?}: too early");
    assert!(last < TIMEOUT + 2 * SECOND, "after {last:?}: too late");

    for id in ensemble.ids() {
        let admin = ensemble.admin(id).await.expect("the node answers");
        for session in ids {
            let SessionRecord::Ended { end, silence, client_name, last_write_seq, .. } =
                admin.session(session).await.expect("a record of the session")
            else {
                panic!("node {id} says that session {session:#x} is alive");
            };
            assert_eq!(
                (end.reason, client_name.as_str(), last_write_seq),
                (EndReason::Expired, "by hand", 1)
            );
            let (silent, last_node) = silence.expect("an expired session was silent");
            assert!(silent >= TIMEOUT && silent < TIMEOUT + 2 * SECOND, "{silent:?}");
            assert_eq!(last_node, follower, "the node it was heard through");
        }
    }
    let why = ensemble.coordctl(&["session", "why", &format!("{:#x}", ids[0])]).await.expect("it is known");
    assert!(why.contains("expired") && why.contains(&format!("node {follower}")), "{why}");
}

/// G6: a session that is closed takes its ephemerals with it in the same step: they have one zxid, the session's end.
#[tokio::test]
async fn a_closed_session_takes_its_ephemerals_with_it_in_one_step() {
    let ensemble = Ensemble::start(3).await;
    let observer = ensemble.client(10 * SECOND).await;
    let client = ensemble.client(10 * SECOND).await;
    for number in 0..20 {
        client.create(format!("/e-{number}"), "", CreateMode::Ephemeral).await.expect("an ephemeral");
    }
    observer.sync().await.expect("a sync");
    let mut watcher = observer.watch("/", WatchMode::PersistentRecursive).await.expect("a watch");
    let session = client.session_id();
    client.close().await.expect("it closes");
    for number in 0..20 {
        let there = observer.exists(format!("/e-{number}"), ReadLevel::Linearizable).await.expect("a read");
        assert_eq!(there, None);
    }
    let mut zxids = Vec::new();
    for _ in 0..20 {
        zxids.push(watcher.next().await.expect("an event for each").zxid());
    }
    let leader = ensemble.leader().await;
    let record = ensemble.admin(leader).await.expect("it answers").session(session).await.expect("a record");
    let SessionRecord::Ended { end, zxid, .. } = record else { panic!("{record:?}") };
    assert_eq!((end.reason, zxids), (EndReason::Closed, vec![zxid; 20]));
}

/// A close that nobody was told of is none: the session and what goes with it are there until its timeout.
#[tokio::test]
async fn a_close_that_reached_no_node_says_so() {
    let mut ensemble = Ensemble::start(1).await;
    let observer = ensemble.client(10 * SECOND).await;
    let client = ensemble.client(SECOND).await;
    client.create("/e", "", CreateMode::Ephemeral).await.expect("an ephemeral");
    ensemble.kill9(1);
    for _ in 0..2 {
        let error = client.close().await.expect_err("nobody was told");
        assert_eq!(error.kind, ErrorKind::SessionClosed, "{error}");
    }
    ensemble.restart(1);
    ensemble.wait_serving().await;
    let there = observer.exists("/e", ReadLevel::Linearizable).await.expect("a read");
    assert!(there.is_some(), "a new leader gives it its full timeout");
    eventually(10 * SECOND, "it expires by itself", async || !shows(&observer, "/e").await).await;
}

/// G6: an operator who ends a session is named in its record, and the client learns it.
#[tokio::test]
async fn a_killed_session_says_who_did_it() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(10 * SECOND).await;
    client.create("/e", "", CreateMode::Ephemeral).await.expect("an ephemeral");
    let id = format!("{:#x}", client.session_id());
    ensemble.coordctl(&["session", "kill", &id, "--by", "the tests"]).await.expect("it is killed");
    let state = tokio::time::timeout(5 * SECOND, client.ended()).await.expect("the client is told");
    assert!(format!("{state:?}").contains("the tests"), "{state:?}");
    let why = ensemble.coordctl(&["session", "why", &id]).await.expect("it is known");
    assert!(why.contains("killed") && why.contains("the tests"), "{why}");
}

/// Sessions of clients that are alive, on every node, each with an ephemeral.
struct Alive {
    clients: Vec<Client>,
}

impl Alive {
    async fn start(ensemble: &Ensemble, session_timeout: Duration) -> Self {
        let mut clients = Vec::new();
        for index in 0..6 {
            // They know all nodes and start on different ones.
            let client = ensemble.client(session_timeout).await;
            client.create(format!("/alive-{index}"), "", CreateMode::Ephemeral).await.expect("an ephemeral");
            clients.push(client);
        }
        Alive { clients }
    }

    /// None has ended, and all ephemerals are theirs.
    async fn verify(&self) {
        for (index, client) in self.clients.iter().enumerate() {
            let read = client.exists(format!("/alive-{index}"), ReadLevel::Linearizable).await;
            let stat = read.unwrap_or_else(|error| panic!("session {index} of a live client: {error}"));
            assert_eq!(stat.map(|stat| stat.ephemeral_owner), Some(client.session_id()), "session {index}");
        }
    }
}

/// G6: the time in which the leader was stopped is nobody's silence, neither for the leader that follows nor for the old
/// one when it wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_for_long_expires_nobody_who_is_alive() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut ensemble = Ensemble::start(3).await;
    let alive = Alive::start(&ensemble, TIMEOUT).await;
    let leader = ensemble.leader().await;
    ensemble.pause(leader);
    tokio::time::sleep(3 * TIMEOUT).await;
    ensemble.resume(leader);
    alive.verify().await;
    // What the old leader might still decide it decides now.
    tokio::time::sleep(TIMEOUT).await;
    alive.verify().await;
    ensemble.wait_serving().await;
    ensemble.wait_equal().await;
}

/// G6: nodes that were all stopped count none of that time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_stopped_as_a_whole_expires_nobody() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut ensemble = Ensemble::start(3).await;
    let alive = Alive::start(&ensemble, TIMEOUT).await;
    for id in ensemble.ids() {
        ensemble.pause(id);
    }
    tokio::time::sleep(3 * TIMEOUT).await;
    for id in ensemble.ids() {
        ensemble.resume(id);
    }
    alive.verify().await;
    tokio::time::sleep(TIMEOUT).await;
    alive.verify().await;
}

/// G6: whoever leads anew grants every session a full timeout, however long it was silent before; and then it ends.
#[tokio::test]
async fn a_new_leader_grants_a_full_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let mut ensemble = Ensemble::start(3).await;
    let leader = ensemble.leader().await;
    let follower = ensemble.follower().await;
    let observer = ensemble.client_of(&[follower], 10 * SECOND).await;
    let _silent = silent_session(&ensemble, follower, TIMEOUT, "/e").await;
    tokio::time::sleep(3 * SECOND).await;
    ensemble.kill9(leader);
    let killed = Instant::now();
    tokio::time::sleep(3 * SECOND).await;
    assert!(shows(&observer, "/e").await, "6 s silent, but 3 s of them since the new leader at most");
    eventually(TIMEOUT, "it ends then", async || !shows(&observer, "/e").await).await;
    let after = killed.elapsed();
    assert!(after > TIMEOUT && after < TIMEOUT + 3 * SECOND, "{after:?} after the old leader's death");
}

/// G6: a session moves with its client: signs of life count through whichever node they come.
#[tokio::test]
async fn a_session_is_kept_alive_through_any_node() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let ensemble = Ensemble::start(3).await;
    let mut session = silent_session(&ensemble, 1, TIMEOUT, "/e").await;
    for round in 0..12 {
        let node = 1 + round % 3;
        let attach = session.attach_again();
        session = RawSession::attach(&ensemble.endpoint(node), attach).await.expect("it is alive");
        tokio::time::sleep(TIMEOUT / 2).await;
    }
    let observer = ensemble.client(10 * SECOND).await;
    let stat = observer.exists("/e", ReadLevel::Linearizable).await.expect("a read");
    assert_eq!(stat.map(|stat| stat.ephemeral_owner), Some(session.attached.session_id));
}
