//! The example `cluster_node`: three nodes with five services, which are killed, stopped, cut off and told to leave while all are
//! called.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use coordd_client::{Client, CreateMode, CreateOptions, ReadLevel};
use coordd_tests::{Contender, Ensemble, Line, eventually, example, free_port, http};
use futures::future::join_all;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const ROOT: &str = "/nooblyjs-core";

struct Node {
    process: Contender,
    port: u16,
}

impl Node {
    async fn start(ensemble: &Ensemble, id: &str) -> Self {
        let port = free_port();
        let mut command = Command::new(example("cluster_node"));
        command.args([id, &port.to_string(), "2"]);
        let mut process = Contender::start(ensemble, command, "COORDD_ENDPOINTS").await;
        process.wait_for(SOON, "ready", |line| line.text.starts_with("CLUSTER NODE READY")).await;
        Node { process, port }
    }

    async fn says(&mut self, what: &str) -> Line {
        self.process.wait_for(SOON, what, |line| line.text.contains(what)).await
    }

    /// The lines that begin with a mark, without it.
    fn marked(&self, mark: &str) -> Vec<String> {
        let lines = self.process.lines().into_iter();
        lines.filter_map(|line| Some(line.text.strip_prefix(mark)?.trim().to_owned())).collect()
    }

    async fn get(&self, path: &str) -> Value {
        let address = format!("127.0.0.1:{}", self.port);
        http(&address, "GET", path, "").await.expect("the node answers").1
    }

    /// Calls a service of the cluster through this node.
    async fn call(&self, service: &str, method: &str, args: Value) -> (u16, Value) {
        self.call_with(service, method, json!({ "args": args })).await
    }

    async fn call_with(&self, service: &str, method: &str, body: Value) -> (u16, Value) {
        let address = format!("127.0.0.1:{}", self.port);
        let path = format!("/cluster/services/{service}/api/{method}");
        http(&address, "POST", &path, &body.to_string()).await.expect("the node answers")
    }

    async fn health(&self) -> Value {
        self.get("/health/cluster").await
    }

    /// At any time so far, whatever else it was waited for.
    fn has_said(&self, what: &str) -> bool {
        self.process.lines().iter().any(|line| line.text.contains(what))
    }
}

async fn children(client: &Client, path: &str) -> Vec<String> {
    client.children(format!("{ROOT}/{path}"), ReadLevel::Linearizable).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_routes_calls_fails_over_requeues_and_is_configured_while_its_nodes_come_and_go() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let mut first = Node::start(&ensemble, "node-1").await;
    let up = first.marked("✓");
    let steps =
        ["connected", "node registered", "services started", "services announced", "leader elections"];
    let position = |step: &str| up.iter().position(|line| line.starts_with(step));
    let positions: Vec<_> = steps.iter().map(|step| position(step)).collect();
    assert!(positions.iter().all(Option::is_some) && positions.is_sorted(), "{up:?}");
    eventually(SOON, "it leads both services", async || {
        ["scheduling", "workflow"]
            .iter()
            .all(|service| first.has_said(&format!("this node leads {service},")))
    })
    .await;
    let mut second = Node::start(&ensemble, "node-2").await;
    let mut third = Node::start(&ensemble, "node-3").await;
    first.says("node node-3 joined").await;

    // Calls through any node, routed by the class of the service.
    let (status, stored) = first.call("caching", "put", json!(["greeting", "hello"])).await;
    assert_eq!((status, &stored["stored"]), (200, &json!("greeting")));
    for node in [&first, &second, &third] {
        let (_, value) = node.call("caching", "get", json!(["greeting"])).await;
        assert_eq!(value["value"], "hello");
        let (_, leader) = node.call("scheduling", "status", json!([])).await;
        assert_eq!(leader["answeredBy"], "node-1", "only the leader is called");
    }
    assert!(first.has_said("✓ caching initialized under a lock"));
    for node in [&second, &third] {
        assert!(node.has_said("caching was initialized by node-1"));
        assert!(!node.has_said("✓ caching initialized"), "once");
    }
    // One call, and all hear it.
    let (status, published) = third.call("notifying", "publish", json!(["news", "hello all"])).await;
    assert_eq!((status, &published["published"]), (200, &json!("news")), "{published}");
    for node in [&mut first, &mut second, &mut third] {
        node.says("notified of news: \"hello all\"").await;
    }
    second.call("logging", "info", json!(["from the second"])).await;
    second.says("log: from the second").await;
    assert_eq!(first.call("nothing", "get", json!([])).await.0, 404);
    assert_eq!(first.call("caching", "get", json!([7])).await.0, 422);
    eventually(SOON, "all nodes are seen", async || {
        let health = third.health().await;
        health["cluster"]["healthyNodes"] == 3 && health["cluster"]["leaders"]["workflow"] == "node-1"
    })
    .await;

    let metrics = second.get("/metrics/cluster").await;
    let (own, cluster) = (&metrics["nodeMetrics"], &metrics["clusterMetrics"]);
    assert_eq!(own["nodeId"], "node-2", "{metrics}");
    assert_eq!((&cluster["totalNodes"], &cluster["answeringNodes"]), (&json!(3), &json!(3)), "{metrics}");
    assert!(own["memoryUsage"].as_u64() > Some(1 << 20) && own["cpuUsage"].is_number(), "{metrics}");
    // Put, three times get, status and publish, info, and the one that was refused, which is no error of the node.
    assert!(cluster["totalRequests"].as_u64() >= Some(12), "{metrics}");
    assert!(cluster["requestsPerSecond"].as_f64() > Some(0.1), "{metrics}");
    assert!(cluster["averageLatency"].as_f64() > Some(0.0), "{metrics}");
    assert_eq!(cluster["errorRate"], 0.0, "{metrics}");

    // A service that is called by consistent hashing: a key meets the same node through any of them, and keys are spread.
    let path = format!("{ROOT}/config/services/caching");
    let (by_load, _) = client.get(&path, ReadLevel::Linearizable).await.expect("stored by the first node");
    let by_hash = r#"{"mode": "distributed", "strategy": "consistent-hash"}"#;
    client.set(&path, by_hash, None).await.expect("a set");
    eventually(SOON, "calls go by their keys", async || {
        let mut homes = BTreeSet::new();
        for key in 0..12 {
            let body = json!({ "args": ["greeting"], "key": format!("user-{key}") });
            let mut answers = Vec::new();
            for node in [&first, &second, &third] {
                answers.push(node.call_with("caching", "get", body.clone()).await.1["answeredBy"].clone());
            }
            if answers.iter().any(|answer| *answer != answers[0]) {
                return false;
            }
            homes.insert(answers[0].to_string());
        }
        homes.len() > 1
    })
    .await;
    assert_eq!(first.call_with("caching", "get", json!({ "args": ["greeting"], "key": 7 })).await.0, 422);
    client.set(&path, by_load, None).await.expect("a set");

    // A changed configuration is seen by all: more jobs than one engine can do, so that some wait.
    let options = CreateOptions::new(CreateMode::Persistent).parents(true);
    let config = format!("{ROOT}/config/global");
    client.create(config, r#"{"job_interval_ms": 200}"#, options).await.expect("a configuration");
    for node in [&mut first, &mut second, &mut third] {
        node.says("configuration updated: job_interval_ms").await;
    }

    // The node that leads both is killed while it works.
    first.says("workflow: run").await;
    first.says("begins").await;
    first.process.kill9();
    let mut answered = 0;
    for _ in 0..20 {
        let (status, value) = second.call("caching", "get", json!(["greeting"])).await;
        answered += usize::from(status == 200 && value["value"] == "hello");
    }
    assert!(answered >= 19, "{answered} of 20; one may have gone to a connection that broke under it");
    second.says("this node leads scheduling").await;
    eventually(SOON, "the scheduler is called where it is now", async || {
        third.call("scheduling", "status", json!([])).await.1["answeredBy"] == "node-2"
    })
    .await;
    let failed =
        |node: &Node| node.process.lines().into_iter().find(|line| line.text.contains("node-1 failed"));
    eventually(SOON, "the loss is handled", async || failed(&second).or(failed(&third)).is_some()).await;
    let line = failed(&second).or(failed(&third)).expect("it was handled");
    assert!(line.text.contains("tasks came back"), "{}", line.text);
    eventually(SOON, "what it had claimed is done by the next", async || {
        second.process.lines().iter().any(|line| line.text.contains("attempt 2"))
    })
    .await;

    // One that is told to leave does so in the reverse order, and is no loss.
    assert!(third.process.terminate().await.success());
    let mut down = third.marked("✗");
    // Whether it led something by then is up to the machine.
    down.retain(|line| !line.starts_with("this node leads"));
    let expected =
        ["health monitoring", "watches", "leader elections", "services withdrawn", "services stopped"];
    assert!(down.iter().zip(expected).all(|(line, step)| line.starts_with(step)), "{down:?}");
    assert!(down[5].starts_with("node deregistered") && down[6].starts_with("disconnected"), "{down:?}");
    second.says("node node-3 left").await;
    let (status, _) = second.call("caching", "get", json!(["greeting"])).await;
    assert_eq!(status, 200);

    // Every run was scheduled once and done once; what was claimed by the dead, too.
    assert!(second.process.terminate().await.success());
    let (runs, done) = account(&client).await;
    assert!(second.process.lines().iter().all(|line| !line.text.contains("node-3 failed")));
    assert!(children(&client, "nodes").await.is_empty());
    println!("{runs} runs, {done} done");
}

/// How many runs were scheduled, and how many of them are done; the others are in the queue, each once.
async fn account(client: &Client) -> (usize, usize) {
    let path = format!("{ROOT}/services/scheduling/scheduled_runs");
    let (runs, _) = client.get(path, ReadLevel::Linearizable).await.expect("runs");
    let runs: usize = String::from_utf8_lossy(&runs).parse().expect("a number");
    let done = children(client, "services/workflow/done").await;
    let mut left = 0;
    for state in ["pending", "running", "dead", "delayed"] {
        left += children(client, &format!("services/workflow/queue/{state}")).await.len();
    }
    assert_eq!(done.len() + left, runs, "done {done:?}");
    (runs, done.len())
}

/// What all nodes together have said after a prefix, such as the runs that they have scheduled.
fn said_after(nodes: &[Node], prefix: &str, suffix: &str) -> Vec<String> {
    let lines = nodes.iter().flat_map(|node| node.process.lines());
    let told = lines
        .filter_map(|line| Some(line.text.trim().strip_prefix(prefix)?.strip_suffix(suffix)?.to_owned()));
    told.collect()
}

/// Waits until the others have missed the node, calls go on without it, and one of them has its duties.
async fn goes_on_without(nodes: &mut [Node], lost: usize) {
    let id = format!("node-{}", lost + 1);
    let (gone, mut others): (Vec<_>, Vec<_>) =
        nodes.iter_mut().enumerate().partition(|(index, _)| *index == lost);
    drop(gone);
    for (_, node) in &mut others {
        node.says(&format!("node {id} left")).await;
    }
    for (_, node) in &others {
        eventually(SOON, "it is counted out, and another one leads", async || {
            let health = node.health().await;
            let leaders = &health["cluster"]["leaders"];
            let is_led = |service: &str| leaders[service].is_string() && leaders[service] != id.as_str();
            health["cluster"]["healthyNodes"] == 2 && is_led("scheduling") && is_led("workflow")
        })
        .await;
        // A caller may hear of it a moment after the health does, and a breaker may still be open.
        eventually(SOON, "20 calls in a row are answered by others", async || {
            for call in 0..20 {
                let (status, value) = match call % 2 {
                    0 => node.call("caching", "get", json!(["greeting"])).await,
                    _ => node.call("scheduling", "status", json!([])).await,
                };
                if status != 200 || value["answeredBy"] == id.as_str() {
                    return false;
                }
            }
            true
        })
        .await;
    }
}

/// Waits until the node is back: seen by all, called through, and told of what is published.
async fn comes_back(nodes: &mut [Node], lost: usize) {
    let id = format!("node-{}", lost + 1);
    for (index, node) in nodes.iter_mut().enumerate() {
        if index != lost {
            node.says(&format!("node {id} joined")).await;
        }
    }
    for node in nodes.iter() {
        eventually(SOON, "all see three healthy nodes", async || {
            node.health().await["cluster"]["healthyNodes"] == 3
        })
        .await;
    }
    let news = format!("{id} is back");
    eventually(SOON, "all hear of it", async || {
        let (status, _) = nodes[lost].call("notifying", "publish", json!(["news", news])).await;
        status == 200 && nodes.iter().all(|node| node.has_said(&news))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_or_cut_off_is_done_without_does_nothing_twice_and_comes_back() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let options = CreateOptions::new(CreateMode::Persistent).parents(true);
    let config = format!("{ROOT}/config/global");
    client.create(config, r#"{"job_interval_ms": 200}"#, options).await.expect("a configuration");
    // Together, so that all of them find that the cache is not initialized.
    let mut nodes = join_all(["node-1", "node-2", "node-3"].map(|id| Node::start(&ensemble, id))).await;
    let initialized = nodes.iter().filter(|node| node.has_said("✓ caching initialized")).count();
    assert_eq!(initialized, 1, "by one of the three");
    let leader = async |nodes: &[Node]| {
        let mut leader = 0;
        eventually(SOON, "somebody schedules, and all are there", async || {
            let health = nodes[0].health().await;
            let id = health["cluster"]["leaders"]["scheduling"].as_str().unwrap_or_default().to_owned();
            let found = ["node-1", "node-2", "node-3"].iter().position(|name| **name == id);
            leader = found.unwrap_or_default();
            found.is_some() && health["cluster"]["healthyNodes"] == 3
        })
        .await;
        leader
    };

    let stopped = leader(&nodes).await;
    nodes[stopped].says("is scheduled").await;
    nodes[stopped].process.pause();
    goes_on_without(&mut nodes, stopped).await;
    nodes[stopped].process.resume();
    nodes[stopped].says("this node leads scheduling no more").await;
    comes_back(&mut nodes, stopped).await;

    let cut_off = leader(&nodes).await;
    nodes[cut_off].process.cut_off();
    nodes[cut_off].says("this node leads scheduling no more").await;
    goes_on_without(&mut nodes, cut_off).await;
    nodes[cut_off].process.heal();
    comes_back(&mut nodes, cut_off).await;

    for node in &mut nodes {
        assert!(node.process.terminate().await.success());
    }
    // Said after the write was accepted, so that nobody says it of what another one has done.
    for (prefix, suffix) in [("scheduling: run ", " is scheduled"), ("workflow: run ", " is done")] {
        let runs = said_after(&nodes, prefix, suffix);
        let distinct: BTreeSet<_> = runs.iter().collect();
        assert!(!runs.is_empty() && distinct.len() == runs.len(), "{prefix}: a run was done twice: {runs:?}");
    }
    let (runs, done) = account(&client).await;
    println!("{runs} runs, {done} done");
}
