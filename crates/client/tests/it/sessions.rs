//! Sessions: finding nodes, moving, ending.

use std::time::{Duration, Instant};

use coordd_client::{
    Client, ConnectOptions, CreateMode, Credential, EndReason, ErrorKind, Outcome, ReadLevel, SessionState,
    SessionToken,
};
use futures::StreamExt as _;

use crate::fake::{Fake, Fault};

#[tokio::test]
async fn a_node_that_does_not_serve_is_passed_over() {
    let fake = Fake::start(3).await;
    fake.world().refusing.extend([1, 3]);
    let client = fake.connect().await;
    assert_eq!(fake.world().attached_node(client.session_id()), Some(2));
}

#[tokio::test]
async fn the_session_moves_when_its_node_fails() {
    let fake = Fake::start(2).await;
    let client = fake.connect().await;
    let mut states = client.states();
    assert!(states.next().await.unwrap().is_connected());
    let first = fake.world().attached_node(client.session_id()).unwrap();
    {
        let mut world = fake.world();
        world.refusing.insert(first);
        world.cut();
    }
    client.set("/a", "", None).await.unwrap();
    assert_eq!(fake.world().attached_node(client.session_id()), Some(3 - first));
    let SessionState::Connected { node_id, .. } = client.state() else { panic!("{:?}", client.state()) };
    assert_eq!(node_id, 3 - first);
    let presented = fake.world().attaches.last().unwrap().clone();
    assert_eq!(presented.session_id, client.session_id());
    assert!(presented.last_zxid >= 100, "it presents what it has seen");
    assert_eq!(client.suspended_for(), None);
}

#[tokio::test]
async fn a_node_behind_what_the_session_has_seen_is_not_used() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    client.set("/a", "", None).await.unwrap();
    let seen = client.last_zxid();
    {
        let mut world = fake.world();
        world.zxid = seen - 1;
        world.cut();
    }
    let read = client.get("/a", ReadLevel::Local);
    fake.until("a second attempt", |world| world.attaches.len() >= 3).await;
    assert!(!client.state().is_connected());
    fake.world().zxid = seen;
    read.await.unwrap();
}

#[tokio::test]
async fn a_silent_node_is_left_within_a_third_of_the_timeout() {
    let fake = Fake::start(2).await;
    let options = ConnectOptions::new().session_timeout(Duration::from_secs(3));
    let client = fake.connect_with(options).await.unwrap();
    fake.fault(Fault::Silence);
    let since = Instant::now();
    client.set("/a", "", None).await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(900), "not suspected too soon: {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_millis(2900), "left in time: {:?}", since.elapsed());
    assert_eq!(fake.world().applied.len(), 1);
}

#[tokio::test]
async fn an_idle_session_pings_several_times_in_its_timeout() {
    let fake = Fake::start(1).await;
    let options = ConnectOptions::new().session_timeout(Duration::from_secs(1));
    let _client = fake.connect_with(options).await.unwrap();
    let since = Instant::now();
    fake.until("three pings", |world| world.pings >= 3).await;
    assert!(since.elapsed() <= Duration::from_millis(1300), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_session_that_ended_while_away_fails_what_waits_and_names_the_writes() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    client.set("/a", "", None).await.unwrap();
    let (_, _, watcher) = client.get_and_watch("/a", ReadLevel::Local).await.unwrap();
    fake.fault(Fault::LoseRequests);
    fake.world().expire(client.session_id());
    let error = client.set("/a", "", None).await.unwrap_err();
    assert_eq!((error.kind, error.write_seq), (ErrorKind::SessionExpired, Some(2)));
    assert!(error.is_terminal());
    assert_eq!(watcher.changed().await.unwrap_err().kind, ErrorKind::SessionExpired);
    let SessionState::Expired(end) = client.ended().await else { panic!("{:?}", client.state()) };
    assert_eq!((end.reason, end.detail.as_str()), (EndReason::Expired, "it is gone"));
    assert_eq!(client.get("/a", ReadLevel::Local).await.unwrap_err().kind, ErrorKind::SessionExpired);
    assert_eq!(client.close().await.unwrap_err().kind, ErrorKind::SessionExpired);
}

#[tokio::test]
async fn the_fate_of_a_write_can_be_asked_after_the_end() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let token = client.session_token().unwrap();
    assert_eq!(client.outcome(&token, 1).await.unwrap(), Outcome::NotYet);
    client.create("/a", "", CreateMode::Persistent).await.unwrap();
    // Carried out, but the replies are lost, and the session ends before they are asked for again.
    fake.fault(Fault::LoseReplies);
    fake.world().refusing.insert(1);
    let calls =
        [client.create("/b", "", CreateMode::Persistent), client.create("/a", "", CreateMode::Persistent)];
    fake.until("an attempt to attach again", |world| world.attaches.len() > 1).await;
    fake.world().expire(token.session_id);
    let never = client.create("/c", "", CreateMode::Persistent);
    fake.world().refusing.clear();
    let mut fates = Vec::new();
    for call in calls.into_iter().chain([never]) {
        let error = call.await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::SessionExpired);
        fates.push(client.outcome(&token, error.write_seq.unwrap()).await.unwrap());
    }
    let [
        Outcome::Applied { result: Ok(()), .. },
        Outcome::Applied { result: Err(refused), .. },
        Outcome::Never,
    ] = fates.as_slice()
    else {
        panic!("{fates:?}");
    };
    assert_eq!(refused.kind, ErrorKind::NodeExists);
    let nobody = SessionToken { session_id: 1, ..token };
    assert_eq!(client.outcome(&nobody, 1).await.unwrap(), Outcome::Unknown);
}

#[tokio::test]
async fn a_killed_session_learns_why() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    fake.world().kill(client.session_id(), "by the operator");
    let SessionState::Expired(end) = client.ended().await else { panic!("{:?}", client.state()) };
    assert_eq!((end.reason, end.detail.as_str()), (EndReason::Killed, "by the operator"));
}

#[tokio::test]
async fn close_comes_behind_the_writes_before_it() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let write = client.set("/a", "", None);
    client.close().await.unwrap();
    write.await.unwrap();
    assert!(!fake.world().has_session(client.session_id()));
    assert_eq!(client.state(), SessionState::Closed);
    assert_eq!(client.set("/a", "", None).await.unwrap_err().kind, ErrorKind::SessionClosed);
    client.close().await.expect("closing twice is as good as once");
}

#[tokio::test]
async fn a_close_whose_reply_was_lost_is_a_close() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    fake.fault(Fault::LoseReplies);
    client.close().await.unwrap();
    assert_eq!(client.state(), SessionState::Closed);
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_session() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let other = client.clone();
    let session_id = client.session_id();
    drop(client);
    other.set("/a", "", None).await.unwrap();
    assert!(fake.world().has_session(session_id));
    drop(other);
    fake.until("the close", |world| !world.has_session(session_id)).await;
}

#[tokio::test]
async fn connecting_to_nobody_fails_in_time_with_the_reason() {
    // Bound and dropped: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = ConnectOptions::new().connect_timeout(Duration::from_millis(200));
    let error = options.connect([address.to_string()]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ConnectionLoss);
    assert!(error.message.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn bad_endpoints_are_refused_at_once() {
    assert_eq!(Client::connect(Vec::<String>::new()).await.unwrap_err().kind, ErrorKind::BadArguments);
    assert_eq!(Client::connect(["nowhere"]).await.unwrap_err().kind, ErrorKind::BadArguments);
}

#[tokio::test]
async fn a_wrong_credential_is_told_and_not_retried() {
    let fake = Fake::start(1).await;
    let options = ConnectOptions::new().credential(Credential::digest("me", "wrong"));
    assert_eq!(fake.connect_with(options).await.unwrap_err().kind, ErrorKind::AuthFailed);
    assert_eq!(fake.world().attaches.len(), 1);
}

#[tokio::test]
async fn added_identities_are_presented_to_the_next_node() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    client.add_auth(Credential::digest("me", "secret")).await.unwrap();
    fake.world().cut();
    client.sync().await.unwrap();
    assert_eq!(fake.world().attaches.last().unwrap().credentials[0].auth, "me:secret");
}

#[test]
fn a_session_on_its_own_thread_outlives_a_stalled_runtime() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = servers.block_on(Fake::start(1));
    let stalled = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = ConnectOptions::new().session_timeout(Duration::from_secs(1)).dedicated_thread(true);
    let client = stalled.block_on(fake.connect_with(options)).unwrap();
    // Nothing drives the client's runtime while the servers wait for its pings.
    servers.block_on(fake.until("two pings", |world| world.pings >= 2));
    stalled.block_on(client.sync()).unwrap();
}
