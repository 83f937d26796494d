use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::attempts::Attempts;
use crate::discovery::{Endpoints, Found, in_order};
use crate::far::bounded;
use crate::{Error, ErrorKind};

const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What was resolved earlier than this is resolved again before it is dialled.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// While no node is known nothing can be done but wait for a source.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
/// A slow source gets more time after each round that led nowhere, up to so many times the first.
const PATIENCE_GROWTH_MAX: u32 = 5;

/// Finds nodes, round by round: in each the endpoints are resolved anew, and what was found is tried in turn, in an order of
/// the client's own. It keeps why each of them could not be used.
#[derive(Debug)]
pub(crate) struct Connector {
    endpoints: Endpoints,
    /// What is not tried yet in this round.
    round: VecDeque<Found>,
    began: Instant,
    /// Rounds that were tried to their end, one after the other.
    failed_rounds: u32,
    last: Option<SocketAddr>,
    dial_timeout: Duration,
    attempts: Attempts,
}

impl Connector {
    pub(crate) fn new(endpoints: Vec<String>, dial_timeout: Duration) -> Result<Self, Error> {
        Ok(Self {
            endpoints: Endpoints::parse(endpoints)?,
            round: VecDeque::new(),
            began: Instant::now(),
            failed_rounds: 0,
            last: None,
            dial_timeout: bounded(dial_timeout),
            attempts: Attempts::default(),
        })
    }

    /// A node that took a connection did not do what was asked.
    pub(crate) fn failed(&mut self, endpoint: &str, error: Error) {
        self.attempts.note(endpoint, error);
    }

    /// A node did what was asked: what the others said before is of no interest any more.
    pub(crate) fn succeeded(&mut self) {
        self.attempts.clear();
    }

    /// The newest error of each node that has failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Error> {
        self.attempts.iter()
    }

    /// Whether some node could not be reached, or some source names no node.
    pub(crate) fn is_any_out_of_reach(&self) -> bool {
        self.failures().any(|error| error.kind == ErrorKind::ConnectionLoss)
            || self.endpoints.failures().next().is_some()
    }

    /// Why no node could be used: a line for each endpoint. `None` if none has failed.
    pub(crate) fn summary(&self) -> Option<Error> {
        let mut attempts = self.attempts.clone();
        for (source, cause) in self.endpoints.failures() {
            attempts.note(&source, Error::new(ErrorKind::ConnectionLoss, cause));
        }
        attempts.summary()
    }

    /// How many nodes there are, as far as that is known.
    pub(crate) fn endpoint_count(&self) -> usize {
        self.endpoints.count()
    }

    /// Opens a connection to the next node.
    pub(crate) async fn dial(&mut self) -> Result<(Channel, Found), Error> {
        let node = match self.round.pop_front().filter(|_| self.began.elapsed() < ROUND_MAX) {
            Some(node) => node,
            None => self.begin_round().await?,
        };
        self.dial_node(node).await
    }

    async fn dial_node(&mut self, node: Found) -> Result<(Channel, Found), Error> {
        self.last = Some(node.address);
        let cause = match tokio::time::timeout(self.dial_timeout, connect(node.address)).await {
            Ok(Ok(channel)) => return Ok((channel, node)),
            Ok(Err(error)) => error_chain(&error),
            Err(_) => format!("no connection within {:?}", self.dial_timeout),
        };
        let name = node.name();
        self.attempts.note(&name, Error::new(ErrorKind::ConnectionLoss, cause.clone()));
        Err(Error::new(ErrorKind::ConnectionLoss, format!("{name}: {cause}")))
    }

    /// Resolves the endpoints; returns the first node to try.
    async fn begin_round(&mut self) -> Result<Found, Error> {
        let went_to_its_end = self.last.is_some() && self.began.elapsed() < ROUND_MAX;
        self.failed_rounds = if went_to_its_end { self.failed_rounds.saturating_add(1) } else { 0 };
        let patience = match self.endpoints.knows_some() {
            true => self.dial_timeout * (1 + self.failed_rounds).min(PATIENCE_GROWTH_MAX),
            false => FIRST_PATIENCE,
        };
        let found = self.endpoints.find(patience).await?;
        let names: Vec<String> = found.iter().map(Found::name).collect();
        self.attempts.retain(|endpoint| names.iter().any(|name| name == endpoint));
        self.round = in_order(found, self.last, &mut rand::rng()).into();
        self.began = Instant::now();
        self.round.pop_front().ok_or_else(|| Error::new(ErrorKind::ConnectionLoss, "no node was found"))
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
#[derive(Default)]
pub(crate) struct Backoff {
    rounds: u32,
    failures_in_round: usize,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const EARLY_MAX: Duration = Duration::from_millis(80);
    const EARLY_ROUNDS: u32 = 20;
    const LATE_MAX: Duration = Duration::from_secs(1);

    /// How often every endpoint was tried.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The pause after another failure, where there are so many endpoints.
    pub(crate) fn next(&mut self, endpoint_count: usize) -> Duration {
        let limit = if self.rounds < Self::EARLY_ROUNDS { Self::EARLY_MAX } else { Self::LATE_MAX };
        let pause = Self::FIRST.saturating_mul(1 << self.rounds.min(10)).min(limit);
        self.failures_in_round += 1;
        if self.failures_in_round >= endpoint_count {
            self.failures_in_round = 0;
            self.rounds = self.rounds.saturating_add(1);
        }
        // Clients that lost the same node should not come back together.
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_short_for_seconds_and_never_over_a_second() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..1000).map(|_| backoff.next(3)).collect();
        assert!(pauses[..60].iter().all(|pause| *pause <= Backoff::EARLY_MAX));
        assert!(pauses.iter().all(|pause| *pause >= Backoff::FIRST / 2 && *pause <= Backoff::LATE_MAX));
        assert_eq!(backoff.rounds(), 333);
    }

    /// The time to dial grows from round to round, also from the longest that there is.
    #[tokio::test]
    async fn longest_dial_timeout_is_a_time() {
        // Nobody listens there.
        let mut connector = Connector::new(vec!["127.0.0.1:1".into()], Duration::MAX).unwrap();
        for _ in 0..4 {
            assert_eq!(connector.dial().await.unwrap_err().kind, ErrorKind::ConnectionLoss);
        }
        assert!(connector.failed_rounds >= 2, "{}", connector.failed_rounds);
    }

    #[tokio::test]
    async fn a_round_tries_every_address_once_and_the_next_begins_with_another() {
        // Nobody listens on these.
        let endpoints = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(String::from).to_vec();
        let mut connector = Connector::new(endpoints, Duration::from_millis(400)).unwrap();
        let mut tried = Vec::new();
        for _ in 0..9 {
            connector.dial().await.unwrap_err();
            tried.extend(connector.last);
        }
        for round in tried.chunks(3) {
            assert!(
                (1..=3).all(|port| round.contains(&SocketAddr::from(([127, 0, 0, 1], port)))),
                "{tried:?}"
            );
        }
        assert!(tried.windows(2).all(|pair| pair[0] != pair[1]), "{tried:?}");
    }
}
