use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpListener;

/// The most that a request's arguments, or an answer, may take.
pub(crate) const BODY_MAX: usize = 16 * 1024 * 1024;

/// Why a service did not do what was asked; becomes the answer `{"error": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// It has no such method. HTTP status 404.
    #[error("no method {0:?}")]
    NoMethod(String),
    /// It refuses, and would on every instance: the arguments are wrong, or its state forbids it. HTTP status 422.
    #[error("{0}")]
    Refused(String),
    /// This instance cannot, and another might. HTTP status 503, which counts against it with its callers.
    #[error("{0}")]
    Unavailable(String),
}

type Handler =
    Arc<dyn Fn(String, Vec<Value>) -> BoxFuture<'static, Result<Value, ServiceError>> + Send + Sync>;

/// The services of this process, as [`ServiceProxy`](super::ServiceProxy) calls them: by HTTP,
/// `POST /services/{service}/api/{method}` with `{"args": [...]}`, and within the process without it.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use coordd_client::recipes::registry::{ServiceError, ServiceHost};
/// use serde_json::{Value, json};
///
/// let host = ServiceHost::new().service("echo", |method: String, args: Vec<Value>| async move {
///     match method.as_str() {
///         "echo" => Ok(json!(args)),
///         _ => Err(ServiceError::NoMethod(method)),
///     }
/// });
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3001").await?;
/// host.serve(listener, std::future::pending()).await
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ServiceHost {
    services: HashMap<String, Handler>,
}

impl std::fmt::Debug for ServiceHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceHost").field("services", &self.names()).finish()
    }
}

impl ServiceHost {
    /// A host without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service: a function of a method's name and its arguments.
    #[must_use]
    pub fn service<H, F>(mut self, name: impl Into<String>, handler: H) -> Self
    where
        H: Fn(String, Vec<Value>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Value, ServiceError>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |method, args| Box::pin(handler(method, args)));
        self.services.insert(name.into(), handler);
        self
    }

    /// The names of the services, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.services.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Calls a service of this process. `None` if there is none of this name.
    pub fn call(
        &self,
        service: &str,
        method: &str,
        args: Vec<Value>,
    ) -> Option<BoxFuture<'static, Result<Value, ServiceError>>> {
        self.services.get(service).map(|handler| handler(method.to_owned(), args))
    }

    /// The routes, to serve them beside others.
    pub fn router(&self) -> Router {
        let call = post(answer).layer(DefaultBodyLimit::max(BODY_MAX));
        Router::new().route("/services/{service}/api/{method}", call).with_state(self.clone())
    }

    /// Serves until `stop` completes and the calls then under way are answered.
    ///
    /// # Errors
    ///
    /// Those of the listener.
    ///
    /// # Cancellation
    ///
    /// Connections are closed with calls under way.
    pub async fn serve(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        axum::serve(listener, self.router()).with_graceful_shutdown(stop).await
    }
}

/// What a call sends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallBody {
    #[serde(default)]
    pub(crate) args: Vec<Value>,
}

/// What is answered instead of a value.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: String,
}

async fn answer(
    State(host): State<ServiceHost>,
    Path((service, method)): Path<(String, String)>,
    Json(body): Json<CallBody>,
) -> Response {
    let answered = match host.call(&service, &method, body.args) {
        Some(call) => call.await,
        None => return refusal(StatusCode::NOT_FOUND, format!("no service {service:?} here")),
    };
    match answered {
        Ok(value) => Json(value).into_response(),
        Err(error) => refusal(status(&error), error.to_string()),
    }
}

/// The HTTP status that says the same.
pub(crate) fn status(error: &ServiceError) -> StatusCode {
    match error {
        ServiceError::NoMethod(_) => StatusCode::NOT_FOUND,
        ServiceError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ServiceError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn refusal(status: StatusCode, error: String) -> Response {
    (status, Json(ErrorBody { error })).into_response()
}
