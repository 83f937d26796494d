use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::directory::Member;
use super::routing::{Eligible, eligible};
use super::{Balancer, BreakerOptions, BreakerState, Candidate, CircuitBreaker, Mode};
use crate::recipes::Strategy;

/// What a caller knows of the instances it calls: breakers, calls under way, whose turn it is.
#[derive(Debug)]
pub(crate) struct Pool {
    options: BreakerOptions,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    balancer: Balancer,
    lanes: HashMap<String, Lane>,
}

#[derive(Debug)]
struct Lane {
    epoch: u64,
    breaker: CircuitBreaker,
    in_flight: u32,
}

/// What a choice depends on.
pub(crate) struct Question<'a> {
    pub(crate) mode: Mode,
    pub(crate) strategy: Strategy,
    pub(crate) healthy: &'a [Member],
    pub(crate) local: Option<&'a str>,
    pub(crate) leader: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    /// Ids that were tried already.
    pub(crate) tried: &'a [String],
}

/// Whom to call.
#[derive(Debug)]
pub(crate) enum Choice {
    /// This one.
    One(Permit),
    /// Each of these; where there is no permit the breaker is open.
    Each(Vec<(Member, Option<Permit>)>),
    /// Nobody, and why.
    Nobody(String),
}

impl Pool {
    pub(crate) fn new(options: BreakerOptions, seed: u64) -> Arc<Self> {
        let balancer = Balancer::new(Strategy::default(), seed);
        let inner = Inner { balancer, lanes: HashMap::new() };
        Arc::new(Self { options, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Forgets instances that are not among these, unless calls to them are under way.
    pub(crate) fn retain(&self, members: &[Member]) {
        let mut inner = self.lock();
        inner.lanes.retain(|id, lane| {
            lane.in_flight > 0 || members.binary_search_by(|member| member.instance.id.cmp(id)).is_ok()
        });
    }

    pub(crate) fn choose(self: &Arc<Self>, question: &Question<'_>, now: Instant) -> Choice {
        match eligible(question.mode, question.healthy, question.local, question.leader) {
            Eligible::Nobody(reason) => Choice::Nobody(reason),
            Eligible::One(member) if question.tried.contains(&member.instance.id) => {
                Choice::Nobody(format!("{:?} was tried, and there is no other", member.instance.id))
            }
            Eligible::One(member) => match self.admit(member, now) {
                Some(permit) => Choice::One(permit),
                None => Choice::Nobody(format!("the circuit breaker of {:?} is open", member.instance.id)),
            },
            Eligible::AnyOf(members) => self.choose_one(&members, question, now),
            Eligible::AllOf(members) => Choice::Each(self.admit_each(members.into_iter(), now)),
        }
    }

    pub(crate) fn admit_each<'a>(
        self: &Arc<Self>,
        members: impl Iterator<Item = &'a Member>,
        now: Instant,
    ) -> Vec<(Member, Option<Permit>)> {
        members.map(|member| (member.clone(), self.admit(member, now))).collect()
    }

    fn choose_one(self: &Arc<Self>, members: &[&Member], question: &Question<'_>, now: Instant) -> Choice {
        let mut inner = self.lock();
        let mut avoid: Vec<&str> = question.tried.iter().map(String::as_str).collect();
        let mut candidates = Vec::with_capacity(members.len());
        for member in members {
            let instance = &member.instance;
            let lane = inner.lane(member, self.options);
            if !lane.breaker.would_admit(now) {
                avoid.push(&instance.id);
            }
            let (weight, load, in_flight) = (instance.weight, instance.load, lane.in_flight);
            candidates.push(Candidate { id: &instance.id, weight, load, in_flight });
        }
        inner.balancer.set_strategy(question.strategy);
        let Some(chosen) = inner.balancer.pick(&candidates, question.key, &avoid) else {
            let tried = question.tried.len();
            let open = avoid.len() - tried;
            return Choice::Nobody(format!(
                "of {} healthy instances {open} have open circuit breakers, and {tried} were tried",
                members.len()
            ));
        };
        drop(inner);
        match self.admit(members[chosen], now) {
            Some(permit) => Choice::One(permit),
            // Somebody else's trial came between.
            None => Choice::Nobody(format!("{:?} is on trial", candidates[chosen].id)),
        }
    }

    fn admit(self: &Arc<Self>, member: &Member, now: Instant) -> Option<Permit> {
        let mut inner = self.lock();
        let lane = inner.lane(member, self.options);
        if !lane.breaker.try_admit(now) {
            return None;
        }
        lane.in_flight += 1;
        Some(Permit { pool: self.clone(), member: member.clone(), outcome: Outcome::Abandoned })
    }

    /// The breaker of each instance that was called and has not gone since.
    pub(crate) fn breakers(&self, now: Instant) -> Vec<(String, BreakerState)> {
        let inner = self.lock();
        let mut states: Vec<_> =
            inner.lanes.iter().map(|(id, lane)| (id.clone(), lane.breaker.state(now))).collect();
        states.sort_by(|a, b| a.0.cmp(&b.0));
        states
    }
}

impl Inner {
    fn lane(&mut self, member: &Member, options: BreakerOptions) -> &mut Lane {
        let fresh = || Lane { epoch: member.epoch, breaker: CircuitBreaker::new(options), in_flight: 0 };
        let lane = self.lanes.entry(member.instance.id.clone()).or_insert_with(fresh);
        // It has registered anew, and the failures of its former life do not count. Its calls under way still do.
        if lane.epoch != member.epoch {
            *lane = Lane { in_flight: lane.in_flight, ..fresh() };
        }
        lane
    }
}

/// The right to make one call. Dropped without an outcome it counts as given up.
#[derive(Debug)]
pub(crate) struct Permit {
    pool: Arc<Pool>,
    pub(crate) member: Member,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Abandoned,
    Success,
    Failure,
}

impl Permit {
    pub(crate) fn succeed(mut self) {
        self.outcome = Outcome::Success;
    }

    pub(crate) fn fail(mut self) {
        self.outcome = Outcome::Failure;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inner = self.pool.lock();
        let Some(lane) = inner.lanes.get_mut(&self.member.instance.id) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        // What a former life did says nothing about this one.
        if lane.epoch != self.member.epoch {
            return;
        }
        match self.outcome {
            Outcome::Abandoned => lane.breaker.on_abandoned(),
            Outcome::Success => lane.breaker.on_success(),
            Outcome::Failure => lane.breaker.on_failure(Instant::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::recipes::registry::ServiceInstance;

    fn members(ids: &[&str]) -> Vec<Member> {
        let member = |id: &&str| Member { instance: Arc::new(ServiceInstance::new(*id, "h", 1)), epoch: 1 };
        ids.iter().map(member).collect()
    }

    fn question(healthy: &[Member]) -> Question<'_> {
        let (mode, strategy) = (Mode::Distributed, Strategy::RoundRobin);
        Question { mode, strategy, healthy, local: None, leader: None, key: None, tried: &[] }
    }

    fn one(choice: Choice) -> Permit {
        match choice {
            Choice::One(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_instance_that_fails_goes_out_of_rotation_and_comes_back_on_trial() {
        let pool = Pool::new(BreakerOptions::default(), 1);
        let members = members(&["a", "b"]);
        let now = Instant::now();
        for _ in 0..10 {
            let permit = one(pool.choose(&question(&members), now));
            if permit.member.instance.id == "a" { permit.fail() } else { permit.succeed() }
        }
        for _ in 0..10 {
            let permit = one(pool.choose(&question(&members), now));
            assert_eq!(permit.member.instance.id, "b");
            permit.succeed();
        }
        let later = now + Duration::from_secs(5);
        let trial = one(pool.choose(&question(&members), later));
        assert_eq!(trial.member.instance.id, "a");
        // One trial at a time.
        assert_eq!(one(pool.choose(&question(&members), later)).member.instance.id, "b");
        assert_eq!(one(pool.choose(&question(&members), later)).member.instance.id, "b");
        trial.succeed();
        assert_eq!(one(pool.choose(&question(&members), later)).member.instance.id, "a");
    }

    #[test]
    fn a_new_registration_begins_with_a_closed_breaker() {
        let pool = Pool::new(BreakerOptions::default(), 1);
        let mut members = members(&["a"]);
        let now = Instant::now();
        let late = one(pool.choose(&question(&members), now));
        (0..5).for_each(|_| one(pool.choose(&question(&members), now)).fail());
        assert!(matches!(pool.choose(&question(&members), now), Choice::Nobody(_)));
        members[0].epoch = 2;
        one(pool.choose(&question(&members), now)).succeed();
        late.fail();
        assert_eq!(pool.breakers(now), [("a".to_owned(), BreakerState::Closed)]);
    }

    #[test]
    fn calls_under_way_are_counted_also_when_they_are_given_up() {
        let pool = Pool::new(BreakerOptions::default(), 1);
        let members = members(&["a", "b"]);
        let least = Question { strategy: Strategy::LeastLoaded, ..question(&members) };
        let now = Instant::now();
        let held: Vec<_> = (0..10).map(|_| one(pool.choose(&least, now))).collect();
        let on_a = held.iter().filter(|permit| permit.member.instance.id == "a").count();
        assert_eq!(on_a, 5, "equals share");
        drop(held);
        pool.retain(&[]);
        assert!(pool.breakers(now).is_empty(), "nothing is under way any more");
    }

    #[test]
    fn who_was_tried_is_not_tried_again() {
        let pool = Pool::new(BreakerOptions::default(), 1);
        let members = members(&["a", "b"]);
        let tried = ["a".to_owned()];
        for _ in 0..4 {
            let choice = pool.choose(&Question { tried: &tried, ..question(&members) }, Instant::now());
            assert_eq!(one(choice).member.instance.id, "b");
        }
        let leader =
            Question { mode: Mode::LeaderBased, leader: Some("a"), tried: &tried, ..question(&members) };
        assert!(matches!(pool.choose(&leader, Instant::now()), Choice::Nobody(_)));
    }
}
