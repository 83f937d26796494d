//! Every limit is named by its refusal, and the session goes on (G9).

use std::time::Duration;

use coordd_client::{Check, Client, ConnectOptions, CreateMode, Error, ErrorKind, ListOptions, ReadLevel};
use coordd_proto::status::from_status;
use coordd_proto::v1::request::Op;
use coordd_proto::v1::server_item::Item;
use coordd_proto::v1::{
    AddWatchRequest, Attach, ClientFrame, CloseRequest, CreateMode as WireMode, ErrorCode, MultiOp,
    MultiRequest, RemoveWatchRequest, Reply, Request, SetRequest, WatchKind, WatchSpec, multi_op, reply,
};
use coordd_tests::{Ensemble, EnsembleOptions, RawSession, code_of, create, get, set};

const TIMEOUT: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

fn error_of(reply: &Reply) -> (ErrorCode, &str) {
    match &reply.result {
        Some(reply::Result::Error(error)) => (error.code(), &error.message),
        other => panic!("not an error: {other:?}"),
    }
}

fn is_refused<T: std::fmt::Debug>(answer: Result<T, Error>, limit: &str, actual: &str) {
    let error = answer.expect_err("over the limit");
    assert_eq!(error.kind, ErrorKind::BadArguments, "{error}");
    assert!(error.message.contains(limit) && error.message.contains(actual), "{error}");
}

/// A multi of so many creates, in the root.
async fn create_many(client: &Client, from: usize, count: usize) -> Result<(), Error> {
    let mut multi = client.multi();
    for number in from..from + count {
        multi = multi.create(format!("/many/{number:06}"), "", CreateMode::Persistent);
    }
    multi.commit().await.map(|results| assert_eq!(results.len(), count))
}

/// G9: sizes of values, paths, multis, ACLs and guards: what is at the limit passes, what is over it is refused by name,
/// and the session and its numbers go on.
#[tokio::test]
async fn what_is_too_large_is_refused_by_the_name_of_the_limit() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", vec![0; MIB], CreateMode::Persistent).await.expect("a value at the limit");
    is_refused(client.set("/a", vec![0; MIB + 1], None).await, "value_bytes", "1048577");

    let at_limit = format!("/{}", "x".repeat(4095));
    client.create(&at_limit, "", CreateMode::Persistent).await.expect("a path at the limit");
    let over = format!("{at_limit}y");
    is_refused(client.create(&over, "", CreateMode::Persistent).await, "path_bytes", "4097");

    client.create("/many", "", CreateMode::Persistent).await.expect("a create");
    create_many(&client, 0, 1000).await.expect("a multi at the limit");
    is_refused(create_many(&client, 1000, 1001).await, "multi_ops", "1001");

    let guarded = |guards: usize| client.guarded(vec![Check::exists("/a"); guards]).set("/a", "", None);
    guarded(64).await.expect("guards at the limit");
    is_refused(guarded(65).await, "guards", "65");

    let everybody = coordd_client::AclEntry::world(coordd_client::Perms::ALL);
    client.set_acl("/a", vec![everybody.clone(); 64], None).await.expect("an ACL at the limit");
    is_refused(client.set_acl("/a", vec![everybody; 65], None).await, "acl_entries", "65");

    let named =
        |bytes: usize| ConnectOptions::new().client_name("x".repeat(bytes)).connect(ensemble.endpoints());
    named(256).await.expect("a name at the limit");
    let refused = named(257).await.expect_err("a name over the limit");
    assert!(refused.message.contains("256"), "{refused}");

    let (_, stat) = client.get("/a", ReadLevel::Linearizable).await.expect("the session goes on");
    assert_eq!(stat.version, 1);
}

/// G9: a frame over the limit ends the stream, which says why; nothing of it was executed, and the session lives.
#[tokio::test]
async fn a_frame_over_the_limit_ends_the_stream_and_not_the_session() {
    let ensemble = Ensemble::start(1).await;
    let mut session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    session.write(1, create("/a", "", WireMode::Persistent)).await;
    let requests =
        (2..=6).map(|seq| Request { id: seq, write_seq: seq, op: Some(set("/a", vec![0; MIB - 1])) });
    session.send_frame(ClientFrame { requests: requests.collect(), ..Default::default() }).await;
    let status = session.end().await;
    assert_eq!(code_of(&status), ErrorCode::Protocol, "{status}");
    assert!(status.message().contains("--frame-bytes-max"), "{status}");

    let again = RawSession::attach(&ensemble.endpoint(1), session.attach_again()).await;
    let mut session = again.expect("the session is alive");
    assert_eq!(session.attached.last_write_seq, 1, "nothing of the frame was executed");
    session.write(2, set("/a", "2")).await;
}

/// G9: what breaks the protocol ends the stream with a reason.
#[tokio::test]
async fn a_breach_of_the_protocol_ends_the_stream_with_a_reason() {
    let ensemble = Ensemble::start(1).await;
    let endpoint = ensemble.endpoint(1);
    let breaches = [
        Request { id: 1, write_seq: 0, op: Some(set("/a", "")) },
        Request { id: 1, write_seq: 1, op: Some(get("/a")) },
        Request { id: 1, write_seq: 1, op: None },
    ];
    for request in breaches {
        let mut session = RawSession::open(&endpoint, TIMEOUT).await;
        session.send_frame(ClientFrame { requests: vec![request], ..Default::default() }).await;
        let status = session.end().await;
        assert_eq!(code_of(&status), ErrorCode::Protocol, "{status}");
        assert!(status.message().contains("request 1"), "{status}");
    }
    let nobody = Attach { session_id: 77, password: vec![0; 16].into(), ..Default::default() };
    let status = RawSession::attach(&endpoint, nobody).await.err().expect("there is no such session");
    assert_eq!(code_of(&status), ErrorCode::NoSession);
    let session = RawSession::open(&endpoint, TIMEOUT).await;
    let thief = Attach { password: vec![0; 16].into(), ..session.attach_again() };
    let status = RawSession::attach(&endpoint, thief).await.err().expect("the password is wrong");
    assert_eq!(code_of(&status), ErrorCode::AuthFailed);
}

/// G9: a listing of any size comes in pages.
#[tokio::test]
async fn twenty_five_thousand_children_are_listed_in_pages() {
    const CHILDREN: usize = 25_000;
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/many", "", CreateMode::Persistent).await.expect("a create");
    for from in (0..CHILDREN).step_by(1000) {
        create_many(&client, from, 1000).await.expect("a multi");
    }
    let whole = ListOptions { limit: u32::MAX, with_stat: true, ..Default::default() };
    let page = client.list_page("/many", ReadLevel::Local, whole).await.expect("a page");
    assert_eq!((page.children.len(), page.more, page.stat.num_children), (10_000, true, CHILDREN as u32));
    let names = client.children("/many", ReadLevel::Local).await.expect("all pages");
    assert!(names.iter().enumerate().all(|(number, name)| *name == format!("{number:06}")), "in order");
    assert_eq!(names.len(), CHILDREN);
}

/// G9: a client that sends more requests than are worked on at once is slowed down, and answered in order.
#[tokio::test]
async fn requests_over_the_outstanding_limit_wait_and_are_answered_in_order() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_OUTSTANDING_MAX", "10").start().await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let calls: Vec<_> = (0..2000).map(|_| client.set("/a", "x", None)).collect();
    for (index, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.expect("a set").version, index as i32 + 1);
    }
}

/// G9: watches of a session are limited; the refusal names the option, and the session goes on with those it has.
#[tokio::test]
async fn watches_over_the_limit_are_refused() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_WATCHES_MAX", "10").start().await;
    let mut session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let watch = |watch_id| {
        let kind = WatchKind::Persistent as i32;
        let watch = Some(WatchSpec { watch_id, kind, with_value: false });
        Op::AddWatch(AddWatchRequest { path: "/a".into(), watch })
    };
    for id in 1..=10 {
        let reply = session.ask(watch(id)).await;
        assert!(matches!(reply.result, Some(reply::Result::AddWatch(_))), "{reply:?}");
    }
    let reply = session.ask(watch(11)).await;
    let (code, message) = error_of(&reply);
    assert_eq!(code, ErrorCode::Throttled);
    assert!(message.contains("--watches-max"), "{message}");
    session.ask(Op::RemoveWatch(RemoveWatchRequest { watch_id: 3 })).await;
    let reply = session.ask(watch(11)).await;
    assert!(matches!(reply.result, Some(reply::Result::AddWatch(_))), "{reply:?}");
    session.write(1, create("/a", "", WireMode::Persistent)).await;
    let mut fired = session.event().await.watch_ids;
    fired.sort_unstable();
    assert_eq!(fired, [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]);
}

/// G9: sessions are limited; a place is free again when one ends.
#[tokio::test]
async fn sessions_over_the_limit_are_refused_until_one_ends() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_SESSIONS_MAX", "5").start().await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(RawSession::open(&ensemble.endpoint(1), TIMEOUT).await);
    }
    let attach = Attach { timeout_ms: 10_000, ..Default::default() };
    let refused = RawSession::attach(&ensemble.endpoint(1), attach.clone()).await;
    let status = refused.err().expect("a sixth session");
    let error = from_status(&status).expect("an error of coordd");
    assert_eq!(error.code(), ErrorCode::Throttled);
    assert!(error.message.contains("--sessions-max") && error.retry_after_ms > 0, "{error:?}");
    sessions[0].write(1, Op::Close(CloseRequest {})).await;
    RawSession::attach(&ensemble.endpoint(1), attach).await.expect("there is a place again");
}

/// G9: connections are limited; more wait until others close, and the log says so.
#[tokio::test]
async fn connections_over_the_limit_wait_until_others_close() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_CONNECTIONS_MAX", "20").start().await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        // With something under way: those that ask for nothing would give way.
        idle.push(RawSession::open(&ensemble.endpoint(1), TIMEOUT).await);
    }
    let options = ConnectOptions::new().connect_timeout(Duration::from_secs(15));
    let connecting = tokio::spawn(options.connect(ensemble.endpoints()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!connecting.is_finished(), "a connection over the limit was served");
    let log = ensemble.log(1);
    assert!(log.contains("--connections-max"), "{log}");
    drop(idle);
    connecting.await.expect("no panic").expect("there is room now");
}

/// G9: answers that clients do not acknowledge are bounded for all sessions together. The session that holds most ends, and is
/// told why; one that holds little goes on.
#[tokio::test]
async fn hoarded_answers_end_their_session() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_ANSWERS_BYTES_MAX", "1MiB").start().await;
    let mut modest = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    modest.write(1, create("/a", "", WireMode::Persistent)).await;
    let mut hoarder = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let sets = MultiRequest {
        ops: vec![
            MultiOp {
                op: Some(multi_op::Op::Set(SetRequest { path: "/a".into(), ..Default::default() }))
            };
            1000
        ],
        ..Default::default()
    };
    let ended = 'hoarding: {
        for seq in 1..=400 {
            let id = hoarder.send_write(seq, Op::Multi(sets.clone())).await;
            loop {
                match hoarder.item().await.expect("the stream goes on until the session ends") {
                    Item::Ended(ended) => break 'hoarding ended,
                    Item::Reply(reply) if reply.id == id => break,
                    _ => {}
                }
            }
        }
        panic!("nobody ended the session");
    };
    assert!(ended.detail.contains("--answers-bytes-max"), "{ended:?}");
    assert!(matches!(modest.write(2, set("/a", "b")).await.result, Some(reply::Result::Set(_))));
}
