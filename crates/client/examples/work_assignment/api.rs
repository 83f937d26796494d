//! What a node answers by HTTP, for the whole cluster: all of it stands in the tree, so any node will do.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use coordd_client::recipes::{AssignmentStatus, WorkAssignment, WorkerShare};
use coordd_client::{Client, ErrorKind};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::node::Command;
use crate::{GROUP, is_healthy};

/// Who asks by HTTP is not kept waiting for longer: for the ensemble, or for somebody to lead.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) group: WorkAssignment,
    /// What this node is told.
    pub(crate) commands_tx: mpsc::UnboundedSender<Command>,
}

pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/cluster/status", get(status))
        .route("/api/cluster/nodes", get(nodes))
        .route("/api/cluster/nodes/{id}", get(node).delete(remove))
        .route("/api/cluster/leader", get(leader))
        .route("/api/cluster/assignments", get(assignments))
        .route("/api/cluster/rebalance", post(rebalance))
        .route("/api/cluster/join", post(join))
        .with_state(api)
}

/// What is answered instead: `{"error": ...}`.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

async fn in_time<T>(asking: impl Future<Output = Result<T, coordd_client::Error>>) -> Result<T, Refusal> {
    let too_late = |_| Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, asking).await.map_err(too_late)?.map_err(|error| {
        let status = match error.kind {
            ErrorKind::NoNode => StatusCode::NOT_FOUND,
            ErrorKind::BadArguments => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal(status, error.to_string())
    })
}

async fn status(State(api): State<Api>) -> Answer {
    let status = in_time(api.group.status()).await?;
    let nodes = &status.distribution.workers;
    Ok(Json(json!({
        "totalNodes": nodes.len(),
        "healthyNodes": nodes.iter().filter(|node| is_healthy(node)).count(),
        "leader": status.leader,
        "processors": status.items.len(),
        "unassigned": status.distribution.unassigned,
        // Each processor runs where it is assigned.
        "settled": status.is_settled(),
        "averageLoad": status.distribution.average_score,
        "loadRange": status.distribution.score_range,
        "moves": status.moves,
        "rebalances": status.rebalances,
        "settings": status.settings,
    })))
}

fn describe(status: &AssignmentStatus, node: &WorkerShare) -> Value {
    let is_owned = |owner: &str| owner == node.id;
    let owned = status
        .items
        .iter()
        .filter(|(_, item)| item.owner.as_ref().is_some_and(|owner| is_owned(&owner.worker)));
    json!({
        "id": node.id,
        "healthy": is_healthy(node),
        "leads": status.leader.as_ref() == Some(&node.id),
        "weight": node.weight,
        "load": node.score,
        "processors": owned.map(|(id, _)| id).collect::<Vec<_>>(),
    })
}

async fn nodes(State(api): State<Api>) -> Answer {
    let status = in_time(api.group.status()).await?;
    let nodes: Vec<_> = status.distribution.workers.iter().map(|node| describe(&status, node)).collect();
    Ok(Json(json!({ "nodes": nodes })))
}

async fn node(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let status = in_time(api.group.status()).await?;
    let node = status.distribution.workers.iter().find(|node| node.id == id);
    let node = node.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("there is no node {id:?}")))?;
    Ok(Json(describe(&status, node)))
}

async fn leader(State(api): State<Api>) -> Answer {
    let status = in_time(api.group.status()).await?;
    Ok(Json(json!({ "leader": status.leader })))
}

async fn assignments(State(api): State<Api>) -> Answer {
    let status = in_time(api.group.status()).await?;
    let items = status.items.into_iter().map(|(id, item)| {
        let (owner, epoch) = item.owner.map(|owner| (owner.worker, owner.epoch)).unzip();
        (id, json!({ "assignedTo": item.assigned_to, "owner": owner, "epoch": epoch, "cost": item.cost }))
    });
    Ok(Json(json!({ "assignments": items.collect::<Map<_, _>>() })))
}

/// Answered when it is planned; the processors are handed over then.
async fn rebalance(State(api): State<Api>) -> Answer {
    in_time(api.group.rebalance()).await?;
    status(State(api)).await
}

/// Answered when the node has been told; it is among the nodes as soon as it has joined.
async fn join(State(api): State<Api>) -> Response {
    // Nobody hears it only while the process ends.
    let _ = api.commands_tx.send(Command::Join);
    (StatusCode::ACCEPTED, Json(json!({ "node": api.name }))).into_response()
}

/// The node hears of it by its membership, which is this znode.
async fn remove(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    in_time(api.client.delete(format!("{GROUP}/workers/{id}"), None)).await?;
    Ok(Json(json!({ "removed": id })))
}
