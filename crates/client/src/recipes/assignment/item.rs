use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::recipes::Grant;

/// An item, as it is put into a group.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkItem {
    pub(super) cost: f64,
    pub(super) data: Value,
}

impl Default for WorkItem {
    fn default() -> Self {
        Self { cost: 1.0, data: Value::Null }
    }
}

impl WorkItem {
    /// An item of cost 1 without data.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it adds to the load of its worker, at least 0. Only [`Strategy::LeastLoaded`](crate::recipes::Strategy::LeastLoaded)
    /// goes by it.
    #[must_use]
    pub fn cost(mut self, cost: f64) -> Self {
        self.cost = cost;
        self
    }

    /// What its worker has to know. With the rest at most 1 MiB as JSON.
    #[must_use]
    pub fn data(mut self, data: impl Into<Value>) -> Self {
        self.data = data.into();
        self
    }
}

/// An item that this worker owns: a [`Grant`] whose znode says so, made in the worker's session.
///
/// When it is [`revoked`](Self::revoked), finish what is under way and then drop it, or call [`done`](Self::done): nobody else
/// gets the item before. When it is [`lost`](Grant::lost), stop at once.
///
/// One that is dropped without having been revoked is assigned again, to the same worker, after a second.
#[derive(Debug)]
pub struct AssignedItem {
    id: String,
    data: Value,
    cost: f64,
    revoked: watch::Receiver<bool>,
    // Dropped before the notice of it: who hears that looks for the znode.
    grant: Grant,
    notice: Notice,
}

impl Deref for AssignedItem {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.grant
    }
}

impl AssignedItem {
    pub(super) fn new(
        id: String,
        record: super::records::ItemRecord,
        grant: Grant,
        revoked: watch::Receiver<bool>,
        ended_tx: mpsc::UnboundedSender<Ended>,
    ) -> Self {
        let notice =
            Notice { id: id.clone(), epoch: grant.epoch(), ended_tx, is_sent: AtomicBool::new(false) };
        Self { id, data: record.data, cost: record.cost, revoked, grant, notice }
    }

    /// Its name in the group.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What was put, as it was when the item was assigned.
    pub fn data(&self) -> &Value {
        &self.data
    }

    /// What it adds to the load of its worker.
    pub fn cost(&self) -> f64 {
        self.cost
    }

    /// Waits until the item is to be given back: it goes to another worker, or was removed, or this worker leaves the group.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn revoked(&self) {
        // An error: the worker has left.
        let _ = self.revoked.clone().wait_for(|is_revoked| *is_revoked).await;
    }

    /// Whether [`revoked`](Self::revoked) would complete at once.
    pub fn is_revoked(&self) -> bool {
        *self.revoked.borrow() || self.revoked.has_changed().is_err()
    }

    /// Gives the item back, and waits until the next owner may have it.
    ///
    /// # Errors
    ///
    /// Those of the session. An item that is gone already is given back.
    ///
    /// # Cancellation
    ///
    /// It is given back also if the future is dropped.
    pub async fn done(self) -> Result<(), Error> {
        self.give_back().await
    }

    /// The same, for who shares the item with others.
    pub(super) async fn give_back(&self) -> Result<(), Error> {
        let given_back = self.grant.release().await;
        self.notice.send();
        given_back
    }
}

/// The grant of an item is not used any more.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: String,
    pub(super) epoch: u64,
}

/// Tells the worker of it, once.
#[derive(Debug)]
struct Notice {
    id: String,
    epoch: u64,
    ended_tx: mpsc::UnboundedSender<Ended>,
    is_sent: AtomicBool,
}

impl Notice {
    fn send(&self) {
        if !self.is_sent.swap(true, Ordering::AcqRel) {
            // A worker that has left does not want to know.
            let _ = self.ended_tx.send(Ended { id: self.id.clone(), epoch: self.epoch });
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.send();
    }
}
