use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout_at};

use super::call::may_retry;
use super::directory::Member;
use super::pool::{Choice, Permit, Pool, Question};
use super::{BreakerState, CallError, CallOptions, Mode, ServiceConfig, ServiceInstance};
use crate::far::bounded;

/// How often one who waits for an instance looks whether a circuit breaker admits a trial.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a provider follows: the newest view of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// Those that take calls, in the order of their ids.
    pub(crate) healthy: Vec<Member>,
    /// Those that would, and are kept out by what their monitors say.
    pub(crate) quarantined: Vec<Member>,
    /// All.
    pub(crate) all: Vec<Member>,
    pub(crate) config: ServiceConfig,
    /// The id of the instance that leads, while the mode is leader-based.
    pub(crate) leader: Option<String>,
}

/// Calls one service: sees its instances, its configuration and its leader change, and chooses accordingly at each call.
///
/// Curator's `ServiceProvider`, which chooses only; its `noteError` and down-instance policy are the circuit breakers here.
/// Clones share what they know. It follows the service for as long as a clone is there.
#[derive(Clone, Debug)]
pub struct ServiceProvider {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    service: String,
    local: Option<String>,
    view: watch::Receiver<Arc<View>>,
    pool: Arc<Pool>,
    /// Follows as long as this is there.
    _follower: AbortOnDrop,
}

/// Ends a task with its owner.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ServiceProvider {
    pub(crate) fn new(
        service: String,
        local: Option<String>,
        view: watch::Receiver<Arc<View>>,
        pool: Arc<Pool>,
        follower: AbortOnDrop,
    ) -> Self {
        Self { shared: Arc::new(Shared { service, local, view, pool, _follower: follower }) }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// The caller's own id, if the registry was told.
    pub fn local(&self) -> Option<&str> {
        self.shared.local.as_deref()
    }

    fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// The instances that take calls, in the order of their ids: healthy by their own finding and by that of most of their
    /// monitors, if they have any, and with a heartbeat that is not stale.
    pub fn instances(&self) -> Vec<Arc<ServiceInstance>> {
        self.view().healthy.iter().map(|member| member.instance.clone()).collect()
    }

    /// The instances that most of their monitors have in quarantine though they call themselves healthy, in the order of their
    /// ids.
    pub fn quarantined(&self) -> Vec<Arc<ServiceInstance>> {
        self.view().quarantined.iter().map(|member| member.instance.clone()).collect()
    }

    /// All instances that are announced, whatever their status, in the order of their ids.
    pub fn all_instances(&self) -> Vec<Arc<ServiceInstance>> {
        self.view().all.iter().map(|member| member.instance.clone()).collect()
    }

    /// The configuration in force.
    pub fn config(&self) -> ServiceConfig {
        self.view().config
    }

    /// The id of the instance that leads, as far as is known here. `None` unless the mode is leader-based.
    pub fn leader(&self) -> Option<String> {
        self.view().leader.clone()
    }

    /// The circuit breakers of the instances that were called.
    pub fn breakers(&self) -> Vec<(String, BreakerState)> {
        self.shared.pool.breakers(Instant::now())
    }

    /// Waits until instances, configuration and leader satisfy a condition, of which the caller is given this provider.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut view = self.shared.view.clone();
        loop {
            view.borrow_and_update();
            if condition(self) {
                return;
            }
            if view.changed().await.is_err() {
                // The follower has ended with the sessions; nothing will change.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whom a call with these options would be made to now: one instance, or in mode `replicated` all of them.
    ///
    /// It takes its turn in round robin, and binds a sticky key. It does not count as a call.
    ///
    /// # Errors
    ///
    /// `Unavailable` if nobody could be called, with the reason.
    pub fn route(&self, options: &CallOptions) -> Result<Vec<Arc<ServiceInstance>>, CallError> {
        match self.choose(options, &[]) {
            Choice::One(permit) => Ok(vec![permit.member.instance.clone()]),
            Choice::Each(members) => Ok(members.into_iter().map(|(member, _)| member.instance).collect()),
            Choice::Nobody(reason) => Err(self.unavailable(reason)),
        }
    }

    fn choose(&self, options: &CallOptions, tried: &[String]) -> Choice {
        let view = self.view();
        let question = Question {
            mode: view.config.mode,
            strategy: view.config.strategy,
            healthy: &view.healthy,
            local: self.local(),
            leader: view.leader.as_deref(),
            key: options.key.as_deref(),
            tried,
        };
        self.shared.pool.choose(&question, Instant::now())
    }

    fn unavailable(&self, reason: String) -> CallError {
        CallError::Unavailable { service: self.shared.service.clone(), reason }
    }

    /// Makes a call: `send` is given the instance that mode and strategy choose, and its future is the call.
    ///
    /// What failed before anything was sent is tried once more on another instance; what is
    /// [idempotent](CallOptions::idempotent) is too when it was not answered in time or broke, and its first attempt gets half
    /// of the timeout. In mode `replicated` all instances are called at once; the answer is that of the first of them
    /// by id if all succeeded, else the first error.
    ///
    /// # Errors
    ///
    /// Those of `send`; `Unavailable` if nobody could be called; `TimedOut` after the timeout.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops that of `send`.
    pub async fn call<T, S, F>(&self, options: &CallOptions, send: S) -> Result<T, CallError>
    where
        S: Fn(Arc<ServiceInstance>) -> F,
        F: Future<Output = Result<T, CallError>>,
    {
        let whole = options.timeout.unwrap_or_else(|| self.config().call_timeout());
        let deadline = Instant::now() + bounded(whole);
        let mut tried = Vec::new();
        let mut last_error = None;
        // Twice at most.
        while tried.len() < 2 {
            let permit = match self.choose_or_wait(options, &tried, deadline).await {
                Choice::One(permit) => permit,
                Choice::Each(permits) => return self.call_each(permits, deadline, &send).await,
                Choice::Nobody(reason) => return Err(last_error.unwrap_or_else(|| self.unavailable(reason))),
            };
            tried.push(permit.member.instance.id.clone());
            let left = deadline.saturating_duration_since(Instant::now());
            let is_first_of_two = options.idempotent && tried.len() == 1 && self.has_another(&tried);
            let until = if is_first_of_two { Instant::now() + left / 2 } else { deadline };
            match attempt(permit, until, &send).await {
                Err(error) if may_retry(&error, options.idempotent) => last_error = Some(error),
                decided => return decided,
            }
        }
        Err(last_error.unwrap_or_else(|| self.unavailable("it was tried twice".to_owned())))
    }

    /// Whether there may be somebody for a second attempt.
    fn has_another(&self, tried: &[String]) -> bool {
        let view = self.view();
        let is_other = |member: &Member| !tried.contains(&member.instance.id);
        match view.config.mode {
            Mode::Distributed => view.healthy.iter().any(is_other),
            Mode::LocalFirst => {
                let own = view.healthy.iter().any(|member| Some(member.instance.id.as_str()) == self.local());
                !own && view.healthy.iter().any(is_other)
            }
            Mode::Local | Mode::LeaderBased | Mode::Replicated => false,
        }
    }

    async fn choose_or_wait(&self, options: &CallOptions, tried: &[String], deadline: Instant) -> Choice {
        let mut view = self.shared.view.clone();
        loop {
            view.borrow_and_update();
            let choice = self.choose(options, tried);
            if !matches!(choice, Choice::Nobody(_)) || !options.wait {
                return choice;
            }
            let changed = async {
                tokio::select! {
                    changed = view.changed() => changed.is_ok(),
                    () = sleep(LOOK_AGAIN) => true,
                }
            };
            if !matches!(timeout_at(deadline.into(), changed).await, Ok(true)) {
                return choice;
            }
        }
    }

    /// Makes a call to every instance that takes calls, whatever the mode; the answers are in the order of their ids.
    ///
    /// # Errors
    ///
    /// In the answers; `Unavailable` for an instance whose circuit breaker is open.
    ///
    /// # Cancellation
    ///
    /// The calls are dropped; those that were sent may be carried out.
    pub async fn call_all<T, S, F>(
        &self,
        options: &CallOptions,
        send: S,
    ) -> Vec<(Arc<ServiceInstance>, Result<T, CallError>)>
    where
        S: Fn(Arc<ServiceInstance>) -> F,
        F: Future<Output = Result<T, CallError>>,
    {
        let view = self.view();
        let deadline =
            Instant::now() + bounded(options.timeout.unwrap_or_else(|| view.config.call_timeout()));
        let permits = self.shared.pool.admit_each(view.healthy.iter(), Instant::now());
        self.answers(permits, deadline, &send).await
    }

    async fn call_each<T, S, F>(
        &self,
        permits: Vec<(Member, Option<Permit>)>,
        deadline: Instant,
        send: &S,
    ) -> Result<T, CallError>
    where
        S: Fn(Arc<ServiceInstance>) -> F,
        F: Future<Output = Result<T, CallError>>,
    {
        let answers = self.answers(permits, deadline, send).await;
        let answers: Vec<T> = answers.into_iter().map(|(_, answer)| answer).collect::<Result<_, _>>()?;
        answers.into_iter().next().ok_or_else(|| self.unavailable("it has no healthy instance".to_owned()))
    }

    async fn answers<T, S, F>(
        &self,
        permits: Vec<(Member, Option<Permit>)>,
        deadline: Instant,
        send: &S,
    ) -> Vec<(Arc<ServiceInstance>, Result<T, CallError>)>
    where
        S: Fn(Arc<ServiceInstance>) -> F,
        F: Future<Output = Result<T, CallError>>,
    {
        let calls = permits.into_iter().map(|(member, permit)| async move {
            let answer = match permit {
                Some(permit) => attempt(permit, deadline, send).await,
                None => {
                    let id = &member.instance.id;
                    Err(self.unavailable(format!("the circuit breaker of {id:?} is open")))
                }
            };
            (member.instance, answer)
        });
        join_all(calls).await
    }
}

/// One call of one instance; its breaker learns how it went.
async fn attempt<T, S, F>(permit: Permit, until: Instant, send: &S) -> Result<T, CallError>
where
    S: Fn(Arc<ServiceInstance>) -> F,
    F: Future<Output = Result<T, CallError>>,
{
    let instance = permit.member.instance.clone();
    let begun = Instant::now();
    let answer = match timeout_at(until.into(), send(instance.clone())).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::TimedOut { instance: instance.id.clone(), after: begun.elapsed() }),
    };
    match &answer {
        Err(error) if error.blames_instance() => permit.fail(),
        _ => permit.succeed(),
    }
    answer
}
