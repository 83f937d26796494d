//! Watches: armed with the read, resumed without gap or repetition, removed when dropped.

use coordd_client::{
    Client, ConnectOptions, ErrorKind, EventType, PersistentWatcher, ReadLevel, WatchEvent, WatchMode,
};

use crate::fake::{Fake, Fault};

async fn paths(watcher: &mut PersistentWatcher, count: usize) -> Vec<(u64, String)> {
    let mut paths = Vec::new();
    for _ in 0..count {
        let event = watcher.next().await.unwrap();
        paths.push((event.zxid(), event.event().unwrap().path.clone()));
    }
    paths
}

async fn watch_all(client: &Client) -> PersistentWatcher {
    client.watch("/", WatchMode::PersistentRecursive).await.unwrap()
}

#[tokio::test]
async fn a_one_shot_watcher_is_consumed_by_the_change_after_its_read() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    client.set("/a", "1", None).await.unwrap();
    let (data, _, watcher) = client.get_and_watch("/a", ReadLevel::Local).await.unwrap();
    assert_eq!(data, "1");
    client.set("/a", "2", None).await.unwrap();
    client.set("/a", "3", None).await.unwrap();
    let event = watcher.changed().await.unwrap();
    let event = event.event().unwrap();
    assert_eq!((event.event_type, event.path.as_str(), event.zxid), (EventType::NodeDataChanged, "/a", 102));
}

#[tokio::test]
async fn an_absent_znode_can_be_watched() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let (stat, watcher) = client.exists_and_watch("/a", ReadLevel::Local).await.unwrap();
    assert_eq!(stat, None);
    client.create("/a", "", coordd_client::CreateMode::Persistent).await.unwrap();
    let event = watcher.changed().await.unwrap();
    assert_eq!(event.event().unwrap().event_type, EventType::NodeCreated);
}

#[tokio::test]
async fn a_read_that_fails_watches_nothing() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    assert!(client.get_and_watch("/a", ReadLevel::Local).await.is_err());
    fake.world().cut();
    client.sync().await.unwrap();
    assert!(fake.world().attaches.last().unwrap().watches.is_empty());
}

#[tokio::test]
async fn events_missed_while_away_are_delivered_in_order_each_once() {
    let fake = Fake::start(2).await;
    let client = fake.connect().await;
    let mut watcher = watch_all(&client).await;
    let first = fake.world().change(&["/a"]);
    {
        let mut world = fake.world();
        world.cut();
        world.change(&["/b", "/c"]);
        world.change(&["/d"]);
    }
    fake.until("a new stream", |world| world.watch_count(client.session_id()) == 1).await;
    fake.world().change(&["/e"]);
    let expected: Vec<(u64, String)> = [(0, "/a"), (1, "/b"), (1, "/c"), (2, "/d"), (3, "/e")]
        .map(|(offset, path)| (first + offset, path.to_owned()))
        .into();
    assert_eq!(paths(&mut watcher, 5).await, expected);
}

#[tokio::test]
async fn a_stream_that_breaks_within_a_change_neither_loses_nor_repeats_its_events() {
    let fake = Fake::start(2).await;
    let client = fake.connect().await;
    let mut watcher = watch_all(&client).await;
    fake.fault(Fault::CutAfterFirstEvent);
    let zxid = fake.world().change(&["/a", "/b", "/c"]);
    let expected: Vec<(u64, String)> = ["/a", "/b", "/c"].map(|path| (zxid, path.to_owned())).into();
    assert_eq!(paths(&mut watcher, 3).await, expected);
    let next = fake.world().change(&["/d"]);
    assert_eq!(paths(&mut watcher, 1).await, [(next, "/d".to_owned())]);
}

#[tokio::test]
async fn a_one_shot_watch_survives_a_reconnect_and_fires_for_what_happened_meanwhile() {
    let fake = Fake::start(2).await;
    let client = fake.connect().await;
    client.set("/a", "", None).await.unwrap();
    let (_, _, watcher) = client.get_and_watch("/a", ReadLevel::Local).await.unwrap();
    let zxid = {
        let mut world = fake.world();
        world.cut();
        world.change(&["/a"])
    };
    assert_eq!(watcher.changed().await.unwrap().zxid(), zxid);
}

/// Cuts the stream, changes `/a`, and forgets all history before that change. Returns the change's zxid.
fn lose_history(fake: &Fake) -> u64 {
    let mut world = fake.world();
    world.cut();
    let zxid = world.change(&["/a"]);
    world.history_starts_at = zxid;
    zxid
}

#[tokio::test]
async fn a_watcher_is_told_where_history_is_gone() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    client.set("/a", "", None).await.unwrap();
    let (_, _, one_shot) = client.get_and_watch("/a", ReadLevel::Local).await.unwrap();
    let mut lasting = watch_all(&client).await;
    let zxid = lose_history(&fake);
    assert_eq!(lasting.next().await.unwrap(), WatchEvent::Resync { zxid });
    assert_eq!(one_shot.changed().await.unwrap(), WatchEvent::Resync { zxid });
    let next = fake.world().change(&["/a"]);
    assert_eq!(paths(&mut lasting, 1).await, [(next, "/a".to_owned())]);
    // The one-shot watch was consumed here and is removed there.
    fake.until("its removal", |world| world.watch_count(client.session_id()) == 1).await;
}

/// A stream that breaks as soon as it has told a watcher that events are missing: the next one does not tell
/// it again.
#[tokio::test]
async fn missing_events_are_told_once() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    client.set("/a", "", None).await.unwrap();
    let mut watcher = watch_all(&client).await;
    let zxid = lose_history(&fake);
    assert_eq!(watcher.next().await.unwrap(), WatchEvent::Resync { zxid });
    let next = {
        let mut world = fake.world();
        world.cut();
        world.change(&["/a"])
    };
    assert_eq!(paths(&mut watcher, 1).await, [(next, "/a".to_owned())]);
}

#[tokio::test]
async fn a_resync_may_come_at_any_time() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let mut watcher = watch_all(&client).await;
    fake.world().resync_all();
    assert!(matches!(watcher.next().await.unwrap(), WatchEvent::Resync { .. }));
}

#[tokio::test]
async fn dropping_a_watcher_removes_the_watch() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let watcher = watch_all(&client).await;
    client.set("/a", "", None).await.unwrap();
    let (_, _, one_shot) = client.get_and_watch("/a", ReadLevel::Local).await.unwrap();
    assert_eq!(fake.world().watch_count(client.session_id()), 2);
    drop((watcher, one_shot));
    fake.until("no watches", |world| world.watch_count(client.session_id()) == 0).await;
}

#[tokio::test]
async fn a_watch_whose_call_was_dropped_is_removed() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    drop(client.watch("/", WatchMode::Persistent));
    client.sync().await.unwrap();
    fake.until("no watches", |world| world.watch_count(client.session_id()) == 0).await;
    assert_eq!(fake.world().requests.len(), 3, "armed, removed, synced");
}

#[tokio::test]
async fn a_watcher_that_is_not_read_ends_alone_and_says_so() {
    let fake = Fake::start(1).await;
    let client = fake.connect_with(ConnectOptions::new().watch_buffer(2)).await.unwrap();
    let mut slow = watch_all(&client).await;
    for number in 0..5 {
        client.set("/a", number.to_string(), None).await.unwrap();
    }
    assert_eq!(paths(&mut slow, 2).await.len(), 2);
    assert_eq!(slow.next().await.unwrap_err().kind, ErrorKind::WatcherLagged);
    fake.until("its removal", |world| world.watch_count(client.session_id()) == 0).await;
}

/// A lasting watcher is a stream of its events. It ends behind the error that ended it.
#[tokio::test]
async fn a_lasting_watcher_is_a_stream() {
    use futures::StreamExt;
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let watcher = watch_all(&client).await;
    let zxids = ["/a", "/b"].map(|path| fake.world().change(&[path]));
    client.sync().await.unwrap();
    client.close().await.unwrap();
    let items: Vec<_> = StreamExt::collect::<Vec<_>>(watcher).await;
    let [Ok(first), Ok(second), Err(end)] = items.as_slice() else { panic!("{items:?}") };
    assert_eq!([first.zxid(), second.zxid()], zxids);
    assert_eq!(end.kind, ErrorKind::SessionClosed);
}
