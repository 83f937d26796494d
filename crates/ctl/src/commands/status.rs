use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use clap::Args;
use coordd_client::{Admin, Error, ErrorKind, NodeStatus};
use futures::future::join_all;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::table::Table;

/// Prints the state of every node: of the endpoints, and of the members that they name.
///
/// Fails if no node answers. A node that does not answer, or takes no clients, has a line that says so.
#[derive(Args, Debug)]
pub(crate) struct Status {}

#[derive(Serialize)]
struct NodeOutput {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    state: Option<StateOutput>,
}

#[derive(Serialize)]
struct StateOutput {
    node_id: u64,
    cluster_id: String,
    role: String,
    term: u64,
    leader_id: Option<u64>,
    last_log_index: u64,
    committed_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    purged_index: u64,
    /// Entries that the leader has committed and this node has not applied; absent if no leader answered.
    lag: Option<u64>,
    zxid: u64,
    /// Hexadecimal; equal on nodes with the same zxid.
    digest: String,
    znodes: u64,
    data_bytes: u64,
    sessions: u64,
    attached_sessions: u64,
    watches: u64,
    serving: bool,
    not_serving_reason: Option<String>,
    version: String,
    uptime_ms: u64,
    incarnation: u64,
    log_bytes: u64,
    resident_bytes: u64,
    disk_free_bytes: u64,
    disk_is_low: bool,
    growth_refused: bool,
}

#[derive(Serialize)]
struct StatusOutput {
    nodes: Vec<NodeOutput>,
}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let timeout = context.options.timeout.min(Duration::from_secs(3));
        let endpoints = context.nodes().await?;
        let mut answers = ask_all(endpoints, timeout).await;
        // The members that were not among the endpoints.
        let asked: BTreeSet<u64> =
            answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.node_id)).collect();
        let members =
            answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).flat_map(|status| &status.members);
        let others: BTreeSet<String> = members
            .filter(|member| !asked.contains(&member.node_id))
            .filter_map(|member| member.client_address.clone())
            .filter(|address| !answers.iter().any(|(endpoint, _)| endpoint == address))
            .collect();
        answers.extend(ask_all(others.into_iter().collect(), timeout).await);

        let leader_committed = answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
            .filter(|status| status.role == "leader")
            .max_by_key(|status| status.term)
            .map(|status| status.committed_index);
        if let [.., (_, Err(error))] = answers.as_slice()
            && answers.iter().all(|(_, answer)| answer.is_err())
        {
            return Err(Failure::from(error.clone()));
        }
        let nodes = answers
            .into_iter()
            .map(|(endpoint, answer)| match answer {
                Ok(status) => {
                    NodeOutput { endpoint, error: None, state: Some(state(status, leader_committed)) }
                }
                Err(error) => NodeOutput { endpoint, error: Some(error.to_string()), state: None },
            })
            .collect();
        context.output().result(&StatusOutput { nodes })
    }
}

async fn ask_all(endpoints: Vec<String>, timeout: Duration) -> Vec<(String, Result<NodeStatus, Error>)> {
    let ask = |endpoint: String| async move {
        let asking = async { Admin::connect(endpoint.as_str(), timeout).await?.status().await };
        let late =
            || Error::new(ErrorKind::ConnectionLoss, format!("{endpoint} did not answer within {timeout:?}"));
        let answer = tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| Err(late()));
        (endpoint, answer)
    };
    join_all(endpoints.into_iter().map(ask)).await
}

fn state(status: NodeStatus, leader_committed: Option<u64>) -> StateOutput {
    StateOutput {
        node_id: status.node_id,
        cluster_id: status.cluster_id,
        role: status.role,
        term: status.term,
        leader_id: status.leader_id,
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        purged_index: status.purged_index,
        lag: leader_committed.map(|committed| committed.saturating_sub(status.applied_index)),
        zxid: status.zxid,
        digest: format!("{:016x}", status.digest),
        znodes: status.znodes,
        data_bytes: status.data_bytes,
        sessions: status.sessions,
        attached_sessions: status.attached_sessions,
        watches: status.watches,
        serving: status.not_serving.is_none(),
        not_serving_reason: status.not_serving,
        version: status.version,
        uptime_ms: u64::try_from(status.uptime.as_millis()).unwrap_or(u64::MAX),
        incarnation: status.incarnation,
        log_bytes: status.log_bytes,
        resident_bytes: status.resident_bytes,
        disk_free_bytes: status.disk_free_bytes,
        disk_is_low: status.disk_is_low,
        growth_refused: status.growth_refused,
    }
}

const HEADINGS: [&str; 12] = [
    "ENDPOINT", "NODE", "ROLE", "TERM", "APPLIED", "LAG", "LEADER", "SESSIONS", "WATCHES", "ZNODES", "BYTES",
    "STATE",
];

impl fmt::Display for StatusOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(HEADINGS);
        self.nodes.iter().for_each(|node| table.row(row(node)));
        table.fmt(f)
    }
}

fn row(node: &NodeOutput) -> [String; HEADINGS.len()] {
    let absent = || "-".to_owned();
    let Some(state) = &node.state else {
        let mut row: [String; HEADINGS.len()] = std::array::from_fn(|_| absent());
        row[0].clone_from(&node.endpoint);
        row[HEADINGS.len() - 1] = node.error.clone().unwrap_or_default();
        return row;
    };
    let number = |number: Option<u64>| number.map_or_else(absent, |number| number.to_string());
    [
        node.endpoint.clone(),
        state.node_id.to_string(),
        state.role.clone(),
        state.term.to_string(),
        state.applied_index.to_string(),
        number(state.lag),
        number(state.leader_id),
        format!("{}/{}", state.attached_sessions, state.sessions),
        state.watches.to_string(),
        state.znodes.to_string(),
        state.data_bytes.to_string(),
        match &state.not_serving_reason {
            None if state.growth_refused => "serving, without growth: no room on the disks".into(),
            None if state.disk_is_low => "serving; little room on its disk".into(),
            None => "serving".into(),
            Some(reason) => format!("not serving: {reason}"),
        },
    ]
}
