use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::timeout;
use tonic::Status;

/// Lets calls of peers through to Raft until it is closed.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    is_closed: Arc<RwLock<bool>>,
}

/// A call that is under way. Drop it when Raft has answered.
pub(crate) struct Pass {
    _guard: OwnedRwLockReadGuard<bool>,
}

impl Gate {
    /// Fails when the node is stopping.
    pub(crate) fn pass(&self) -> Result<Pass, Status> {
        match self.is_closed.clone().try_read_owned() {
            Ok(guard) if !*guard => Ok(Pass { _guard: guard }),
            _ => Err(Status::unavailable("this node is stopping")),
        }
    }

    /// Lets nobody through any more, and waits for the calls that are under way, for so long at most.
    pub(crate) async fn close(&self, patience: Duration) {
        if let Ok(mut is_closed) = timeout(patience, self.is_closed.write()).await {
            *is_closed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A closed gate lets nobody through, and is closed when everybody has passed.
    #[tokio::test]
    async fn closed_gate_is_empty() {
        let gate = Gate::default();
        let pass = gate.pass().map_err(|status| status.to_string()).expect("it is open");
        let mut closing = Box::pin(gate.close(Duration::from_secs(60)));
        assert!(futures::poll!(&mut closing).is_pending());
        assert!(gate.pass().is_err(), "nobody new");
        drop(pass);
        closing.await;
        assert!(gate.pass().is_err());
    }
}
