use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::select_all;
use tokio::task::AbortHandle;

use crate::Error;
use crate::recipes::znode::name_of;
use crate::recipes::{CacheChange, CacheView, PathCache, Sessions};

/// A loss is noticed long before that.
const KEPT: Duration = Duration::from_secs(60);
/// More ends of claims than that are not remembered.
const ENDS_MAX: usize = 100_000;

/// Whose claims have ended lately: when a session is gone, nothing in the tree says any more which tasks it had. All
/// detectors keep it, so that whoever is elected next knows.
pub(super) struct ClaimsLog {
    queues: Vec<(String, PathCache)>,
    ended: Arc<Mutex<Ended>>,
    follower: AbortHandle,
}

/// Pure: the time is an argument.
#[derive(Debug, Default)]
struct Ended {
    /// By queue, the state up to which it is accounted for.
    seen: Vec<CacheView>,
    /// By session: which tasks of which queues, and when that was noticed.
    tasks: BTreeMap<u64, BTreeMap<(usize, String), Instant>>,
    count: usize,
}

impl ClaimsLog {
    pub(super) fn follow(sessions: &Sessions, queues: &[String]) -> Self {
        let claims = |queue: &String| PathCache::start(sessions, format!("{queue}/claims"));
        let queues: Vec<_> = queues.iter().map(|queue| (queue.clone(), claims(queue))).collect();
        let seen = queues.iter().map(|_| CacheView::default()).collect();
        let ended = Arc::new(Mutex::new(Ended { seen, ..Ended::default() }));
        let views = queues
            .iter()
            .enumerate()
            .map(|(index, (_, claims))| claims.views().map(move |view| (index, view)));
        let mut views = select_all(views.collect::<Vec<_>>());
        let log = ended.clone();
        let follower = tokio::spawn(async move {
            while let Some((index, view)) = views.next().await {
                lock(&log).absorb(index, view, Instant::now());
            }
        });
        Self { queues, ended, follower: follower.abort_handle() }
    }

    /// The tasks of a queue whose claims have ended that this session had, everything considered up to `zxid`.
    pub(super) async fn ended(
        &self,
        queue: &str,
        session_id: u64,
        zxid: u64,
    ) -> Result<BTreeSet<String>, Error> {
        let Some(index) = self.queues.iter().position(|(path, _)| path == queue) else {
            return Ok(BTreeSet::new());
        };
        let view = self.queues[index].1.wait_for(zxid).await?;
        let mut ended = lock(&self.ended);
        ended.absorb(index, view, Instant::now());
        let tasks = ended.tasks.get(&session_id).into_iter().flat_map(BTreeMap::keys);
        Ok(tasks.filter(|(queue, _)| *queue == index).map(|(_, id)| id.clone()).collect())
    }
}

impl Drop for ClaimsLog {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Ended {
    fn absorb(&mut self, queue: usize, view: CacheView, now: Instant) {
        // Two read the same views, and one of them may be late.
        if view.zxid() <= self.seen[queue].zxid() {
            return;
        }
        let changes = view.changes_since(&self.seen[queue]);
        self.seen[queue] = view;
        let gone = changes.iter().filter_map(|change| match change {
            CacheChange::Added(_) => None,
            CacheChange::Updated { old, new } => (old.stat.czxid != new.stat.czxid).then_some(old),
            CacheChange::Removed(znode) => Some(znode),
        });
        for znode in gone {
            let id = name_of(&znode.path).to_owned();
            let tasks = self.tasks.entry(znode.stat.ephemeral_owner).or_default();
            self.count += usize::from(tasks.insert((queue, id), now).is_none());
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        if self.count > ENDS_MAX {
            self.tasks.clear();
        }
        self.tasks.retain(|_, tasks| {
            tasks.retain(|_, at| now.saturating_duration_since(*at) < KEPT);
            !tasks.is_empty()
        });
        self.count = self.tasks.values().map(BTreeMap::len).sum();
    }
}

fn lock(ended: &Mutex<Ended>) -> MutexGuard<'_, Ended> {
    ended.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
