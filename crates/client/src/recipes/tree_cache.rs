//! Local mirrors of parts of the tree.

mod mirror;
mod task;
mod view;

use std::sync::Arc;

use futures::Stream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::mirror::Scope;
use self::task::{CacheTask, Counters, Source};
pub use self::view::{CacheChange, CacheView, CachedZnode};
use crate::recipes::Sessions;
use crate::{Client, Error, ErrorKind, Lineage};

/// A local mirror of a subtree, kept up by the server's events: reads of it cost nothing, and show a state that the tree
/// really had.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::TreeCache;
///
/// let cache = TreeCache::start(&sessions, "/app");
/// let view = cache.wait_ready().await?;
/// for child in view.children("/app/workers") {
///     println!("{} {:?}", child.path, child.data);
/// }
/// # Ok(()) }
/// ```
///
/// # What it shows
///
/// * **A prefix of history.** Every [`view`](Self::view) is the subtree as it was at [`CacheView::zxid`]: all changes up to
///   there and none after it, so a multi shows as a whole or not at all. Views only go forward, over reconnects and new
///   sessions, too. Before the first one is complete ([`wait_ready`](Self::wait_ready)) there is an empty one with zxid 0.
/// * **Not the newest state.** It is behind the node of its session by the time of an event and of one read. To see what one
///   has written, or heard of, wait for its zxid: [`wait_for`](Self::wait_for). The first view shows all that was
///   acknowledged anywhere when its session began to load it.
/// * **What its session may read.** What it may not read is left out. A change of an ACL is no event: a znode that becomes
///   readable comes with its next change, one that becomes unreadable stays as it was until the next load.
///
/// # On connection loss, and when the session ends
///
/// The last view stays. After a reconnect the cache goes on from its position, which costs the changes, not the subtree;
/// where the server no longer has them, and in a new session, it lists the subtree again and reads what has
/// changed. Of another ensemble ([`Lineage`](crate::Lineage)) it reads everything, and listeners are told
/// that everything was removed and added.
/// Listeners are told the difference only. One that was made [in a session](Self::in_session) ends with it.
///
/// It ends when the last clone of it is dropped.
///
/// Curator: `TreeCache`, `CuratorCache`. kazoo: `TreeCache`. Those show the changes of a multi one by one, and read each
/// znode again after each change.
#[derive(Clone)]
pub struct TreeCache {
    inner: Arc<Inner>,
}

struct Inner {
    published: Arc<watch::Sender<Published>>,
    wanted: watch::Sender<(u32, u64)>,
    /// Whose sessions it follows.
    source: Source,
    counters: Arc<Counters>,
    task: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the handles see.
struct Published {
    view: CacheView,
    /// Which history the view is of.
    lineage: Option<Arc<Lineage>>,
    /// Why the view stays as it is.
    end: Option<Error>,
}

/// What a cache has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Requests sent.
    pub requests: u64,
    /// How often the znodes were listed: once in each session, and where events were missed for good.
    pub loads: u64,
    /// Events received.
    pub events: u64,
}

impl std::fmt::Debug for TreeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let published = self.inner.published.borrow();
        f.debug_struct("TreeCache")
            .field("zxid", &published.view.zxid())
            .field("znodes", &published.view.len())
            .field("end", &published.end)
            .finish()
    }
}

impl TreeCache {
    /// Begins to mirror `path`, which need not exist, and all below it, in one session after the other. Must be called in
    /// a tokio runtime.
    pub fn start(sessions: &Sessions, path: impl AsRef<str>) -> Self {
        Self::with_depth(sessions, path, usize::MAX)
    }

    /// The same down to `depth` levels below `path`; 0 is `path` alone. Events of what is deeper come, too, and are
    /// dropped here.
    pub fn with_depth(sessions: &Sessions, path: impl AsRef<str>, depth: usize) -> Self {
        Self::spawn(Source::Sessions(sessions.clone()), path.as_ref(), true, depth)
    }

    /// Begins to mirror `path` and all below it as long as the session lives.
    pub fn in_session(client: &Client, path: impl AsRef<str>) -> Self {
        Self::spawn(Source::Client(client.patient()), path.as_ref(), true, usize::MAX)
    }

    /// The children of `path`, without `path` itself.
    pub(super) fn of_children(sessions: &Sessions, path: &str) -> Self {
        Self::spawn(Source::Sessions(sessions.clone()), path, false, 1)
    }

    /// The children of `path`, as long as the session lives.
    pub(super) fn of_children_in_session(client: &Client, path: &str) -> Self {
        Self::spawn(Source::Client(client.patient()), path, false, 1)
    }

    fn spawn(source: Source, path: &str, with_top: bool, depth_max: usize) -> Self {
        let published = Arc::new(watch::Sender::new(Published::new()));
        let wanted = watch::Sender::new((0, 0));
        let counters = Arc::<Counters>::default();
        let scope = Scope { top: path.into(), with_top, depth_max };
        let task = CacheTask {
            scope,
            published: published.clone(),
            wanted: wanted.subscribe(),
            counters: counters.clone(),
        };
        let task = tokio::spawn(task.run(source.clone())).abort_handle();
        Self { inner: Arc::new(Inner { published, wanted, source, counters, task }) }
    }

    /// The newest state. It does not change; ask again for a newer one.
    pub fn view(&self) -> CacheView {
        self.inner.published.borrow().view.clone()
    }

    /// The znode at a path in the newest state.
    pub fn get(&self, path: &str) -> Option<Arc<CachedZnode>> {
        self.inner.published.borrow().view.get(path).cloned()
    }

    /// The children of the znode at a path in the newest state, in byte order of their names.
    pub fn children(&self, path: &str) -> Vec<Arc<CachedZnode>> {
        self.inner.published.borrow().view.children(path).cloned().collect()
    }

    /// Waits for the first state.
    ///
    /// # Errors
    ///
    /// Why there will be none: see [`end`](Self::end).
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn wait_ready(&self) -> Result<CacheView, Error> {
        let era = self.inner.published.borrow().view.era();
        self.wait_for_view((era, 1)).await
    }

    /// Waits for a state that shows the change of this zxid ([`Stat::mzxid`](crate::Stat::mzxid) of a set,
    /// [`Client::last_zxid`] for all that a session has seen). The server is asked to hurry, so this takes no longer than a
    /// read, or a linearizable one if the change was not made in the session of the cache. A zxid that there is not yet is
    /// waited for. It is one of the ensemble that the newest session is of: a state of another one does not
    /// show it.
    ///
    /// # Errors
    ///
    /// As [`wait_ready`](Self::wait_ready); `OtherLineage` if the ensemble is replaced meanwhile.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn wait_for(&self, zxid: u64) -> Result<CacheView, Error> {
        let position = (self.newest_era(), zxid.max(1));
        self.inner.wanted.send_if_modified(|wanted| {
            let is_newer = position > *wanted;
            *wanted = position.max(*wanted);
            is_newer
        });
        self.wait_for_view(position).await
    }

    /// The era of what the newest session shows: the next one, if the cache has not followed it yet.
    fn newest_era(&self) -> u32 {
        let newest = match &self.inner.source {
            Source::Client(client) => client.lineage(),
            Source::Sessions(sessions) => sessions.newest().ok().and_then(|client| client.lineage()),
        };
        let published = self.inner.published.borrow();
        let is_behind = published.lineage.is_some()
            && newest.is_some()
            && published.lineage.as_deref() != newest.as_ref();
        published.view.era() + u32::from(is_behind)
    }

    async fn wait_for_view(&self, position: (u32, u64)) -> Result<CacheView, Error> {
        let mut published = self.inner.published.subscribe();
        let is_there = |published: &Published| {
            published.view.position() >= position && published.view.zxid() > 0 || published.end.is_some()
        };
        let published = published.wait_for(is_there).await;
        let published = published.map_err(|_| Error::new(ErrorKind::SessionClosed, "the cache has ended"))?;
        match &published.end {
            Some(end) if published.view.position() < position => Err(end.clone()),
            // For the first state any ensemble will do.
            _ if position.1 > 1 && published.view.era() > position.0 => {
                let message =
                    "the ensemble is another one by now, and zxids of the one before mean nothing there";
                Err(Error::new(ErrorKind::OtherLineage, message))
            }
            _ => Ok(published.view.clone()),
        }
    }

    /// Why the cache has stopped, if it has: its session or [`Sessions`] have ended, its path is malformed or may not be
    /// read, or a reply broke the protocol.
    pub fn end(&self) -> Option<Error> {
        self.inner.published.borrow().end.clone()
    }

    /// The newest state, from the first complete one on, and each that follows. Who is slow misses states that lie
    /// between, never the newest. Ends when the cache does.
    pub fn views(&self) -> impl Stream<Item = CacheView> + Send + Unpin + 'static + use<> {
        let published = self.inner.published.subscribe();
        Box::pin(futures::stream::unfold((published, (0, 0)), |(mut published, last)| async move {
            // At no zxid nothing is shown that was not shown before.
            let is_later = |view: &CacheView| view.position() > last && view.zxid() > 0;
            let is_next = |published: &Published| is_later(&published.view) || published.end.is_some();
            let view = published.wait_for(is_next).await.ok()?.view.clone();
            let position = view.position();
            is_later(&view).then_some((view, (published, position)))
        }))
    }

    /// What changes, beginning with everything that is there as [`CacheChange::Added`]. The changes between two states come
    /// in a row: first what is gone, children before parents, then the rest, parents before children.
    ///
    /// Who is slow misses no difference but may miss how it came about: what changed several times is one change then, and
    /// what came and went is none. Nothing piles up. Ends when the cache does.
    pub fn changes(&self) -> impl Stream<Item = CacheChange> + Send + Unpin + 'static + use<> {
        self.changes_since(CacheView::default())
    }

    /// What changes from a state on that one has.
    pub fn changes_since(
        &self,
        view: CacheView,
    ) -> impl Stream<Item = CacheChange> + Send + Unpin + 'static + use<> {
        use futures::StreamExt as _;

        let differences = self.views().scan(view, |last, view| {
            let changes = view.changes_since(last);
            *last = view;
            std::future::ready(Some(futures::stream::iter(changes)))
        });
        Box::pin(differences.flatten())
    }

    /// What it has cost so far.
    pub fn stats(&self) -> CacheStats {
        self.inner.counters.stats()
    }
}
