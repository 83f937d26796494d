//! A client that outlives the runtime on which it was connected.

use std::time::Duration;

use coordd_client::recipes::{Sessions, TreeCache};
use coordd_client::{
    Client, ConnectOptions, EndReason, ErrorKind, OneshotWatcher, PersistentWatcher, ReadLevel, SessionState,
    WatchMode,
};
use tokio::runtime::{Builder, Runtime};

use crate::fake::{Fake, Fault};

const SOON: Duration = Duration::from_secs(5);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn watch(client: &Client) -> (OneshotWatcher, PersistentWatcher) {
    client.set("/a", "", None).await.unwrap();
    let (_, _, one_shot) = client.get_and_watch("/a", ReadLevel::Local).await.unwrap();
    (one_shot, client.watch("/", WatchMode::PersistentRecursive).await.unwrap())
}

/// Whatever waits, and whatever is asked later, fails at once; nothing hangs, and dropping is harmless.
#[test]
fn calls_fail_after_the_runtime() {
    let servers = runtime();
    let fake = servers.block_on(Fake::start(1));
    let first = runtime();
    let client = first.block_on(fake.connect());
    let (one_shot, mut lasting) = first.block_on(watch(&client));
    fake.fault(Fault::Silence);
    let waiting = client.set("/a", "", None);
    first.shutdown_background();

    runtime().block_on(async {
        let all = async {
            assert_eq!(waiting.await.unwrap_err().kind, ErrorKind::SessionExpired);
            for _ in 0..3 {
                let error = client.get("/a", ReadLevel::Local).await.unwrap_err();
                assert_eq!(error.kind, ErrorKind::SessionExpired);
                assert!(error.message.contains("runtime"), "{error}");
            }
            assert_eq!(
                client.create("/b", "", coordd_client::CreateMode::Persistent).await.unwrap_err().kind,
                ErrorKind::SessionExpired
            );
            assert_eq!(one_shot.changed().await.unwrap_err().kind, ErrorKind::SessionExpired);
            assert_eq!(lasting.next().await.unwrap_err().kind, ErrorKind::SessionExpired);
            let SessionState::Expired(end) = client.ended().await else { panic!("{:?}", client.state()) };
            assert_eq!(end.reason, EndReason::Abandoned);
            assert_eq!(client.alive_for(), Duration::ZERO);
            assert_eq!(client.close().await.unwrap_err().kind, ErrorKind::SessionExpired);
            drop((client, lasting));
        };
        tokio::time::timeout(SOON, all).await.expect("nothing hangs");
    });
}

/// Sessions and caches of a runtime that is gone have no next session and no next state.
#[test]
fn sessions_end_with_the_runtime() {
    let servers = runtime();
    let fake = servers.block_on(Fake::start(1));
    let first = runtime();
    let sessions = first.block_on(Sessions::connect(fake.endpoints(), ConnectOptions::new())).unwrap();
    let cache = first.block_on(async { TreeCache::start(&sessions, "/a") });
    first.shutdown_background();
    servers.block_on(async {
        let all = async {
            while sessions.live().await.is_ok() {
                tokio::task::yield_now().await;
            }
            cache.wait_ready().await.unwrap_err();
            cache.wait_for(1).await.unwrap_err();
        };
        tokio::time::timeout(SOON, all).await.expect("nothing hangs");
    });
}

/// A close that was under way when the runtime went ends, too.
#[test]
fn a_close_fails_after_the_runtime() {
    let servers = runtime();
    let fake = servers.block_on(Fake::start(1));
    let first = runtime();
    let client = first.block_on(fake.connect());
    fake.world().refusing.insert(1);
    fake.world().cut();
    let closing = client.clone();
    let closing = servers.spawn(async move { closing.close().await });
    first.shutdown_background();
    let closed = servers.block_on(async { tokio::time::timeout(SOON, closing).await });
    assert!(closed.expect("it does not hang").unwrap().is_err());
}
