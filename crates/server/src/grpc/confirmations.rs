//! Until when sessions of unary calls surely live: asks the leader, for all `KeepAlive` calls that wait, in one round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coordd_raft::SignOfLife;
use coordd_tree::SessionId;
use tokio::sync::{mpsc, oneshot};

use crate::service::Service;

/// Calls that wait at a time (G9). A call beyond that is answered as unconfirmed.
const WAITING_MAX: usize = 10_000;
/// A call waits for its confirmation for at most so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Sessions that were not confirmed are asked about again after so long.
const PAUSE: Duration = Duration::from_millis(50);

type Waiting = (SessionId, oneshot::Sender<()>);

/// The `KeepAlive` calls that wait for the leader.
pub(crate) struct Confirmations {
    waiting_tx: mpsc::Sender<Waiting>,
}

impl Confirmations {
    /// Must be called in a tokio runtime. Its task ends when this is dropped.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        let (waiting_tx, waiting_rx) = mpsc::channel(WAITING_MAX);
        tokio::spawn(confirm(service, waiting_rx));
        Self { waiting_tx }
    }

    /// Whether no leader, present or later, expires the session within its timeout from this call on.
    pub(crate) async fn is_confirmed(&self, session: SessionId) -> bool {
        let (confirmed_tx, confirmed) = oneshot::channel();
        if self.waiting_tx.try_send((session, confirmed_tx)).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(PATIENCE, confirmed).await, Ok(Ok(())))
    }
}

/// What has gathered while a round was under way is the next round.
async fn confirm(service: Arc<Service>, mut waiting_rx: mpsc::Receiver<Waiting>) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        if waiting.is_empty() {
            match waiting_rx.recv().await {
                Some(first) => waiting.push(first),
                None => return,
            }
        }
        while waiting.len() < WAITING_MAX
            && let Ok(next) = waiting_rx.try_recv()
        {
            waiting.push(next);
        }
        let sessions: BTreeSet<_> = waiting.iter().map(|(session, _)| *session).collect();
        // A call acts for whoever has the session.
        let signs = sessions.into_iter().map(|session| SignOfLife { session, generation: 0 }).collect();
        let renewed = service.replica().renew(signs).await.unwrap_or_default();
        let renewed: BTreeSet<_> = renewed.into_iter().collect();
        let mut unconfirmed = Vec::new();
        for (session, confirmed_tx) in waiting {
            if renewed.contains(&session) {
                // The call may have been given up.
                let _ = confirmed_tx.send(());
            } else if !confirmed_tx.is_closed() {
                unconfirmed.push((session, confirmed_tx));
            }
        }
        waiting = unconfirmed;
        if !waiting.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
