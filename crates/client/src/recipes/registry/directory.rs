use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::freshness::ServerTime;
use super::{InstanceStatus, ServiceInstance};
use crate::Stat;
use crate::recipes::CacheChange;
use crate::recipes::znode::name_of;

/// What the announcements of one service say, as they change. Pure: the time is an argument.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    records: BTreeMap<String, Record>,
    time: ServerTime,
    /// Everything that was written before this time of the servers has been put; milliseconds since the Unix epoch.
    confirmed: u64,
}

#[derive(Debug)]
struct Record {
    /// `None`: its data are not those of an instance.
    instance: Option<Arc<ServiceInstance>>,
    /// The announcement's creation zxid: tells an instance that came back from the one before.
    epoch: u64,
    mtime: u64,
}

/// An instance as a caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// What it says of itself.
    pub instance: Arc<ServiceInstance>,
    /// The zxid that created its announcement; another one is another registration.
    pub epoch: u64,
}

impl AsRef<ServiceInstance> for Member {
    fn as_ref(&self) -> &ServiceInstance {
        &self.instance
    }
}

impl Directory {
    /// What has become of the announcements since they were put last.
    pub(crate) fn apply(&mut self, changes: &[CacheChange], now: Instant) {
        for change in changes {
            let name = name_of(change.path());
            match change {
                CacheChange::Added(znode) | CacheChange::Updated { new: znode, .. } => {
                    self.put(name, &znode.data, &znode.stat, now);
                }
                CacheChange::Removed(_) => self.remove(name),
            }
        }
    }

    /// An announcement is there, or has changed.
    pub(crate) fn put(&mut self, name: &str, data: &[u8], stat: &Stat, now: Instant) {
        self.time.observe(stat.mtime, now);
        let instance = match ServiceInstance::from_json(name, data) {
            Ok(instance) => Some(Arc::new(instance)),
            Err(reason) => {
                tracing::warn!(name, reason, "an announcement is not one of an instance; it is left out");
                None
            }
        };
        let record = Record { instance, epoch: stat.czxid, mtime: stat.mtime };
        self.records.insert(name.to_owned(), record);
    }

    /// An announcement has gone.
    pub(crate) fn remove(&mut self, name: &str) {
        self.records.remove(name);
    }

    /// Everything that was written before `at` has been put since.
    pub(crate) fn confirm(&mut self, at: Instant) {
        self.confirmed = self.confirmed.max(self.time.at_least(at).unwrap_or(0));
    }

    /// Some heartbeat seems to be older than `limit`, and that is not confirmed.
    pub(crate) fn is_in_doubt(&self, limit: Duration, now: Instant) -> bool {
        self.records
            .values()
            .any(|record| self.time.age(record.mtime, now) > limit && !self.is_stale(record, limit))
    }

    /// Those that take calls: healthy, with a heartbeat that is not older than `limit`; in the order of their ids.
    ///
    /// What seems stale may only not have arrived here: as long as that is not confirmed, it counts as fresh.
    pub(crate) fn healthy(&self, limit: Duration) -> Vec<Member> {
        self.members(|record, instance| {
            instance.status == InstanceStatus::Healthy && !self.is_stale(record, limit)
        })
    }

    /// All, whatever their status.
    pub(crate) fn all(&self) -> Vec<Member> {
        self.members(|_, _| true)
    }

    /// Those whose heartbeat is older than `limit`, whatever their status; confirmed.
    pub(crate) fn stale(&self, limit: Duration) -> Vec<Member> {
        self.members(|record, _| self.is_stale(record, limit))
    }

    fn is_stale(&self, record: &Record, limit: Duration) -> bool {
        Duration::from_millis(self.confirmed.saturating_sub(record.mtime)) > limit
    }

    fn members(&self, keep: impl Fn(&Record, &ServiceInstance) -> bool) -> Vec<Member> {
        let records = self.records.values();
        records
            .filter_map(|record| {
                let instance = record.instance.as_ref()?;
                keep(record, instance).then(|| Member { instance: instance.clone(), epoch: record.epoch })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn put(directory: &mut Directory, id: &str, status: InstanceStatus, mtime: u64, now: Instant) {
        let instance = ServiceInstance { status, ..ServiceInstance::new(id, "h", 1) };
        directory.put(id, &instance.to_json(), &Stat { mtime, czxid: 7, ..Stat::default() }, now);
    }

    fn ids(members: &[Member]) -> String {
        members.iter().map(|member| member.instance.id.as_str()).collect()
    }

    #[test]
    fn only_the_healthy_take_calls() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        put(&mut directory, "c", InstanceStatus::Healthy, 1, now);
        put(&mut directory, "b", InstanceStatus::Draining, 1, now);
        put(&mut directory, "a", InstanceStatus::Healthy, 1, now);
        put(&mut directory, "d", InstanceStatus::Unhealthy, 1, now);
        directory.put("e", b"rubbish", &Stat::default(), now);
        assert_eq!(ids(&directory.healthy(LIMIT)), "ac");
        assert_eq!(ids(&directory.all()), "abcd");
        directory.remove("a");
        assert_eq!(ids(&directory.healthy(LIMIT)), "c");
    }

    #[test]
    fn a_stale_heartbeat_counts_once_it_is_confirmed_and_a_fresh_one_brings_it_back() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        put(&mut directory, "a", InstanceStatus::Healthy, 100_000, now);
        put(&mut directory, "b", InstanceStatus::Healthy, 125_000, now);
        let later = now + Duration::from_secs(6);
        assert!(!directory.is_in_doubt(LIMIT, now) && directory.is_in_doubt(LIMIT, later));
        assert_eq!(ids(&directory.healthy(LIMIT)), "ab", "it may be this caller that hears nothing");
        directory.confirm(later);
        assert!(!directory.is_in_doubt(LIMIT, later));
        assert_eq!((ids(&directory.healthy(LIMIT)), ids(&directory.stale(LIMIT))), ("b".into(), "a".into()));
        put(&mut directory, "a", InstanceStatus::Healthy, 132_000, later);
        // What is heard later does not make older findings of what was not heard.
        put(&mut directory, "c", InstanceStatus::Healthy, 160_000, later + LIMIT);
        assert_eq!(ids(&directory.healthy(LIMIT)), "abc");
    }

    #[test]
    fn the_clock_of_an_instance_plays_no_part() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        let wrong = ServiceInstance { last_heartbeat: 1, ..ServiceInstance::new("a", "h", 1) };
        directory.put("a", &wrong.to_json(), &Stat { mtime: 100_000, ..Stat::default() }, now);
        directory.confirm(now);
        assert_eq!(ids(&directory.healthy(LIMIT)), "a");
    }
}
