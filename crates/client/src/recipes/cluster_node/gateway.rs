//! What a node answers by HTTP beside the calls of its services.

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::metrics::NodeMetrics;
use super::node::NodeView;
use crate::ErrorKind;
use crate::recipes::registry::{BODY_MAX, CallError, CallOptions};

/// `GET /health/cluster`, `GET /metrics/cluster`, which asks the nodes for `GET /metrics/node`, and
/// `POST /cluster/services/{service}/api/{method}` with `{"args": [...], "key": "..."}`: a call of any service of the cluster, for
/// those who know this node only.
pub(super) fn router(view: NodeView) -> Router {
    let call = post(call).layer(DefaultBodyLimit::max(BODY_MAX));
    Router::new()
        .route("/health/cluster", get(health))
        .route("/metrics/cluster", get(cluster_metrics))
        .route("/metrics/node", get(node_metrics))
        .route("/cluster/services/{service}/api/{method}", call)
        .with_state(view)
}

/// What a caller sends.
#[derive(Debug, Deserialize)]
struct Body {
    #[serde(default)]
    args: Vec<Value>,
    /// What consistent hashing hashes, and for what a sticky choice is remembered.
    key: Option<String>,
}

impl Body {
    fn options(&self) -> CallOptions {
        let options = CallOptions::new();
        match &self.key {
            Some(key) => options.key(key),
            None => options,
        }
    }
}

async fn health(State(view): State<NodeView>) -> Json<Value> {
    Json(view.health().await)
}

async fn cluster_metrics(State(view): State<NodeView>) -> Json<Value> {
    Json(view.cluster_metrics().await)
}

async fn node_metrics(State(view): State<NodeView>) -> Json<NodeMetrics> {
    Json(view.metrics())
}

async fn call(
    State(view): State<NodeView>,
    Path((service, method)): Path<(String, String)>,
    Json(body): Json<Body>,
) -> Response {
    let answer = match view.context().proxy(&service).await {
        Ok(proxy) => proxy.with_options(body.options()).call(&method, body.args).await,
        Err(error) => Err(CallError::Coordination(error)),
    };
    match answer {
        Ok(value) => Json(value).into_response(),
        Err(error) => (status(&error), Json(json!({ "error": error.to_string() }))).into_response(),
    }
}

fn status(error: &CallError) -> StatusCode {
    match error {
        // As the service said it.
        CallError::Refused { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
        CallError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        CallError::NotSent { .. } | CallError::Broken { .. } => StatusCode::BAD_GATEWAY,
        CallError::Coordination(error)
            if matches!(error.kind, ErrorKind::NoNode | ErrorKind::BadArguments) =>
        {
            StatusCode::NOT_FOUND
        }
        CallError::Unavailable { .. } | CallError::Coordination(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_call_has_the_key_that_is_sent_and_else_none() {
        let options = |body: Value| serde_json::from_value::<Body>(body).unwrap().options();
        assert_eq!(options(json!({ "args": [1], "key": "k" })), CallOptions::new().key("k"));
        assert_eq!(options(json!({ "args": [1], "key": null })), CallOptions::new());
        assert_eq!(options(json!({})), CallOptions::new());
        assert!(serde_json::from_value::<Body>(json!({ "key": 7 })).is_err());
    }

    #[test]
    fn who_calls_through_a_node_is_told_whose_fault_it_is() {
        let instance = || "a".to_owned();
        let refused = |status| CallError::Refused { instance: instance(), status, message: String::new() };
        let cases = [
            (refused(422), 422),
            (refused(0), 502),
            (CallError::NotSent { instance: instance(), reason: String::new() }, 502),
            (CallError::TimedOut { instance: instance(), after: std::time::Duration::ZERO }, 504),
            (CallError::Unavailable { service: "s".into(), reason: String::new() }, 503),
            (CallError::Coordination(Error::new(ErrorKind::NoNode, "no such service")), 404),
            (CallError::Coordination(Error::new(ErrorKind::SessionClosed, "closed")), 503),
        ];
        for (error, expected) in cases {
            assert_eq!(status(&error), expected, "{error}");
        }
    }
}
