//! Plans for the group while this member leads it. All state is in the tree, so who leads next goes on from there; its writes
//! carry its epoch, so what it writes after that is refused.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::drains::Drains;
use super::layout::{ASSIGNED, Layout, OWNERS, PLAN, REBALANCE};
use super::records::{ListRecord, PlanRecord, to_bytes};
use super::roster::{ItemOwner, Plan, Roster};
use crate::far::after;
use crate::recipes::parents::delete_all;
use crate::recipes::replace_if::put;
use crate::recipes::server_clock::ServerClock;
use crate::recipes::{CacheView, Candidate, LeaderElection, Leadership, TreeCache};
use crate::{Check, Client, CreateMode, CreateOptions, Error, ErrorKind, Multi, ServerLimits};

const RETRY: Duration = Duration::from_secs(1);
/// Of one multi. With the lists of a large group they are some hundred kilobytes.
const OPS_MAX: usize = 200;
const BYTES_MAX: usize = 2 << 20;
/// Between two looks at the clock.
const BREATH: Duration = Duration::from_millis(10);

/// Stands for the leadership, and leads, until the session ends or it is aborted.
pub(super) async fn run(layout: Layout, client: Client, name: String) {
    let election = LeaderElection::new(&client, layout.election());
    let candidate = Candidate::new(&name);
    loop {
        let error = match election.campaign(&candidate).await {
            Ok(leadership) => tokio::select! {
                biased;
                loss = leadership.lost() => Error::new(ErrorKind::GrantLost, loss.to_string()),
                Err(error) = lead(&layout, &client, &leadership, &name) => error,
            },
            Err(error) => error,
        };
        if error.is_terminal() {
            return;
        }
        tracing::warn!(%error, group = layout.root(), "the coordinator of the group stands again");
        tokio::time::sleep(RETRY).await;
    }
}

async fn lead(
    layout: &Layout,
    client: &Client,
    leadership: &Leadership,
    name: &str,
) -> Result<Infallible, Error> {
    let cache = TreeCache::in_session(client, layout.root());
    let mut leader = Leader {
        layout,
        client: leadership.client()?,
        roster: Arc::default(),
        drains: Drains::default(),
        clock: ServerClock::default(),
        seed: leadership.epoch(),
        is_changed: true,
        is_unweighed: true,
    };
    let mut view = cache.wait_ready().await?;
    leader.take_note(&view, &CacheView::default());
    leader.take_over(name).await?;
    let mut seen = view.clone();
    let mut views = cache.views();
    loop {
        leader.take_note(&view, &seen);
        seen = view;
        if leader.plan().await? {
            // Nothing is planned before one's own writes are seen.
            view = cache.wait_for(client.last_zxid()).await?;
            continue;
        }
        leader.end_drains().await?;
        leader.undo_foreign().await?;
        let wake = leader.wake_at();
        view = tokio::select! {
            next = views.next() => match next {
                Some(view) => view,
                None => return Err(cache.end().unwrap_or_else(closed)),
            },
            () = until(wake) => seen.clone(),
        };
    }
}

struct Leader<'a> {
    layout: &'a Layout,
    /// Its writes carry the epoch of the leadership.
    client: Client,
    roster: Arc<Roster>,
    drains: Drains,
    clock: ServerClock,
    seed: u64,
    /// Something has changed since the last plan.
    is_changed: bool,
    /// Something has changed since the last look at the balance.
    is_unweighed: bool,
}

impl Leader<'_> {
    fn take_note(&mut self, view: &CacheView, seen: &CacheView) {
        for change in view.changes_since(seen) {
            self.is_changed |= Arc::make_mut(&mut self.roster).apply(self.layout, &change);
        }
        self.drains.update(&self.roster, Instant::now());
    }

    /// Says who leads. The stamp of it tells what time it is at the ensemble.
    async fn take_over(&mut self, name: &str) -> Result<(), Error> {
        Arc::make_mut(&mut self.roster).plan.leader = name.to_owned();
        let stat = put(&self.client, &self.layout.top(PLAN), to_bytes(&self.roster.plan)).await?;
        self.clock.observe(stat.mtime, std::time::Instant::now());
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.clock.at(std::time::Instant::now()).unwrap_or_default()
    }

    /// How long it is until items may be moved for the sake of balance.
    fn window_left(&self) -> Duration {
        let over_ms = self.roster.plan.rebalanced_ms.saturating_add(self.roster.settings.window_ms);
        Duration::from_millis(over_ms.saturating_sub(self.now_ms()))
    }

    /// Plans, and writes what was planned. Returns whether there was something to be written.
    async fn plan(&mut self) -> Result<bool, Error> {
        self.is_unweighed |= self.is_changed;
        let is_weighed = self.is_unweighed && self.window_left().is_zero();
        if !self.is_changed && !is_weighed {
            return Ok(false);
        }
        self.is_changed = false;
        self.is_unweighed &= !is_weighed;
        self.seed = self.seed.wrapping_add(1);
        let (roster, seed) = (self.roster.clone(), self.seed);
        // A large group takes its time, which must not be that of the session.
        let planning = tokio::task::spawn_blocking(move || {
            let rebalance = is_weighed && roster.should_rebalance();
            roster.plan(rebalance, seed)
        });
        let Some(plan) = planning.await.map_err(|_| closed())? else { return Ok(false) };
        match self.write(plan).await {
            // Somebody has asked for more while this was planned, with a change in mind that is to be seen first.
            Err(error) if error.kind == ErrorKind::BadVersion => self.is_changed = true,
            written => written?,
        }
        Ok(true)
    }

    async fn write(&mut self, plan: Plan) -> Result<(), Error> {
        let mut record = self.roster.plan.clone();
        record.moves += plan.moves;
        if plan.is_rebalanced {
            record.rebalances += 1;
            record.rebalanced_ms = self.now_ms();
        }
        tracing::info!(
            group = self.layout.root(),
            moves = plan.moves,
            rebalanced = plan.is_rebalanced,
            workers = plan.lists.len(),
            "items are assigned"
        );
        self.commit(plan, &record).await?;
        Arc::make_mut(&mut self.roster).plan = record;
        Ok(())
    }

    /// In one multi, unless the lists are too large for that. Two workers may be told of the same item then: one waits until
    /// the other has let go of it, as always.
    async fn commit(&self, plan: Plan, record: &PlanRecord) -> Result<(), Error> {
        let limits = self.client.limits();
        let (ops_max, bytes_max) = (OPS_MAX.min(limits.multi_ops), limits.batch(BYTES_MAX));
        let (mut multi, mut bytes) = (self.client.multi(), 0);
        for (worker, items) in plan.lists {
            let path = self.layout.node(ASSIGNED, &worker);
            let is_left = items.is_empty() && !self.roster.has_worker(&worker);
            let data = to_bytes(&ListRecord { items });
            let part = ServerLimits::part_bytes(path.len() + data.len());
            bytes += part;
            if multi.len() >= ops_max || (bytes > bytes_max && !multi.is_empty()) {
                send(std::mem::replace(&mut multi, self.client.multi())).await?;
                bytes = part;
            }
            multi = match self.roster.has_list(&worker) {
                true if is_left => multi.delete(path, None),
                true => multi.set(path, data, None),
                false => multi.create(path, data, CreateOptions::new(CreateMode::Persistent).parents(true)),
            };
        }
        // Last, so that what it counts has been done.
        multi = multi.set(self.layout.top(PLAN), to_bytes(record), None);
        if let Some((epoch, version)) = self.roster.asked {
            let path = self.layout.top(REBALANCE);
            multi = multi.check(Check::epoch(&path, epoch)).delete(path, Some(version));
        }
        send(multi).await
    }

    /// Takes items from owners that have not let go of them in time.
    async fn end_drains(&self) -> Result<(), Error> {
        let Some(timeout) = self.drain_timeout() else { return Ok(()) };
        for (item, ItemOwner { worker, epoch }) in self.drains.overdue(timeout, Instant::now()) {
            tracing::warn!(group = self.layout.root(), item, worker, "an item was not let go of in time");
            self.take_away(item, *epoch).await?;
        }
        Ok(())
    }

    /// Takes items whose owners' znodes somebody else has made or changed. Whoever had one loses it, and can take it anew.
    async fn undo_foreign(&self) -> Result<(), Error> {
        for (item, epoch) in &self.roster.foreign {
            tracing::warn!(group = self.layout.root(), item, "it does not say any more who owns an item");
            self.take_away(item, *epoch).await?;
        }
        Ok(())
    }

    async fn take_away(&self, item: &str, epoch: u64) -> Result<(), Error> {
        let path = self.layout.node(OWNERS, item);
        // With what somebody may have put below it.
        match delete_all(&self.client.guarded([Check::epoch(&path, epoch)]), &path).await {
            // It was let go of just now, or this one leads no more, which `lost` says.
            Err(error) if matches!(error.kind, ErrorKind::GuardFailed | ErrorKind::NoNode) => Ok(()),
            taken => taken,
        }
    }

    fn drain_timeout(&self) -> Option<Duration> {
        self.roster.settings.drain_timeout_ms.map(Duration::from_millis)
    }

    /// When there is something to be done although nothing changes.
    fn wake_at(&self) -> Option<Instant> {
        let balance = self.is_unweighed.then(|| after(self.window_left()));
        let drain = self.drain_timeout().and_then(|timeout| self.drains.next_overdue(timeout));
        balance.into_iter().chain(drain).min()
    }
}

async fn send(multi: Multi) -> Result<(), Error> {
    multi.commit().await.map(drop)
}

async fn until(wake: Option<Instant>) {
    match wake {
        // Not without a breath, whatever the reason is.
        Some(at) => tokio::time::sleep_until(at.max(Instant::now() + BREATH)).await,
        None => std::future::pending().await,
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::SessionClosed, "the runtime of the group was shut down")
}
