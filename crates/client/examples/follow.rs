//! One session writes as fast as it can, another follows by a watch, until the time is over; then compares. Kill and
//! restart nodes meanwhile: the follower gets one event for each write, in order.
//!
//! `cargo run -p coordd-client --example follow -- 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 10`

use std::time::{Duration, Instant};

use coordd_client::{Client, CreateMode, Error, PersistentWatcher, WatchEvent, WatchMode, WatchOptions};

const PATH: &str = "/followed";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let endpoints = args.next().unwrap_or_else(|| "127.0.0.1:7401".into());
    let seconds = args.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(10);

    let writer = Client::connect(endpoints.split(',')).await?;
    let follower = Client::connect(endpoints.split(',')).await?;
    let watching = follower.watch(PATH, WatchOptions::new(WatchMode::Persistent).with_value(true));
    follower.create(PATH, "0", CreateMode::Ephemeral).await?;
    let following = tokio::spawn(follow(watching.await?));

    let until = Instant::now() + Duration::from_secs(seconds);
    let mut written = 0;
    while Instant::now() < until {
        let calls: Vec<_> =
            (1..=16).map(|more| writer.set(PATH, (written + more).to_string(), None)).collect();
        for call in calls {
            call.await?;
            written += 1;
        }
    }
    writer.delete(PATH, None).await?;
    let (events, resyncs) = following.await.expect("the follower does not panic")?;
    println!("{written} writes, {events} events of them, {resyncs} resyncs");
    assert!(resyncs > 0 || events == written, "events are missing");
    writer.close().await?;
    follower.close().await
}

/// Counts until the znode is deleted: the events of writes, and the resyncs.
async fn follow(mut watcher: PersistentWatcher) -> Result<(u64, u64), Error> {
    let (mut events, mut resyncs, mut last_zxid, mut created) = (0, 0, 0, false);
    loop {
        let event = match watcher.next().await? {
            WatchEvent::Event(event) => event,
            WatchEvent::Resync { .. } => {
                resyncs += 1;
                continue;
            }
        };
        assert!(event.zxid > last_zxid, "events come in order, each once");
        last_zxid = event.zxid;
        match event.event_type {
            coordd_client::EventType::NodeDeleted => return Ok((events, resyncs)),
            _ if !created => created = true,
            _ => {
                events += 1;
                // A value that has been replaced since is left out; one that is there is this write's.
                if let (Some((data, _)), 0) = (&event.value, resyncs) {
                    assert_eq!(*data, events.to_string(), "the event of write {events} carries its value");
                }
            }
        }
    }
}
