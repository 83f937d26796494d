//! Caches on real ensembles: what they show is always a state that the tree had.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coordd_client::recipes::{CacheChange, CacheView, PathCache, Sessions, TreeCache};
use coordd_client::{Client, ConnectOptions, CreateMode, CreateOptions, ErrorKind, MultiResult};
use coordd_tests::{Ensemble, EnsembleOptions, attached_to, eventually, seed};
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const TOP: &str = "/t";

type Content = BTreeMap<String, Bytes>;

/// What was acknowledged: by zxid, what each path was set to; `None` is a delete.
pub(crate) type Log = BTreeMap<u64, Vec<(String, Option<Bytes>)>>;

fn content(view: &CacheView) -> Content {
    view.iter().map(|znode| (znode.path.to_string(), znode.data.clone())).collect()
}

fn state_at(log: &Log, zxid: u64) -> Content {
    let mut state = Content::new();
    for (path, data) in log.range(..=zxid).flat_map(|(_, changes)| changes) {
        match data {
            Some(data) => drop(state.insert(path.clone(), data.clone())),
            None => drop(state.remove(path)),
        }
    }
    state
}

async fn sessions_of(endpoints: Vec<String>, options: ConnectOptions) -> Sessions {
    Sessions::connect(endpoints, options).await.expect("a session")
}

async fn sessions(ensemble: &Ensemble) -> Sessions {
    sessions_of(ensemble.endpoints(), ConnectOptions::new().session_timeout(TIMEOUT)).await
}

/// Random creates, sets and deletes below the top, one or two of them in a step; what was refused is not logged.
pub(crate) async fn write_randomly(client: Client, seed: u64, stop: Arc<AtomicBool>, log: Arc<Mutex<Log>>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let (mut multi, mut changes) = (client.multi(), Vec::new());
        for _ in 0..rng.random_range(1..3) {
            let parent = format!("{TOP}/{}", rng.random_range(0..6));
            let path = match rng.random_bool(0.5) {
                true => parent,
                false => format!("{parent}/{}", rng.random_range(0..4)),
            };
            number += 1;
            let data = Bytes::from(format!("{seed} {number}"));
            let change = match rng.random_range(0..4) {
                0 => {
                    multi = multi.create(&path, data.clone(), CreateMode::Persistent);
                    Some(data)
                }
                1 => {
                    multi = multi.delete(&path, None);
                    None
                }
                _ => {
                    multi = multi.set(&path, data.clone(), None);
                    Some(data)
                }
            };
            changes.push((path, change));
        }
        // Its zxid is that of a set, so there is one.
        let results = multi.set("/clock", "", None).commit().await;
        match results.as_deref() {
            Ok([.., MultiResult::Set(stat)]) => {
                let mut log = log.lock().expect("no panic");
                assert!(log.insert(stat.mzxid, changes).is_none(), "a zxid was given out twice");
            }
            Ok(results) => panic!("{results:?}"),
            Err(error)
                if matches!(error.kind, ErrorKind::NoNode | ErrorKind::NodeExists | ErrorKind::NotEmpty) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..4))).await;
    }
}

/// While the leader and the node of the cache are killed, and the node of the cache stands still: each view is the tree at
/// its zxid, views go forward, and the changes that are told lead from nothing to the newest state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_is_a_state_of_the_tree_whichever_nodes_die() {
    let seed = seed();
    let mut ensemble = Ensemble::start(3).await;
    let writer = ensemble.client(TIMEOUT).await;
    writer.create("/clock", "", CreateMode::Persistent).await.expect("a create");
    let created = writer.create(TOP, "", CreateMode::Persistent).await.expect("a create");
    let log = Arc::new(Mutex::new(Log::from([(created.stat.czxid, vec![(TOP.into(), Some(Bytes::new()))])])));
    let stop = Arc::<AtomicBool>::default();
    let mut writers = Vec::new();
    for number in 0..3 {
        let client = ensemble.client(TIMEOUT).await;
        writers.push(tokio::spawn(write_randomly(client, seed ^ number, stop.clone(), log.clone())));
    }

    let sessions = sessions(&ensemble).await;
    let cache = TreeCache::start(&sessions, TOP);
    let mut views = cache.views();
    let viewing = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(view) = views.next().await {
            seen.push(view);
        }
        seen
    });
    let mut changes = cache.changes();
    let telling = tokio::spawn(async move {
        let mut told = Content::new();
        while let Some(change) = changes.next().await {
            let before = told.get(change.path()).cloned();
            assert_eq!(before, change.before().map(|znode| znode.data.clone()), "{}", change.path());
            match change {
                CacheChange::Added(new) | CacheChange::Updated { new, .. } => {
                    drop(told.insert(new.path.to_string(), new.data.clone()));
                }
                CacheChange::Removed(old) => drop(told.remove(&*old.path)),
            }
        }
        told
    });

    cache.wait_ready().await.expect("it loads");
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let attached = attached_to(&sessions.newest().expect("a session"), TIMEOUT).await;
        let victim = if round == 1 { ensemble.leader().await } else { attached };
        match round {
            2 => ensemble.pause(victim),
            _ => ensemble.kill9(victim),
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        match round {
            2 => ensemble.resume(victim),
            _ => ensemble.restart(victim),
        }
        ensemble.wait_serving().await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    let end = writer.set("/clock", "", None).await.expect("a set").mzxid;
    let last = cache.wait_for(end).await.expect("it goes on");
    println!("{:?}, {} changes", cache.stats(), log.lock().expect("no panic").len());
    sessions.close().await.expect("it was open");
    drop(cache);

    let log = std::mem::take(&mut *log.lock().expect("no panic"));
    let seen = viewing.await.expect("no panic");
    assert!(seen.len() > 100, "{} views are too few to show anything", seen.len());
    assert!(seen.windows(2).all(|pair| pair[0].zxid() < pair[1].zxid()), "a view went back");
    for view in &seen {
        assert_eq!(content(view), state_at(&log, view.zxid()), "seed {seed}, at zxid {}", view.zxid());
    }
    assert_eq!(content(&last), state_at(&log, end));
    assert_eq!(telling.await.expect("no panic"), content(&last), "the changes lead elsewhere");
}

/// `count` children of `parent`, each with data.
async fn fill(client: &Client, parent: &str, count: usize) {
    let with_parents = CreateOptions::new(CreateMode::Persistent).parents(true);
    client.create(parent, "", with_parents).await.expect("a create");
    let mut multis = Vec::new();
    for first in (0..count).step_by(500) {
        let numbers = first..count.min(first + 500);
        let multi = numbers.fold(client.multi(), |multi, number| {
            multi.create(format!("{parent}/n-{number:06}"), format!("{number}"), CreateMode::Persistent)
        });
        multis.push(multi.commit());
    }
    futures::future::try_join_all(multis).await.expect("creates");
}

/// More children than a page has; a reconnect after k changes costs in the order of k requests; each zxid is shown when it
/// is waited for, whoever wrote it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_costs_the_changes_and_not_the_tree() {
    const ZNODES: usize = 10_500;
    const CHANGES: usize = 40;
    let mut ensemble = Ensemble::start(3).await;
    let writer = ensemble.client(TIMEOUT).await;
    fill(&writer, "/t/many", ZNODES).await;
    let sessions = sessions(&ensemble).await;
    let tree = TreeCache::start(&sessions, "/t");
    let children = PathCache::start(&sessions, "/t/many");
    let flat = TreeCache::with_depth(&sessions, "/t", 1);
    assert_eq!(tree.wait_ready().await.expect("it loads").len(), ZNODES + 2);
    assert_eq!(flat.wait_ready().await.expect("it loads").len(), 2);
    assert_eq!(children.wait_ready().await.expect("it loads").len(), ZNODES);
    assert_eq!(children.children().len(), ZNODES);
    let last = children.get("n-010499").expect("the last child of the second page");
    assert_eq!((&last.data[..], children.name(&last)), (&b"10499"[..], "n-010499"));
    println!("loaded with {:?}", tree.stats());

    let before = (tree.stats(), children.stats());
    let attached = attached_to(&sessions.newest().expect("a session"), TIMEOUT).await;
    ensemble.kill9(attached);
    let mut zxid = 0;
    for number in 0..CHANGES {
        // Half of them on one znode: all but the newest of those come without values.
        let number = if number % 2 == 0 { 7 } else { number };
        zxid = writer.set(format!("/t/many/n-{number:06}"), "new", None).await.expect("a set").mzxid;
    }
    let view = tree.wait_for(zxid).await.expect("it goes on");
    assert_eq!(view.get("/t/many/n-000007").map(|znode| &znode.data[..]), Some(&b"new"[..]));
    assert_eq!(view.len(), ZNODES + 2);
    let view = children.wait_for(zxid).await.expect("it goes on");
    assert_eq!(view.iter().filter(|znode| &*znode.data == b"new").count(), CHANGES / 2);
    let after = (tree.stats(), children.stats());
    println!("after {CHANGES} changes: {before:?} {after:?}");
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert_eq!(after.loads, before.loads, "the tree was read again");
        let requests = after.requests - before.requests;
        assert!(requests <= CHANGES as u64 + 5, "{requests} requests for {CHANGES} changes");
    }
    // A zxid of nobody's yet is waited for.
    let waiting = tokio::spawn(async move { children.wait_for(zxid + 1).await.map(|view| view.zxid()) });
    let next = writer.set("/t", "next", None).await.expect("a set").mzxid;
    assert!(waiting.await.expect("no panic").expect("it is shown") >= next);
}

/// Paths so long that a few thousand of their events are more than is kept.
async fn flood(client: &Client) {
    for round in 0..8 {
        let multi = (0..200).fold(client.multi(), |multi, number| {
            let path = format!("/elsewhere-{round}-{number}-{}", "x".repeat(4000));
            multi.create(&path, "", CreateMode::Persistent).delete(&path, None)
        });
        multi.commit().await.expect("a multi");
    }
}

/// What changes between two calls, as (path, before, after).
async fn told(
    changes: &mut (impl futures::Stream<Item = CacheChange> + Unpin),
    count: usize,
) -> Vec<(String, Option<Bytes>, Option<Bytes>)> {
    let mut told = Vec::new();
    for _ in 0..count {
        let change = tokio::time::timeout(TIMEOUT, changes.next()).await.expect("a change is told");
        let change = change.expect("the cache goes on");
        let data =
            |znode: Option<&Arc<coordd_client::recipes::CachedZnode>>| znode.map(|znode| znode.data.clone());
        told.push((change.path().to_owned(), data(change.before()), data(change.after())));
    }
    told
}

/// After it was cut off for longer than events are kept, after its session was ended, and where more comes at once than its
/// watch holds: a cache reads again, tells the difference only, and reads only the values that differ.
///
/// On one thread, so that the cache takes no event while a frame of them is handed out: it would not overflow then.
#[tokio::test]
async fn a_cache_that_has_to_read_again_tells_the_difference_only() {
    const ZNODES: usize = 1000;
    // Longer than a busy machine takes for what happens while the client is cut off: in each session the
    // cache reads once more.
    let session_timeout = 2 * TIMEOUT;
    let mut ensemble = Ensemble::start(3).await;
    let follower = ensemble.follower().await;
    let writer = ensemble.client_of(&ensemble.ids_but(follower), TIMEOUT).await;
    fill(&writer, TOP, ZNODES).await;
    let options = ConnectOptions::new().session_timeout(session_timeout).watch_buffer(100);
    let sessions = sessions_of(vec![ensemble.endpoint(follower)], options).await;
    let cache = TreeCache::start(&sessions, TOP);
    let view = cache.wait_ready().await.expect("it loads");
    assert_eq!(view.len(), ZNODES + 1);
    let mut changes = cache.changes_since(view);
    let change_some = async |round: &str| {
        writer.delete("/t/n-000001", None).await.expect("a delete");
        writer.create("/t/n-000001", round.to_owned(), CreateMode::Persistent).await.expect("a create");
        writer.create(format!("/t/{round}"), "new", CreateMode::Persistent).await.expect("a create");
        writer.last_zxid()
    };
    let first = cache.get("/t/n-000001").expect("it is there");

    // Cut off.
    ensemble.kill9(follower);
    let zxid = change_some("cut-off").await;
    flood(&writer).await;
    ensemble.restart(follower);
    cache.wait_for(zxid).await.expect("it comes back");
    let expected = |round: &str, before: Bytes| {
        let changed =
            ("/t/n-000001".to_owned(), Some(before), Some(Bytes::copy_from_slice(round.as_bytes())));
        let mut expected = vec![changed, (format!("/t/{round}"), None, Some(Bytes::from_static(b"new")))];
        expected.sort();
        expected
    };
    assert_eq!(told(&mut changes, 2).await, expected("cut-off", first.data.clone()));
    let after_resync = cache.stats();
    println!("{after_resync:?}");
    assert_eq!(after_resync.loads, 2, "{after_resync:?}");

    // The session ends, and while the next one comes, something changes.
    ensemble.wait_serving().await;
    let in_session = TreeCache::in_session(&sessions.newest().expect("a session"), TOP);
    in_session.wait_ready().await.expect("it loads");
    let session_id = sessions.newest().expect("a session").session_id();
    ensemble.pause(follower);
    let killer = ensemble.admin(ensemble.leader().await).await.expect("the node answers");
    killer.kill_session(session_id, "a test").await.expect("it ends");
    let zxid = change_some("next-session").await;
    ensemble.resume(follower);
    cache.wait_for(zxid).await.expect("it goes on in the next session");
    assert_ne!(sessions.newest().expect("a session").session_id(), session_id);
    assert_eq!(told(&mut changes, 2).await, expected("next-session", Bytes::from_static(b"cut-off")));
    let after_session = cache.stats();
    println!("{after_session:?}");
    assert_eq!(after_session.loads, 3, "{after_session:?} {after_resync:?}");
    // Two lists of pages, a sync, a watch, one read of values and some barriers; not a thousand values.
    let requests = after_session.requests - after_resync.requests;
    assert!(requests < 40, "{after_session:?} {after_resync:?}");
    let end = in_session.wait_for(u64::MAX).await.expect_err("its session has ended");
    assert_eq!((end.kind, in_session.end()), (ErrorKind::SessionExpired, Some(end)));
    assert_eq!(in_session.view().len(), ZNODES + 2, "the last state stays");

    // More events at once than the watch holds.
    let multi = (0..300).fold(writer.multi(), |multi, number| {
        multi.create(format!("/t/burst-{number:03}"), "", CreateMode::Persistent)
    });
    multi.commit().await.expect("a multi");
    assert_eq!(told(&mut changes, 300).await.last().map(|change| &change.0[..]), Some("/t/burst-299"));
    println!("{:?}", cache.stats());
    assert_eq!(cache.stats().loads, 4, "the watch was to overflow, once");

    // Who does not read the changes misses what came and went, and nothing else.
    let mut slow = cache.changes_since(cache.view());
    for number in 0..500 {
        writer.set("/t", number.to_string(), None).await.expect("a set");
    }
    writer.create("/t/gone", "", CreateMode::Persistent).await.expect("a create");
    writer.delete("/t/gone", None).await.expect("a delete");
    cache.wait_for(writer.last_zxid()).await.expect("it goes on");
    let change = told(&mut slow, 1).await;
    assert_eq!(change, [(TOP.to_owned(), Some(Bytes::new()), Some(Bytes::from_static(b"499")))]);

    // Everything goes with a dropped cache.
    drop((cache, changes, slow, in_session));
    let admin = ensemble.admin(follower).await.expect("the node answers");
    eventually(TIMEOUT, "no watch is left", async || {
        admin.status().await.is_ok_and(|status| status.watches == 0)
    })
    .await;
}

/// A path that is none, and one that may not be read, end the cache with an error that says so.
#[tokio::test]
async fn a_cache_of_nothing_says_why() {
    let ensemble = Ensemble::start(1).await;
    let sessions = sessions(&ensemble).await;
    let error = TreeCache::start(&sessions, "no/path").wait_ready().await.expect_err("no path");
    assert_eq!(error.kind, ErrorKind::BadArguments);
    let client = sessions.newest().expect("a session");
    let hidden = coordd_client::AclEntry::new(coordd_client::Perms::ALL, "ip", "192.0.2.1");
    let options = CreateOptions::new(CreateMode::Persistent);
    client.create("/t", "", CreateMode::Persistent).await.expect("a create");
    client.create("/t/open", "1", CreateMode::Persistent).await.expect("a create");
    client.create("/t/hidden", "2", options.acl([hidden])).await.expect("a create");
    let error = TreeCache::start(&sessions, "/t/hidden").wait_ready().await.expect_err("it is hidden");
    assert_eq!(error.kind, ErrorKind::NoAuth);
    let view = TreeCache::start(&sessions, "/t").wait_ready().await.expect("it loads");
    assert_eq!(content(&view).keys().collect::<Vec<_>>(), ["/t", "/t/open"]);
    // A path that does not exist is an empty view, until it does.
    let later = PathCache::start(&sessions, "/later");
    assert!(later.wait_ready().await.expect("it loads").is_empty());
    client.create("/later", "", CreateMode::Persistent).await.expect("a create");
    let created = client.create("/later/x", "3", CreateMode::Ephemeral).await.expect("a create");
    let view = later.wait_for(created.stat.czxid).await.expect("it goes on");
    assert_eq!(content(&view), Content::from([("/later/x".into(), "3".into())]));
    sessions.close().await.expect("it was open");
    let end = later.wait_for(u64::MAX).await.expect_err("the sessions are closed");
    assert_eq!(end.kind, ErrorKind::SessionClosed);
}

/// Values that one answer cannot hold are read in smaller parts: where the top is large, of which no listing tells the length,
/// and where values grow between the listing and the read. A cache ends only with its session. Public report: helix#962.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growing_values_end_no_cache() {
    const LARGE: usize = 1900 << 10;
    let ensemble = EnsembleOptions::new(1).env("COORDD_VALUE_BYTES_MAX", "2MiB").start().await;
    let writer = ensemble.client(TIMEOUT).await;
    writer.create("/large", vec![b'x'; LARGE], CreateMode::Persistent).await.expect("a create");
    writer.create("/large/a", vec![b'x'; 200 << 10], CreateMode::Persistent).await.expect("a create");
    writer.create("/large/b", vec![b'x'; LARGE], CreateMode::Persistent).await.expect("a create");
    let sessions = sessions(&ensemble).await;
    let view = TreeCache::start(&sessions, "/large").wait_ready().await.expect("it loads");
    assert_eq!(view.iter().map(|znode| znode.data.len()).collect::<Vec<_>>(), [LARGE, 200 << 10, LARGE]);

    load_while_values_grow(&ensemble, &sessions, 40).await;
}

/// The same with as many caches as it took to find the fault, of which 2 to 5 ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; scripts/nightly.sh runs it"]
async fn growing_values_end_none_of_1500_caches() {
    let ensemble = Ensemble::start(3).await;
    let sessions = sessions(&ensemble).await;
    load_while_values_grow(&ensemble, &sessions, 1500).await;
}

/// Loads `count` caches, some at a time, while a writer toggles four values between small and 960 KiB. Each
/// of them loads, and goes on until all have loaded.
async fn load_while_values_grow(ensemble: &Ensemble, sessions: &Sessions, count: usize) {
    const AT_ONCE: usize = 4;
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let writer = ensemble.client(TIMEOUT).await;
    for name in NAMES {
        let options = CreateOptions::new(CreateMode::Persistent).parents(true);
        writer.create(format!("/toggled/{name}"), "", options).await.expect("a create");
    }
    let stop = Arc::<AtomicBool>::default();
    let toggling = tokio::spawn({
        let (stop, writer) = (stop.clone(), writer.clone());
        async move {
            let sizes = [960 << 10, 1].into_iter().cycle();
            for size in sizes.take_while(|_| !stop.load(Ordering::Relaxed)) {
                let data = Bytes::from(vec![b'x'; size]);
                let sets = NAMES.map(|name| writer.set(format!("/toggled/{name}"), data.clone(), None));
                futures::future::try_join_all(sets).await.expect("sets");
            }
        }
    });
    let load = |number: usize| async move {
        let cache = TreeCache::start(sessions, "/toggled");
        let view = cache.wait_ready().await.unwrap_or_else(|error| panic!("cache {number}: {error}"));
        assert_eq!(view.len(), 1 + NAMES.len(), "cache {number}");
        assert_eq!(cache.end(), None, "cache {number}");
    };
    futures::stream::iter(0..count).for_each_concurrent(AT_ONCE, load).await;
    stop.store(true, Ordering::Relaxed);
    toggling.await.expect("no panic");
}
