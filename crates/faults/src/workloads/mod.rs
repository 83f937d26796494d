//! What clients do while the ensemble is broken under them. Each workload has its own znodes and sessions, and writes down all it does
//! and is told; what that must look like, its checker knows.

mod assignment;
mod counters;
mod ephemerals;
mod grants;
mod order;
mod queue;
mod registers;
mod sequence;
mod transfers;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use coordd_client::WatchMode;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use crate::history::{Answer, Writer};
use crate::recorded_client::RecordedClient;
use registers::paths as register_paths;
use transfers::paths as account_paths;

pub(crate) use assignment::{items as assigned_items, prepare as prepare_assignment};
pub(crate) use counters::{COUNTER, ROOT as COUNTERS};
pub(crate) use ephemerals::ROOT as EPHEMERALS;
pub(crate) use grants::{LOG_ROOT as GRANT_LOGS, ROOT as GRANTS};
pub(crate) use order::ROOT as ORDERED;
pub(crate) use queue::{DONE_ROOT as DONE_TASKS, remaining_tasks};
pub(crate) use registers::ROOT as REGISTERS;
pub(crate) use sequence::ROOT as SEQUENCE;
pub(crate) use transfers::{INITIAL_BALANCE, ROOT as ACCOUNTS};
pub(crate) use watches::ROOT as WATCHED;

/// The parents of what workloads write; all of it is looked at in the end. What recipes keep, their own roots aside, is theirs.
pub(crate) const ROOTS: [&str; 9] =
    [REGISTERS, ACCOUNTS, ORDERED, SEQUENCE, WATCHED, EPHEMERALS, GRANT_LOGS, DONE_TASKS, COUNTERS];

/// The znodes below the roots, with their values, that are there before the workloads begin.
pub(crate) fn prepared() -> Vec<(String, String)> {
    let registers = register_paths().into_iter().map(|path| (path, String::new()));
    let accounts = account_paths().into_iter().map(|path| (path, INITIAL_BALANCE.to_string()));
    let grants = ["lock", "election"].map(str::to_owned).into_iter().chain(assigned_items());
    let logs = grants.map(|grant| (format!("{GRANT_LOGS}/{grant}"), String::new()));
    registers.chain(accounts).chain(logs).collect()
}

/// Whether a path is below a root.
pub(crate) fn is_below(root: &str, path: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
}

/// A client that has lost its session, or got none, waits so long before it tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a workload runs with.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) endpoints: Vec<String>,
    /// Of these clients.
    pub(crate) process: u32,
    pub(crate) seed: u64,
    pub(crate) timeout: Duration,
    /// The mean pause between two operations of one task.
    pub(crate) pace: Duration,
    pub(crate) writer: Arc<Writer>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Context {
    fn goes_on(&self) -> bool {
        !*self.stop.borrow()
    }

    /// Waits for the end.
    async fn stopped(&self) {
        // Without a sender it is the end, too.
        drop(self.stop.clone().wait_for(|stop| *stop).await);
    }

    fn rng(&self, workload: &str, task: u64) -> StdRng {
        let salt =
            workload.bytes().fold(task, |salt, byte| salt.wrapping_mul(31).wrapping_add(u64::from(byte)));
        StdRng::seed_from_u64(self.seed ^ (u64::from(self.process) << 32) ^ salt)
    }

    /// A random pause, so that tasks do not run in step.
    async fn pause(&self, rng: &mut StdRng) {
        tokio::time::sleep(self.pace.mul_f64(rng.random_range(0.0..2.0))).await;
    }

    /// A session; asks until it gets one. `None` is the end of the workload.
    async fn session(&self, workload: &str) -> Option<RecordedClient> {
        let name = format!("{}/{workload}", self.process);
        while self.goes_on() {
            if let Some(client) =
                RecordedClient::open(&self.writer, &name, &self.endpoints, self.timeout).await
            {
                return Some(client);
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }
}

/// Runs all workloads until they are stopped, and have had their last answers.
pub(crate) async fn run(context: Context) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..3 {
        tasks.spawn(registers::run(context.clone(), task));
    }
    for task in 0..2 {
        tasks.spawn(transfers::run(context.clone(), task));
        tasks.spawn(grants::run(context.clone(), task));
    }
    tasks.spawn(order::run(context.clone()));
    tasks.spawn(sequence::run(context.clone()));
    tasks.spawn(watches::write(context.clone()));
    tasks.spawn(watches::subscribe(context.clone(), WatchMode::PersistentRecursive));
    tasks.spawn(watches::subscribe(context.clone(), WatchMode::Persistent));
    tasks.spawn(ephemerals::run(context.clone()));
    tasks.spawn(counters::run(context.clone()));
    tasks.spawn(queue::produce(context.clone()));
    tasks.spawn(queue::consume(context.clone()));
    tasks.spawn(assignment::run(context));
    while let Some(ended) = tasks.join_next().await {
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// Whether there is an answer, be it a refusal.
fn is_answer(answer: &Answer) -> bool {
    *answer != Answer::Unanswered
}
