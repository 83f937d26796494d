//! What a node does by itself: the leader ends silent sessions and deletes znodes that are due; every node watches
//! whether it can serve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coordd_raft::{Leadership, Replica, Waiting};
use coordd_tree::{Command, EndReason, Session};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::hub::{Hub, Waiter};
use crate::memory::{allocated_bytes, resident_bytes, return_free_memory, usable_bytes};
use crate::service::Service;
use crate::session::outbox::Item;
use crate::session::tracker::{TICK, Tracked};

/// Sessions that are live in the tree and unknown to the tracker, or the other way round, are looked for so often.
const RECONCILE_TICKS: u64 = 50;
/// How often the process's memory is looked at, what it may use, and whether some of it is to be given back.
const MEMORY_TICK: Duration = Duration::from_millis(250);
const USABLE_TICKS: u64 = 8;
const TRIM_TICKS: u64 = 20;
/// Freed memory is given back when there is so much more of it.
const GROWTH: u64 = 16 << 20;
/// A full disk that somebody makes room on soon is nothing that clients need to hear of.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// A container that never had a child is deleted after so many sweep intervals.
const UNUSED_SWEEPS: u32 = 10;
/// A read barrier that takes longer is asked for again.
const BARRIER_PATIENCE: Duration = Duration::from_secs(2);
/// A leader is heard several times a second.
const SILENT: Duration = Duration::from_secs(1);
/// Due znodes of one command.
const SWEEP_BATCH: usize = 1000;

/// The leader's duties, whenever this node leads.
pub(crate) async fn run_leader_duties(service: Arc<Service>) {
    let mut leadership = service.replica().leadership();
    while leadership.wait_for(|now| now.is_own).await.is_ok() {
        lead(&service, &mut leadership).await;
    }
}

async fn lead(service: &Service, leadership: &mut watch::Receiver<Leadership>) {
    let replica = service.replica();
    let term = leadership.borrow_and_update().term;
    // What the last leader proposed is applied before the sessions are looked at.
    if replica.read_barrier().await.is_err() {
        return;
    }
    restart_tracker(replica, term);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    let mut count = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = leadership.changed() => {
                let now = *leadership.borrow_and_update();
                if changed.is_err() || !now.is_own || now.term != term {
                    return;
                }
                continue;
            }
        }
        count += 1;
        know_sessions(replica, count % RECONCILE_TICKS == 0);
        expire_sessions(replica, term);
        shed_answers(service);
        if swept.elapsed() >= service.options().sweep_interval {
            swept = Instant::now();
            sweep(replica, service.options().sweep_interval);
        }
    }
}

fn tracked(session: &Session) -> Tracked {
    let timeout = Duration::from_millis(session.timeout_ms().into());
    Tracked { session: session.id(), timeout, generation: session.generation() }
}

fn restart_tracker(replica: &Replica<Hub>, term: u64) {
    let tree = replica.tree();
    let mut tracking = replica.observer().tracking();
    tracking.tracker.restart(tree.sessions().map(tracked));
    tracking.unknown.clear();
    tracking.term = term;
}

/// The tracker learns of sessions that were opened, and forgets those that ended.
fn know_sessions(replica: &Replica<Hub>, reconcile: bool) {
    let tree = replica.tree();
    let mut tracking = replica.observer().tracking();
    let unknown = std::mem::take(&mut tracking.unknown);
    for (sign, via) in unknown {
        if let Some(session) = tree.session(sign.session)
            && (sign.generation == 0 || sign.generation >= session.generation())
        {
            tracking.tracker.opened(tracked(session), via);
        }
    }
    if reconcile {
        for session in tree.sessions() {
            if !tracking.tracker.is_known(session.id()) {
                tracking.tracker.opened(tracked(session), 0);
            }
        }
        tracking.tracker.retain(|id| tree.session(id).is_some());
    }
}

fn expire_sessions(replica: &Replica<Hub>, term: u64) {
    let (now, mut tracking) = (replica.observer().now(), replica.observer().tracking());
    if !replica.leads_with_quorum() {
        tracking.tracker.skip(now);
        return;
    }
    let due = tracking.tracker.tick(now);
    if due.is_empty() {
        return;
    }
    for due in &due {
        // What was submitted is proposed until it is applied: once is enough.
        tracking.tracker.expires(due.session);
        tracing::info!(
            session = format!("{:#x}", due.session),
            due.silent_ms,
            due.last_node,
            "a session expires"
        );
    }
    drop(tracking);
    let commands = due.iter().map(|due| {
        let reason = EndReason::Expired { silent_ms: due.silent_ms, term, last_node: due.last_node };
        (Command::EndSession { session: due.session, reason }, Waiter::Nobody)
    });
    if let Err(overloaded) = replica.submit(commands) {
        // Found again when the tracker is compared with the tree; they live a little longer.
        tracing::warn!(%overloaded, "sessions were not expired");
        let mut tracking = replica.observer().tracking();
        due.iter().for_each(|due| tracking.tracker.does_not_expire(due.session));
    }
}

/// Ends the session that holds most when the answers that sessions do not acknowledge are too many together. They cannot be
/// dropped otherwise: whoever sent the writes may ask for them (G4).
fn shed_answers(service: &Service) {
    let (replica, max) = (service.replica(), service.options().limits.answers_bytes);
    let tree = replica.tree();
    let bytes = tree.table_sizes().recorded_answer_bytes;
    if bytes <= max {
        return;
    }
    let Some(most) = tree.sessions().max_by_key(|session| session.unacknowledged_bytes()) else { return };
    let (session, held) = (most.id(), most.unacknowledged_bytes());
    drop(tree);
    let by = format!(
        "the leader: it holds {held} of {bytes} bytes of answers that are not acknowledged; at most {max} \
         (--answers-bytes-max)"
    );
    tracing::warn!(session = format!("{session:#x}"), held, bytes, max, "a session ends for its answers");
    let command = Command::EndSession { session, reason: EndReason::Killed { by } };
    if let Err(overloaded) = replica.submit([(command, Waiter::Nobody)]) {
        tracing::warn!(%overloaded, "the session was not ended");
    }
}

fn sweep(replica: &Replica<Hub>, interval: Duration) {
    let unused = interval.saturating_mul(UNUSED_SWEEPS);
    let unused_ms = (replica.rules() >= 2).then_some(u64::try_from(unused.as_millis()).unwrap_or(u64::MAX));
    let due = replica.tree().expired_znodes(replica.now_ms(), unused_ms, SWEEP_BATCH);
    if !due.is_empty() {
        tracing::debug!(znodes = due.len(), "sweeping TTL znodes and empty containers");
        let command = match unused_ms {
            Some(unused_ms) => Command::Sweep { candidates: due, unused_ms },
            None => Command::ExpireZnodes(due),
        };
        if let Err(overloaded) = replica.submit([(command, Waiter::Nobody)]) {
            tracing::warn!(%overloaded, "due znodes were not deleted");
        }
    }
}

/// Asks the leader about the pings of this node's streams, ten times a second: those that it has heard are told so.
pub(crate) async fn run_renewals(service: Arc<Service>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut pings = service.hub().take_renewals();
        if pings.is_empty() {
            continue;
        }
        let signs = pings.values().map(|(outbox, _)| outbox.sign_of_life()).collect();
        for session in service.replica().renew(signs).await.unwrap_or_default() {
            if let Some((outbox, nonce)) = pings.remove(&session) {
                outbox.push(Item::Renewed { nonce });
                outbox.wake();
            }
        }
        service.hub().return_renewals(pings);
    }
}

/// Keeps an eye on the process's memory, for ever: gives freed memory back, fits the budgets to what the process may use, and
/// tells the ensemble when there is little left.
pub(crate) async fn run_memory_watch(service: Arc<Service>) {
    let (mut trimming, mut usable, mut looks) = (Trimming::default(), 0, 0_u64);
    let mut ticks = interval(MEMORY_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Somebody may give the process more or less while it runs.
        if looks.is_multiple_of(USABLE_TICKS) {
            let Ok(now) = tokio::task::spawn_blocking(usable_bytes).await else { return };
            if now != usable {
                usable = now;
                service.fit_memory(usable);
            }
        }
        looks += 1;
        let mut resident = resident_bytes();
        let is_over = resident > service.memory_limit();
        if is_over || looks.is_multiple_of(TRIM_TICKS) {
            let trimmed = tokio::task::spawn_blocking(move || trimming.trim(resident, is_over)).await;
            let Ok(trimmed) = trimmed else { return };
            (trimming, resident) = trimmed;
        }
        service.look_at_memory(resident);
    }
}

/// When freed memory is given back: what was freed between things that live on stays with the process otherwise.
#[derive(Clone, Copy, Debug, Default)]
struct Trimming {
    /// What was resident and not allocated after the last time, and what was allocated then.
    left: u64,
    allocated: u64,
}

impl Trimming {
    /// Enough is resident that nobody has allocated, and there is more of it, or it is elsewhere, than the last time.
    fn is_due(&self, resident: u64, allocated: u64, is_over: bool) -> bool {
        let free = resident.saturating_sub(allocated);
        let worth = if is_over { GROWTH / 4 } else { GROWTH };
        let has_moved = allocated.abs_diff(self.allocated) > worth;
        free > worth && (free > self.left + worth || has_moved)
    }

    fn done(&mut self, resident: u64, allocated: u64) {
        *self = Trimming { left: resident.saturating_sub(allocated), allocated };
    }

    /// Gives memory back if that is due; returns what is resident then. Blocks for some milliseconds.
    fn trim(mut self, resident: u64, is_over: bool) -> (Self, u64) {
        if !self.is_due(resident, allocated_bytes(), is_over) {
            return (self, resident);
        }
        return_free_memory();
        let resident = resident_bytes();
        self.done(resident, allocated_bytes());
        (self, resident)
    }
}

/// Whether this node shows everything that was acknowledged before now. Not longer in doubt than a moment: the caller has other
/// things to look at.
async fn has_caught_up(service: &Service) -> bool {
    let barrier = service.replica().read_barrier();
    matches!(tokio::time::timeout(BARRIER_PATIENCE, barrier).await, Ok(Ok(())))
}

/// What a node that does not serve waits for.
fn why_not_serving(service: &Service) -> String {
    let replica = service.replica();
    let (status, nodes) = (replica.status(), replica.members().len());
    if replica.waits_for_room().is_some() {
        return "there is no room for the log on this node's disk".to_owned();
    }
    let majority = nodes / 2 + 1;
    match (status.leader, status.leader_silence) {
        (None, _) => {
            format!("no node leads: {majority} of the {nodes} nodes have to reach each other for that")
        }
        (Some(leader), silence) if silence.is_none_or(|silence| silence > SILENT) => {
            format!("node {leader} led last and is not heard: a leader needs {majority} of the {nodes} nodes")
        }
        (Some(leader), _) => format!(
            "catching up with node {leader}: entry {} of {} is applied",
            replica.tree().applied().0,
            status.committed_index.max(status.last_log_index)
        ),
    }
}

/// Serving starts when the node has seen the present of a majority once, and stops when no leader that leads was heard for
/// a while, or when this node alone has no room for its log: then clients are better off elsewhere.
pub(crate) async fn run_serving_watch(service: Arc<Service>) {
    let patience = service.options().timing.election_max * 3 + Duration::from_millis(500);
    let mut ticks = interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_serving = false;
    let mut waiting = Waiting::begin();
    loop {
        ticks.tick().await;
        if is_serving {
            waiting = Waiting::begin();
        } else if let Some(waited_s) = waiting.due() {
            tracing::warn!(waited_s, reason = why_not_serving(&service), "still not serving");
        }
        let silence = service.replica().leader_silence();
        let hears_leader = silence.is_some_and(|silence| silence <= patience);
        let waits = service.replica().waits_for_room().is_some_and(|waits| waits > LOG_PATIENCE);
        // Without room anywhere, every node still answers reads.
        let is_stuck = waits && service.replica().growth_refused().is_none();
        if is_serving && !hears_leader {
            is_serving = false;
            service.set_serving(Err(format!(
                "no leader with a majority was heard for {} ms",
                patience.as_millis()
            )));
        } else if is_serving && is_stuck {
            is_serving = false;
            service.set_serving(Err("there is no room for the log on this node's disk".to_owned()));
        } else if !is_serving && hears_leader && !is_stuck && has_caught_up(&service).await {
            is_serving = true;
            service.set_serving(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Memory is given back when much of it was freed, and what cannot be given back is not tried again and again.
    #[test]
    fn freed_memory_goes_back_once() {
        let mut trimming = Trimming::default();
        assert!(!trimming.is_due(70 * MIB, 60 * MIB, false), "little is free");
        assert!(!trimming.is_due(400 * MIB, 390 * MIB, false), "grown, and in use");
        assert!(trimming.is_due(400 * MIB, 60 * MIB, false));
        trimming.done(100 * MIB, 60 * MIB);
        assert!(!trimming.is_due(100 * MIB, 60 * MIB, false), "the rest is in fragments");
        assert!(!trimming.is_due(110 * MIB, 65 * MIB, false));
        assert!(trimming.is_due(110 * MIB, 65 * MIB, true), "it is needed");
        assert!(trimming.is_due(130 * MIB, 60 * MIB, false), "there is more of it");
        assert!(trimming.is_due(130 * MIB, 90 * MIB, false), "it is elsewhere");
    }
}
