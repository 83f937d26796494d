use std::sync::Arc;

use futures::Stream;

use super::tree_cache::{CacheChange, CacheStats, CacheView, CachedZnode, TreeCache};
use crate::recipes::Sessions;
use crate::{Client, Error};

/// A local mirror of the children of one znode, with their data: a registry, the members of a group.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::PathCache;
/// use futures::StreamExt as _;
///
/// let members = PathCache::start(&sessions, "/members");
/// members.wait_ready().await?;
/// let first = members.get("member-1");
/// let mut changes = members.changes();
/// while let Some(change) = changes.next().await {
///     println!("{} {:?}", change.path(), change.after());
/// }
/// # Ok(()) }
/// ```
///
/// All that is said of a [`TreeCache`] holds for it: it is one that ends with the children, and leaves the znode itself
/// out. It is told of changes below the children, too, and drops them, so it suits a znode whose children are leaves.
///
/// Curator: `PathChildrenCache`, `CuratorCache`. kazoo: `ChildrenWatch`, which has names without data.
#[derive(Clone, Debug)]
pub struct PathCache {
    tree: TreeCache,
    /// With the slash.
    prefix: Arc<str>,
    path: Arc<str>,
}

impl PathCache {
    /// Begins to mirror the children of `path`, which need not exist, in one session after the other. Must be called in a
    /// tokio runtime.
    pub fn start(sessions: &Sessions, path: impl AsRef<str>) -> Self {
        let path = path.as_ref();
        Self::new(TreeCache::of_children(sessions, path), path)
    }

    /// Begins to mirror the children of `path` as long as the session lives.
    pub fn in_session(client: &Client, path: impl AsRef<str>) -> Self {
        let path = path.as_ref();
        Self::new(TreeCache::of_children_in_session(client, path), path)
    }

    fn new(tree: TreeCache, path: &str) -> Self {
        let prefix = if path == "/" { "/".into() } else { format!("{path}/").into() };
        Self { tree, prefix, path: path.into() }
    }

    /// The znode whose children these are.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The name of one of its znodes: what follows the last slash of its path.
    pub fn name<'a>(&self, znode: &'a CachedZnode) -> &'a str {
        znode.path.strip_prefix(&*self.prefix).unwrap_or(&znode.path)
    }

    /// The newest state: the children, by their full paths. It does not change; ask again for a newer one.
    pub fn view(&self) -> CacheView {
        self.tree.view()
    }

    /// A child by its name in the newest state.
    pub fn get(&self, name: &str) -> Option<Arc<CachedZnode>> {
        self.tree.get(&format!("{}{name}", self.prefix))
    }

    /// All children in the newest state, in byte order of their names.
    pub fn children(&self) -> Vec<Arc<CachedZnode>> {
        self.tree.children(&self.path)
    }

    /// See [`TreeCache::wait_ready`].
    ///
    /// # Errors
    ///
    /// Why there will be no state.
    pub async fn wait_ready(&self) -> Result<CacheView, Error> {
        self.tree.wait_ready().await
    }

    /// See [`TreeCache::wait_for`].
    ///
    /// # Errors
    ///
    /// Why there will be no such state.
    pub async fn wait_for(&self, zxid: u64) -> Result<CacheView, Error> {
        self.tree.wait_for(zxid).await
    }

    /// See [`TreeCache::end`].
    pub fn end(&self) -> Option<Error> {
        self.tree.end()
    }

    /// See [`TreeCache::views`].
    pub fn views(&self) -> impl Stream<Item = CacheView> + Send + Unpin + 'static + use<> {
        self.tree.views()
    }

    /// See [`TreeCache::changes`].
    pub fn changes(&self) -> impl Stream<Item = CacheChange> + Send + Unpin + 'static + use<> {
        self.tree.changes()
    }

    /// See [`TreeCache::changes_since`].
    pub fn changes_since(
        &self,
        view: CacheView,
    ) -> impl Stream<Item = CacheChange> + Send + Unpin + 'static + use<> {
        self.tree.changes_since(view)
    }

    /// See [`TreeCache::stats`].
    pub fn stats(&self) -> CacheStats {
        self.tree.stats()
    }
}
