use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::layout::{self, RunRecord};
use super::restarts::Restarts;
use super::runner::{Exit, Job, Runner};
use super::spec::HealerSpec;
use super::status::CopyState;
use crate::recipes::Grant;
use crate::recipes::detached::detach;
use crate::recipes::parents::remove_ownerless;
use crate::recipes::waiting_line::{Left, until_left};
use crate::recipes::znode::to_json;
use crate::{Client, Error, ErrorKind};

/// The pause after a refusal that may pass.
const RETRY: Duration = Duration::from_secs(1);

/// One copy that an agent runs, in one session.
pub(super) struct CopyTask<R> {
    pub(super) client: Client,
    pub(super) root: Arc<str>,
    pub(super) agent: Arc<str>,
    pub(super) copy: u32,
    pub(super) spec: watch::Receiver<Arc<HealerSpec>>,
    /// Tells it to end; so does its closing.
    pub(super) stop: watch::Receiver<bool>,
    pub(super) runner: Arc<R>,
}

impl<R: Runner> CopyTask<R> {
    /// Runs the copy until it is told to stop or the session ends. Nothing of it is left then.
    pub(super) async fn run(mut self) {
        loop {
            let mut stop = self.stop.clone();
            let taken = tokio::select! {
                biased;
                _ = stop.wait_for(|is_told| *is_told) => return,
                taken = self.take() => taken,
            };
            match taken {
                Ok(grant) => {
                    let grant = Arc::new(grant);
                    self.run_under(&grant).await;
                    // Only now may anybody else have it.
                    if let Err(error) = grant.release().await {
                        tracing::debug!(copy = self.copy, %error, "the grant of a copy ended with its session");
                    }
                }
                Err(error) if error.is_terminal() => return,
                Err(error) => {
                    tracing::warn!(copy = self.copy, %error, "a copy cannot be run here; trying again");
                    tokio::time::sleep(error.retry_after.unwrap_or(RETRY)).await;
                }
            }
            if self.is_told() || self.client.state().is_terminal() {
                return;
            }
        }
    }

    fn is_told(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Waits until nobody else runs the copy, and takes it.
    async fn take(&self) -> Result<Grant, Error> {
        let path = format!("{}/{}", layout::running(&self.root), layout::name(self.copy));
        let spec = self.spec.borrow().clone();
        let grace = spec.grace().min(self.client.session_timeout() / 4);
        let record = to_json(&self.record(CopyState::Starting, &Restarts::default()))?;
        loop {
            if let Left::Ownerless(stat) = until_left(&self.client, &path).await? {
                remove_ownerless(&self.client, &path, &stat).await?;
            }
            match Grant::create(&self.client, path.clone(), record.clone(), Some(grace)).await {
                Err(error) if error.kind == ErrorKind::NodeExists => {}
                taken => return taken,
            }
        }
    }

    /// Runs the command, again and again, until the copy is to end here.
    async fn run_under(&mut self, grant: &Arc<Grant>) {
        let mut restarts = Restarts::default();
        while !self.is_told() && !grant.is_lost() {
            let spec = self.spec.borrow_and_update().clone();
            let (exit, ran_for) = self.run_once(grant, &spec, &restarts).await;
            let how = match exit {
                Exit::Ended(how) => how,
                Exit::Stopped => {
                    // If it is another command that is to run, its account begins anew; else the runner knew before the grant
                    // that this is at its end.
                    restarts = Restarts::default();
                    self.rest(grant, &spec, RETRY).await;
                    continue;
                }
            };
            tracing::info!(copy = self.copy, how, "a copy has ended");
            let pause = restarts.on_exit(&spec, ran_for, how);
            let record = RunRecord {
                is_failing: restarts.is_failing(&spec),
                ..self.record(CopyState::BackOff, &restarts)
            };
            self.report(grant, &record);
            if self.rest(grant, &spec, pause).await {
                restarts = Restarts::default();
            }
        }
    }

    /// Waits for so long, if nothing happens before. Returns whether another command is to run.
    async fn rest(&mut self, grant: &Grant, spec: &HealerSpec, pause: Duration) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|is_told| *is_told) => false,
            _ = grant.lost() => false,
            () = until_other_command(&mut self.spec, spec) => true,
            () = tokio::time::sleep(pause) => false,
        }
    }

    async fn run_once(
        &mut self,
        grant: &Arc<Grant>,
        spec: &HealerSpec,
        restarts: &Restarts,
    ) -> (Exit, Duration) {
        let (stop_tx, stop) = watch::channel(false);
        let (started, mut started_rx) = watch::channel(None);
        let job = Job {
            copy: self.copy,
            agent: self.agent.clone(),
            command: spec.command.clone(),
            grace: spec.grace(),
            grant: grant.clone(),
            client: self.client.clone(),
            stop,
            started,
        };
        let (runner, mut told, mut newest) = (self.runner.clone(), self.stop.clone(), self.spec.clone());
        let mut running = std::pin::pin!(runner.run(job));
        let mut to_end = std::pin::pin!(async {
            tokio::select! {
                _ = told.wait_for(|is_told| *is_told) => {}
                () = until_other_command(&mut newest, spec) => {}
            }
        });
        let begun = Instant::now();
        let (mut is_ending, mut pid) = (false, None);
        loop {
            tokio::select! {
                exit = &mut running => return (exit, begun.elapsed()),
                () = &mut to_end, if !is_ending => {
                    is_ending = true;
                    stop_tx.send_replace(true);
                }
                Ok(()) = started_rx.changed(), if pid.is_none() => {
                    pid = *started_rx.borrow_and_update();
                    self.report(grant, &RunRecord { pid, ..self.record(CopyState::Running, restarts) });
                }
            }
        }
    }

    fn record(&self, state: CopyState, restarts: &Restarts) -> RunRecord {
        RunRecord {
            agent: self.agent.to_string(),
            state,
            pid: None,
            restarts: restarts.count,
            is_failing: false,
            last_exit: restarts.last_exit.clone(),
        }
    }

    /// Says what the copy does. It does not wait: a copy must be ended in time also when no node answers.
    fn report(&self, grant: &Grant, record: &RunRecord) {
        match (to_json(record), grant.client()) {
            (Ok(record), Ok(client)) => detach(client.set(grant.path(), record, None)),
            // Nobody is to hear of it any more.
            (_, Err(_)) => {}
            (Err(error), _) => tracing::warn!(copy = self.copy, %error, "what a copy does cannot be said"),
        }
    }
}

/// Waits until the spec names another command.
async fn until_other_command(newest: &mut watch::Receiver<Arc<HealerSpec>>, spec: &HealerSpec) {
    if newest.wait_for(|newest| newest.command != spec.command).await.is_err() {
        // The agent is about to end, and says so otherwise.
        std::future::pending::<()>().await;
    }
}
