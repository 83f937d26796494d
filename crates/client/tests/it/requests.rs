//! Requests: order, exactly once, and what is told to the caller.

use coordd_client::{Bytes, Check, CreateMode, CreateOptions, ErrorKind, ListOptions, ReadLevel};
use coordd_proto::v1::request::Op;
use futures::StreamExt as _;
use futures::future::join_all;

use crate::fake::{Fake, Fault};

#[tokio::test]
async fn an_answer_is_what_the_server_said() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    assert_eq!(client.create("/a", "x", CreateMode::Persistent).await.unwrap().path, "/a");
    let error = client.create("/a", "x", CreateOptions::default()).await.unwrap_err();
    assert_eq!((error.kind, error.path.as_str()), (ErrorKind::NodeExists, "/a"));
    assert_eq!(client.set("/a", "yy", None).await.unwrap().version, 1);
    let (data, stat) = client.get("/a", ReadLevel::Local).await.unwrap();
    assert_eq!((data, stat.data_length), (Bytes::from_static(b"yy"), 2));
    assert_eq!(client.exists("/b", ReadLevel::Linearizable).await.unwrap(), None);
    assert_eq!(client.get("/b", ReadLevel::Local).await.unwrap_err().kind, ErrorKind::NoNode);
    assert_eq!(client.last_zxid(), fake.world().zxid);
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_takes_effect_once_and_is_answered() {
    let fake = Fake::start(3).await;
    let client = fake.connect().await;
    fake.fault(Fault::LoseReplies);
    let stat = client.set("/counter", "1", None).await.unwrap();
    assert_eq!(stat.version, 0, "the first answer, not that of a second write");
    assert_eq!(fake.world().applied.len(), 1);
    assert_eq!(fake.world().attaches.len(), 2);
}

#[tokio::test]
async fn writes_take_effect_once_and_in_the_order_of_the_calls_however_streams_break() {
    let fake = Fake::start(3).await;
    let client = fake.connect().await;
    let mut calls = Vec::new();
    for fault in [Fault::LoseReplies, Fault::LoseRequests, Fault::SequenceGap].into_iter().cycle().take(12) {
        fake.fault(fault);
        for _ in 0..50 {
            calls.push(client.set("/a", calls.len().to_string(), None));
        }
        // Answers are left waiting, so that the faults meet writes of all ages.
        fake.until("the fault", |world| world.faults.is_empty()).await;
    }
    let versions: Vec<i32> = join_all(calls).await.into_iter().map(|stat| stat.unwrap().version).collect();
    assert_eq!(versions, (0..600).collect::<Vec<i32>>());
    let written: Vec<_> = fake.world().applied.iter().map(|applied| applied.data.clone()).collect();
    assert_eq!(written, (0..600).map(|number| Bytes::from(number.to_string())).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_read_after_a_write_waits_its_turn_also_over_a_reconnect() {
    let fake = Fake::start(2).await;
    let client = fake.connect().await;
    fake.fault(Fault::LoseRequests);
    let write = client.set("/a", "new", None);
    let read = client.get("/a", ReadLevel::Local);
    assert_eq!(read.await.unwrap().0, Bytes::from_static(b"new"));
    write.await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_takes_effect() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    drop(client.set("/a", "dropped", None));
    client.set("/b", "awaited", None).await.unwrap();
    let paths: Vec<_> = fake.world().applied.iter().map(|applied| applied.path.clone()).collect();
    assert_eq!(paths, ["/a", "/b"]);
}

#[tokio::test]
async fn what_has_queued_leaves_in_one_frame() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let calls: Vec<_> = (0..64).map(|number| client.set(format!("/{number}"), "", None)).collect();
    join_all(calls).await;
    // Callers in tasks of their own, woken by the answers of one frame, share the next frame too.
    let tasks = (0..64).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            client.set(format!("/{number}"), "", None).await.unwrap();
            client.set(format!("/{number}"), "", None).await.unwrap();
        })
    });
    join_all(tasks).await;
    assert_eq!(fake.world().frames, [64, 64, 64]);
}

#[tokio::test]
async fn answers_are_acknowledged_with_the_next_frame() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    client.set("/a", "", None).await.unwrap();
    client.set("/a", "", None).await.unwrap();
    assert_eq!(fake.world().acked_write_seq, 1);
    client.sync().await.unwrap();
    assert_eq!(fake.world().acked_write_seq, 2);
}

#[tokio::test]
async fn a_request_that_fits_no_frame_is_refused_and_the_session_goes_on() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let error = client.set("/a", vec![0; 5 * 1024 * 1024], None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadArguments);
    client.set("/a", "", None).await.unwrap();
    assert_eq!(fake.world().attaches.len(), 1);
}

#[tokio::test]
async fn calls_beyond_the_queue_wait_for_room_and_keep_their_order() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    // The queue takes 64 MiB: these are 96.
    let value = Bytes::from(vec![7; 1024 * 1024]);
    let calls: Vec<_> = (0..96).map(|number| client.set(format!("/{number}"), value.clone(), None)).collect();
    assert!(calls.iter().any(|call| call.write_seq().is_none()), "some wait for room");
    for answer in join_all(calls).await {
        answer.unwrap();
    }
    let paths: Vec<_> = fake.world().applied.iter().map(|applied| applied.path.clone()).collect();
    assert_eq!(paths, (0..96).map(|number| format!("/{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn guards_go_with_every_write_of_the_guarded_handle() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let guarded = client.guarded([Check::epoch("/lock", 7)]).guarded([Check::absent("/stop")]);
    guarded.set("/a", "", None).await.unwrap();
    client.set("/a", "", None).await.unwrap();
    let guards: Vec<usize> = fake
        .world()
        .requests
        .iter()
        .map(|request| match &request.op {
            Some(Op::Set(set)) => set.guards.len(),
            _ => panic!("not a set"),
        })
        .collect();
    assert_eq!(guards, [2, 0]);
}

#[tokio::test]
async fn a_listing_goes_over_its_pages() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    for name in ["a", "b", "c", "d", "e"] {
        client.set(format!("/{name}"), "", None).await.unwrap();
    }
    assert_eq!(client.children("/", ReadLevel::Local).await.unwrap(), ["a", "b", "c", "d", "e"]);
    let pages: Vec<_> = client.list_pages("/", ReadLevel::Local, ListOptions::default()).collect().await;
    assert_eq!(pages.into_iter().map(|page| page.unwrap().children.len()).collect::<Vec<_>>(), [2, 2, 1]);
}
