use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use coordd_client::NodeStatus;
use serde::Serialize;

use crate::context::Context;
use crate::everybody::{Answer, Everybody, Inquiry, nobody};
use crate::exit::Failure;
use crate::table::Table;

/// Prints the state of every node: of the endpoints, and of the members that they name.
///
/// Fails if no node answers. A node that does not answer, or takes no clients, has a line that says so. The rules in force
/// are in the line while the node knows newer ones: until all members of the ensemble have been upgraded.
#[derive(Args, Debug)]
pub(crate) struct Status {}

#[derive(Serialize)]
struct NodeOutput {
    /// Absent for a member of which nobody knows where clients reach it.
    endpoint: Option<String>,
    /// Of such a member; that of the others is in their state.
    #[serde(rename = "node_id", skip_serializing_if = "Option::is_none")]
    member_id: Option<u64>,
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
    /// The rules in force, and the newest that the node knows. 0: a build from before there were rules.
    rules: u32,
    rules_known: u32,
    /// What clients can make grow beside znodes, by name.
    tables: BTreeMap<String, u64>,
    client_memory_bytes: u64,
    client_memory_max_bytes: u64,
    memory_limit_bytes: u64,
    memory_is_low: bool,
    connections: u64,
    connections_max: u64,
    streams: u64,
    watch_bytes: u64,
    open_files: u64,
    open_files_max: u64,
}

#[derive(Serialize)]
struct StatusOutput {
    nodes: Vec<NodeOutput>,
}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let everybody = Everybody::ask(&Inquiry::new(context, None)).await?;
        let states = || everybody.nodes.iter().filter_map(|node| node.answer.as_ref().ok());
        if states().next().is_none() {
            return Err(nobody(everybody.failures()));
        }
        let leaders = states().filter(|status| status.role == "leader");
        let leader_committed = leaders.max_by_key(|status| status.term).map(|status| status.committed_index);
        let node = |Answer { endpoint, answer }| {
            let (error, state) = match answer {
                Ok(status) => (None, Some(state(status, leader_committed))),
                Err(error) => (Some(error.to_string()), None),
            };
            NodeOutput { endpoint: Some(endpoint), member_id: None, error, state }
        };
        let unknown = everybody.unknown.into_iter().map(|member| NodeOutput {
            endpoint: None,
            member_id: Some(member.node_id),
            error: Some(format!(
                "nobody knows where clients reach it; its peers do at {}",
                member.peer_address
            )),
            state: None,
        });
        let nodes = everybody.nodes.into_iter().map(node).chain(unknown).collect();
        context.output().result(&StatusOutput { nodes })
    }
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
        rules: status.rules,
        rules_known: status.rules_known,
        tables: status.tables,
        client_memory_bytes: status.client_memory_bytes,
        client_memory_max_bytes: status.client_memory_max_bytes,
        memory_limit_bytes: status.memory_limit_bytes,
        memory_is_low: status.memory_is_low,
        connections: status.connections,
        connections_max: status.connections_max,
        streams: status.streams,
        watch_bytes: status.watch_bytes,
        open_files: status.open_files,
        open_files_max: status.open_files_max,
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
        row[0] = node.endpoint.clone().unwrap_or_else(absent);
        row[1] = node.member_id.map_or_else(absent, |id| id.to_string());
        row[HEADINGS.len() - 1] = node.error.clone().unwrap_or_default();
        return row;
    };
    let number = |number: Option<u64>| number.map_or_else(absent, |number| number.to_string());
    [
        node.endpoint.clone().unwrap_or_else(absent),
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
            None if state.growth_refused && !state.disk_is_low && state.memory_is_low => {
                "serving, without growth: no memory left".into()
            }
            None if state.growth_refused => "serving, without growth: no room on the disks".into(),
            None if state.disk_is_low => "serving; little room on its disk".into(),
            None if state.rules_known > state.rules => {
                format!("serving; rules {} in force, {} known", state.rules, state.rules_known)
            }
            None if state.memory_is_low => "serving; little memory left".into(),
            None => "serving".into(),
            Some(reason) => format!("not serving: {reason}"),
        },
    ]
}
