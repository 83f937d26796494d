use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use imbl::OrdMap;
use tokio::sync::{Semaphore, watch};

use super::checker::Checker;
use super::{CheckOutcome, HealthOptions, HealthReport, HealthTarget, TargetHealth, Transition};
use crate::Error;
use crate::recipes::Sessions;
use crate::recipes::registry::check_name;
use crate::recipes::server_clock::ServerClock;

/// So many checks are under way at a time; more wait, and their waiting does not count against the target.
const CHECKS_MAX: usize = 64;

/// The targets of a monitor, each with the task that checks it. Dropping it ends the checks.
#[derive(Debug)]
pub(super) struct Roster {
    shared: Arc<Shared>,
    checkers: Mutex<Checkers>,
}

#[derive(Debug, Default)]
struct Checkers {
    by_target: HashMap<String, Checker>,
    next_generation: u64,
}

/// What the tasks of a monitor share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: String,
    pub(super) options: HealthOptions,
    pub(super) sessions: Sessions,
    pub(super) clock: ServerClock,
    pub(super) permits: Semaphore,
    /// Wakes when a target comes, goes, or changes its status.
    pub(super) targets: watch::Sender<Targets>,
}

pub(super) type Targets = OrdMap<String, Watched>;

/// A target and how it is.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) target: HealthTarget,
    pub(super) health: TargetHealth,
    /// Another one of the same name has another.
    pub(super) generation: u64,
}

impl Shared {
    /// Takes note of how a check went; of a target that has been replaced or removed meanwhile it is ignored.
    pub(super) fn record(&self, id: &str, generation: u64, outcome: &CheckOutcome) {
        self.change(id, generation, |health| health.on_outcome(outcome, Instant::now()));
    }

    /// A target was not checked for long.
    pub(super) fn forget(&self, id: &str, generation: u64) {
        self.change(id, generation, TargetHealth::forget);
    }

    fn change(
        &self,
        id: &str,
        generation: u64,
        change: impl FnOnce(&mut TargetHealth) -> Option<Transition>,
    ) {
        self.targets.send_if_modified(|targets| match targets.get_mut(id) {
            Some(watched) if watched.generation == generation => {
                let change = change(&mut watched.health);
                if let Some(Transition { old, new }) = change {
                    tracing::info!(target = id, %old, %new, why = watched.health.why(), "health");
                }
                change.is_some()
            }
            _ => false,
        });
    }

    pub(super) fn report(&self, id: &str) -> Option<HealthReport> {
        let targets = self.targets.borrow();
        targets.get(id).map(|watched| self.report_of(watched))
    }

    pub(super) fn report_of(&self, watched: &Watched) -> HealthReport {
        HealthReport::new(&self.id, watched.target.check.to_string(), &watched.health)
    }
}

impl Roster {
    pub(super) fn new(id: String, options: HealthOptions, sessions: Sessions) -> Self {
        let shared = Shared {
            id,
            options,
            sessions,
            clock: ServerClock::default(),
            permits: Semaphore::new(CHECKS_MAX),
            targets: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared), checkers: Mutex::default() }
    }

    pub(super) fn state(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn watch(&self, target: HealthTarget) -> Result<(), Error> {
        check_name("the name of a target", &target.id)?;
        let mut checkers = self.lock();
        if self.shared.targets.borrow().get(&target.id).is_some_and(|watched| watched.target == target) {
            return Ok(());
        }
        let generation = checkers.next_generation;
        checkers.next_generation += 1;
        let health = TargetHealth::new(self.shared.options.policy);
        let watched = Watched { target: target.clone(), health, generation };
        self.shared.targets.send_modify(|targets| drop(targets.insert(target.id.clone(), watched)));
        let id = target.id.clone();
        checkers.by_target.insert(id, Checker::start(self.shared.clone(), target, generation));
        Ok(())
    }

    pub(super) fn remove(&self, id: &str) -> bool {
        let mut checkers = self.lock();
        self.shared.targets.send_if_modified(|targets| targets.remove(id).is_some());
        checkers.by_target.remove(id).is_some()
    }

    /// `None` if there is no such target, now or when its turn comes.
    pub(super) fn check_now(
        &self,
        id: &str,
    ) -> Option<impl Future<Output = Option<HealthReport>> + Send + use<>> {
        self.lock().by_target.get(id).map(Checker::check_now)
    }

    fn lock(&self) -> MutexGuard<'_, Checkers> {
        self.checkers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
