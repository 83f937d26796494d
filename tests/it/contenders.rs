//! The harness for clients in processes of their own does what tests rely on: what is killed, stopped or cut off is.

use std::time::Duration;

use coordd_client::{Client, CreateMode, CreateOptions, ReadLevel};
use coordd_tests::{Contender, Ensemble, eventually, monotonic};

const SESSION_TIMEOUT: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

async fn contender(ensemble: &Ensemble, path: &str) -> Contender {
    let args = ["--path", path, "--session-timeout", "1s", "--name", path];
    let mut contender = Contender::spawn(ensemble, "session", &args).await;
    let created = contender.event(SOON, "created").await;
    assert!(created.at <= monotonic(), "the clock is shared");
    contender
}

async fn is_there(client: &Client, path: &str) -> bool {
    client.exists(path, ReadLevel::Linearizable).await.expect("a read").is_some()
}

async fn wait_gone(client: &Client, path: &str) {
    eventually(SOON, "the ephemeral goes", async || !is_there(client, path).await).await;
}

/// Lets a contender write, and returns how many were accepted.
async fn accepted(contender: &mut Contender, command: &str) -> u64 {
    contender.send(command);
    contender.event(SOON, "wrote").await.number("accepted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contender_obeys_and_ends_as_it_is_told() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(Duration::from_secs(10)).await;
    let log = CreateOptions::new(CreateMode::Persistent).parents(true);
    client.create("/written/log", "", log).await.expect("a new znode");

    // SIGTERM: the session is closed, so the ephemeral goes at once.
    let mut polite = contender(&ensemble, "/owners/polite").await;
    assert_eq!(accepted(&mut polite, "set /written 10").await, 10);
    assert_eq!(accepted(&mut polite, "append /written/log 5").await, 5);
    let children = client.children("/written/log", ReadLevel::Linearizable).await.expect("it is there");
    assert_eq!(children.len(), 5);
    assert!(polite.terminate().await.success());
    // Its last words may still be on their way here.
    polite.event(SOON, "closed").await;
    assert!(!is_there(&client, "/owners/polite").await);

    // The end of its input is the same.
    let mut polite = contender(&ensemble, "/owners/polite").await;
    polite.end_input();
    assert!(polite.wait_exit().await.success());
    assert!(!is_there(&client, "/owners/polite").await);

    // kill -9: the session expires.
    let mut killed = contender(&ensemble, "/owners/killed").await;
    killed.kill9();
    assert!(is_there(&client, "/owners/killed").await, "nobody has closed the session");
    wait_gone(&client, "/owners/killed").await;

    // SIGSTOP: it expires too, and the process goes on later without a session.
    let mut paused = contender(&ensemble, "/owners/paused").await;
    paused.pause();
    wait_gone(&client, "/owners/paused").await;
    paused.send("set /written 10");
    paused.resume();
    // It says both, in either order.
    let wrote = paused.event(SOON, "wrote").await;
    assert_eq!(wrote.number("accepted"), 0, "{}", wrote.text);
    eventually(SOON, "it says that the session has expired", async || {
        paused.lines().iter().any(|line| line.json["state"] == "expired")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_off_is_silent_and_arrives_late() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(Duration::from_secs(10)).await;
    client.create("/value", "none", CreateMode::Persistent).await.expect("a new znode");
    let value = async || client.get("/value", ReadLevel::Linearizable).await.expect("it is there").0;

    // In a cut shorter than the timeout nothing is lost: the write arrives afterwards.
    let mut briefly = contender(&ensemble, "/briefly").await;
    briefly.cut_off();
    briefly.send("put /value late");
    briefly.event(SOON, "command").await;
    tokio::time::sleep(SESSION_TIMEOUT / 4).await;
    assert_eq!(value().await, "none");
    briefly.heal();
    briefly.event(SOON, "put").await;
    assert_eq!(value().await, "late");

    // The session ends in a longer one, and what it wrote meanwhile is refused.
    let mut long = contender(&ensemble, "/long").await;
    long.cut_off();
    long.send("put /value never");
    wait_gone(&client, "/long").await;
    assert_eq!(long.events("refused").len(), 0, "it hears nothing");
    long.heal();
    long.event(SOON, "refused").await;
    assert_eq!(value().await, "late");

    // A way that is closed for replies only lets the write through, and the answer comes late.
    let mut unheard = contender(&ensemble, "/unheard").await;
    unheard.ways().iter().for_each(coordd_tests::BlackHole::cut_replies);
    unheard.send("put /value oneway");
    eventually(SOON, "the write arrives", async || value().await == "oneway").await;
    assert_eq!(unheard.events("put").len(), 0, "it hears nothing");
    unheard.heal();
    unheard.event(SOON, "put").await;

    // After connections broke, the SDK comes back on new ones.
    let mut broken = contender(&ensemble, "/broken").await;
    broken.ways().iter().for_each(coordd_tests::BlackHole::reset);
    assert_eq!(accepted(&mut broken, "set /value 10").await, 10);
}
