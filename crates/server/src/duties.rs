//! What a node does by itself: the leader ends silent sessions and deletes znodes that are due; every node watches
//! whether it can serve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coordd_raft::{Leadership, Replica, Waiting};
use coordd_tree::{Command, EndReason, Session, SessionId, Tree};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::descriptors;
use crate::hub::{Hub, Waiter};
use crate::memory::{allocated_bytes, resident_bytes, return_free_memory, usable_bytes};
use crate::service::Service;
use crate::session::outbox::Item;
use crate::session::tracker::{SessionTracker, TICK, Tracked};

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
/// Number of sessions that one step compares or counts.
const STEP_SESSIONS: usize = 1000;
/// Number of sessions that expire in one step.
const STEP_EXPIRIES: usize = 200;
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
    restart_tracker(replica, term).await;
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
        know_sessions(replica).await;
        if count % RECONCILE_TICKS == 0 {
            compare_sessions(replica).await;
        }
        expire_sessions(replica, term).await;
        shed_answers(service).await;
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

/// Work on many sessions is done a step at a time. Between two steps the tree's lock is given back and other
/// tasks have their turn, so that no step occupies a thread for more than some milliseconds (G9). Returns
/// when `step` returns `None`.
async fn in_steps<T>(first: T, mut step: impl FnMut(T) -> Option<T>) {
    let mut next = step(first);
    while let Some(now) = next {
        tokio::task::yield_now().await;
        next = step(now);
    }
}

/// Every session has its full timeout from now on.
async fn restart_tracker(replica: &Replica<Hub>, term: u64) {
    let old = std::mem::take(&mut *replica.observer().tracking());
    // Freeing what is known of many sessions takes long, too.
    tokio::task::spawn_blocking(move || drop(old));
    compare_sessions(replica).await;
    // Not before: what is confirmed in this term was heard after its sessions had begun to count.
    replica.observer().tracking().term = term;
}

/// The tracker learns of sessions that were opened and of which it has heard.
async fn know_sessions(replica: &Replica<Hub>) {
    let unknown = std::mem::take(&mut replica.observer().tracking().unknown);
    in_steps(&unknown[..], |unknown| {
        let (now, later) = unknown.split_at(unknown.len().min(STEP_SESSIONS));
        let tree = replica.tree();
        let mut tracking = replica.observer().tracking();
        for (sign, via) in now {
            if let Some(session) = tree.session(sign.session)
                && (sign.generation == 0 || sign.generation >= session.generation())
            {
                tracking.tracker.opened(tracked(session), *via);
            }
        }
        (!later.is_empty()).then_some(later)
    })
    .await;
}

/// The tracker learns of the sessions that live, and forgets those that ended.
async fn compare_sessions(replica: &Replica<Hub>) {
    in_steps(0, |after| compare_step(&replica.tree(), &mut replica.observer().tracking().tracker, after))
        .await;
}

/// Compares the sessions from after `after` on; returns where the next step begins. No session has the id 0.
fn compare_step(tree: &Tree, tracker: &mut SessionTracker, after: SessionId) -> Option<SessionId> {
    let mut end = tracker.part_end(after, STEP_SESSIONS);
    let later = tree.sessions_after(after).take_while(|session| session.id() <= end);
    let live: Vec<Tracked> = later.take(STEP_SESSIONS).map(tracked).collect();
    if live.len() == STEP_SESSIONS {
        end = live.last().map_or(end, |last| last.session);
    }
    tracker.reconcile(after.saturating_add(1)..=end, &live);
    (end < SessionId::MAX).then_some(end)
}

async fn expire_sessions(replica: &Replica<Hub>, term: u64) {
    {
        let (now, mut tracking) = (replica.observer().now(), replica.observer().tracking());
        if !replica.leads_with_quorum() {
            tracking.tracker.skip(now);
            return;
        }
        tracking.tracker.tick(now);
    }
    in_steps((), |()| (replica.leads_with_quorum() && expire_step(replica, term)).then_some(())).await;
}

/// Proposes to expire some of the sessions that are due; returns whether there may be more.
fn expire_step(replica: &Replica<Hub>, term: u64) -> bool {
    let mut tracking = replica.observer().tracking();
    let due = tracking.tracker.due(STEP_EXPIRIES);
    if due.is_empty() {
        return false;
    }
    for due in &due {
        // What was submitted is proposed until it is applied: once is enough.
        tracking.tracker.expires(due.session);
    }
    drop(tracking);
    for due in &due {
        tracing::info!(
            session = format!("{:#x}", due.session),
            due.silent_ms,
            due.last_node,
            "a session expires"
        );
    }
    let commands = due.iter().map(|due| {
        let reason = EndReason::Expired { silent_ms: due.silent_ms, term, last_node: due.last_node };
        (Command::EndSession { session: due.session, reason }, Waiter::Nobody)
    });
    if let Err(overloaded) = replica.submit(commands) {
        // Found again when the tracker is compared with the tree; they live a little longer.
        tracing::warn!(%overloaded, "sessions were not expired");
        let mut tracking = replica.observer().tracking();
        due.iter().for_each(|due| tracking.tracker.does_not_expire(due.session));
        return false;
    }
    due.len() == STEP_EXPIRIES
}

/// The session that holds most answers that are not acknowledged, and how many bytes of them. While they are
/// looked for, others may begin and end.
async fn holds_most_answers(replica: &Replica<Hub>) -> Option<(SessionId, usize)> {
    let mut most: Option<(SessionId, usize)> = None;
    in_steps(0, |after| {
        let tree = replica.tree();
        let mut last = None;
        for session in tree.sessions_after(after).take(STEP_SESSIONS) {
            last = Some(session.id());
            let held = session.unacknowledged_bytes();
            if most.is_none_or(|(_, most)| held > most) {
                most = Some((session.id(), held));
            }
        }
        last
    })
    .await;
    most
}

/// Ends the session that holds most when the answers that sessions do not acknowledge are too many together. They cannot be
/// dropped otherwise: whoever sent the writes may ask for them (G4).
async fn shed_answers(service: &Service) {
    let (replica, max) = (service.replica(), service.options().limits.answers_bytes);
    let recorded = || replica.tree().table_sizes().recorded_answer_bytes;
    if recorded() <= max {
        return;
    }
    let Some((session, held)) = holds_most_answers(replica).await else { return };
    let bytes = recorded();
    if bytes <= max {
        return;
    }
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
        let renewed = service.replica().renew(signs).await.unwrap_or_default();
        for renewed in renewed.chunks(STEP_SESSIONS) {
            for session in renewed {
                if let Some((outbox, nonce)) = pings.remove(session) {
                    outbox.push(Item::Renewed { nonce });
                    outbox.wake();
                }
            }
            tokio::task::yield_now().await;
        }
        let mut unheard = pings.into_iter();
        while unheard.len() > 0 {
            service.hub().return_renewals(unheard.by_ref().take(STEP_SESSIONS));
            tokio::task::yield_now().await;
        }
    }
}

/// Cleans up the watches of streams that have gone, for ever.
pub(crate) async fn run_watch_cleaning(service: Arc<Service>) {
    service.hub().run_cleaning().await;
}

/// Keeps an eye on the process's memory, for ever: gives freed memory back, fits the budgets to what the process may use, and
/// tells the ensemble when there is little left.
pub(crate) async fn run_memory_watch(service: Arc<Service>) {
    let (mut trimming, mut usable, mut looks) = (Trimming::default(), 0, 0_u64);
    let mut ticks = interval(MEMORY_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Somebody may give the process more or less while it runs. To count open files takes 100 ms when
        // there are 20,000.
        if looks.is_multiple_of(USABLE_TICKS) {
            let look = || (usable_bytes(), descriptors::open());
            let Ok((now, open_files)) = tokio::task::spawn_blocking(look).await else { return };
            service.set_open_files(open_files);
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
    use coordd_tree::{Batch, Entry, OpenSession, Origin};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A tree with so many sessions.
    fn tree_with_sessions(count: u64) -> Tree {
        let mut tree = Tree::new();
        let origin = Origin { node: 1, incarnation: 1 };
        let open = |number: u64| {
            let session = number * 0x9e37_79b9 + 1;
            let (password, client_name) = ([0; 16], String::new());
            Command::OpenSession(OpenSession { session, password, timeout_ms: 10_000, client_name })
        };
        let batch = Batch { origin, first_seq: 1, commands: (0..count).map(open).collect() };
        tree.apply(&Entry { time_ms: 1, batches: vec![batch], ..Entry::default() }, |_, _, _, _| {});
        assert_eq!(tree.session_count() as u64, count);
        tree
    }

    /// Compares all sessions; returns the number of steps and the longest time that one of them took.
    fn compare_all(tree: &Tree, tracker: &mut SessionTracker) -> (usize, Duration) {
        let (mut steps, mut longest, mut next) = (0, Duration::ZERO, Some(0));
        while let Some(after) = next {
            let start = Instant::now();
            next = compare_step(tree, tracker, after);
            longest = longest.max(start.elapsed());
            steps += 1;
        }
        (steps, longest)
    }

    /// G9: however many sessions there are, a step looks at a bounded number of them, whichever side knows
    /// more.
    #[test]
    fn many_sessions_are_compared_in_steps() {
        let (many, none) = (tree_with_sessions(100_000), Tree::new());
        let mut tracker = SessionTracker::default();
        for (what, tree) in [("learns", &many), ("compares", &many), ("forgets", &none)] {
            let (steps, longest) = compare_all(tree, &mut tracker);
            assert!(steps >= 100, "{what}: {steps} steps");
            // Room for a machine that is busy; the measured times are a tenth of the 10 ms that are allowed.
            assert!(longest < Duration::from_millis(200), "{what}: {longest:?}");
        }
        assert_eq!(tracker.part_end(0, 1), SessionId::MAX, "all are forgotten");
    }

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
