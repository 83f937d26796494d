use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep_until, timeout};

use super::check::STALL;
use super::roster::Shared;
use super::{CheckOutcome, HealthReport, HealthTarget};
use crate::far::bounded;
use crate::{ReadLevel, Stat};

/// So many who ask for a check wait for the one that is under way; more wait to be heard.
const ASKS_MAX: usize = 64;

/// Asks for a check now, and is answered after it.
type Ask = oneshot::Sender<HealthReport>;

/// The task that checks one target. Dropping this ends it.
#[derive(Debug)]
pub(super) struct Checker {
    asks_tx: mpsc::Sender<Ask>,
    task: AbortHandle,
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    pub(super) fn start(shared: Arc<Shared>, target: HealthTarget, generation: u64) -> Self {
        let (asks_tx, asks_rx) = mpsc::channel(ASKS_MAX);
        let checking = Checking { shared, target, generation };
        Self { asks_tx, task: tokio::spawn(checking.run(asks_rx)).abort_handle() }
    }

    /// Asks for a check; completes with how the target is after it, or with `None` when the checker has ended.
    pub(super) fn check_now(&self) -> impl Future<Output = Option<HealthReport>> + Send + use<> {
        let asks_tx = self.asks_tx.clone();
        async move {
            let (report_tx, report_rx) = oneshot::channel();
            asks_tx.send(report_tx).await.ok()?;
            report_rx.await.ok()
        }
    }
}

struct Checking {
    shared: Arc<Shared>,
    target: HealthTarget,
    generation: u64,
}

impl Checking {
    async fn run(self, mut asks_rx: mpsc::Receiver<Ask>) {
        let id = &self.target.id;
        let mut asks = Vec::new();
        loop {
            let start = tokio::time::Instant::now();
            // All who have asked by now; those who ask from here on want a check that begins later.
            asks.extend(std::iter::from_fn(|| asks_rx.try_recv().ok()));
            loop {
                let outcome = self.check().await;
                self.shared.record(id, self.generation, &outcome);
                if outcome != CheckOutcome::Inconclusive {
                    break;
                }
            }
            for ask in asks.drain(..) {
                if let Some(report) = self.shared.report(id) {
                    // Who asked may have stopped waiting.
                    let _ = ask.send(report);
                }
            }
            // Targets that came together should not be checked together for ever.
            let interval = bounded(self.shared.options.interval);
            let due = start + interval.mul_f64(rand::rng().random_range(0.9..1.0));
            tokio::select! {
                () = sleep_until(due) => {
                    // This process stood still: what it knew is old, and its word may have the same weight as another's.
                    if due.elapsed() > interval + STALL {
                        self.shared.forget(id, self.generation);
                    }
                }
                ask = asks_rx.recv() => match ask {
                    Some(ask) => asks.push(ask),
                    None => return,
                },
            }
        }
    }

    async fn check(&self) -> CheckOutcome {
        // It is never closed.
        let _permit = self.shared.permits.acquire().await;
        let outcome = self.target.check.run(self.shared.options.timeout).await;
        match (&outcome, &self.target.heartbeat) {
            (CheckOutcome::Passed { .. }, Some(path)) => match self.heartbeat(path).await {
                Ok(()) => outcome,
                Err(why) => CheckOutcome::Failed { why },
            },
            _ => outcome,
        }
    }

    /// Fails if the heartbeat is surely missing. Where nobody can be asked nothing is sure.
    async fn heartbeat(&self, path: &str) -> Result<(), String> {
        let mut judged = Ok(());
        // What seems old or missing may only not have arrived at the node of this session.
        for level in [ReadLevel::Local, ReadLevel::Linearizable] {
            let Ok(client) = self.shared.sessions.newest() else { return Ok(()) };
            let asked = timeout(self.shared.options.timeout, client.exists(path, level)).await;
            let Ok(Ok(stat)) = asked else { return Ok(()) };
            judged = self.judge(path, stat);
            if judged.is_ok() {
                return Ok(());
            }
        }
        judged
    }

    fn judge(&self, path: &str, stat: Option<Stat>) -> Result<(), String> {
        let Some(stat) = stat else { return Err(format!("it has no heartbeat: {path} is not there")) };
        let now = self.shared.clock.at(Instant::now()).unwrap_or_default();
        let age = Duration::from_millis(now.saturating_sub(stat.mtime));
        match age > self.shared.options.stale_after {
            true => Err(format!("its last heartbeat is {age:.1?} old")),
            false => Ok(()),
        }
    }
}
