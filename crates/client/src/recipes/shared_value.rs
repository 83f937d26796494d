use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::replace_if::{BackOff, put, replace_if};
use super::znode::found;
use crate::{Client, Error, ErrorKind, OneshotWatcher, ReadLevel, Stat};

/// A value with the stat of its znode: its [`version`](Stat::version), who made it when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The stat with which it was read.
    pub stat: Stat,
}

/// A value that many read, replace and follow: bytes, or anything serde writes as JSON.
///
/// Curator's `SharedValue` and `DistributedAtomicValue`, kazoo's `DataWatch`. It belongs to no session and stays until its znode
/// is deleted. When the session ends, its calls and streams fail with `SessionExpired`.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::SharedValue;
///
/// let replicas = SharedValue::new(&client, "/web/replicas");
/// replicas.set_json(&3).await?;
/// replicas.update_json(|n: Option<u32>| Ok(n.unwrap_or(0) + 1)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SharedValue {
    client: Client,
    path: String,
}

impl SharedValue {
    /// The value at a path.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { client: client.patient(), path: path.into() }
    }

    /// The value; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Client::get`] but `NoNode`.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn get(&self, level: ReadLevel) -> Result<Option<Versioned<Bytes>>, Error> {
        let read = found(self.client.get(self.path.clone(), level).await)?;
        Ok(read.map(|(value, stat)| Versioned { value, stat }))
    }

    /// The value as JSON.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get), and `MarshallingError` if it is not JSON of a `T`.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        level: ReadLevel,
    ) -> Result<Option<Versioned<T>>, Error> {
        self.get(level).await?.map(|found| from_json(&self.path, found)).transpose()
    }

    /// Sets the value, whatever it was; creates it, with missing parents.
    ///
    /// # Errors
    ///
    /// Those of [`Client::set`] and [`Client::create`] but `NoNode` and `NodeExists`.
    ///
    /// # Cancellation
    ///
    /// It may be set all the same.
    pub async fn set(&self, value: impl Into<Bytes>) -> Result<Stat, Error> {
        put(&self.client, &self.path, value).await
    }

    /// Sets the value as JSON.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set), and `BadArguments` if the value cannot be written as JSON.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn set_json<T: Serialize>(&self, value: &T) -> Result<Stat, Error> {
        self.set(to_json(&self.path, value)?).await
    }

    /// Sets the value if it is as it was read: with this stat, or absent. `None`: it is not, and nothing was changed. A
    /// value that was deleted and made again counts as changed, also with the same version.
    ///
    /// # Errors
    ///
    /// Those of [`Client::set`] and [`Client::create`] but `BadVersion`, `NoNode` and `NodeExists`.
    ///
    /// # Cancellation
    ///
    /// It may be set all the same.
    pub async fn compare_and_set(
        &self,
        seen: Option<&Stat>,
        value: impl Into<Bytes>,
    ) -> Result<Option<Stat>, Error> {
        replace_if(&self.client, &self.path, seen, value).await
    }

    /// Replaces the value by what `next` makes of it, and tries again, after a short random pause, while others are faster:
    /// until it succeeds or the session ends. `next` may be called often, and its last call counts.
    ///
    /// # Errors
    ///
    /// That of `next`, which may rest on a value that is a moment old; those of [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be replaced all the same, once.
    pub async fn update<F>(&self, mut next: F) -> Result<Versioned<Bytes>, Error>
    where
        F: FnMut(Option<Bytes>) -> Result<Bytes, Error>,
    {
        let mut back_off = BackOff::default();
        loop {
            // Local will do: a write that rests on an old value is refused.
            let (value, seen) = match self.get(ReadLevel::Local).await? {
                Some(found) => (Some(found.value), Some(found.stat)),
                None => (None, None),
            };
            let value = next(value)?;
            match replace_if(&self.client, &self.path, seen.as_ref(), value.clone()).await? {
                Some(stat) => return Ok(Versioned { value, stat }),
                None => back_off.pause().await,
            }
        }
    }

    /// The same with JSON.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update), `MarshallingError` and `BadArguments` as of [`get_json`](Self::get_json) and
    /// [`set_json`](Self::set_json).
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn update_json<T, F>(&self, mut next: F) -> Result<Versioned<T>, Error>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Option<T>) -> Result<T, Error>,
    {
        let path = &self.path;
        let mut newest = None;
        let updated = self.update(|data| {
            let value = next(data.map(|data| parse(path, &data)).transpose()?)?;
            let data = to_json(path, &value)?;
            newest = Some(value);
            Ok(data.into())
        });
        let stat = updated.await?.stat;
        let missing = || Error::new(ErrorKind::Protocol, "an update that did not ask for the new value");
        Ok(Versioned { value: newest.ok_or_else(missing)?, stat })
    }

    /// The value now and after every change; `None` while there is none. Values that were replaced before they were read
    /// are skipped; the newest never is. The first item is what the node of the session shows ([`ReadLevel::Local`]).
    ///
    /// # Errors
    ///
    /// As items: those of [`get`](Self::get). The stream ends after an error, which is the end of the session at the latest.
    pub fn watch(
        &self,
    ) -> impl Stream<Item = Result<Option<Versioned<Bytes>>, Error>> + Send + Unpin + 'static {
        let follower = Follower { value: self.clone(), last: None };
        Box::pin(futures::stream::unfold(Some((follower, None)), async |state| {
            let (mut follower, watcher) = state?;
            match follower.next(watcher).await {
                Ok((value, watcher)) => Some((Ok(value), Some((follower, Some(watcher))))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// The same with JSON. A value that is not JSON of a `T` is an item, `MarshallingError`, after which the stream goes on.
    ///
    /// # Errors
    ///
    /// As items: those of [`get_json`](Self::get_json).
    pub fn watch_json<T: DeserializeOwned + 'static>(
        &self,
    ) -> impl Stream<Item = Result<Option<Versioned<T>>, Error>> + Send + Unpin + 'static {
        let path = self.path.clone();
        self.watch().map(move |found| found?.map(|found| from_json(&path, found)).transpose())
    }
}

/// Where a stream of values stands.
struct Follower {
    value: SharedValue,
    /// Creation and change of what was told last; the inner is `None` if there was no value.
    last: Option<Option<(u64, u64)>>,
}

impl Follower {
    /// Waits until something has changed, and reads it.
    async fn next(
        &mut self,
        mut watcher: Option<OneshotWatcher>,
    ) -> Result<(Option<Versioned<Bytes>>, OneshotWatcher), Error> {
        loop {
            if let Some(watcher) = watcher.take() {
                watcher.changed().await?;
            }
            let (found, armed) = self.read().await?;
            let now = Some(found.as_ref().map(|found| (found.stat.czxid, found.stat.mzxid)));
            if now != self.last {
                self.last = now;
                return Ok((found, armed));
            }
            // A change of the change before, or a resync after which nothing is different.
            watcher = Some(armed);
        }
    }

    async fn read(&self) -> Result<(Option<Versioned<Bytes>>, OneshotWatcher), Error> {
        let SharedValue { client, path } = &self.value;
        loop {
            match client.get_and_watch(path.clone(), ReadLevel::Local).await {
                Ok((value, stat, watcher)) => return Ok((Some(Versioned { value, stat }), watcher)),
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) => return Err(error),
            }
            // A read that fails arms nothing.
            let (stat, watcher) = client.exists_and_watch(path.clone(), ReadLevel::Local).await?;
            if stat.is_none() {
                return Ok((None, watcher));
            }
        }
    }
}

fn parse<T: DeserializeOwned>(path: &str, data: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(data).map_err(|error| {
        let message = format!("{path} holds something else than expected: {error}");
        Error { path: path.to_owned(), ..Error::new(ErrorKind::MarshallingError, message) }
    })
}

fn from_json<T: DeserializeOwned>(path: &str, found: Versioned<Bytes>) -> Result<Versioned<T>, Error> {
    Ok(Versioned { value: parse(path, &found.value)?, stat: found.stat })
}

fn to_json<T: Serialize>(path: &str, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| {
        let message = format!("the value for {path} cannot be written as JSON: {error}");
        Error { path: path.to_owned(), ..Error::new(ErrorKind::BadArguments, message) }
    })
}
