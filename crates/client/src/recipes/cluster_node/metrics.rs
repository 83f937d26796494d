//! What a node measures of itself, and what the nodes of its cluster measure together.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt as _, Full, Limited};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::calls::{Tally, WINDOW};
use crate::recipes::registry::{HttpClient, ServiceInstance};

/// A node that does not answer in this time is left out.
const PATIENCE: Duration = Duration::from_secs(1);
const BODY_MAX: usize = 64 * 1024;

/// What `GET /metrics/node` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeMetrics {
    pub(super) node_id: String,
    /// The load of its machine: how many processes have run or wanted to, on average over a minute.
    pub(super) cpu_usage: Option<f64>,
    /// The memory that the process has, in bytes.
    pub(super) memory_usage: Option<u64>,
    /// In seconds.
    pub(super) uptime: u64,
    pub(super) calls_under_way: usize,
    pub(super) total_requests: u64,
    pub(super) last_minute: Tally,
}

/// What `GET /metrics/cluster` answers: this node, and the sums over those that answer.
pub(super) async fn of_cluster(own: NodeMetrics, others: Vec<ServiceInstance>, http: &HttpClient) -> Value {
    let asked = others.len() + 1;
    let others = join_all(others.iter().map(|instance| ask(instance, http))).await;
    let mut answered: Vec<_> = others.into_iter().flatten().collect();
    answered.push(own.clone());
    json!({ "nodeMetrics": own, "clusterMetrics": sum(asked, &answered) })
}

async fn ask(instance: &ServiceInstance, http: &HttpClient) -> Option<NodeMetrics> {
    let uri = format!("http://{}/metrics/node", instance.address());
    let request = http::Request::get(uri).body(Full::new(Bytes::new())).ok()?;
    let answer = async {
        let response = http.request(request).await.ok()?;
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    timeout(PATIENCE, answer).await.ok()?
}

fn sum(asked: usize, answered: &[NodeMetrics]) -> Value {
    let mut lately = Tally::default();
    answered.iter().for_each(|node| lately.add(&node.last_minute));
    // A cluster that is younger than the window has had less time for them.
    let seconds = answered.iter().map(|node| node.uptime).max().unwrap_or(0).clamp(1, WINDOW.as_secs());
    let per_request = |sum: f64| (lately.requests > 0).then(|| sum / lately.requests as f64);
    json!({
        "totalNodes": asked,
        "answeringNodes": answered.len(),
        "totalRequests": answered.iter().map(|node| node.total_requests).sum::<u64>(),
        "requestsPerSecond": lately.requests as f64 / seconds as f64,
        "averageLatency": per_request(lately.latency_ms),
        "errorRate": per_request(lately.errors as f64),
    })
}

/// Where the system says it: Linux.
pub(super) fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Where the system says it: Linux.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(|kib: u64| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_cluster_are_the_sums_of_its_nodes() {
        let node = |uptime, requests, errors, latency_ms| NodeMetrics {
            node_id: "n".into(),
            cpu_usage: None,
            memory_usage: None,
            uptime,
            calls_under_way: 0,
            total_requests: 1000,
            last_minute: Tally { requests, errors, latency_ms },
        };
        let of = |nodes: &[NodeMetrics]| sum(3, nodes);
        let expected = json!({
            "totalNodes": 3, "answeringNodes": 2, "totalRequests": 2000,
            "requestsPerSecond": 2.0, "averageLatency": 3.0, "errorRate": 0.25,
        });
        assert_eq!(of(&[node(600, 80, 30, 200.0), node(7, 40, 0, 160.0)]), expected);
        let young = of(&[node(0, 0, 0, 0.0)]);
        assert_eq!((&young["requestsPerSecond"], &young["averageLatency"]), (&json!(0.0), &Value::Null));
    }
}
