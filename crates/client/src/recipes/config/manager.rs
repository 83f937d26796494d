use std::fmt;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::change::{ConfigChange, KeyChange};
use super::document::ConfigDocument;
use super::follower::{Published, follow};
use super::history::ConfigVersion;
use super::key::ConfigKey;
use super::options::ConfigOptions;
use super::snapshot::Config;
use crate::recipes::{CacheView, Sessions, TreeCache};
use crate::{Error, ErrorKind, Outcome};

/// Typed configuration that programs follow while they run: the value is always at hand, changes come as streams, and what is
/// written was valid and has a history.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::config::{ConfigManager, ConfigOptions};
/// use futures::StreamExt as _;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Settings {
///     cache_bytes: u64,
/// }
///
/// let options = ConfigOptions::<Settings>::default().author("host-7");
/// let config = ConfigManager::start(&sessions, "/app/config", options).await?;
/// println!("{} bytes", config.current().cache_bytes);
/// config.update(|settings| { settings.cache_bytes *= 2; Ok(()) }).await?;
/// let mut sizes = config.watch_key("cache_bytes")?;
/// while let Some(change) = sizes.next().await {
///     println!("{:?} -> {:?}", change.old, change.new);
/// }
/// # Ok(()) }
/// ```
///
/// # What it shows
///
/// * **The newest that can be used.** What cannot be parsed, or is not [valid](ConfigOptions::validate), is reported
///   ([`problem`](Self::problem), and in [`changes`](Self::changes)), and the last good one stays in force. While nothing is
///   stored it is the default.
/// * **Only forward**, over reconnects and sessions. Who is slow misses values that lie between, never the newest.
/// * **One's own writes**: when a write has returned, [`current`](Self::current) shows it, or something newer.
///
/// # On connection loss, and when the session ends
///
/// The last value stays. Writes wait for a node. One whose session ends before it is answered goes on in the next session
/// of the [`Sessions`], and takes effect once all the same.
///
/// Dropping it ends the streams, and leaves the configuration where it is.
///
/// Neither Curator nor kazoo has it; Curator's `NodeCache` and `SharedValue` and kazoo's `DataWatch` are its parts.
pub struct ConfigManager<T> {
    sessions: Sessions,
    cache: TreeCache,
    path: Arc<str>,
    options: Arc<ConfigOptions<T>>,
    published: watch::Receiver<Published<T>>,
    follower: AbortHandle,
}

impl<T> Drop for ConfigManager<T> {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl<T> fmt::Debug for ConfigManager<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let published = self.published.borrow();
        f.debug_struct("ConfigManager")
            .field("path", &self.path)
            .field("version", &published.config.version())
            .field("problem", &published.problem)
            .finish_non_exhaustive()
    }
}

/// Where a stream of changes stands.
struct Listener<T> {
    published: watch::Receiver<Published<T>>,
    /// The configuration and the problem that were told last.
    last: Config<T>,
    told: Option<Error>,
}

impl<T> Listener<T> {
    /// `None`: there is no more, as was asked for.
    async fn next(&mut self) -> Option<Result<ConfigChange<T>, Error>> {
        loop {
            let (config, problem, end) = {
                let is_news = |published: &Published<T>| {
                    published.end.is_some()
                        || published.problem != self.told
                        || published.config.identity() != self.last.identity()
                };
                let news = self.published.wait_for(is_news).await.ok()?;
                (news.config.clone(), news.problem.clone(), news.end.clone())
            };
            if config.identity() != self.last.identity() {
                let old = std::mem::replace(&mut self.last, config.clone());
                // A problem that came after this change is told next.
                self.told.take_if(|told| problem.as_ref() != Some(told));
                return Some(Ok(ConfigChange { old, new: config }));
            }
            if problem != self.told {
                self.told = problem;
                match self.told.clone() {
                    Some(problem) => return Some(Err(problem)),
                    // What could not be used was deleted.
                    None => continue,
                }
            }
            return end.filter(|end| end.kind != ErrorKind::SessionClosed).map(Err);
        }
    }
}

/// What became of a write.
enum Settled {
    /// It is final. Whether it was carried out: a compare-and-set may have had nothing to do.
    Done(bool),
    /// It was not carried out, and its session has ended.
    Again,
}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> ConfigManager<T> {
    /// Begins to follow the configuration at a path, which need not exist, and returns when its present state is known.
    ///
    /// # Errors
    ///
    /// `BadArguments` if the default is not valid, or the path malformed; `NoAuth`; `SessionClosed` if the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// It does not follow then.
    pub async fn start(
        sessions: &Sessions,
        path: impl AsRef<str>,
        options: ConfigOptions<T>,
    ) -> Result<Self, Error> {
        options.check()?;
        let (path, options) = (Arc::<str>::from(path.as_ref()), Arc::new(options));
        let first = Published::new(&path, &options)?;
        // The history is below, and is not mirrored.
        let cache = TreeCache::with_depth(sessions, &path, 0);
        let first_view = cache.wait_ready().await?;
        let published_tx = watch::Sender::new(first);
        let published = published_tx.subscribe();
        let follower = tokio::spawn(follow(cache.clone(), path.clone(), options.clone(), published_tx));
        let manager = Self {
            sessions: sessions.clone(),
            cache,
            path,
            options,
            published,
            follower: follower.abort_handle(),
        };
        manager.wait_until_shown(&first_view).await?;
        Ok(manager)
    }

    /// The value that is in force now.
    pub fn current(&self) -> Arc<T> {
        self.published.borrow().config.value.clone()
    }

    /// The same with its version, and as JSON.
    pub fn snapshot(&self) -> Config<T> {
        self.published.borrow().config.clone()
    }

    /// Why what is stored is not in force: `MarshallingError`, with the version and what is wrong with it. `None`: it is.
    pub fn problem(&self) -> Option<Error> {
        self.published.borrow().problem.clone()
    }

    /// Every change from now on, with the value before and after. An error is about a version that cannot be used, and the
    /// stream goes on; it ends when the manager is dropped or the sessions are closed, and after an error that is not
    /// `MarshallingError`, such as `NoAuth` in a new session.
    pub fn changes(&self) -> impl Stream<Item = Result<ConfigChange<T>, Error>> + Send + Unpin + use<T> {
        let published = self.published.clone();
        let (last, told) = {
            let published = published.borrow();
            (published.config.clone(), published.problem.clone())
        };
        let listener = Listener { published, last, told };
        Box::pin(futures::stream::unfold(Some(listener), async |listener| {
            let mut listener = listener?;
            match listener.next().await? {
                Err(error) if error.kind != ErrorKind::MarshallingError => Some((Err(error), None)),
                item => Some((item, Some(listener))),
            }
        }))
    }

    /// What becomes of one key ([`ConfigKey`]) from now on. Changes of the configuration that leave it as it was are not
    /// told, nor are versions that cannot be used.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a malformed key.
    pub fn watch_key(
        &self,
        key: &str,
    ) -> Result<impl Stream<Item = KeyChange> + Send + Unpin + use<T>, Error> {
        let key = key.parse::<ConfigKey>()?;
        let changes = self.changes();
        Ok(changes
            .filter_map(move |change| std::future::ready(change.ok().and_then(|change| change.key(&key)))))
    }

    /// Replaces the configuration, whatever it was. What is stored already is not written again.
    ///
    /// # Errors
    ///
    /// `BadArguments` if the value is not valid: then nothing is written. `NoAuth`, `QuotaExceeded`; `SessionClosed` if the
    /// sessions were closed.
    ///
    /// # Cancellation
    ///
    /// It may be replaced all the same.
    pub async fn set(&self, value: &T) -> Result<(), Error> {
        loop {
            let document = self.document().await?;
            let written = document.set(value).await.map(|_| true);
            if let Settled::Done(_) = self.settle(&document, written).await? {
                return Ok(());
            }
        }
    }

    /// Changes the configuration: `change` is given what is stored, or the default, and again while others are faster. No
    /// update is lost; the last call of `change` counts, and changes that change nothing are not written.
    ///
    /// Members of the document that `T` does not know are dropped; [`set_key`](Self::set_key) keeps them.
    ///
    /// # Errors
    ///
    /// That of `change`; `MarshallingError` if what is stored cannot be used; those of [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be changed all the same, once.
    pub async fn update(&self, mut change: impl FnMut(&mut T) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            let document = self.document().await?;
            let written = document.update(&mut change).await.map(|_| true);
            if let Settled::Done(_) = self.settle(&document, written).await? {
                return Ok(());
            }
        }
    }

    /// Replaces the configuration if it is still what was [seen](Self::snapshot). `false`: it is not, and
    /// nothing was changed; [`snapshot`](Self::snapshot) shows what it is. The configuration of another
    /// ensemble is never what was seen.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be replaced all the same.
    pub async fn compare_and_set(&self, seen: &Config<T>, value: &T) -> Result<bool, Error> {
        loop {
            let document = self.document().await?;
            let written = document.compare_and_set(seen, value).await.map(|written| written.is_some());
            if let Settled::Done(written) = self.settle(&document, written).await? {
                return Ok(written);
            }
        }
    }

    /// Sets the value of one key ([`ConfigKey`]), and leaves the others as they are, also those that `T` does not know.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a malformed key, one that cannot be set, and if the document is not valid then; those of
    /// [`update`](Self::update).
    ///
    /// # Cancellation
    ///
    /// It may be set all the same.
    pub async fn set_key(&self, key: &str, value: impl Into<Value>) -> Result<(), Error> {
        let value = value.into();
        loop {
            let document = self.document().await?;
            let written = document.set_key(key, value.clone()).await.map(|_| true);
            if let Settled::Done(_) = self.settle(&document, written).await? {
                return Ok(());
            }
        }
    }

    /// The versions that are kept, the newest first. What was written past this recipe is not among them.
    ///
    /// # Errors
    ///
    /// `MarshallingError` if the history was written by something else; `NoAuth`; `SessionClosed` if the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn history(&self) -> Result<Vec<ConfigVersion>, Error> {
        loop {
            match self.document().await?.history().await {
                Err(error) if error.is_terminal() => {}
                history => return history,
            }
        }
    }

    /// Writes an earlier version again, as a new one.
    ///
    /// # Errors
    ///
    /// `NoNode` if the version is not kept; `BadArguments` if it is not valid any more; those of [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be written all the same.
    pub async fn rollback(&self, version: i32) -> Result<(), Error> {
        loop {
            let document = self.document().await?;
            let written = document.rollback(version).await.map(|_| true);
            if let Settled::Done(_) = self.settle(&document, written).await? {
                return Ok(());
            }
        }
    }

    /// By means of a session that is alive.
    async fn document(&self) -> Result<ConfigDocument<T>, Error> {
        let client = self.sessions.live().await?;
        Ok(ConfigDocument::with(&client, self.path.clone(), self.options.clone()))
    }

    /// Finds out what became of a write, also if its session ended before it was answered, and waits until it shows here.
    async fn settle(
        &self,
        document: &ConfigDocument<T>,
        written: Result<bool, Error>,
    ) -> Result<Settled, Error> {
        let client = document.client();
        let error = match written {
            Ok(written) => {
                self.wait_for(client.last_zxid()).await?;
                return Ok(Settled::Done(written));
            }
            Err(error) if error.is_terminal() => error,
            Err(error) => return Err(error),
        };
        // It ended in a read, before anything was written.
        let (Some(write_seq), Some(token)) = (error.write_seq, client.session_token()) else {
            return Ok(Settled::Again);
        };
        loop {
            let next = self.sessions.live().await?;
            match next.outcome(&token, write_seq).await {
                Ok(Outcome::Applied { zxid, result: Ok(()) }) => {
                    self.wait_for(zxid).await?;
                    return Ok(Settled::Done(true));
                }
                // Somebody else was faster, or it was never carried out.
                Ok(Outcome::Applied { .. } | Outcome::Never) => return Ok(Settled::Again),
                Ok(Outcome::Acknowledged | Outcome::NotYet | Outcome::Unknown) => return Err(error),
                Err(failed) if failed.is_retryable() => {
                    tracing::warn!(error = %failed, "nobody can say what became of a change of the configuration");
                }
                Err(_) => return Err(error),
            }
        }
    }

    /// Waits until what is shown is not older than that.
    async fn wait_for(&self, zxid: u64) -> Result<(), Error> {
        let view = self.cache.wait_for(zxid).await?;
        self.wait_until_shown(&view).await
    }

    async fn wait_until_shown(&self, view: &CacheView) -> Result<(), Error> {
        let position = view.position();
        let mut published = self.published.clone();
        let is_shown = |published: &Published<T>| published.position >= position || published.end.is_some();
        let shown = published.wait_for(is_shown).await;
        let shown = shown.map_err(|_| {
            Error::new(ErrorKind::SessionClosed, "the configuration is not followed any more")
        })?;
        match &shown.end {
            Some(end) if shown.position < position => Err(end.clone()),
            _ => Ok(()),
        }
    }
}
