//! Watches never gap (G5).

use std::time::Duration;

use coordd_client::{ConnectOptions, CreateMode, ListOptions, ReadLevel, WatchEvent, WatchMode};
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::request::Op;
use coordd_proto::v1::server_item::Item;
use coordd_proto::v1::subscribe_reply::Item as Said;
use coordd_proto::v1::{
    AddWatchRequest, Attach, CreateMode as WireMode, Event, EventType, ExistsRequest, GetRequest,
    ListRequest, ResumeWatch, SubscribePath, SubscribeRequest, WatchKind, WatchSpec, reply,
};
use coordd_tests::{Ensemble, RawSession, create, eventually, get, set};
use tonic::transport::Endpoint;

const TIMEOUT: Duration = Duration::from_secs(30);

fn spec(watch_id: u64, kind: WatchKind) -> Option<WatchSpec> {
    Some(WatchSpec { watch_id, kind: kind as i32, with_value: false })
}

fn add_watch(path: &str, watch_id: u64, kind: WatchKind) -> Op {
    Op::AddWatch(AddWatchRequest { path: path.into(), watch: spec(watch_id, kind) })
}

/// G5: whatever a reply shows has been told to the watch before.
#[tokio::test]
async fn an_event_comes_before_the_reply_that_shows_the_change() {
    const SETS: i32 = 300;
    let ensemble = Ensemble::start(3).await;
    let follower = ensemble.follower().await;
    let writer = ensemble.client(TIMEOUT).await;
    writer.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let mut session = RawSession::open(&ensemble.endpoint(follower), TIMEOUT).await;
    session.ask(Op::Sync(Default::default())).await;
    let armed = session.ask(add_watch("/a", 1, WatchKind::Persistent)).await;
    assert!(matches!(armed.result, Some(reply::Result::AddWatch(_))), "{armed:?}");

    let writing = tokio::spawn(async move {
        for _ in 0..SETS {
            writer.set("/a", "x", None).await.expect("a set");
        }
    });
    let (mut told, mut shown, mut mid_way) = (0, 0, 0);
    while shown < SETS {
        let id = session.send(get("/a")).await;
        loop {
            match session.item().await.expect("the stream goes on") {
                Item::Event(event) => {
                    told += 1;
                    assert_eq!(event.r#type(), EventType::NodeDataChanged);
                }
                Item::Reply(reply) if reply.id == id => {
                    let Some(reply::Result::Get(reply)) = reply.result else { panic!("{reply:?}") };
                    shown = reply.stat.unwrap_or_default().version;
                    mid_way += i32::from(shown > 0 && shown < SETS);
                    assert!(told >= shown, "the reply shows version {shown} after {told} events");
                    break;
                }
                _ => {}
            }
        }
    }
    writing.await.expect("the writer is done");
    session.ping().await;
    assert_eq!(told + session.events.len() as i32, SETS);
    assert!(mid_way > 0, "no read fell between the writes: nothing was shown");
}

/// G5: each kind of one-shot watch fires for the first change after its read, and once.
#[tokio::test]
async fn a_one_shot_watch_fires_once() {
    let ensemble = Ensemble::start(1).await;
    let mut session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    session.write(1, create("/a", "", WireMode::Persistent)).await;
    let reads = [
        Op::Get(GetRequest { path: "/a".into(), watch: spec(1, WatchKind::Data), ..Default::default() }),
        Op::List(ListRequest {
            path: "/a".into(),
            watch: spec(2, WatchKind::Children),
            ..Default::default()
        }),
        Op::Exists(ExistsRequest {
            path: "/b".into(),
            watch: spec(3, WatchKind::Data),
            ..Default::default()
        }),
    ];
    for read in reads {
        let reply = session.ask(read).await;
        assert!(!matches!(reply.result, Some(reply::Result::Error(_)) | None), "{reply:?}");
    }
    let changes = [
        set("/a", "1"),
        set("/a", "2"),
        create("/a/c", "", WireMode::Persistent),
        create("/a/d", "", WireMode::Persistent),
        create("/b", "", WireMode::Persistent),
        set("/b", "1"),
    ];
    let mut zxids = Vec::new();
    for (index, change) in changes.into_iter().enumerate() {
        zxids.push(session.write(index as u64 + 2, change).await.zxid);
    }
    session.ping().await;
    let fired: Vec<_> =
        session.events.iter().map(|event| (&event.watch_ids[..], event.r#type(), event.zxid)).collect();
    let expected = [
        (&[1][..], EventType::NodeDataChanged, zxids[0]),
        (&[2], EventType::NodeChildrenChanged, zxids[2]),
        (&[3], EventType::NodeCreated, zxids[4]),
    ];
    assert_eq!(fired, expected);
}

/// A watch on a read that fails is not armed.
#[tokio::test]
async fn a_read_that_fails_arms_no_watch() {
    let ensemble = Ensemble::start(1).await;
    let mut session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let read =
        Op::Get(GetRequest { path: "/a".into(), watch: spec(1, WatchKind::Data), ..Default::default() });
    assert!(matches!(session.ask(read).await.result, Some(reply::Result::Error(_))));
    session.write(1, create("/a", "", WireMode::Persistent)).await;
    session.ping().await;
    assert_eq!(session.events, []);
}

fn resume(path: &str, watch_id: u64) -> ResumeWatch {
    ResumeWatch { path: path.into(), spec: spec(watch_id, WatchKind::PersistentRecursive) }
}

/// G5: a subscription is a position. It goes on from there on any node, also on one that was restarted since.
#[tokio::test]
async fn a_watch_resumes_from_its_zxid_on_any_node() {
    let mut ensemble = Ensemble::start(3).await;
    let writer = ensemble.client(TIMEOUT).await;
    writer.create("/w", "", CreateMode::Persistent).await.expect("a create");
    let session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let from = writer.last_zxid();
    let mut expected = Vec::new();
    for number in 0..50 {
        let path = format!("/w/{number}");
        let created = writer.create(&path, "", CreateMode::Persistent).await.expect("a create");
        expected.push((created.stat.czxid, EventType::NodeCreated, path.clone()));
        writer.create(format!("/elsewhere-{number}"), "", CreateMode::Persistent).await.expect("a create");
        expected.push((writer.delete(&path, None).await.expect("a delete"), EventType::NodeDeleted, path));
    }
    let follower = ensemble.follower().await;
    ensemble.kill9(follower);
    ensemble.restart(follower);
    ensemble.wait_serving().await;

    let tell = |event: &Event| (event.zxid, event.r#type(), event.path.clone());
    for node in ensemble.ids() {
        for skipped in [0, 37] {
            let last_zxid = if skipped == 0 { from } else { expected[skipped - 1].0 };
            let attach = Attach { last_zxid, watches: vec![resume("/w", 9)], ..session.attach_again() };
            let mut resumed = RawSession::attach(&ensemble.endpoint(node), attach).await.expect("it goes on");
            resumed.ping().await;
            let told: Vec<_> = resumed.events.iter().map(tell).collect();
            assert_eq!(told, expected[skipped..], "on node {node}");
        }
    }
}

/// More events than any node keeps, in few writes: long paths, created and deleted in multis.
async fn flood(client: &coordd_client::Client) {
    for round in 0..8 {
        let mut multi = client.multi();
        for number in 0..200 {
            let path = format!("/w/{round}-{number}-{}", "x".repeat(4000));
            multi = multi.create(&path, "", CreateMode::Persistent).delete(&path, None);
        }
        multi.commit().await.expect("a multi");
    }
}

/// G5: a client that was away for longer than events are kept is told so, by each of its watches, and they stay armed.
#[tokio::test]
async fn a_watch_whose_history_is_gone_is_told_to_read_again() {
    let mut ensemble = Ensemble::start(3).await;
    let follower = ensemble.follower().await;
    let writer = ensemble.client_of(&ensemble.ids_but(follower), TIMEOUT).await;
    writer.create("/w", "", CreateMode::Persistent).await.expect("a create");

    let away = ensemble.client_of(&[follower], TIMEOUT).await;
    away.sync().await.expect("a sync");
    let mut lasting = away.watch("/w", WatchMode::PersistentRecursive).await.expect("a watch");
    let (_, _, unchanged) = away.get_and_watch("/w", ReadLevel::Local).await.expect("a read");
    ensemble.kill9(follower);
    flood(&writer).await;
    ensemble.restart(follower);

    let Ok(WatchEvent::Resync { zxid }) = lasting.next().await else { panic!("a resync was to come first") };
    assert!(zxid >= writer.last_zxid(), "from {zxid} on, but {} was written", writer.last_zxid());
    // The one-shot watch cannot know whether its znode changed, so it says that, too.
    let told = tokio::time::timeout(TIMEOUT, unchanged.changed()).await.expect("it is told in time");
    assert!(matches!(told, Ok(WatchEvent::Resync { .. })), "{told:?}");
    let stat = writer.set("/w", "after", None).await.expect("a set");
    let event = lasting.next().await.expect("it is armed still");
    assert_eq!(event.zxid(), stat.mzxid);

    // A plain subscription is told the same.
    let url = format!("http://{}", ensemble.endpoint(follower));
    let mut api = CoorddClient::connect(url).await.expect("a connection");
    let paths = vec![SubscribePath { path: "/w".into(), ..Default::default() }];
    let request = SubscribeRequest { paths, from_zxid: 1, ..Default::default() };
    let mut stream = api.subscribe(request).await.expect("a subscription").into_inner();
    let resync = loop {
        match stream.message().await.expect("the stream goes on").and_then(|reply| reply.item) {
            Some(Said::Resync(resync)) => break resync,
            Some(Said::Mark(_)) => {}
            other => panic!("a resync was to come first: {other:?}"),
        }
    };
    assert_eq!((resync.watch_ids, resync.zxid >= stat.mzxid), (vec![1], true));
    let stat = writer.set("/w", "again", None).await.expect("a set");
    assert_eq!(crate::subscriptions::next_event(&mut stream).await.zxid, stat.mzxid);
}

/// G5: a client that does not read loses its stream, not an event; the others do not notice.
#[tokio::test]
async fn a_slow_reader_loses_its_stream_and_no_event_and_holds_nobody_up() {
    const SETS: usize = 300;
    let ensemble = Ensemble::start(1).await;
    let writer = ensemble.client(TIMEOUT).await;
    writer.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let mut other = writer.watch("/a", WatchMode::Persistent).await.expect("a watch");

    let endpoint = Endpoint::from_shared(format!("http://{}", ensemble.endpoint(1))).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10);
    let channel = endpoint.connect().await.expect("a connection");
    let attach = Attach { timeout_ms: 60_000, ..Default::default() };
    let mut slow = RawSession::attach_over(channel, attach).await.expect("a session");
    let with_value =
        Some(WatchSpec { with_value: true, ..spec(1, WatchKind::Persistent).unwrap_or_default() });
    slow.ask(Op::AddWatch(AddWatchRequest { path: "/a".into(), watch: with_value })).await;

    let mut zxids = Vec::new();
    for _ in 0..SETS {
        let stat = writer.set("/a", vec![7; 100 << 10], None);
        let stat = tokio::time::timeout(Duration::from_secs(2), stat).await.expect("nobody is held up");
        zxids.push(stat.expect("a set").mzxid);
        let event = tokio::time::timeout(Duration::from_secs(2), other.next()).await.expect("nor here");
        assert_eq!(Some(event.expect("an event").zxid()), zxids.last().copied());
    }

    // It reads at last: some events, then the end.
    let status = loop {
        match slow.item().await {
            Ok(Item::Event(event)) => slow.events.push(event),
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    println!("{} of {SETS} events, then: {status}", slow.events.len());
    let mut told: Vec<u64> = slow.events.iter().map(|event| event.zxid).collect();
    assert!(told.len() < SETS, "the limit was not reached");
    let resume = ResumeWatch { path: "/a".into(), spec: spec(1, WatchKind::Persistent) };
    let last_zxid = told.last().copied().unwrap_or(slow.attached.zxid);
    let attach = Attach { last_zxid, watches: vec![resume], ..slow.attach_again() };
    let mut again = RawSession::attach(&ensemble.endpoint(1), attach).await.expect("the session is alive");
    again.ping().await;
    told.extend(again.events.iter().map(|event| event.zxid));
    assert_eq!(told, zxids);
}

/// The SDK's watchers: values come with events, one-shots with their reads, and a dropped watcher is removed.
#[tokio::test]
async fn the_watchers_of_the_sdk_do_what_they_say() {
    let ensemble = Ensemble::start(1).await;
    let options = ConnectOptions::new().session_timeout(TIMEOUT);
    let client = options.connect(ensemble.endpoints()).await.expect("a session");
    let options = coordd_client::WatchOptions::new(WatchMode::PersistentRecursive).with_value(true);
    let mut lasting = client.watch("/a", options).await.expect("a watch");
    let (none, appears) = client.exists_and_watch("/a", ReadLevel::Local).await.expect("a read");
    assert_eq!(none, None);
    client.create("/a", "1", CreateMode::Persistent).await.expect("a create");
    let listing = client.list_and_watch("/a", ReadLevel::Local, ListOptions::default()).await;
    let (page, _, children) =
        listing.map(|(page, watcher)| (page.children, page.stat, watcher)).expect("a list");
    assert!(page.is_empty());
    client.create("/a/b", "2", CreateMode::Persistent).await.expect("a create");
    assert_eq!(
        appears.changed().await.expect("it fires").event().map(|event| event.path.as_str()),
        Some("/a")
    );
    children.changed().await.expect("it fires");
    for (path, value) in [("/a", "1"), ("/a/b", "2")] {
        let event = lasting.next().await.expect("an event");
        let event = event.event().expect("no resync");
        assert_eq!(
            (event.path.as_str(), event.value.clone().map(|(data, _)| data)),
            (path, Some(value.into()))
        );
    }
    let admin = ensemble.admin(1).await.expect("the node answers");
    assert_eq!(admin.status().await.expect("a status").watches, 1);
    drop(lasting);
    eventually(Duration::from_secs(5), "the watch is removed", async || {
        admin.status().await.is_ok_and(|status| status.watches == 0)
    })
    .await;
}

/// More watches than one frame can name go on after a kill: 35,000 on paths of 132 bytes, and as many long
/// paths as take 12 MB.
#[tokio::test]
async fn many_watches_survive_a_kill() {
    const SHORT: usize = 35_000;
    const LONG: usize = 3_000;
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/w", "", CreateMode::Persistent).await.expect("a create");
    let last = format!("/w/{:0>129}", SHORT - 1);
    client.create(&*last, "", CreateMode::Persistent).await.expect("a create");
    let mut watchers = Vec::with_capacity(SHORT);
    for chunk in (0..SHORT).collect::<Vec<_>>().chunks(5_000) {
        let calls = chunk.iter().map(|n| client.exists_and_watch(format!("/w/{n:0>129}"), ReadLevel::Local));
        let armed = futures::future::join_all(calls).await;
        watchers.extend(armed.into_iter().map(|armed| armed.expect("a watch").1));
    }
    let calls = (0..LONG).map(|n| client.watch(format!("/{n:0>4094}"), WatchMode::Persistent));
    let lasting = futures::future::join_all(calls).await;
    assert!(lasting.iter().all(Result::is_ok));

    let attached = coordd_tests::attached_to(&client, TIMEOUT).await;
    let writer = ensemble.client_of(&ensemble.ids_but(attached), TIMEOUT).await;
    ensemble.kill9(attached);
    writer.set(&*last, "changed", None).await.expect("a set");
    assert_ne!(coordd_tests::attached_to(&client, TIMEOUT).await, attached);
    client.sync().await.expect("the session goes on");
    let event = watchers.pop().expect("the last one").changed().await.expect("its event");
    assert!(matches!(event, WatchEvent::Event(event) if event.path == last));
    assert_eq!(ensemble.watches().await, (SHORT + LONG - 1) as u64);
}
