use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;

use super::mirror::{Ask, Mirror, Scope};
use super::view::CacheView;
use super::{CacheStats, Published};
use crate::recipes::Sessions;
use crate::recipes::znode::{Found, get_all};
use crate::{
    Client, Error, ErrorKind, Lineage, ListOptions, PersistentWatcher, ReadLevel, WatchEvent, WatchMode,
    WatchOptions,
};

/// Reads under way while loading.
const READS_MAX: usize = 64;
/// Before something that failed, and may not fail the next time, is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a cache reads.
#[derive(Clone)]
pub(super) enum Source {
    Client(Client),
    Sessions(Sessions),
}

/// Fills and follows; what the handles see is in `published`.
pub(super) struct CacheTask {
    pub(super) scope: Scope,
    pub(super) published: Arc<watch::Sender<Published>>,
    /// The newest position that somebody waits for; see [`CacheView::position`].
    pub(super) wanted: watch::Receiver<(u32, u64)>,
    pub(super) counters: Arc<Counters>,
}

#[derive(Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    loads: AtomicU64,
    events: AtomicU64,
}

impl Counters {
    pub(super) fn stats(&self) -> CacheStats {
        CacheStats {
            requests: self.requests.load(Ordering::Relaxed),
            loads: self.loads.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
        }
    }

    fn add_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why the present state cannot be continued from.
enum Broken {
    /// Events are missing; the watch goes on.
    Resync,
    /// The watcher or the session has ended, or a read failed.
    Failed(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Broken::Failed(error)
    }
}

/// The answer to an [`Ask`].
enum Answer {
    List(Arc<str>, Box<Result<crate::ListPage, Error>>),
    Values(Vec<Found<Arc<str>>>),
}

impl Drop for CacheTask {
    fn drop(&mut self) {
        // Aborted, or its runtime was shut down: nobody is to wait for another state.
        self.published.send_modify(|published| {
            let gone = || Error::new(ErrorKind::SessionClosed, "the runtime of the cache was shut down");
            published.end.get_or_insert_with(gone);
        });
    }
}

impl CacheTask {
    /// Runs until it is aborted or cannot go on.
    pub(super) async fn run(mut self, source: Source) {
        let end = match source {
            Source::Client(client) => self.follow_session(&client).await,
            Source::Sessions(sessions) => loop {
                let client = match sessions.live().await {
                    Ok(client) => client,
                    Err(error) => break error,
                };
                let error = self.follow_session(&client).await;
                if !error.is_terminal() {
                    break error;
                }
                // After the sessions were closed there is no next one.
                if let Err(closed) = sessions.newest() {
                    break closed;
                }
                tracing::info!(top = %self.scope.top, %error, "a cache waits for the next session");
            },
        };
        self.published.send_modify(|published| published.end = Some(end));
    }

    /// Returns why it does not go on in this session.
    async fn follow_session(&mut self, client: &Client) -> Error {
        loop {
            let Err(error) = self.follow_watcher(client).await;
            match error.kind {
                ErrorKind::WatcherLagged => {
                    tracing::warn!(top = %self.scope.top, "a cache did not keep up with the changes and reads again");
                }
                _ if error.is_retryable() => {
                    tracing::warn!(top = %self.scope.top, %error, "a cache tries again");
                    tokio::time::sleep(error.retry_after.unwrap_or(PAUSE)).await;
                }
                _ => return error,
            }
        }
    }

    async fn follow_watcher(&mut self, client: &Client) -> Result<std::convert::Infallible, Error> {
        // A new session knows nothing of what the one before has seen, and the cache must not go back.
        self.counters.add_request();
        client.sync().await?;
        self.enter(client.lineage());
        let options = WatchOptions::new(WatchMode::PersistentRecursive).with_value(true);
        self.counters.add_request();
        let mut watcher = client.watch(&*self.scope.top, options).await?;
        let mut mirror = Mirror::new(self.scope.clone());
        loop {
            let Err(broken) = self.follow(client, &mut watcher, &mut mirror).await;
            match broken {
                Broken::Resync => {
                    tracing::info!(top = %self.scope.top, "a cache was away for longer than events are kept");
                }
                Broken::Failed(error) => return Err(error),
            }
        }
    }

    /// Loads, and goes on from there.
    async fn follow(
        &mut self,
        client: &Client,
        watcher: &mut PersistentWatcher,
        mirror: &mut Mirror,
    ) -> Result<std::convert::Infallible, Broken> {
        self.counters.loads.fetch_add(1, Ordering::Relaxed);
        let last = self.published.borrow().view.clone();
        // What is shown of another lineage says nothing about this one, also where the zxids are equal.
        mirror.begin_load(&if last.zxid() == 0 { CacheView::default() } else { last });
        self.load(client, watcher, mirror).await?;
        // The zxid up to which everything has come when the barrier is answered.
        let mut barrier: Option<BoxFuture<'static, Result<u64, Error>>> = None;
        loop {
            self.publish(mirror);
            drop(self.wanted.borrow_and_update());
            let wanted = self.wanted_here();
            let is_wanted = wanted > self.published.borrow().view.zxid();
            if barrier.is_none() && (mirror.waits_for_complete() || is_wanted) {
                let is_far = is_wanted && wanted > client.last_zxid();
                barrier = Some(if is_far { self.far_barrier(client) } else { self.barrier(client) });
            }
            if barrier.is_none() && self.find_missing(client, watcher, mirror).await? {
                continue;
            }
            tokio::select! {
                event = watcher.next() => self.take(mirror, event?)?,
                mark = async { barrier.as_mut().expect("checked").await }, if barrier.is_some() => {
                    barrier = None;
                    let mark = mark?;
                    self.drain(watcher, mirror)?;
                    mirror.on_complete(mark);
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        // The last handle is gone, and this task is about to be aborted.
                        std::future::pending::<()>().await;
                    }
                }
            }
            // One state for all that has come together.
            self.drain(watcher, mirror)?;
        }
    }

    async fn load(
        &self,
        client: &Client,
        watcher: &mut PersistentWatcher,
        mirror: &mut Mirror,
    ) -> Result<(), Broken> {
        let mut reads = FuturesUnordered::new();
        while !mirror.is_loaded() {
            while reads.len() < READS_MAX
                && let Some(ask) = mirror.next_ask()
            {
                reads.push(read(client, ask, &self.counters));
            }
            tokio::select! {
                event = watcher.next() => self.take(mirror, event?)?,
                Some(answer) = reads.next() => match answer? {
                    Answer::List(path, page) => mirror.on_list(&path, *page)?,
                    Answer::Values(found) => mirror.on_values(found)?,
                },
            }
        }
        mirror.end_load(client.last_zxid());
        Ok(())
    }

    /// A read that is answered behind all events up to what the session has seen now. Which znode it asks for does not
    /// matter.
    fn barrier(&self, client: &Client) -> BoxFuture<'static, Result<u64, Error>> {
        self.counters.add_request();
        let mark = client.last_zxid();
        let call = client.exists(&*self.scope.top, ReadLevel::Local);
        async move { call.await.map(|_| mark) }.boxed()
    }

    /// The same up to what is acknowledged anywhere. It is asked for again and again while somebody waits for a zxid that
    /// is not there yet, so not too often.
    fn far_barrier(&self, client: &Client) -> BoxFuture<'static, Result<u64, Error>> {
        self.counters.add_request();
        let call = client.sync();
        let wanted = self.wanted_here();
        async move {
            let mark = call.await?;
            if mark < wanted {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(mark)
        }
        .boxed()
    }

    /// Reads values that no event brings; see [`Mirror::missing`]. False if there are none.
    async fn find_missing(
        &self,
        client: &Client,
        watcher: &mut PersistentWatcher,
        mirror: &mut Mirror,
    ) -> Result<bool, Broken> {
        let missing = mirror.missing();
        if missing.is_empty() {
            return Ok(false);
        }
        let paths = missing.iter().map(|(path, _)| path.clone()).collect();
        let found = get_all(client, paths, || self.counters.add_request()).await?;
        self.drain(watcher, mirror)?;
        for ((path, zxid), (_, found)) in missing.into_iter().zip(found) {
            mirror.on_found(&path, zxid, found);
        }
        Ok(true)
    }

    /// Takes all events that have come.
    fn drain(&self, watcher: &mut PersistentWatcher, mirror: &mut Mirror) -> Result<(), Broken> {
        // Not `now_or_never` in a task's context: a budget that is used up would look like an empty channel.
        while let Some(event) = tokio::task::unconstrained(watcher.next()).now_or_never() {
            self.take(mirror, event?)?;
        }
        Ok(())
    }

    fn take(&self, mirror: &mut Mirror, event: WatchEvent) -> Result<(), Broken> {
        match event {
            WatchEvent::Event(event) => {
                self.counters.events.fetch_add(1, Ordering::Relaxed);
                mirror.on_event(event);
                Ok(())
            }
            WatchEvent::Resync { .. } => Err(Broken::Resync),
        }
    }

    /// The session that is followed belongs to this lineage. If the one before belonged to another, what it
    /// showed is outlived.
    fn enter(&self, lineage: Option<Lineage>) {
        self.published.send_if_modified(|published| {
            let before = published.lineage.replace(Arc::new(lineage.clone().unwrap_or_default()));
            let is_other = before.is_some() && before.as_deref() != lineage.as_ref();
            if is_other {
                tracing::warn!(top = %self.scope.top, "the ensemble is another one; a cache reads again");
                published.view = published.view.outlived();
            }
            is_other
        });
    }

    /// The zxid that somebody waits for in the present lineage; 0 if nobody does.
    fn wanted_here(&self) -> u64 {
        let (era, zxid) = *self.wanted.borrow();
        if era == self.published.borrow().view.era() { zxid } else { 0 }
    }

    fn publish(&self, mirror: &mut Mirror) {
        let Some(view) = mirror.state() else { return };
        self.published.send_if_modified(|published| {
            let view = view.in_era(published.view.era()).in_lineage(published.lineage.clone());
            let is_newer = view.zxid() > published.view.zxid();
            if is_newer {
                published.view = view;
            }
            is_newer
        });
    }
}

fn read(client: &Client, ask: Ask, counters: &Arc<Counters>) -> BoxFuture<'static, Result<Answer, Error>> {
    match ask {
        Ask::List { path, after } => {
            counters.add_request();
            let options = ListOptions { after, limit: 0, with_stat: true };
            let call = client.list_page(&*path, ReadLevel::Local, options);
            async move { Ok(Answer::List(path, Box::new(call.await))) }.boxed()
        }
        Ask::Values(paths) => {
            let (client, counters) = (client.clone(), counters.clone());
            async move { Ok(Answer::Values(get_all(&client, paths, || counters.add_request()).await?)) }
                .boxed()
        }
    }
}

impl Published {
    pub(super) fn new() -> Self {
        Self { view: CacheView::default(), lineage: None, end: None }
    }
}
