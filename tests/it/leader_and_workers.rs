//! The example `leader_and_workers`: a leader that is no worker, workers that it finds, and work that is counted once, whoever
//! is killed, stopped or cut off.

use std::process::Command;
use std::time::Duration;

use coordd_client::{Client, ReadLevel, SessionRecord};
use coordd_tests::{Contender, Ensemble, Line, eventually, example, free_port};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
/// As in the example.
const SPAN: u64 = 10_000;

async fn node(ensemble: &Ensemble, name: &str) -> Contender {
    let mut command = Command::new(example("leader_and_workers"));
    command.args([name, &format!("127.0.0.1:{}", free_port()), "2"]);
    Contender::start(ensemble, command, "COORDD_ENDPOINTS").await
}

async fn says(node: &mut Contender, what: &str) -> Line {
    node.wait_for(SOON, what, |line| line.text.contains(what)).await
}

fn epoch(line: &Line) -> u64 {
    let (_, epoch) = line.text.split_once("epoch ").expect("it says its epoch");
    let digits: String = epoch.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

async fn workers(client: &Client) -> Vec<String> {
    let workers = client.children("/leader_and_workers/workers", ReadLevel::Linearizable).await;
    workers.unwrap_or_default()
}

async fn progress(client: &Client) -> (u64, u64, u64) {
    let read = client.get("/leader_and_workers/progress", ReadLevel::Linearizable).await;
    let (data, stat) = read.expect("a round was counted");
    let progress: Value = serde_json::from_slice(&data).expect("JSON");
    let number = |field: &str| progress[field].as_u64().expect("a number");
    (number("round"), number("primes"), u64::try_from(stat.version).expect("no negative version"))
}

/// Counts otherwise than the example does: by a sieve.
fn primes_below(limit: u64) -> u64 {
    let mut is_prime = vec![true; usize::try_from(limit).expect("a small number")];
    let mut primes = 0;
    for number in 2..is_prime.len() {
        if is_prime[number] {
            primes += 1;
            (number * number..is_prime.len()).step_by(number).for_each(|multiple| is_prime[multiple] = false);
        }
    }
    primes
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_and_workers_are_killed_stopped_and_cut_off_and_every_round_counts_once() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let mut a = node(&ensemble, "a").await;
    let first = epoch(&says(&mut a, "leader: elected").await);
    let mut others = Vec::new();
    // One after the other, so that it is known who is next.
    for name in ["b", "c", "d"] {
        let mut other = node(&ensemble, name).await;
        says(&mut other, "worker: registered").await;
        says(&mut a, &format!("{name} joined")).await;
        others.push(other);
    }
    let [mut b, mut c, mut d] = others.try_into().unwrap_or_else(|_| panic!("three nodes"));
    assert_eq!(workers(&client).await, ["b", "c", "d"], "the leader is none of them");
    says(&mut a, "\"by\":\"b c d\"").await;

    // A worker that is killed.
    d.kill9();
    says(&mut a, "d left; workers: b c").await;
    says(&mut a, "\"by\":\"b c\"").await;

    // A worker that is cut off stops before the leader sees it go, and comes back as another.
    c.cut_off();
    let left = says(&mut a, "c left; workers: b").await;
    let stopped = says(&mut c, "worker: stopped").await;
    assert!(stopped.at < left.at, "stopped at {:?}, gone at {:?}", stopped.at, left.at);
    c.heal();
    says(&mut c, "worker: registered").await;
    says(&mut a, "c joined").await;

    // A leader that is stopped: the next one leaves the workers. It knows better when it goes on.
    a.pause();
    let second = says(&mut b, "leader: elected").await;
    assert!(epoch(&second) > first, "epochs grow");
    assert!(b.lines().iter().any(|line| line.text.contains("worker: stopped") && line.at <= second.at));
    says(&mut b, "\"by\":\"c\"").await;
    assert_eq!(workers(&client).await, ["c"]);
    a.resume();
    says(&mut a, "leader: stopped").await;
    says(&mut a, "worker: registered").await;
    says(&mut b, "a joined").await;
    says(&mut b, "\"by\":\"a c\"").await;

    // A leader that is killed.
    b.kill9();
    says(&mut c, "leader: elected").await;
    says(&mut c, "\"by\":\"a\"").await;
    let before = progress(&client).await.0;
    eventually(SOON, "the work goes on", async || progress(&client).await.0 > before).await;

    // Who leaves is gone at once, not when its session would have ended.
    assert!(a.terminate().await.success());
    assert!(workers(&client).await.is_empty());
    assert!(c.terminate().await.success());
    let candidates = client.children("/leader_and_workers/election", ReadLevel::Linearizable).await;
    assert!(candidates.unwrap_or_default().is_empty());

    let (rounds, primes, version) = progress(&client).await;
    assert_eq!(version, rounds, "each round was written once");
    assert_eq!(primes, primes_below(rounds * SPAN), "after {rounds} rounds");
    println!("{rounds} rounds, {primes} primes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_when_it_is_disconnected_reconnected_and_in_another_session() {
    let mut ensemble = Ensemble::start(3).await;
    let mut a = node(&ensemble, "a").await;
    let connected = says(&mut a, "[a] connected to node ").await;
    let number = |line: &Line| {
        let (_, rest) = line.text.split_once("to node ").expect("it says the node");
        rest.split(' ').next().and_then(|id| id.parse::<u64>().ok()).expect("a number")
    };
    let session = |line: &Line| line.text.rsplit(' ').next().expect("it says the session").to_owned();

    // The node that it is connected to is killed.
    ensemble.kill9(number(&connected));
    let reconnected = says(&mut a, "[a] reconnected to node ").await;
    assert_ne!(number(&reconnected), number(&connected));
    assert_eq!(session(&reconnected), session(&connected), "a session outlives its node");

    // No node is in reach, for longer than the session lives.
    ensemble.wait_serving().await;
    a.cut_off();
    let id = session(&connected);
    let id = u64::from_str_radix(id.trim_start_matches("0x"), 16).expect("a session id");
    eventually(SOON, "its session has ended", async || {
        let Ok(admin) = ensemble.admin(ensemble.leader().await).await else { return false };
        matches!(admin.session(id).await, Ok(SessionRecord::Ended { .. }))
    })
    .await;
    eventually(SOON, "it says that it is disconnected", async || {
        let last = a.lines().into_iter().rfind(|line| line.text.contains("connected")).expect("it says so");
        last.text.contains("[a] disconnected, and looks for another node")
    })
    .await;
    a.heal();
    says(&mut a, "[a] the session has ended (expired").await;
    let anew = says(&mut a, "[a] connected to node ").await;
    assert_ne!(session(&anew), session(&connected));
    let client = ensemble.client_of(&[number(&anew)], SOON).await;
    eventually(SOON, "it takes part again", async || {
        let candidates = client.children("/leader_and_workers/election", ReadLevel::Linearizable).await;
        !candidates.unwrap_or_default().is_empty()
    })
    .await;
    assert!(a.terminate().await.success());
}
