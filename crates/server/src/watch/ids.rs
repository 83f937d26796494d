use std::sync::Arc;

use crate::client_memory::{Charge, ClientMemory};

/// What a list takes in memory beside its ids, about.
const LIST_BYTES: usize = 80;

/// Watch ids that several items name. They count against the budget once, while an item or the table refers
/// to them.
pub(crate) struct SharedIds {
    ids: Box<[u64]>,
    _charge: Charge,
}

impl SharedIds {
    pub(crate) fn new(ids: impl Iterator<Item = u64>, memory: &Arc<ClientMemory>) -> Arc<Self> {
        let ids: Box<[u64]> = ids.collect();
        let charge = memory.charge(LIST_BYTES + size_of_val(&*ids));
        Arc::new(SharedIds { ids, _charge: charge })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.ids.iter().copied()
    }
}

impl std::fmt::Debug for SharedIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ids.fmt(f)
    }
}

/// The watches that an item names: one list for each group of watches, shared with other items.
#[derive(Debug, Default)]
pub(crate) struct WatchIds(Vec<Arc<SharedIds>>);

impl WatchIds {
    pub(crate) fn push(&mut self, list: Arc<SharedIds>) {
        self.0.push(list);
    }

    pub(crate) fn lists(&self) -> &[Arc<SharedIds>] {
        &self.0
    }

    /// Returns the number of watches.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|list| list.ids.len()).sum()
    }

    pub(crate) fn to_vec(&self) -> Vec<u64> {
        let mut all = Vec::with_capacity(self.len());
        self.0.iter().for_each(|list| all.extend_from_slice(&list.ids));
        all
    }
}

impl From<Arc<SharedIds>> for WatchIds {
    fn from(list: Arc<SharedIds>) -> Self {
        WatchIds(vec![list])
    }
}
