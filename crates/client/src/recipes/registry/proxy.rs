use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use super::call::causes;
use super::host::{BODY_MAX, CallBody, ErrorBody, status};
use super::{CallError, CallOptions, ServiceHost, ServiceInstance, ServiceProvider};

/// An address that does not take a connection in this time counts as unreachable.
const CONNECT: Duration = Duration::from_secs(1);

/// Keeps connections, and shares them with its clones.
pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

pub(crate) fn http_client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector)
}

/// Calls the methods of a service, wherever it runs: `POST http://{host}:{port}/services/{service}/api/{method}` with
/// `{"args": [...]}`; the answer is JSON. A call that is routed to this process goes to its [`ServiceHost`] directly, if the
/// registry was given one.
///
/// Connections are kept and shared by the clones.
#[derive(Clone)]
pub struct ServiceProxy {
    provider: ServiceProvider,
    http: HttpClient,
    host: Option<ServiceHost>,
    options: CallOptions,
}

impl std::fmt::Debug for ServiceProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceProxy").field("service", &self.provider.service()).finish_non_exhaustive()
    }
}

impl ServiceProxy {
    pub(crate) fn new(provider: ServiceProvider, host: Option<ServiceHost>) -> Self {
        Self { provider, http: http_client(), host, options: CallOptions::default() }
    }

    /// Makes calls with these options.
    #[must_use]
    pub fn with_options(&self, options: CallOptions) -> Self {
        Self { options, ..self.clone() }
    }

    /// What it chooses instances with.
    pub fn provider(&self) -> &ServiceProvider {
        &self.provider
    }

    /// Calls a method.
    ///
    /// # Errors
    ///
    /// `Refused` with what the service said; `Unavailable` if nobody could be called, `NotSent` if nobody was reached; `TimedOut`
    /// and `Broken`: it may have done what was asked.
    ///
    /// # Cancellation
    ///
    /// A call that was sent may be carried out.
    pub async fn call(
        &self,
        method: &str,
        args: impl IntoIterator<Item = Value>,
    ) -> Result<Value, CallError> {
        let request = self.request(method, args);
        self.provider.call(&self.options, |instance| self.send(instance, request.clone())).await
    }

    /// Calls a method on every instance that takes calls, whatever the mode.
    ///
    /// # Errors
    ///
    /// In the answers, which are in the order of the instances' ids.
    ///
    /// # Cancellation
    ///
    /// Calls that were sent may be carried out.
    pub async fn call_all(
        &self,
        method: &str,
        args: impl IntoIterator<Item = Value>,
    ) -> Vec<(Arc<ServiceInstance>, Result<Value, CallError>)> {
        let request = self.request(method, args);
        self.provider.call_all(&self.options, |instance| self.send(instance, request.clone())).await
    }

    fn request(&self, method: &str, args: impl IntoIterator<Item = Value>) -> Request {
        Request { method: method.into(), args: args.into_iter().collect() }
    }

    async fn send(&self, instance: Arc<ServiceInstance>, request: Request) -> Result<Value, CallError> {
        let service = self.provider.service();
        let id = instance.id.clone();
        if self.provider.local() == Some(id.as_str())
            && let Some(call) =
                self.host.as_ref().and_then(|host| host.call(service, &request.method, request.args.to_vec()))
        {
            return call.await.map_err(|error| answered(id, status(&error).as_u16(), error.to_string()));
        }
        let uri = format!(
            "http://{}/services/{}/api/{}",
            instance.address(),
            escaped(service),
            escaped(&request.method)
        );
        let body = serde_json::to_vec(&CallBody { args: request.args.to_vec() }).unwrap_or_default();
        let unsent = |reason: String| CallError::NotSent { instance: instance.id.clone(), reason };
        let request = http::Request::post(uri)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unsent(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| match error.is_connect() {
            true => unsent(causes(&error)),
            false => CallError::Broken { instance: instance.id.clone(), reason: causes(&error) },
        })?;
        let broken = |reason: String| CallError::Broken { instance: instance.id.clone(), reason };
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| broken(format!("not JSON: {error}")));
        }
        let message = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => body.error,
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        Err(answered(id, status.as_u16(), message))
    }
}

/// A method and its arguments, to be sent several times.
#[derive(Clone)]
struct Request {
    method: Arc<str>,
    args: Arc<[Value]>,
}

/// An instance answers 5xx when it cannot work, and anything else when it does not like the call.
fn answered(instance: String, status: u16, message: String) -> CallError {
    match status {
        500.. => CallError::Broken { instance, reason: format!("it answered {status}: {message}") },
        _ => CallError::Refused { instance, status, message },
    }
}

/// One segment of a path.
fn escaped(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    segment.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_one_segment_of_the_path() {
        assert_eq!(escaped("get"), "get");
        assert_eq!(escaped("a/b?c #ü"), "a%2Fb%3Fc%20%23%C3%BC");
    }

    #[test]
    fn only_failures_of_the_instance_count_against_it() {
        assert!(answered("a".into(), 503, String::new()).blames_instance());
        assert!(!answered("a".into(), 422, String::new()).blames_instance());
        assert!(!answered("a".into(), 404, String::new()).blames_instance());
    }
}
