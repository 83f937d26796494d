use std::sync::Arc;

use futures::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::options::ConfigOptions;
use super::snapshot::Config;
use crate::Error;
use crate::recipes::{CacheView, TreeCache};

/// What a manager shows.
#[derive(Debug)]
pub(super) struct Published<T> {
    /// The state of the tree that this is of; see [`CacheView::position`].
    pub(super) position: (u32, u64),
    /// The newest one that can be used.
    pub(super) config: Config<T>,
    /// Why what is stored cannot be used, if it cannot.
    pub(super) problem: Option<Error>,
    /// Why it stays as it is.
    pub(super) end: Option<Error>,
    /// Of the znode that was looked at last, whether it could be used or not.
    seen: Option<Identity>,
}

impl<T: Serialize + DeserializeOwned + Clone> Published<T> {
    /// Begins with the default.
    pub(super) fn new(path: &str, options: &ConfigOptions<T>) -> Result<Self, Error> {
        let config = options.read(path, None)?;
        Ok(Self { position: (0, 0), config, problem: None, end: None, seen: None })
    }

    /// Whether a view shows another state of the znode than the last one.
    fn is_news(&self, path: &str, view: &CacheView) -> bool {
        identity(path, view) != self.seen
    }

    /// Takes over a state of the tree; `read`: what was made of it, if it is news.
    fn take(&mut self, path: &str, view: &CacheView, read: Option<Result<Config<T>, Error>>) {
        self.position = view.position();
        self.seen = identity(path, view);
        match read {
            None => {}
            Some(Ok(config)) => {
                self.config = config;
                self.problem = None;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the last configuration that can be used stays in force");
                self.problem = Some(error);
            }
        }
    }
}

/// Lineage, creation and change: equal zxids of two ensembles are two states.
type Identity = (u32, u64, u64);

fn identity(path: &str, view: &CacheView) -> Option<Identity> {
    view.get(path).map(|znode| (view.position().0, znode.stat.czxid, znode.stat.mzxid))
}

/// Publishes every state of the cache, which mirrors the znode of the configuration; runs until it is aborted or the cache ends.
pub(super) async fn follow<T: Serialize + DeserializeOwned + Clone>(
    cache: TreeCache,
    path: Arc<str>,
    options: Arc<ConfigOptions<T>>,
    published: watch::Sender<Published<T>>,
) {
    let mut views = cache.views();
    while let Some(view) = views.next().await {
        // Nobody else writes, so this is still so below. Not under the lock of what is published: the program's own validation may
        // look at the configuration in force, and take its time.
        let is_news = published.borrow().is_news(&path, &view);
        let read = is_news.then(|| {
            let znode = view.get(&path);
            let read = options.read(&path, znode.map(|znode| (&znode.data, znode.stat)));
            read.map(|config| config.in_lineage(view.lineage().cloned()))
        });
        published.send_modify(|published| published.take(&path, &view, read));
    }
    published.send_modify(|published| published.end = cache.end());
}
