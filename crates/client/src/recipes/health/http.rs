use std::fmt;

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::check::bad;
use crate::Error;
use crate::recipes::registry::causes;

/// So much of an answer is looked at; a longer one fails the check.
const BODY_MAX: usize = 64 * 1024;

/// A check by HTTP: a GET on a new connection, and what is expected of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    uri: Uri,
    status: Option<u16>,
    text: Option<String>,
}

impl HttpCheck {
    /// That `http://HOST:PORT/PATH` answers with a status from 200 to 299.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is no such address.
    pub fn new(address: &str) -> Result<Self, Error> {
        match address.parse::<Uri>() {
            Ok(uri)
                if uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()) =>
            {
                Ok(Self { uri, status: None, text: None })
            }
            _ => Err(bad(format!("{address:?} cannot be asked: http://HOST:PORT/PATH"))),
        }
    }

    /// That it answers with this status and no other.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// That this text is in its answer, which must not be longer than 64 KiB then.
    #[must_use]
    pub fn containing(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    pub(super) async fn attempt(&self) -> Result<(), String> {
        // A server that takes no new connections does not work, whatever it answers on older ones.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let request = http::Request::get(self.uri.clone()).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = client.request(request).await.map_err(|error| causes(&error))?;
        let status = answer.status();
        if self.status.map_or(!status.is_success(), |expected| status.as_u16() != expected) {
            return Err(format!("it answers {}", status.as_u16()));
        }
        let Some(text) = &self.text else { return Ok(()) };
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| format!("its answer cannot be read: {error}"))?.to_bytes();
        match String::from_utf8_lossy(&body).contains(text) {
            true => Ok(()),
            false => Err(format!("its answer does not contain {text:?}")),
        }
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;
    use crate::recipes::health::{CheckOutcome, HealthCheck};

    #[tokio::test]
    async fn status_and_text_are_what_is_expected_or_not() {
        let router = Router::new()
            .route("/ok", get(|| async { "ready to serve" }))
            .route("/ill", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "ready to serve") }))
            .route("/hangs", get(std::future::pending::<&str>));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let check = |path: &str| HttpCheck::new(&format!("http://{address}{path}")).unwrap();
        let run =
            async |check: HttpCheck| match HealthCheck::from(check).run(Duration::from_millis(500)).await {
                CheckOutcome::Passed { .. } => "passed".to_owned(),
                CheckOutcome::Failed { why } => why,
                CheckOutcome::Inconclusive => "inconclusive".to_owned(),
            };
        assert_eq!(run(check("/ok")).await, "passed");
        assert_eq!(run(check("/ok").containing("ready")).await, "passed");
        assert_eq!(run(check("/ok").containing("steady")).await, "its answer does not contain \"steady\"");
        assert_eq!(run(check("/ok").status(204)).await, "it answers 200");
        assert_eq!(run(check("/ill")).await, "it answers 503");
        assert_eq!(run(check("/ill").status(503).containing("ready")).await, "passed");
        assert_eq!(run(check("/none")).await, "it answers 404");
        assert_eq!(run(check("/hangs")).await, "no answer within 500ms");
    }
}
