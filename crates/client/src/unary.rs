use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;

use crate::connector::{Backoff, Connector};
use crate::far::after;
use crate::{Error, ErrorKind};

/// Replies may be larger than gRPC's usual 4 MiB: an answer to a multi, or a page of sessions.
pub(crate) const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long one of several nodes may take to answer before the next is asked. Grows with each round.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes calls without a session: asks nodes in turn until one answers, and stays with that one.
#[derive(Debug)]
pub(crate) struct Caller {
    // Held while a node is looked for, and not while it is asked.
    nodes: tokio::sync::Mutex<Nodes>,
}

#[derive(Debug)]
struct Nodes {
    connector: Connector,
    present: Option<Node>,
    dialled: u64,
}

/// A connection, and which of this caller's it is.
#[derive(Clone, Debug)]
struct Node {
    channel: Channel,
    endpoint: String,
    number: u64,
}

/// An answer, and what is not known about the attempts before it.
pub(crate) struct Asked<T> {
    pub(crate) answer: Result<T, Error>,
    /// A node was asked before and did not answer: it may have carried out the call all the same, or still will.
    pub(crate) may_be_repeated: bool,
}

impl Caller {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { nodes: tokio::sync::Mutex::new(Nodes { connector, present: None, dialled: 0 }) }
    }

    /// Connects to the first node that takes a connection; returns its endpoint.
    pub(crate) async fn connect(&self) -> Result<String, Error> {
        let mut nodes = self.nodes.lock().await;
        let mut failed = nodes.next().await.err();
        for _ in 1..nodes.connector.endpoint_count() {
            if failed.is_none() {
                break;
            }
            failed = nodes.next().await.err();
        }
        match (failed, &nodes.present) {
            (None, Some(node)) => Ok(node.endpoint.clone()),
            (failed, _) => Err(nodes.connector.summary().or(failed).unwrap_or_else(nobody)),
        }
    }

    /// Asks until some node answers, at most for `timeout`. A node that is silent, does not serve or cannot be reached is
    /// passed over; any other error is an answer. If all endpoints refuse, that is told without waiting for the timeout.
    ///
    /// The call must do no harm if it is carried out twice.
    pub(crate) async fn ask<T, F>(&self, timeout: Duration, call: impl Fn(Channel) -> F) -> Asked<T>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let deadline = after(timeout);
        let mut backoff = Backoff::default();
        let (mut attempts, mut silent, mut may_be_repeated) = (0, false, false);
        let mut last_failed = None;
        loop {
            let (node, is_fresh, count) =
                match tokio::time::timeout_at(deadline, self.node(last_failed)).await {
                    Ok(found) => found,
                    Err(_) => return Asked { answer: Err(self.summary(timeout).await), may_be_repeated },
                };
            if let Ok(node) = node {
                last_failed = Some(node.number);
                let patience = match count {
                    0 | 1 => timeout,
                    _ => PATIENCE * (1 + u32::try_from(attempts / count).unwrap_or(u32::MAX)),
                };
                let patience = patience.min(deadline.saturating_duration_since(Instant::now()));
                let error = match tokio::time::timeout(patience, call(node.channel.clone())).await {
                    Ok(Ok(reply)) => return Asked { answer: Ok(reply.into_inner()), may_be_repeated },
                    Ok(Err(status)) => Error::from(status),
                    Err(_) => {
                        silent = true;
                        Error::new(ErrorKind::ConnectionLoss, format!("no answer within {patience:?}"))
                    }
                };
                if !matches!(error.kind, ErrorKind::NotServing | ErrorKind::ConnectionLoss) {
                    return Asked { answer: Err(error), may_be_repeated };
                }
                may_be_repeated |= error.kind == ErrorKind::ConnectionLoss;
                tracing::debug!(endpoint = node.endpoint, %error, "a node did not answer a call");
                self.note(&node, error).await;
                // A connection from before says nothing about the node if it is broken by now.
                if !is_fresh {
                    continue;
                }
            }
            attempts += 1;
            if attempts.is_multiple_of(count.max(1)) {
                if !std::mem::take(&mut silent) {
                    return Asked { answer: Err(self.summary(timeout).await), may_be_repeated };
                }
                tokio::time::sleep(backoff.next(1)).await;
            }
            if Instant::now() >= deadline {
                return Asked { answer: Err(self.summary(timeout).await), may_be_repeated };
            }
        }
    }

    /// The present node, unless it is the one that failed; otherwise the next one. With whether the connection is new, and how
    /// many nodes there are.
    async fn node(&self, failed: Option<u64>) -> (Result<Node, Error>, bool, usize) {
        let mut nodes = self.nodes.lock().await;
        if let Some(node) = &nodes.present
            && failed != Some(node.number)
        {
            return (Ok(node.clone()), false, nodes.connector.endpoint_count());
        }
        let node = nodes.next().await;
        (node, true, nodes.connector.endpoint_count())
    }

    async fn note(&self, node: &Node, error: Error) {
        self.nodes.lock().await.connector.failed(&node.endpoint, error);
    }

    async fn summary(&self, timeout: Duration) -> Error {
        let late = || Error::new(ErrorKind::ConnectionLoss, format!("no node answered within {timeout:?}"));
        self.nodes.lock().await.connector.summary().unwrap_or_else(late)
    }
}

impl Nodes {
    async fn next(&mut self) -> Result<Node, Error> {
        self.present = None;
        let (channel, found) = self.connector.dial().await?;
        self.dialled += 1;
        let node = Node { channel, endpoint: found.name(), number: self.dialled };
        self.present = Some(node.clone());
        Ok(node)
    }
}

fn nobody() -> Error {
    Error::new(ErrorKind::ConnectionLoss, "no node was found")
}
