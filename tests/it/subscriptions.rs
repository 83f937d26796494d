//! Events without a session: plain streams (G5).

use std::time::Duration;

use coordd_client::CreateMode;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::subscribe_reply::Item as Said;
use coordd_proto::v1::{Event, EventType, SubscribePath, SubscribeReply, SubscribeRequest};
use coordd_tests::Ensemble;
use tonic::Streaming;
use tonic::transport::Endpoint;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The next item of a subscription that is no mark.
pub(crate) async fn next_event(stream: &mut Streaming<SubscribeReply>) -> Event {
    loop {
        let reply = tokio::time::timeout(TIMEOUT, stream.message()).await.expect("in time");
        match reply.expect("the stream goes on").and_then(|reply| reply.item) {
            Some(Said::Event(event)) => return event,
            Some(Said::Mark(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// G5: events without a session: a plain stream, from a zxid, on any node.
#[tokio::test]
async fn a_subscription_is_a_stream_that_resumes_from_a_zxid_on_any_node() {
    let ensemble = Ensemble::start(3).await;
    let writer = ensemble.client(TIMEOUT).await;
    let paths = vec![SubscribePath { path: "/s".into(), kind: 0, with_value: true }];
    let subscribe = async |node: u64, from_zxid: u64| {
        let url = format!("http://{}", ensemble.endpoint(node));
        let mut client = CoorddClient::connect(url).await.expect("a connection");
        let request = SubscribeRequest { paths: paths.clone(), from_zxid, ..Default::default() };
        let mut stream = client.subscribe(request).await.expect("a subscription").into_inner();
        match stream.message().await.expect("a first item").and_then(|reply| reply.item) {
            Some(Said::Mark(mark)) => (mark.zxid, stream),
            other => panic!("the first item is not a mark: {other:?}"),
        }
    };
    let (start, mut first) = subscribe(1, 0).await;
    let mut zxids =
        vec![writer.create("/s", "0", CreateMode::Persistent).await.expect("a create").stat.czxid];
    for number in 1..10 {
        zxids.push(writer.set("/s", number.to_string(), None).await.expect("a set").mzxid);
    }
    for (number, zxid) in zxids.iter().enumerate() {
        let event = next_event(&mut first).await;
        let kind = if number == 0 { EventType::NodeCreated } else { EventType::NodeDataChanged };
        assert_eq!((event.zxid, event.r#type(), event.watch_ids), (*zxid, kind, vec![1]));
        // The value, unless it was replaced before it was told.
        assert!(event.value.is_none_or(|value| value == number.to_string()), "a value of another change");
    }
    for node in ensemble.ids() {
        for (from, rest) in [(start, &zxids[..]), (zxids[4], &zxids[5..])] {
            let (mark, mut stream) = subscribe(node, from).await;
            assert_eq!(mark, from);
            for zxid in rest {
                assert_eq!(next_event(&mut stream).await.zxid, *zxid, "on node {node} from {from}");
            }
        }
    }
}

/// G5: a subscription that is not read is ended; it goes on behind its last event, without a gap.
#[tokio::test]
async fn a_slow_subscription_is_ended_and_resumes_without_a_gap() {
    const SETS: usize = 300;
    let ensemble = Ensemble::start(1).await;
    let writer = ensemble.client(TIMEOUT).await;
    writer.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let endpoint = Endpoint::from_shared(format!("http://{}", ensemble.endpoint(1))).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10);
    let mut api = CoorddClient::new(endpoint.connect().await.expect("a connection"));
    let mut request = SubscribeRequest {
        paths: vec![SubscribePath { path: "/a".into(), kind: 0, with_value: true }],
        ..Default::default()
    };
    let mut slow = api.subscribe(request.clone()).await.expect("a subscription").into_inner();
    let mut zxids = Vec::new();
    for _ in 0..SETS {
        zxids.push(writer.set("/a", vec![7; 100 << 10], None).await.expect("a set").mzxid);
    }
    let mut told = Vec::new();
    let mut newest_mark = 0;
    loop {
        match slow.message().await {
            Ok(Some(reply)) => match reply.item {
                Some(Said::Event(event)) => told.push(event.zxid),
                Some(Said::Mark(mark)) => newest_mark = mark.zxid,
                other => panic!("{other:?}"),
            },
            // Nobody read, so the reason may not have had a place in the stream.
            Ok(None) => break,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                break;
            }
        }
    }
    println!("{} of {SETS} events", told.len());
    assert!(!told.is_empty() && told.len() < SETS, "the limit was not reached");
    assert!(
        told.last().is_some_and(|last| *last >= newest_mark || newest_mark < zxids[0]),
        "a mark without its events"
    );
    request.from_zxid = told.last().map_or(0, |last| last - 1);
    request.paths[0].with_value = false;
    let mut again = api.subscribe(request).await.expect("a subscription").into_inner();
    told.pop();
    while told.len() < SETS {
        told.push(next_event(&mut again).await.zxid);
    }
    assert_eq!(told, zxids);
}
