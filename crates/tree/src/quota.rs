use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::digest::{Digest, Element};
use crate::path::lineage;
use crate::{Detail, ErrorKind, OpError, Quota, QuotaUnit};

/// A quota and what counts against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaReport {
    /// The limits.
    pub quota: Quota,
    /// Znodes of the subtree, its top included.
    pub count: u64,
    /// Data bytes of the subtree, its top included.
    pub bytes: u64,
    /// Whether a soft limit is exceeded.
    pub exceeded_soft: bool,
}

/// The quotas by the path of their subtree, with what is in use.
///
/// A quota is about a path, not about a znode: it stays when the znode is deleted and holds for the next one there,
/// so that no tenant gets rid of it by deleting the top of the own subtree. Where quotas lie within each other, all
/// of them hold; ZooKeeper allows no such thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quotas {
    by_path: OrdMap<Arc<str>, Usage>,
    digest: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) quota: Quota,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Usage {
    pub(crate) fn report(&self) -> QuotaReport {
        let &Usage { quota, count, bytes } = self;
        let exceeded_soft = quota.count_soft.is_some_and(|limit| count > limit)
            || quota.bytes_soft.is_some_and(|limit| bytes > limit);
        QuotaReport { quota, count, bytes, exceeded_soft }
    }
}

impl Quotas {
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        self.by_path.iter().map(|(path, usage)| hash(path, usage)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// In the order of their paths, from after `after` on.
    pub(crate) fn after(&self, after: &str) -> impl Iterator<Item = (&Arc<str>, &Usage)> {
        self.by_path.range::<_, str>((Bound::Excluded(after), Bound::Unbounded))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Usage)> {
        self.by_path.iter()
    }

    pub(crate) fn put(&mut self, path: Arc<str>, usage: Usage) {
        self.remove(&path);
        self.digest.add(hash(&path, &usage));
        self.by_path.insert(path, usage);
    }

    pub(crate) fn remove(&mut self, path: &str) -> Option<Usage> {
        let usage = self.by_path.remove(path)?;
        self.digest.remove(hash(path, &usage));
        Some(usage)
    }

    pub(crate) fn report(&self, path: &str) -> Result<QuotaReport, OpError> {
        match self.by_path.get(path) {
            Some(usage) => Ok(usage.report()),
            None => Err(OpError::new(ErrorKind::NoNode, path, Detail::NoQuota)),
        }
    }

    /// Accounts for a change of the znode at `path`.
    pub(crate) fn record(&mut self, path: &str, count: i64, bytes: i64) {
        if self.by_path.is_empty() {
            return;
        }
        for top in lineage(path) {
            if let Some(usage) = self.by_path.get_mut(top) {
                self.digest.remove(hash(top, usage));
                usage.count = usage.count.saturating_add_signed(count);
                usage.bytes = usage.bytes.saturating_add_signed(bytes);
                self.digest.add(hash(top, usage));
            }
        }
    }

    /// Accounts for the end of the subtree at `top`, with so many znodes and bytes: what has a quota in it is
    /// empty. Costs as much as there are quotas, and not as there are znodes.
    pub(crate) fn record_end(&mut self, top: &str, count: u64, bytes: u64) {
        if self.by_path.is_empty() {
            return;
        }
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.record(top, -signed(count), -signed(bytes));
        let below = format!("{top}/");
        let from_below = (Bound::Included(below.as_str()), Bound::Unbounded);
        let within =
            self.by_path.range::<_, str>(from_below).take_while(|(path, _)| path.starts_with(&below));
        let ended: Vec<Arc<str>> = within.map(|(path, _)| path.clone()).collect();
        for path in ended {
            if let Some(usage) = self.by_path.get_mut(&path) {
                self.digest.remove(hash(&path, usage));
                (usage.count, usage.bytes) = (0, 0);
                self.digest.add(hash(&path, usage));
            }
        }
    }

    /// Whether the hard limits leave room for a znode at `path` that is `bytes` larger, and for the `created`
    /// lowest znodes of its lineage (0 for a change of data, more than 1 for a create with parents). Whatever does
    /// not grow is allowed, so that a subtree that is over its quota can be brought below it again.
    pub(crate) fn check(&self, path: &str, created: usize, bytes: i64) -> Result<(), OpError> {
        if self.by_path.is_empty() {
            return Ok(());
        }
        let depth = lineage(path).count();
        for (above, top) in lineage(path).enumerate() {
            let Some(usage) = self.by_path.get(top) else { continue };
            let count = created.min(depth - above) as u64;
            let exceeded = |unit, used, limit| {
                let detail = Detail::Quota { unit, used, limit, top_bytes: top.len() as u32 };
                Err(OpError::new(ErrorKind::QuotaExceeded, path, detail))
            };
            if let Some(limit) = usage.quota.count_hard
                && count > 0
                && usage.count.saturating_add(count) > limit
            {
                return exceeded(QuotaUnit::Znodes, usage.count.saturating_add(count), limit);
            }
            let grown = usage.bytes.saturating_add_signed(bytes);
            if let Some(limit) = usage.quota.bytes_hard
                && bytes > 0
                && grown > limit
            {
                return exceeded(QuotaUnit::Bytes, grown, limit);
            }
        }
        Ok(())
    }
}

fn hash(path: &str, usage: &Usage) -> u64 {
    let Quota { count_soft, count_hard, bytes_soft, bytes_hard } = usage.quota;
    let mut element = Element::new(b'q');
    for limit in [count_soft, count_hard, bytes_soft, bytes_hard] {
        element.u32(u32::from(limit.is_some())).u64(limit.unwrap_or(0));
    }
    element.bytes(path.as_bytes()).u64(usage.count).u64(usage.bytes).hash()
}
