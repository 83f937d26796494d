//! The example `work_assignment` against a real ensemble: its story, its nodes one by one, and what it refuses.

use std::process::Command;
use std::time::Duration;

use coordd_client::{CreateMode, ReadLevel};
use coordd_tests::{Contender, Ensemble, eventually, example, http};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const PROCESSORS: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn the_processors_of_a_data_flow_engine_are_distributed_and_none_is_run_twice() {
    let ensemble = Ensemble::start(3).await;
    let mut program = tokio::process::Command::new(example("work_assignment"));
    // The argument wins over the environment.
    program
        .args(["story", "--endpoints", &ensemble.endpoints().join(",")])
        .env("COORDD_ENDPOINTS", "nowhere:1");
    let output = program.output().await.expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let part = |title: &str| {
        let rest = said.split_once(&format!("== {title}")).unwrap_or_else(|| panic!("{title}: {said}")).1;
        rest.split("\n==").next().unwrap_or(rest)
    };
    for strategy in ["round-robin", "least-loaded", "weighted-random", "consistent-hash", "sticky"] {
        let part = part(&format!("Strategy {strategy}"));
        assert!(part.contains("average load") && part.contains("healthy nodes 3 of 3"), "{part}");
    }
    // A node may say so a moment after the group is settled, so that they cannot be counted here.
    let joined = part("Rebalanced: what moves");
    let starts: Vec<_> = joined.lines().filter(|line| line.contains(" starts ")).collect();
    assert!(!starts.is_empty() && starts.iter().all(|line| line.contains("node-4 starts")), "{joined}");
    let relieved = part("node-1 reports a high load");
    assert!(relieved.lines().filter(|line| line.contains("node-1 stops")).count() > 2, "{relieved}");
    assert!(part("node-3 is unhealthy").contains("healthy nodes 3 of 4"), "{said}");
    assert!(part("node-3 is healthy again").contains("healthy nodes 4 of 4"), "{said}");
    assert!(part("node-4 is killed").contains(" starts "), "{said}");
    assert!(part("What was done").contains("none twice"), "{said}");
}

/// A node as an operator starts it, and where it answers.
struct Node {
    process: Contender,
    address: String,
}

impl Node {
    async fn start(ensemble: &Ensemble, name: &str) -> Self {
        let mut command = Command::new(example("work_assignment"));
        command.args(["node", name]);
        let mut process = Contender::start(ensemble, command, "COORDD_ENDPOINTS").await;
        let line = process.wait_for(SOON, "its address", |line| line.text.contains("answers at")).await;
        let (_, url) = line.text.split_once("http://").expect("a URL");
        let (address, _) = url.split_once('/').expect("a path");
        let address = address.to_owned();
        process.wait_for(SOON, "joined", |line| line.text.contains("has joined")).await;
        Node { process, address }
    }

    async fn ask(&self, method: &str, route: &str) -> (u16, Value) {
        let path = format!("/api/cluster/{route}");
        http(&self.address, method, &path, "").await.expect("the node answers")
    }

    async fn get(&self, route: &str) -> Value {
        let (status, body) = self.ask("GET", route).await;
        assert_eq!(status, 200, "{route}: {body}");
        body
    }

    /// Waits until so many nodes are there, so many of them healthy, and all processors run.
    async fn settles(&self, total: usize, healthy: usize) {
        let what = format!("{healthy} of {total} are healthy, and all processors run");
        eventually(SOON, &what, async || {
            // A node whose session has just ended, and that leads, is missed here for a moment.
            let (_, status) = self.ask("GET", "status").await;
            let nodes = (&status["totalNodes"], &status["healthyNodes"]);
            nodes == (&json!(total), &json!(healthy))
                && status["settled"] == true
                && !status["leader"].is_null()
        })
        .await;
    }

    async fn processors(&self, id: &str) -> usize {
        self.get(&format!("nodes/{id}")).await["processors"].as_array().expect("a list").len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_answers_for_the_cluster_and_only_healthy_nodes_receive_work() {
    let ensemble = Ensemble::start(3).await;
    let mut first = Node::start(&ensemble, "node-1").await;
    let mut second = Node::start(&ensemble, "node-2").await;
    let mut third = Node::start(&ensemble, "node-3").await;
    first.settles(3, 3).await;
    // The first one has had everything so far, and the group has just been weighed.
    assert_eq!(third.ask("POST", "rebalance").await.0, 200);
    second.settles(3, 3).await;
    let nodes = first.get("nodes").await;
    let nodes = nodes["nodes"].as_array().expect("a list");
    let ids: Vec<_> = nodes.iter().map(|node| node["id"].as_str().unwrap_or_default()).collect();
    assert_eq!(ids, ["node-1", "node-2", "node-3"]);
    assert!(nodes.iter().all(|node| node["healthy"] == true && node["processors"] != json!([])), "{nodes:?}");
    let leader = second.get("leader").await["leader"].clone();
    assert_eq!(nodes.iter().filter(|node| node["leads"] == true).count(), 1, "{nodes:?}");
    assert_eq!(first.get(&format!("nodes/{}", leader.as_str().expect("a name"))).await["leads"], true);
    let assignments = third.get("assignments").await;
    let assignments = assignments["assignments"].as_object().expect("an object");
    assert_eq!(assignments.len(), PROCESSORS);
    assert!(assignments.values().all(|item| item["owner"] == item["assignedTo"] && item["epoch"].is_u64()));

    // An unhealthy node gives its work away, and gets it back.
    second.process.send("unhealthy");
    eventually(SOON, "it is unhealthy", async || first.get("nodes/node-2").await["healthy"] == false).await;
    assert_eq!(first.ask("POST", "rebalance").await.0, 200);
    first.settles(3, 2).await;
    assert_eq!(first.processors("node-2").await, 0);
    second.process.send("healthy");
    eventually(SOON, "it is healthy", async || first.get("nodes/node-2").await["healthy"] == true).await;
    assert_eq!(first.ask("POST", "rebalance").await.0, 200);
    first.settles(3, 3).await;
    assert!(first.processors("node-2").await > 0);

    // Who is removed is out until it is asked to join.
    assert_eq!(first.ask("DELETE", "nodes/node-3").await.0, 200);
    third.process.wait_for(SOON, "removed", |line| line.text.contains("node-3 was removed")).await;
    first.settles(2, 2).await;
    assert_eq!(first.ask("GET", "nodes/node-3").await.0, 404);
    assert_eq!(first.ask("DELETE", "nodes/node-3").await.0, 404);
    assert_eq!(third.ask("POST", "join").await.0, 202);
    third.process.wait_for(SOON, "joined", |line| line.text.contains("has joined")).await;
    third.settles(3, 3).await;

    // Whatever node is left answers for all.
    first.process.kill9();
    second.settles(2, 2).await;
    assert_ne!(third.get("leader").await["leader"], "node-1");
    second.process.send("leave");
    assert!(second.process.wait_exit().await.success());
    third.settles(1, 1).await;
    assert_eq!(third.processors("node-3").await, PROCESSORS);
    assert!(third.process.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_refused_and_nothing_is_deleted() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(SOON).await;
    client.create("/databridge", "somebody's", CreateMode::Persistent).await.expect("a create");
    let run = async |args: &[&str]| {
        let mut program = tokio::process::Command::new(example("work_assignment"));
        program.env("COORDD_ENDPOINTS", ensemble.endpoints().join(","));
        program.args(args).output().await.expect("it starts")
    };
    let endpoints = ensemble.endpoints().join(",");
    let wrong: [&[&str]; 8] = [
        &[],
        &["nonsense"],
        &[&endpoints],
        &[&endpoints, "node", "node-1", "1"],
        &["story", "now"],
        &["node"],
        &["node", "node-1", "--weight", "0"],
        &["node", "node-1", "node-2"],
    ];
    for args in wrong {
        let output = run(args).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("--help"), "it says how to use it: {args:?}: {said}");
    }
    let help = run(&["--help"]).await;
    let said = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success() && said.contains("story") && said.contains("COORDD_ENDPOINTS"), "{said}");
    let (data, _) = client.get("/databridge", ReadLevel::Linearizable).await.expect("it is still there");
    assert_eq!(data, "somebody's");

    // Nor does the story begin where nodes are at work.
    let mut node = Node::start(&ensemble, "node-1").await;
    let output = run(&["story"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("nodes work there: node-1"), "{said}");
    node.settles(1, 1).await;
    assert!(node.process.terminate().await.success());
}
