use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::HealthStatus;
use super::reports::Layout;
use super::roster::Shared;
use crate::recipes::PersistentEphemeral;
use crate::recipes::parents::make_container;
use crate::{Check, Client, CreateMode, Created, Error, ErrorKind};

/// Keeps a monitor's reports in the tree: writes those whose status has changed at once, the others now and then.
///
/// Reports are written under the epoch of the monitor's presence, so that no report is there without a monitor that is. While
/// the presence is held no other session has this monitor's name, and so none has its reports.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    layout: Layout,
    presence: PersistentEphemeral,
    /// Closed when the handle has been dropped.
    gone: watch::Receiver<()>,
    /// What was written under the present presence.
    written: BTreeMap<String, Written>,
}

#[derive(Clone, Copy)]
struct Written {
    generation: u64,
    status: HealthStatus,
    checks: u64,
}

impl Publisher {
    pub(super) fn new(
        shared: Arc<Shared>,
        layout: Layout,
        presence: PersistentEphemeral,
        gone: watch::Receiver<()>,
    ) -> Self {
        Self { shared, layout, presence, gone, written: BTreeMap::new() }
    }

    /// Is told, and not aborted, so that no report is left behind.
    pub(super) async fn run(mut self) {
        let mut presences = self.presence.changes();
        let mut targets = self.shared.targets.subscribe();
        let mut look = interval(self.shared.options.interval);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut present = None;
        loop {
            tokio::select! {
                biased;
                _ = self.gone.changed() => break,
                next = presences.next() => match next {
                    Some(next) => {
                        self.written.clear();
                        if let Some(next) = &next {
                            self.shared.clock.observe(next.stat.ctime, Instant::now());
                        }
                        present = next;
                    }
                    // The sessions were closed, and all is gone with them.
                    None => return,
                },
                _ = targets.changed() => {}
                _ = look.tick() => {}
            }
            if let Some(present) = &present {
                self.publish(present).await;
            }
        }
        if let Some(client) = present.and_then(|present| self.client(&present)) {
            let written: Vec<String> = self.written.keys().cloned().collect();
            join_all(written.iter().map(|id| self.retract(&client, id))).await;
        }
        self.presence.close().await;
    }

    /// The session of a presence, with its epoch as a guard. `None` if it has ended: then there is a next presence, or will be.
    fn client(&self, present: &Created) -> Option<Client> {
        let client = self.shared.sessions.newest().ok()?;
        let stat = present.stat;
        (client.session_id() == stat.ephemeral_owner)
            .then(|| client.guarded([Check::epoch(present.path.clone(), stat.czxid)]))
    }

    async fn publish(&mut self, present: &Created) {
        let Some(client) = self.client(present) else { return };
        let (mut due, mut unwanted) = (Vec::new(), Vec::new());
        {
            let targets = self.shared.targets.borrow();
            for (id, watched) in targets.iter() {
                let (status, checks) = (watched.health.status(), watched.health.checks());
                let now = Written { generation: watched.generation, status, checks };
                let is_due = self.written.get(id).is_none_or(|written| {
                    (written.generation, written.status) != (now.generation, status)
                        || checks >= written.checks + u64::from(self.shared.options.report_every)
                });
                if is_due {
                    due.push((id.clone(), self.shared.report_of(watched).to_json(), now));
                }
            }
            unwanted.extend(self.written.keys().filter(|id| !targets.contains_key(*id)).cloned());
        }
        let written = join_all(due.into_iter().map(|(id, report, now)| {
            let (this, client) = (&*self, &client);
            async move {
                let put = this.put(client, &id, report).await;
                (id, put.map(|()| now))
            }
        }));
        for (id, written) in written.await {
            match written {
                Ok(now) => drop(self.written.insert(id, now)),
                Err(error) => {
                    // Tried again with the next look; if the session has ended, in the next.
                    tracing::debug!(target = id, %error, "a health report could not be written");
                    self.written.remove(&id);
                }
            }
        }
        for id in unwanted {
            self.retract(&client, &id).await;
            self.written.remove(&id);
        }
    }

    async fn put(&self, client: &Client, id: &str, report: Vec<u8>) -> Result<(), Error> {
        let path = self.layout.report(id, &self.shared.id);
        let stamp = loop {
            match client.set(path.clone(), report.clone(), None).await {
                Ok(stat) => break stat.mtime,
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) => return Err(error),
            }
            match client.create(path.clone(), report.clone(), CreateMode::Ephemeral).await {
                Ok(created) => break created.stat.ctime,
                Err(error) if error.kind == ErrorKind::NoNode => {
                    make_container(client, &self.layout.reports_of(id)).await?;
                }
                // Somebody else's hand: replaced.
                Err(error) if error.kind == ErrorKind::NodeExists => {}
                Err(error) => return Err(error),
            }
        };
        self.shared.clock.observe(stamp, Instant::now());
        Ok(())
    }

    async fn retract(&self, client: &Client, id: &str) {
        match client.delete(self.layout.report(id, &self.shared.id), None).await {
            Ok(_) => {}
            // If it is not gone already, it goes with the session.
            Err(error) => tracing::debug!(target = id, %error, "a health report was not removed"),
        }
    }
}
