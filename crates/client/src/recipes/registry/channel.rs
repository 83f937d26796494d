use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};

use super::call::causes;
use super::{CallError, CallOptions, Mode, ServiceInstance, ServiceProvider};

const CONNECT: Duration = Duration::from_secs(1);
/// A connection on which nothing comes back for so long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A gRPC channel that follows the registry: it stands in for a `tonic::transport::Channel` under any generated client,
/// and sends each call where mode and strategy say, with circuit breaker, timeout and retry.
///
/// [`CallOptions`] for one call go into the extensions of its request; those for all of them are given to
/// [`with_options`](Self::with_options). A call counts against its instance when it is not answered in time or the answer is
/// `UNAVAILABLE`. The timeout is that of the answer's beginning; a stream of answers may take longer.
///
/// The request of a call that is idempotent, or goes to a service whose mode is `replicated`, is kept in memory to be sent
/// again: unary calls only. That of another call goes to a second instance only if the first could not be connected to, and so
/// nothing of it was read.
///
/// ```no_run
/// # async fn example(provider: coordd_client::recipes::registry::ServiceProvider) -> Result<(), tonic::Status> {
/// use coordd_client::recipes::registry::{CallOptions, RegistryChannel};
/// # use coordd_proto::v1::{OutcomeRequest, coordd_client::CoorddClient as GreeterClient};
/// # type HelloRequest = OutcomeRequest;
///
/// let channel = RegistryChannel::new(provider).with_options(CallOptions::new().idempotent(true));
/// let mut greeter = GreeterClient::new(channel);
/// let mut request = tonic::Request::new(HelloRequest::default());
/// request.extensions_mut().insert(CallOptions::new().key("user-17"));
/// let answer = greeter.outcome(request).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RegistryChannel {
    provider: ServiceProvider,
    options: CallOptions,
    connections: Arc<Connections>,
}

impl RegistryChannel {
    /// A channel to the instances of the provider's service. Its clones share the connections.
    pub fn new(provider: ServiceProvider) -> Self {
        Self { provider, options: CallOptions::default(), connections: Arc::default() }
    }

    /// Makes calls with these options, unless a request brings its own.
    #[must_use]
    pub fn with_options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }

    /// What it chooses instances with.
    pub fn provider(&self) -> &ServiceProvider {
        &self.provider
    }

    async fn send(self, mut request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let options = request.extensions_mut().remove().unwrap_or_else(|| self.options.clone());
        let is_kept = options.idempotent || self.provider.config().mode == Mode::Replicated;
        let request = &Outgoing::new(request, is_kept).await?;
        let answer = self.provider.call(&options, |instance| {
            let (connections, provider) = (self.connections.clone(), self.provider.clone());
            async move {
                let channel = connections.to(&instance, &provider).await?;
                // That is not this instance's fault.
                let request = request.take().ok_or_else(|| CallError::Unavailable {
                    service: provider.service().to_owned(),
                    reason: "the request was sent before, and was not kept".to_owned(),
                })?;
                let answer = channel.oneshot(request).await;
                let answer = judge(&instance, answer);
                if matches!(answer, Err(CallError::Broken { .. } | CallError::NotSent { .. })) {
                    connections.forget(&instance);
                }
                answer
            }
        });
        answer.await.map_err(status)
    }
}

impl Service<http::Request<Body>> for RegistryChannel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Whom a call goes to is known only when it is made.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// A request that may have to be sent several times.
enum Outgoing {
    Kept { head: http::request::Parts, body: Bytes },
    Once { head: http::request::Parts, body: Unread },
}

/// A body until its first byte is asked for.
type Unread = Arc<Mutex<Option<Body>>>;

impl Outgoing {
    async fn new(request: http::Request<Body>, is_kept: bool) -> Result<Self, Status> {
        let (head, body) = request.into_parts();
        if !is_kept {
            return Ok(Outgoing::Once { head, body: Arc::new(Mutex::new(Some(body))) });
        }
        Ok(Outgoing::Kept { head, body: body.collect().await?.to_bytes() })
    }

    fn take(&self) -> Option<http::Request<Body>> {
        match self {
            Outgoing::Kept { head, body } => {
                Some(http::Request::from_parts(head.clone(), Body::new(Full::new(body.clone()))))
            }
            // A connection that has broken is noticed only when the request has been handed to it; the request is dropped
            // then, without having been read.
            Outgoing::Once { head, body } => {
                let is_unread = Arc::strong_count(body) == 1 && lock(body).is_some();
                is_unread.then(|| http::Request::from_parts(head.clone(), lent(body.clone())))
            }
        }
    }
}

/// A body that takes the place of `unread` when it is read.
fn lent(unread: Unread) -> Body {
    let body = async move {
        let body = lock(&unread).take();
        body.map(BodyStream::new).ok_or_else(|| Status::internal("the request was read before"))
    };
    Body::new(StreamBody::new(stream::once(body).try_flatten()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One connection an instance.
#[derive(Debug, Default)]
struct Connections {
    channels: Mutex<HashMap<String, (String, Channel)>>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Channel)>> {
        lock(&self.channels)
    }

    async fn to(&self, instance: &ServiceInstance, provider: &ServiceProvider) -> Result<Channel, CallError> {
        let address = instance.address();
        if let Some((known, channel)) = self.lock().get(&instance.id)
            && *known == address
        {
            return Ok(channel.clone());
        }
        let unsent = |reason: String| CallError::NotSent { instance: instance.id.clone(), reason };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| unsent(error.to_string()))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        // Before anything is sent: a call that finds nobody here can go elsewhere.
        let channel = endpoint.connect().await.map_err(|error| unsent(causes(&error)))?;
        let announced = provider.all_instances();
        let mut channels = self.lock();
        channels.retain(|id, _| announced.iter().any(|instance| instance.id == *id));
        channels.insert(instance.id.clone(), (address, channel.clone()));
        Ok(channel)
    }

    fn forget(&self, instance: &ServiceInstance) {
        self.lock().remove(&instance.id);
    }
}

/// What an answer says about its instance.
fn judge(
    instance: &ServiceInstance,
    answer: Result<http::Response<Body>, tonic::transport::Error>,
) -> Result<http::Response<Body>, CallError> {
    let id = instance.id.clone();
    match answer {
        Ok(response) => match Status::from_header_map(response.headers()) {
            Some(status) if status.code() == Code::Unavailable => {
                Err(CallError::Broken { instance: id, reason: status.to_string() })
            }
            _ => Ok(response),
        },
        Err(error) if is_connect(&error) => Err(CallError::NotSent { instance: id, reason: causes(&error) }),
        Err(error) => Err(CallError::Broken { instance: id, reason: causes(&error) }),
    }
}

fn is_connect(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<tonic::ConnectError>() || error.source().is_some_and(is_connect)
}

fn status(error: CallError) -> Status {
    match error {
        CallError::TimedOut { .. } => Status::deadline_exceeded(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> http::Request<Body> {
        http::Request::new(Body::new(Full::new(Bytes::from_static(b"hello"))))
    }

    #[tokio::test]
    async fn a_request_that_was_not_kept_can_be_sent_again_until_it_was_read() {
        let outgoing = Outgoing::new(request(), false).await.unwrap();
        drop(outgoing.take().unwrap());
        let second = outgoing.take().unwrap();
        assert!(outgoing.take().is_none(), "two would be sent");
        assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "hello");
        assert!(outgoing.take().is_none(), "it was read");

        let outgoing = Outgoing::new(request(), true).await.unwrap();
        for _ in 0..2 {
            let kept = outgoing.take().unwrap();
            assert_eq!(kept.into_body().collect().await.unwrap().to_bytes(), "hello");
        }
    }
}
