use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::history::{self, ConfigVersion, Record};
use super::key::ConfigKey;
use super::options::ConfigOptions;
use super::snapshot::Config;
use crate::recipes::replace_if::BackOff;
use crate::recipes::znode::found;
use crate::recipes::{SharedValue, Versioned};
use crate::{
    Check, Client, CreateMode, CreateOptions, Error, ErrorKind, Lineage, MultiResult, ReadLevel, Stat,
};

const HISTORY: &str = "history";

/// A configuration in the tree, read and changed by means of one session: what a [`ConfigManager`](super::ConfigManager) does
/// without following it.
///
/// Made with a client [that is guarded](Client::guarded), its changes are refused once the grant is gone.
#[derive(Debug)]
pub struct ConfigDocument<T> {
    client: Client,
    path: Arc<str>,
    options: Arc<ConfigOptions<T>>,
}

/// What is to be written.
struct Change {
    json: Bytes,
    restored: Option<i32>,
}

impl From<String> for Change {
    fn from(json: String) -> Self {
        Self { json: json.into(), restored: None }
    }
}

impl<T: Serialize + DeserializeOwned + Clone> ConfigDocument<T> {
    /// The configuration at a path. Nothing happens yet.
    ///
    /// # Errors
    ///
    /// `BadArguments` if the options contradict each other: the default is not valid.
    pub fn new(client: &Client, path: impl AsRef<str>, options: ConfigOptions<T>) -> Result<Self, Error> {
        options.check()?;
        Ok(Self::with(client, path.as_ref().into(), Arc::new(options)))
    }

    pub(super) fn with(client: &Client, path: Arc<str>, options: Arc<ConfigOptions<T>>) -> Self {
        Self { client: client.patient(), path, options }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The configuration, or the default if there is none.
    ///
    /// # Errors
    ///
    /// `MarshallingError` if what is stored is not JSON of a `T`, or not valid; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn get(&self, level: ReadLevel) -> Result<Config<T>, Error> {
        self.parse(self.read(level).await?.as_ref())
    }

    /// Replaces the configuration, whatever it was. What is stored already is not written again.
    ///
    /// # Errors
    ///
    /// `BadArguments` if the value is not valid: then nothing is written. `NoAuth`, `QuotaExceeded`, `GuardFailed`; those of the
    /// session.
    ///
    /// # Cancellation
    ///
    /// It may be replaced all the same.
    pub async fn set(&self, value: &T) -> Result<Config<T>, Error> {
        let document = self.options.to_document(value)?;
        self.edit(|found| Ok(unless_stored(&document, found).into())).await
    }

    /// The same with the text of a JSON document, which is stored byte for byte.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is not JSON, or not valid; those of [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be replaced all the same.
    pub async fn set_json(&self, json: &str) -> Result<Config<T>, Error> {
        self.options.check_document(&parsed(json)?)?;
        self.edit(|_| Ok(json.to_owned().into())).await
    }

    /// Changes the configuration: `change` is given what is stored, or the default, and again, after a short random pause,
    /// while others are faster. No update is lost; the last call of `change` counts, and changes that change nothing are not
    /// written.
    ///
    /// Members of the document that `T` does not know are dropped; [`set_key`](Self::set_key) keeps them.
    ///
    /// # Errors
    ///
    /// That of `change`; those of [`get`](Self::get) and [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be changed all the same, once.
    pub async fn update(
        &self,
        mut change: impl FnMut(&mut T) -> Result<(), Error>,
    ) -> Result<Config<T>, Error> {
        self.edit(|found| {
            let mut value = T::clone(&self.parse(found)?.value);
            change(&mut value)?;
            Ok(unless_stored(&self.options.to_document(&value)?, found).into())
        })
        .await
    }

    /// Replaces the configuration if it is still what was [read](Self::get), which may be the default because
    /// there was none. `None`: it is not, and nothing was changed. One that was deleted and made again counts
    /// as changed, and so does the configuration of another ensemble ([`Lineage`]).
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be replaced all the same.
    pub async fn compare_and_set(&self, seen: &Config<T>, value: &T) -> Result<Option<Config<T>>, Error> {
        let document = self.options.to_document(value)?;
        self.replace_seen(seen, document.to_string()).await
    }

    /// The same with the text of a JSON document, which is stored byte for byte.
    ///
    /// # Errors
    ///
    /// Those of [`set_json`](Self::set_json).
    ///
    /// # Cancellation
    ///
    /// It may be replaced all the same.
    pub async fn compare_and_set_json(
        &self,
        seen: &Config<T>,
        json: &str,
    ) -> Result<Option<Config<T>>, Error> {
        self.options.check_document(&parsed(json)?)?;
        self.replace_seen(seen, json.to_owned()).await
    }

    async fn replace_seen(&self, seen: &Config<T>, json: String) -> Result<Option<Config<T>>, Error> {
        let change = Change::from(json);
        let known = seen.stat.as_ref().map(|stat| (stat, seen.lineage().cloned()));
        let stat = self.replace(known, &change).await?;
        stat.map(|stat| self.config(Some((&change.json, stat)))).transpose()
    }

    /// Sets the value of one key ([`ConfigKey`]), and leaves the others byte for byte as they are, also those that `T` does not
    /// know. A value that is equal already is left as it is written.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a malformed key, the empty one (the whole document is [`set`](Self::set)), one that cannot be set, and if
    /// the document is not valid then; those of [`set`](Self::set).
    ///
    /// # Cancellation
    ///
    /// It may be set all the same.
    pub async fn set_key(&self, key: &str, value: impl Into<Value>) -> Result<Config<T>, Error> {
        let (key, value) = (member_key(key)?, value.into());
        let json = value.to_string();
        self.edit_json(|document| match key.get_json(document).and_then(|stored| parsed(stored).ok()) {
            Some(stored) if stored == value => Ok(document.to_owned()),
            _ => key.set_json(document, &json),
        })
        .await
    }

    /// The same with the text of a JSON value, which is stored byte for byte: numbers keep their text.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is not JSON; those of [`set_key`](Self::set_key).
    ///
    /// # Cancellation
    ///
    /// It may be set all the same.
    pub async fn set_key_json(&self, key: &str, json: &str) -> Result<Config<T>, Error> {
        let key = member_key(key)?;
        parsed(json)?;
        self.edit_json(|document| key.set_json(document, json.trim())).await
    }

    /// Removes one key; one that is not there is removed.
    ///
    /// # Errors
    ///
    /// Those of [`set_key`](Self::set_key).
    ///
    /// # Cancellation
    ///
    /// It may be removed all the same.
    pub async fn remove_key(&self, key: &str) -> Result<Config<T>, Error> {
        let key = member_key(key)?;
        self.edit_json(|document| Ok(key.remove_json(document).unwrap_or_else(|| document.to_owned()))).await
    }

    async fn edit_json(
        &self,
        mut change: impl FnMut(&str) -> Result<String, Error>,
    ) -> Result<Config<T>, Error> {
        self.edit(|found| {
            let config = self.parse(found)?;
            // As it is stored, which may be more than `T` knows.
            let document = match config.json() {
                Some(stored) => change(stored)?,
                None => change(&config.document().to_string())?,
            };
            self.options.check_document(&parsed(&document)?)?;
            Ok(document.into())
        })
        .await
    }

    /// The versions that are kept, the newest first. What was written past this recipe is not among them.
    ///
    /// # Errors
    ///
    /// `MarshallingError` if the history was written by something else; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn history(&self) -> Result<Vec<ConfigVersion>, Error> {
        let mut versions = self.versions(ReadLevel::Linearizable).await?;
        versions.sort_unstable_by(|a, b| b.cmp(a));
        let mut found = Vec::with_capacity(versions.len());
        for version in versions {
            // Local will do: this session has seen the znode. It may have been pruned meanwhile.
            found.extend(self.version(version).await?);
        }
        Ok(found)
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
    pub async fn rollback(&self, version: i32) -> Result<Config<T>, Error> {
        // For a session that has not seen what others wrote.
        self.client.sync().await?;
        let Some(former) = self.version(version).await? else {
            let message = format!("version {version} of {} is not in its history", self.path);
            return Err(Error { path: self.path.to_string(), ..Error::new(ErrorKind::NoNode, message) });
        };
        self.options.check_document(&former.value)?;
        let json = Bytes::from(former.json);
        self.edit(|_| Ok(Change { json: json.clone(), restored: Some(version) })).await
    }

    async fn read(&self, level: ReadLevel) -> Result<Option<Versioned<Bytes>>, Error> {
        SharedValue::new(&self.client, &*self.path).get(level).await
    }

    fn parse(&self, found: Option<&Versioned<Bytes>>) -> Result<Config<T>, Error> {
        self.config(found.map(|found| (&found.value, found.stat)))
    }

    /// The configuration as this session has read or written it.
    fn config(&self, found: Option<(&Bytes, Stat)>) -> Result<Config<T>, Error> {
        let config = self.options.read(&self.path, found)?;
        Ok(config.in_lineage(self.client.lineage()))
    }

    /// Writes what `decide` makes of what is stored, until nobody else was faster. `decide` has seen everything that was
    /// acknowledged before: that nothing is to be written is a decision, too.
    async fn edit(
        &self,
        mut decide: impl FnMut(Option<&Versioned<Bytes>>) -> Result<Change, Error>,
    ) -> Result<Config<T>, Error> {
        let mut back_off = BackOff::default();
        loop {
            let found = self.read(ReadLevel::Linearizable).await?;
            let change = decide(found.as_ref())?;
            let stat = match &found {
                Some(found) if found.value == change.json => Some(found.stat),
                _ => {
                    let seen = found.as_ref().map(|found| (&found.stat, self.client.lineage()));
                    self.replace(seen, &change).await?
                }
            };
            match stat {
                Some(stat) => return self.config(Some((&change.json, stat))),
                None => back_off.pause().await,
            }
        }
    }

    /// Writes document and history in one step, if the document is as it was seen. `None`: it is not. `seen`
    /// is the stat of the document, with the lineage that its zxids belong to.
    async fn replace(
        &self,
        seen: Option<(&Stat, Option<Lineage>)>,
        change: &Change,
    ) -> Result<Option<Stat>, Error> {
        let data = change.json.clone();
        let persistent = CreateOptions::new(CreateMode::Persistent).parents(true);
        let (mut multi, version) = match seen {
            None => (self.client.multi().create(&*self.path, data, persistent.clone()), 0),
            Some((seen, lineage)) => {
                // The version alone would take a znode that was deleted and created again for the same. Both
                // together would take a znode of another ensemble that had the same writes for the same.
                let epoch = Check::epoch(&*self.path, seen.czxid).in_lineage(lineage);
                let multi = self.client.multi().check(epoch);
                (multi.set(&*self.path, data, Some(seen.version)), seen.version.wrapping_add(1))
            }
        };
        let kept = self.versions(ReadLevel::Local).await?;
        for pruned in history::pruned(kept, version, self.options.history) {
            multi = multi.delete(self.version_path(pruned), None);
        }
        if self.options.history > 0 {
            let value = serde_json::from_slice(&change.json).map_err(|error| not_json(&error))?;
            let record = Record { author: self.options.author.clone(), restored: change.restored, value };
            multi = multi.create(self.version_path(version), record.to_bytes()?, persistent);
        }
        match multi.commit().await {
            Ok(results) => {
                let stat = results.into_iter().find_map(|result| match result {
                    MultiResult::Create(created) => Some(created.stat),
                    MultiResult::Set(stat) => Some(stat),
                    MultiResult::Delete | MultiResult::Check => None,
                });
                let missing = || Error::new(ErrorKind::Protocol, "the multi has no result of its write");
                Ok(Some(stat.ok_or_else(missing)?))
            }
            Err(error) => match error.kind {
                ErrorKind::BadVersion | ErrorKind::BadEpoch | ErrorKind::NoNode | ErrorKind::NodeExists => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    fn version_path(&self, version: i32) -> String {
        format!("{}/{HISTORY}/{}", self.path, history::name(version))
    }

    async fn versions(&self, level: ReadLevel) -> Result<Vec<i32>, Error> {
        let names = found(self.client.children(format!("{}/{HISTORY}", self.path), level).await)?;
        Ok(names.unwrap_or_default().iter().filter_map(|name| history::version(name)).collect())
    }

    async fn version(&self, version: i32) -> Result<Option<ConfigVersion>, Error> {
        let path = self.version_path(version);
        match found(self.client.get(&path, ReadLevel::Local).await)? {
            Some((data, stat)) => Ok(Some(Record::parse(&path, &data)?.into_version(version, &stat))),
            None => Ok(None),
        }
    }
}

/// The key of a part of the document. To change all of it by an empty key is a mistake more often than a wish.
fn member_key(key: &str) -> Result<ConfigKey, Error> {
    let key: ConfigKey = key.parse()?;
    match key.is_empty() {
        true => {
            Err(Error::new(ErrorKind::BadArguments, "the key is empty; it must name a part of the document"))
        }
        false => Ok(key),
    }
}

fn parsed(json: &str) -> Result<Value, Error> {
    serde_json::from_str(json).map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::BadArguments, format!("the configuration is refused: it is not JSON: {error}"))
}

/// The text of a document; what is stored, if that means the same.
fn unless_stored(document: &Value, found: Option<&Versioned<Bytes>>) -> String {
    let stored = found.and_then(|found| std::str::from_utf8(&found.value).ok());
    match stored.filter(|stored| parsed(stored).is_ok_and(|stored| stored == *document)) {
        Some(stored) => stored.to_owned(),
        None => document.to_string(),
    }
}
