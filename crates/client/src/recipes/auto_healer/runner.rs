use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::Client;
use crate::recipes::{Grant, Loss};

/// What starts and ends the processes of an agent's copies.
///
/// [`ProcessRunner`](super::ProcessRunner) does it within the agent's process; `coordctl supervise` has a process between itself
/// and each copy, which ends the copy also if the agent is killed or stands still.
pub trait Runner: Send + Sync + 'static {
    /// Runs one copy once. It must return only when nothing of it is left, and must end it when [`Job::stopped`] completes, in the
    /// time that this gives: until then nobody else runs the copy.
    ///
    /// It is not cancelled.
    fn run(&self, job: Job) -> impl Future<Output = Exit> + Send;
}

/// How a copy came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, or it could not be started. Says how, for people: "exit code 1".
    Ended(String),
    /// It was told to.
    Stopped,
}

/// One copy that is to run.
pub struct Job {
    /// Its number, from 0.
    pub copy: u32,
    /// The name of the agent.
    pub agent: Arc<str>,
    /// The command and its arguments; not empty.
    pub command: Vec<String>,
    /// How long it may take to end; see [`stopped`](Self::stopped).
    pub grace: Duration,
    /// What the copy runs under: its znode is below `<path>/running`.
    pub grant: Arc<Grant>,
    /// The session of the agent.
    pub client: Client,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) started: watch::Sender<Option<u32>>,
}

impl Job {
    /// What the command is to find in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("COORDD_COPY", self.copy.to_string()),
            ("COORDD_AGENT", self.agent.to_string()),
            ("COORDD_EPOCH", self.grant.epoch().to_string()),
            ("COORDD_GRANT_PATH", self.grant.path().to_owned()),
        ]
    }

    /// Its process runs, and has this id.
    pub fn started(&self, pid: u32) {
        self.started.send_replace(Some(pid));
    }

    /// Waits until the copy is to end: it is to run elsewhere or not at all, or the agent may lose its session. Returns how much time
    /// there is for it.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn stopped(&self) -> Duration {
        let mut stop = self.stop.clone();
        tokio::select! {
            loss = self.grant.lost() => match loss {
                Loss::Doubtful => self.client.alive_for().min(self.grace),
                // Somebody else may have it already.
                Loss::Deleted | Loss::SessionEnded => Duration::ZERO,
            },
            // Closed: nobody is there who could say that it is to go on.
            _ = stop.wait_for(|is_told| *is_told) => self.client.alive_for().min(self.grace),
        }
    }
}
