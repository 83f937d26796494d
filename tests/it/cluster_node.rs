//! The example `cluster_node`: three nodes with four services, one of which is killed and one told to leave, while all are called.

use std::process::Command;
use std::time::Duration;

use coordd_client::{Client, CreateMode, CreateOptions, ReadLevel};
use coordd_tests::{Contender, Ensemble, Line, eventually, example, free_port};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(15);
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

    /// One request by HTTP; status and body.
    async fn http(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// Calls a service of the cluster through this node.
    async fn call(&self, service: &str, method: &str, args: Value) -> (u16, Value) {
        let path = format!("/cluster/services/{service}/api/{method}");
        self.http("POST", &path, &json!({ "args": args }).to_string()).await.expect("the node answers")
    }

    async fn health(&self) -> Value {
        self.http("GET", "/health/cluster", "").await.expect("the node answers").1
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
    first.says("this node leads scheduling").await;
    first.says("this node leads workflow").await;
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
        assert_eq!(leader["node"], "node-1", "only the leader is called");
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

    let (status, metrics) = second.http("GET", "/metrics/cluster", "").await.expect("the node answers");
    let (own, cluster) = (&metrics["nodeMetrics"], &metrics["clusterMetrics"]);
    assert_eq!((status, &own["nodeId"]), (200, &json!("node-2")), "{metrics}");
    assert_eq!((&cluster["totalNodes"], &cluster["answeringNodes"]), (&json!(3), &json!(3)), "{metrics}");
    assert!(own["memoryUsage"].as_u64() > Some(1 << 20) && own["cpuUsage"].is_number(), "{metrics}");
    // Put, three times get and status, info, and the one that was refused, which is no error of the node.
    assert!(cluster["totalRequests"].as_u64() >= Some(9), "{metrics}");
    assert!(cluster["requestsPerSecond"].as_f64() > Some(0.1), "{metrics}");
    assert!(cluster["averageLatency"].as_f64() > Some(0.0), "{metrics}");
    assert_eq!(cluster["errorRate"], 0.0, "{metrics}");

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
        third.call("scheduling", "status", json!([])).await.1["node"] == "node-2"
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
    let down = third.marked("✗");
    let expected =
        ["health monitoring", "watches", "leader elections", "services withdrawn", "services stopped"];
    assert!(down.iter().zip(expected).all(|(line, step)| line.starts_with(step)), "{down:?}");
    assert!(down[5].starts_with("node deregistered") && down[6].starts_with("disconnected"), "{down:?}");
    second.says("node node-3 left").await;
    let (status, _) = second.call("caching", "get", json!(["greeting"])).await;
    assert_eq!(status, 200);

    // Every run was scheduled once and done once; what was claimed by the dead, too.
    assert!(second.process.terminate().await.success());
    let runs = client.get(format!("{ROOT}/services/scheduling/active_jobs"), ReadLevel::Linearizable).await;
    let runs: usize = String::from_utf8_lossy(&runs.expect("runs").0).parse().expect("a number");
    let done = children(&client, "services/workflow/done").await;
    let mut left = 0;
    for state in ["pending", "running", "dead", "delayed"] {
        left += children(&client, &format!("services/workflow/queue/{state}")).await.len();
    }
    assert_eq!(done.len() + left, runs, "done {done:?}");
    assert!(second.process.lines().iter().all(|line| !line.text.contains("node-3 failed")));
    assert!(children(&client, "nodes").await.is_empty());
    println!("{runs} runs, {} done", done.len());
}
