//! Configuration: no update is lost and none is done twice, whatever happens to nodes and sessions; what cannot be used is
//! reported and not in force; the history is exact.

use std::time::Duration;

use coordd_client::recipes::Sessions;
use coordd_client::recipes::config::{ConfigDocument, ConfigManager, ConfigOptions};
use coordd_client::{Check, ConnectOptions, CreateMode, Error, ErrorKind, ReadLevel, SessionRecord};
use coordd_tests::{BlackHole, Ensemble, eventually};
use futures::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(10);
const PATH: &str = "/app/config/global";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Settings {
    count: u64,
    #[serde(default)]
    flags: std::collections::BTreeMap<String, bool>,
}

fn settings(count: u64) -> Settings {
    Settings { count, ..Settings::default() }
}

fn add(settings: &mut Settings, count: u64) -> Result<(), Error> {
    settings.count += count;
    Ok(())
}

/// From a thousand on they are not valid.
fn options() -> ConfigOptions<Settings> {
    ConfigOptions::default().validate(|settings: &Settings| match settings.count {
        1_000.. => Err(format!("{} is too much", settings.count)),
        _ => Ok(()),
    })
}

async fn sessions(ensemble: &Ensemble) -> Sessions {
    sessions_at(ensemble.endpoints()).await
}

async fn sessions_at(endpoints: Vec<String>) -> Sessions {
    let options = ConnectOptions::new().session_timeout(TIMEOUT);
    Sessions::connect(endpoints, options).await.expect("a session")
}

async fn manager(sessions: &Sessions, author: &str) -> ConfigManager<Settings> {
    ConfigManager::start(sessions, PATH, options().author(author)).await.expect("a manager")
}

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    tokio::time::timeout(SOON, stream.next()).await.expect("in time").expect("it goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_followed_and_what_cannot_be_used_is_reported_and_not_in_force() {
    let ensemble = Ensemble::start(3).await;
    let (reading, writing) = (sessions(&ensemble).await, sessions(&ensemble).await);
    let (reader, writer) = (manager(&reading, "reader").await, manager(&writing, "writer").await);
    let operator = ensemble.client(TIMEOUT).await;
    let mut changes = reader.changes();
    let mut flag = reader.watch_key("flags.dark_mode").expect("a key");
    assert_eq!(reader.watch_key("flags.").err().map(|error| error.kind), Some(ErrorKind::BadArguments));
    assert_eq!((*reader.current() == Settings::default(), reader.snapshot().version()), (true, None));

    writer.set(&settings(1)).await.expect("a set");
    assert_eq!(writer.current().count, 1, "one's own writes show at once");
    let change = next(&mut changes).await.expect("a change");
    assert_eq!((change.old.version(), change.new.version(), change.new.value.count), (None, Some(0), 1));

    writer.set_key("flags.dark_mode", true).await.expect("a set");
    let told = next(&mut flag).await;
    assert_eq!((told.old, told.new), (None, Some(json!(true))));
    let change = next(&mut changes).await.expect("a change");
    let keys: Vec<_> = change.keys().into_iter().map(|change| change.key.to_string()).collect();
    assert_eq!(keys, ["flags.dark_mode"]);

    // Refused by the writer.
    let refused = writer.set(&settings(1_000)).await.expect_err("not valid");
    assert_eq!(refused.kind, ErrorKind::BadArguments);
    let refused = writer.set_key("count", "many").await.expect_err("not valid");
    assert_eq!(refused.kind, ErrorKind::BadArguments);
    let refused = writer.update(|settings| add(settings, 999)).await.expect_err("not valid");
    assert_eq!(refused.kind, ErrorKind::BadArguments);
    assert_eq!(writer.snapshot().version(), Some(1), "nothing was written");

    // By another hand, and so not refused: JSON that is no settings, settings that are not valid, no JSON at all.
    for (version, bad) in (2..).zip([r#"{"count": "many"}"#, r#"{"count": 5000}"#, "count: 1"]) {
        operator.set(PATH, bad, None).await.expect("a set");
        let problem = next(&mut changes).await.expect_err("a problem");
        assert_eq!(problem.kind, ErrorKind::MarshallingError, "{problem}");
        assert!(problem.message.contains(&format!("version {version}")), "{problem}");
        assert_eq!(reader.problem(), Some(problem));
        assert_eq!((reader.current().count, reader.snapshot().version()), (1, Some(1)), "the last good one");
    }
    // A change that would rest on it is refused, one that replaces it is not.
    eventually(SOON, "the writer has seen it too", async || writer.problem().is_some()).await;
    let refused = writer.update(|_| Ok(())).await.expect_err("nothing to rest on");
    assert_eq!(refused.kind, ErrorKind::MarshallingError);
    writer.set(&settings(2)).await.expect("a set");
    let change = next(&mut changes).await.expect("a change");
    assert_eq!((change.old.version(), change.new.version()), (Some(1), Some(5)));
    assert_eq!(reader.problem(), None);
    assert_eq!(next(&mut flag).await.new, None, "the flag went with it");

    // A member that this program does not know survives the change of another.
    operator.set(PATH, r#"{"count": 3, "later": [1]}"#, None).await.expect("a set");
    writer.set_key("flags.dark_mode", false).await.expect("a set");
    let (data, _) = operator.get(PATH, ReadLevel::Linearizable).await.expect("a read");
    let stored: Value = serde_json::from_slice(&data).expect("JSON");
    assert_eq!(stored, json!({ "count": 3, "later": [1], "flags": { "dark_mode": false } }));

    operator.delete_tree(PATH, None).await.expect("a delete");
    eventually(SOON, "the default is in force", async || reader.snapshot().version().is_none()).await;
    assert_eq!(*reader.current(), Settings::default());

    let mut writers_changes = writer.changes();
    writing.close().await.expect("closed");
    // What it had not told yet comes before the end.
    while tokio::time::timeout(SOON, writers_changes.next()).await.expect("in time").is_some() {}
    let closed = writer.set(&settings(1)).await.expect_err("closed");
    assert_eq!(closed.kind, ErrorKind::SessionClosed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_has_the_last_versions_and_brings_them_back() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let options = options().author("operator").history(4);
    let document = ConfigDocument::new(&client, PATH, options).expect("a document");
    assert_eq!(document.history().await, Ok(Vec::new()));
    for count in 0..6 {
        document.set(&settings(count)).await.expect("a set");
    }
    let unchanged = document.set(&settings(5)).await.expect("a set");
    assert_eq!(unchanged.version(), Some(5), "what is stored already is not written again");
    let history = document.history().await.expect("a history");
    let kept: Vec<_> = history.iter().map(|kept| (kept.version, kept.value["count"].as_u64())).collect();
    assert_eq!(kept, [(5, Some(5)), (4, Some(4)), (3, Some(3)), (2, Some(2))]);
    assert!(history.iter().all(|kept| kept.author == "operator" && kept.restored.is_none()));
    assert!(history.is_sorted_by_key(|kept| std::cmp::Reverse(kept.at_ms)));

    let restored = document.rollback(3).await.expect("a rollback");
    assert_eq!((restored.version(), restored.value.count), (Some(6), 3));
    let newest = document.history().await.expect("a history").remove(0);
    assert_eq!((newest.version, newest.restored), (6, Some(3)));
    assert_eq!(document.rollback(2).await.expect_err("pruned").kind, ErrorKind::NoNode);
    // Stricter rules than when it was written.
    let strict = ConfigOptions::<Settings>::default()
        .validate(|settings| if settings.count == 4 { Err("not four") } else { Ok(()) });
    let strict = ConfigDocument::new(&client, PATH, strict).expect("a document");
    assert_eq!(strict.rollback(4).await.expect_err("not valid").kind, ErrorKind::BadArguments);

    // By version, and by identity: what was deleted and made again has the same version and is not the same.
    let seen = document.get(ReadLevel::Linearizable).await.expect("a read");
    let replaced =
        document.compare_and_set(&seen, &settings(7)).await.expect("a write").expect("not changed");
    assert_eq!(replaced.version(), Some(7));
    assert!(document.compare_and_set(&seen, &settings(8)).await.expect("an answer").is_none());
    client.delete_tree(PATH, None).await.expect("a delete");
    let absent = document.get(ReadLevel::Linearizable).await.expect("a read");
    let first = document.compare_and_set(&absent, &settings(1)).await.expect("a write").expect("absent");
    assert!(document.compare_and_set(&absent, &settings(2)).await.expect("an answer").is_none());
    client.delete_tree(PATH, None).await.expect("a delete");
    document.set(&settings(1)).await.expect("a set");
    assert!(document.compare_and_set(&first, &settings(2)).await.expect("an answer").is_none());

    // A shorter history, and changes under a grant that is gone.
    let short = ConfigDocument::new(&client, PATH, self::options().history(0)).expect("a document");
    short.set(&settings(9)).await.expect("a set");
    assert_eq!(document.history().await, Ok(Vec::new()));
    let grant = client.create("/grant", "", CreateMode::Ephemeral).await.expect("a create");
    let guarded = client.guarded([Check::epoch("/grant", grant.stat.czxid)]);
    let guarded = ConfigDocument::new(&guarded, PATH, self::options()).expect("a document");
    guarded.set(&settings(10)).await.expect("the grant is there");
    client.delete("/grant", None).await.expect("a delete");
    assert_eq!(guarded.set(&settings(11)).await.expect_err("guarded").kind, ErrorKind::GuardFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_or_done_twice_while_nodes_and_sessions_end() {
    const WRITERS: u64 = 6;
    const UPDATES: u64 = 30;
    let mut ensemble = Ensemble::start(3).await;
    let watching = sessions(&ensemble).await;
    let watcher = manager(&watching, "").await;
    let mut seen = watcher.changes();
    let mut writing = Vec::new();
    let mut tasks = Vec::new();
    for index in 0..WRITERS {
        let sessions = sessions(&ensemble).await;
        writing.push(sessions.clone());
        tasks.push(tokio::spawn(async move {
            let options = options().author(format!("writer-{index}")).history(200);
            let manager = ConfigManager::start(&sessions, PATH, options).await.expect("a manager");
            for done in 0..UPDATES {
                manager.update(|settings| add(settings, 1)).await.expect("an update");
                assert!(manager.current().count > done, "its own update shows");
            }
        }));
    }
    let progress = async |count: u64| {
        eventually(SOON * 6, "the updates go on", async || watcher.current().count >= count).await;
    };
    // Sessions end with updates under way, and so do nodes.
    for step in 1..6 {
        progress(step * 25).await;
        let leader = ensemble.leader().await;
        let session_id = writing[step as usize].newest().expect("a session").session_id();
        let admin = ensemble.admin(leader).await.expect("an operator");
        admin.kill_session(session_id, "the test").await.expect("ended");
        if step % 2 == 0 {
            ensemble.kill9(leader);
            progress(step * 25 + 10).await;
            ensemble.restart(leader);
            ensemble.wait_serving().await;
        }
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    progress(WRITERS * UPDATES).await;
    assert_eq!(watcher.current().count, WRITERS * UPDATES);
    let history = watcher.history().await.expect("a history");
    let expected: Vec<_> = (1..=WRITERS * UPDATES).rev().collect();
    let counts: Vec<_> = history.iter().map(|kept| kept.value["count"].as_u64().expect("a number")).collect();
    assert_eq!(counts, expected, "each update is one version");
    for index in 0..WRITERS {
        let author = format!("writer-{index}");
        let own = history.iter().filter(|kept| kept.author == author).count();
        assert_eq!(own as u64, UPDATES, "{author}");
    }
    let mut last = 0;
    while last < WRITERS * UPDATES {
        let change = next(&mut seen).await.expect("a change");
        assert!(change.old.value.count == last && change.new.value.count > last, "{last}: {change:?}");
        last = change.new.value.count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_cut_off_keeps_the_value_and_then_shows_the_newest() {
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(TIMEOUT).await;
    let document = ConfigDocument::new(&operator, PATH, options()).expect("a document");
    document.set(&settings(1)).await.expect("a set");
    let mut ways = Vec::new();
    for endpoint in ensemble.endpoints() {
        ways.push(BlackHole::to(endpoint).await);
    }
    let reading = sessions_at(ways.iter().map(BlackHole::endpoint).collect()).await;
    let reader = manager(&reading, "reader").await;
    let first_session = reading.newest().expect("a session").session_id();
    let mut changes = reader.changes();
    ways.iter().for_each(BlackHole::cut_off);
    for count in 2..30 {
        document.set(&settings(count)).await.expect("a set");
    }
    // Its write waits until it is back, and takes effect once although its session has ended meanwhile.
    let mut write = Box::pin(reader.update(|settings| add(settings, 100)));
    let gone = async || {
        let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
        matches!(admin.session(first_session).await, Ok(SessionRecord::Ended { .. }))
    };
    tokio::select! {
        _ = &mut write => panic!("it is cut off"),
        _ = eventually(SOON, "the session has ended", gone) => {}
    }
    assert_eq!(reader.current().count, 1, "the last value stays");
    ways.iter().for_each(BlackHole::heal);
    tokio::time::timeout(SOON * 2, write).await.expect("in time").expect("an update");
    assert_eq!(reader.current().count, 129);
    assert_ne!(reading.newest().expect("a session").session_id(), first_session);
    let mut last = 1;
    while last != 129 {
        let change = next(&mut changes).await.expect("a change");
        assert_eq!(change.old.value.count, last, "no difference is missed");
        last = change.new.value.count;
    }
    assert_eq!(document.get(ReadLevel::Linearizable).await.expect("a read").version(), Some(29));
}
