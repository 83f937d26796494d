use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often something happened in this process. Exact in the end, and never waited for.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// What operators and fault tests want to know happened. The names are part of the API (`StatusReply.counters`).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes_answered_from_record: Counter,
    pub(crate) watches_resumed: Counter,
    pub(crate) missed_events_sent: Counter,
    pub(crate) watches_resynced: Counter,
    pub(crate) sessions_expired: Counter,
    pub(crate) snapshots_installed: Counter,
}

impl Counters {
    pub(crate) fn by_name(&self) -> HashMap<String, u64> {
        let named = [
            ("writes_answered_from_record", &self.writes_answered_from_record),
            ("watches_resumed", &self.watches_resumed),
            ("missed_events_sent", &self.missed_events_sent),
            ("watches_resynced", &self.watches_resynced),
            ("sessions_expired", &self.sessions_expired),
            ("snapshots_installed", &self.snapshots_installed),
        ];
        named
            .into_iter()
            .map(|(name, counter)| (name.to_owned(), counter.0.load(Ordering::Relaxed)))
            .collect()
    }
}
