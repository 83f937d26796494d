//! Failure detection: each loss of a node is handled once, whoever dies meanwhile, the detector included.

use std::collections::BTreeSet;
use std::time::Duration;

use coordd_client::recipes::{
    LeaderElection, TaskOptions, TaskQueue, TaskQueueOptions, TaskState, WorkAssignment, WorkItem,
};
use coordd_client::{Client, CreateMode, CreateOptions, ReadLevel};
use coordd_tests::{Contender, Ensemble, Line, eventually};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const ROOT: &str = "/registry";
const QUEUE: &str = "/registry/queue";
const GROUP: &str = "/registry/group";

/// A node that has registered and leads the detectors, or waits for that: they lead in the order in which they were started here.
async fn node(ensemble: &Ensemble, client: &Client, name: &str, services: &str, args: &[&str]) -> Contender {
    let mut all = vec!["--name", name, "--services", services, "--session-timeout", "2s"];
    all.extend(args);
    let mut node = Contender::spawn(ensemble, "detector", &all).await;
    node.event(SOON, "registered").await;
    let election = LeaderElection::new(client, format!("{ROOT}/failures/election"));
    eventually(SOON, "it stands for election", async || {
        let leader = election.leader().await.expect("a read");
        let candidates = election.candidates().await.expect("a list");
        leader.iter().chain(&candidates).any(|candidate| candidate.id == name)
    })
    .await;
    node
}

async fn operator(ensemble: &Ensemble, tasks: usize) -> (Client, TaskQueue) {
    let client = ensemble.client(SOON).await;
    client.create("/log", "", CreateMode::Persistent).await.expect("a create");
    let parent = CreateOptions::new(CreateMode::Persistent).parents(true);
    client.create(QUEUE, "", parent).await.expect("a create");
    let queue = TaskQueue::open(&client, QUEUE, TaskQueueOptions::new()).await.expect("a queue");
    for _ in 0..tasks {
        queue.put("work", &TaskOptions::new()).await.expect("a put");
    }
    (client, queue)
}

async fn claims(node: &mut Contender) -> String {
    node.send("claim");
    node.event(SOON, "claimed").await.string("id").to_owned()
}

async fn alert(detector: &mut Contender, id: &str) -> Line {
    detector
        .wait_for(SOON, &format!("an alert about {id}"), |line| {
            line.event() == "alert" && line.json["id"] == id
        })
        .await
}

/// The nodes for whose losses something was done, in the order of that.
async fn recovered(client: &Client) -> Vec<String> {
    let mut names = client.children("/log", ReadLevel::Linearizable).await.expect("a list");
    names.sort_by_key(|name| name.rsplit('-').next().map(str::to_owned));
    names.iter().map(|name| name.split('-').next().unwrap_or_default().to_owned()).collect()
}

async fn read(client: &Client, path: &str) -> Value {
    match client.get(path, ReadLevel::Linearizable).await {
        Ok((data, _)) => serde_json::from_slice(&data).expect("JSON"),
        Err(_) => Value::Null,
    }
}

/// Waits until all nodes of these names are watched, and nobody else.
async fn until_known(client: &Client, names: &[&str]) {
    eventually(SOON, "the nodes are known", async || {
        let known = client.children(format!("{ROOT}/failures/nodes"), ReadLevel::Linearizable).await;
        known.is_ok_and(|known| known == names)
    })
    .await;
}

async fn attempts(queue: &TaskQueue) -> BTreeSet<(String, u32)> {
    let mut attempts = BTreeSet::new();
    for state in TaskState::ALL {
        let tasks = queue.list(state, None, 100).await.expect("a list");
        attempts.extend(tasks.into_iter().map(|task| (task.id, task.attempts)));
    }
    attempts
}

/// Killed, stopped, and the detector itself killed: each loss is recorded and recovered from once, and the tasks come back once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_counted_out_and_its_tasks_come_back_once_also_if_it_was_the_detector() {
    let ensemble = Ensemble::start(3).await;
    let (client, queue) = operator(&ensemble, 4).await;
    let mut a = node(&ensemble, &client, "a", "caching", &[]).await;
    let mut b = node(&ensemble, &client, "b", "caching,printing", &[]).await;
    let mut c = node(&ensemble, &client, "c", "caching,stock", &[]).await;
    until_known(&client, &["a", "b", "c"]).await;
    let health = async |service: &str| read(&client, &format!("{ROOT}/services/{service}/health")).await;
    let healthy = |instances: u64| json!({ "status": "healthy", "instances": instances });
    eventually(SOON, "all are counted", async || health("caching").await == healthy(3)).await;

    let mut of_b = vec![claims(&mut b).await, claims(&mut b).await];
    of_b.sort();
    let of_c = claims(&mut c).await;
    b.kill9();
    let said = alert(&mut a, "b").await;
    assert_eq!(said.json["cause"], "gone");
    assert_eq!(said.json["requeued"], json!({ QUEUE: of_b }));
    assert_eq!(said.json["unavailable"], json!(["printing"]));
    assert_eq!(health("printing").await, json!({ "status": "unavailable", "instances": 0 }));
    assert_eq!(health("caching").await, healthy(2));
    let expected: BTreeSet<_> = of_b.iter().map(|id| (id.clone(), 1)).collect();
    let all = attempts(&queue).await;
    assert!(expected.is_subset(&all) && all.len() == 4, "{all:?}");

    c.pause();
    let said = alert(&mut a, "c").await;
    assert_eq!(said.json["requeued"], json!({ QUEUE: [of_c] }));
    let lost_epoch = said.number("epoch");
    c.resume();
    c.send("complete");
    c.event(SOON, "refused").await;
    until_known(&client, &["a", "c"]).await;
    eventually(SOON, "it is back", async || health("stock").await == healthy(1)).await;
    assert!(read(&client, &format!("{ROOT}/failures/nodes/c")).await["epoch"].as_u64() > Some(lost_epoch));

    let of_a = claims(&mut a).await;
    a.kill9();
    let said = alert(&mut c, "a").await;
    assert_eq!(said.json["requeued"], json!({ QUEUE: [of_a] }), "it was seen by the one that stood by");
    assert_eq!(health("caching").await, healthy(1));
    assert_eq!(recovered(&client).await, ["b", "c", "a"]);
    assert_eq!(attempts(&queue).await.iter().map(|(_, attempts)| attempts).sum::<u32>(), 4);
    assert_eq!(c.events("alert").len(), 1, "what was handled is not repeated");

    // One that leaves on purpose is no loss.
    let mut d = node(&ensemble, &client, "d", "caching", &[]).await;
    until_known(&client, &["c", "d"]).await;
    d.send("retire");
    d.event(SOON, "retired").await;
    until_known(&client, &["c"]).await;
    eventually(SOON, "it is counted out", async || health("caching").await == healthy(1)).await;
    assert_eq!(recovered(&client).await, ["b", "c", "a"]);
}

/// Detectors that are killed and stopped in the middle of a recovery: the next one goes on where they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_is_interrupted_is_taken_to_its_end_by_the_next_detector_and_takes_effect_once() {
    let ensemble = Ensemble::start(3).await;
    let (client, queue) = operator(&ensemble, 1).await;
    let mut killed = node(&ensemble, &client, "killed", "work", &["--stall", "recover"]).await;
    let mut stopped = node(&ensemble, &client, "stopped", "work", &["--stall", "alert"]).await;
    let mut last = node(&ensemble, &client, "last", "work", &[]).await;
    let mut victim = node(&ensemble, &client, "victim", "work", &[]).await;
    until_known(&client, &["killed", "last", "stopped", "victim"]).await;
    let task = claims(&mut victim).await;
    victim.kill9();
    let begun = killed.event(SOON, "recovering").await;
    assert_eq!(begun.string("id"), "victim");
    killed.kill9();
    // It does what was not done, and gets stuck before that is noted.
    let said = alert(&mut stopped, "victim").await;
    assert_eq!(said.json["detector"], "stopped");
    assert_eq!(said.json["requeued"], json!({ QUEUE: [&task] }));
    stopped.pause();
    // The alert is raised again; nothing else is done again.
    alert(&mut last, "victim").await;
    alert(&mut last, "killed").await;
    alert(&mut last, "stopped").await;
    stopped.resume();
    until_known(&client, &["last", "stopped"]).await;
    assert_eq!(recovered(&client).await, ["victim", "killed", "stopped"]);
    assert_eq!(attempts(&queue).await, BTreeSet::from([(task, 1)]));
    let records = client.children(format!("{ROOT}/failures/records"), ReadLevel::Linearizable).await;
    for record in records.expect("a list") {
        let record = read(&client, &format!("{ROOT}/failures/records/{record}")).await;
        assert_eq!(record["state"], "reported", "{record}");
    }
}

/// A node whose session lives, but which has stopped to write, is taken out, and what it holds is taken away; also in the middle
/// of draining.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_heartbeat_is_removed_and_loses_its_claims_though_its_session_lives() {
    let ensemble = Ensemble::start(3).await;
    let (client, queue) = operator(&ensemble, 2).await;
    let group = WorkAssignment::open(&client, GROUP).await.expect("a group");
    for item in ["x", "y"] {
        group.put(item, &WorkItem::new()).await.expect("put");
    }
    let limit = ["--stale-after", "5s"];
    let mut lively = node(&ensemble, &client, "lively", "caching", &limit).await;
    let slow = ["--heartbeat", "12s", limit[0], limit[1]];
    let mut silent = node(&ensemble, &client, "silent", "caching", &slow).await;
    let task = claims(&mut silent).await;
    silent.send("join");
    let mut owned = [silent.event(SOON, "owns").await, silent.event(SOON, "owns").await];
    owned.sort_by_key(|line| line.string("id").to_owned());
    assert_eq!(owned.map(|line| line.string("id").to_owned()), ["x", "y"]);
    let said = alert(&mut lively, "silent").await;
    assert_eq!(said.json["cause"], "silent");
    assert_eq!(said.json["requeued"], json!({ QUEUE: [&task] }));
    assert_eq!(said.json["reassigned"], json!({ GROUP: ["x", "y"] }));
    silent.event(SOON, "struck out").await;
    assert_eq!(group.owner("x").await, Ok(None), "though its former owner keeps hold of it");
    lively.send("join");
    lively.event(SOON, "owns").await;
    lively.event(SOON, "owns").await;
    silent.send("complete");
    silent.event(SOON, "refused").await;
    assert_eq!(
        attempts(&queue).await.into_iter().filter(|(_, attempts)| *attempts > 0).collect::<Vec<_>>(),
        [(task, 1)]
    );
    // The next heartbeat finds that it was removed.
    let znode = format!("{ROOT}/nodes/silent");
    eventually(2 * SOON, "it registers again", async || {
        let stat = client.exists(&znode, ReadLevel::Linearizable).await.expect("a read");
        stat.is_some_and(|stat| stat.czxid > said.number("epoch"))
    })
    .await;
    silent.send("retire");
    silent.event(SOON, "retired").await;

    let mut draining = node(&ensemble, &client, "draining", "caching", &slow).await;
    let task = claims(&mut draining).await;
    draining.send("drain");
    draining.event(SOON, "drained").await;
    let said = alert(&mut lively, "draining").await;
    assert_eq!(said.json["cause"], "silent");
    assert_eq!(said.json["requeued"], json!({ QUEUE: [&task] }));
    draining.send("complete");
    draining.event(SOON, "refused").await;
    assert!(lively.events("alert").iter().all(|line| line.json["id"] != "lively"));
}
