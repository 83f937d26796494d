use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use tonic::transport::{Channel, Endpoint};

use crate::{Error, ErrorKind};

const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Finds nodes: the endpoints in turn, in an order of its own, names resolved anew each time.
pub(crate) struct Connector {
    /// "host:port" each.
    endpoints: Vec<String>,
    next: usize,
    dial_timeout: Duration,
}

impl Connector {
    /// Clients that start together should not all meet at the first node: the order is random.
    pub(crate) fn new(endpoints: Vec<String>, dial_timeout: Duration) -> Result<Self, Error> {
        let mut endpoints: Vec<String> =
            endpoints.iter().map(|endpoint| host_and_port(endpoint)).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(Error::new(ErrorKind::BadArguments, "no endpoints given"));
        }
        endpoints.shuffle(&mut rand::rng());
        Ok(Self { endpoints, next: 0, dial_timeout })
    }

    pub(crate) fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// Opens a connection to the next endpoint; of a name with several addresses, to the first that answers.
    pub(crate) async fn dial(&mut self) -> Result<(Channel, String), Error> {
        let index = self.next;
        self.next = (index + 1) % self.endpoints.len();
        let endpoint = self.endpoints[index].clone();
        let failed = |cause: String| Error::new(ErrorKind::ConnectionLoss, format!("{endpoint}: {cause}"));
        let resolving = tokio::net::lookup_host(self.endpoints[index].as_str());
        let addresses = match tokio::time::timeout(self.dial_timeout, resolving).await {
            Ok(resolved) => resolved.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed("the name was not resolved in time".into())),
        };
        let mut last = failed("the name has no address".into());
        for address in addresses {
            match tokio::time::timeout(self.dial_timeout, connect(address)).await {
                Ok(Ok(channel)) => return Ok((channel, endpoint)),
                Ok(Err(error)) => last = failed(error_chain(&error)),
                Err(_) => last = failed(format!("no connection within {:?}", self.dial_timeout)),
            }
        }
        Err(last)
    }
}

/// "host:port" of what a person may have written.
fn host_and_port(endpoint: &str) -> Result<String, Error> {
    let trimmed = endpoint.trim().trim_start_matches("http://").trim_end_matches('/');
    let port = trimmed.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(_) => Ok(trimmed.to_owned()),
        None => Err(Error::new(ErrorKind::BadArguments, format!("endpoint {endpoint:?} is not host:port"))),
    }
}

async fn connect(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(10)))
        // The session has pings of its own; these find a dead peer under a stream that only waits to be torn down.
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    endpoint.connect().await
}

/// tonic says "transport error" and keeps the reason in the source.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Pauses between attempts: short at first, because a new leader is usually there within a second and the gap in
/// service is ours to keep short; longer later, because then something is broken and hammering does not help.
pub(crate) struct Backoff {
    endpoint_count: u32,
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const EARLY_MAX: Duration = Duration::from_millis(80);
    const EARLY_ROUNDS: u32 = 20;
    const LATE_MAX: Duration = Duration::from_secs(1);

    pub(crate) fn new(endpoint_count: usize) -> Self {
        Self { endpoint_count: u32::try_from(endpoint_count).unwrap_or(u32::MAX).max(1), failures: 0 }
    }

    /// How often every endpoint was tried.
    pub(crate) fn rounds(&self) -> u32 {
        self.failures / self.endpoint_count
    }

    /// The pause after another failure.
    pub(crate) fn next(&mut self) -> Duration {
        let rounds = self.rounds();
        self.failures = self.failures.saturating_add(1);
        let limit = if rounds < Self::EARLY_ROUNDS { Self::EARLY_MAX } else { Self::LATE_MAX };
        let pause = Self::FIRST.saturating_mul(1 << rounds.min(10)).min(limit);
        // Clients that lost the same node should not come back together.
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7401", "node-1.example:1", "[::1]:7401", "http://a:1/"] {
            assert!(host_and_port(good).is_ok(), "{good}");
        }
        for bad in ["", "host", ":7401", "host:", "host:70000", "host:x"] {
            assert_eq!(host_and_port(bad).unwrap_err().kind, ErrorKind::BadArguments, "{bad}");
        }
    }

    #[test]
    fn pauses_are_short_for_seconds_and_never_over_a_second() {
        let mut backoff = Backoff::new(3);
        let pauses: Vec<Duration> = (0..1000).map(|_| backoff.next()).collect();
        assert!(pauses[..60].iter().all(|pause| *pause <= Backoff::EARLY_MAX));
        assert!(pauses.iter().all(|pause| *pause >= Backoff::FIRST / 2 && *pause <= Backoff::LATE_MAX));
    }
}
