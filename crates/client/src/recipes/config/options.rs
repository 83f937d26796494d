use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::snapshot::Config;
use crate::{Error, ErrorKind, Stat};

const HISTORY: usize = 10;
const HISTORY_MAX: usize = 1_000;

type Validate<T> = dyn Fn(&T) -> Result<(), String> + Send + Sync;

/// What a configuration is when there is none, when it is valid, and how its changes are recorded.
#[derive(Clone)]
pub struct ConfigOptions<T> {
    default: T,
    validate: Option<Arc<Validate<T>>>,
    pub(super) history: usize,
    pub(super) author: String,
}

impl<T: fmt::Debug> fmt::Debug for ConfigOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { default, history, author, .. } = self;
        f.debug_struct("ConfigOptions")
            .field("default", default)
            .field("history", history)
            .field("author", author)
            .finish_non_exhaustive()
    }
}

impl<T: Default> Default for ConfigOptions<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> ConfigOptions<T> {
    /// With what is in force while nothing is stored; everything is valid, ten versions are kept, and the author has no name.
    pub fn new(default: T) -> Self {
        Self { default, validate: None, history: HISTORY, author: String::new() }
    }

    /// What is valid. The refusal is what people read. A program asks it before it writes, and when it reads what others
    /// wrote; it runs under no lock, must not block, and must say the same of the same value.
    #[must_use]
    pub fn validate<E: fmt::Display>(
        mut self,
        validate: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.validate = Some(Arc::new(move |value| validate(value).map_err(|error| error.to_string())));
        self
    }

    /// How many versions are kept, the present one included; at most 1,000. 0: none. Each holds the whole document.
    #[must_use]
    pub fn history(mut self, versions: usize) -> Self {
        self.history = versions;
        self
    }

    /// Under which name the history has what is written here.
    #[must_use]
    pub fn author(mut self, name: impl Into<String>) -> Self {
        self.author = name.into();
        self
    }
}

impl<T: Serialize + DeserializeOwned + Clone> ConfigOptions<T> {
    /// # Errors
    ///
    /// `BadArguments` for a default that is not valid, and a history that is too long.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.history > HISTORY_MAX {
            let message = format!("a history of {} versions; the limit is {HISTORY_MAX}", self.history);
            return Err(Error::new(ErrorKind::BadArguments, message));
        }
        self.to_document(&self.default).map(drop)
    }

    /// A value that is about to be written, as JSON.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is not valid.
    pub(super) fn to_document(&self, value: &T) -> Result<Value, Error> {
        let refused =
            |why: String| Error::new(ErrorKind::BadArguments, format!("the configuration is refused: {why}"));
        self.judge(value).map_err(refused)?;
        serde_json::to_value(value).map_err(|error| refused(error.to_string()))
    }

    /// A document that is about to be written; it stays as it is, with what `T` does not know.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is not valid.
    pub(super) fn check_document(&self, document: &Value) -> Result<(), Error> {
        let read = T::deserialize(document).map_err(|error| error.to_string());
        read.and_then(|value| self.judge(&value)).map_err(|why| {
            Error::new(ErrorKind::BadArguments, format!("the configuration is refused: {why}"))
        })
    }

    /// What the znode holds, or the default if there is none.
    ///
    /// # Errors
    ///
    /// `MarshallingError` if it is not JSON of a `T`, or not valid.
    pub(super) fn read(&self, path: &str, found: Option<(&Bytes, Stat)>) -> Result<Config<T>, Error> {
        let (value, stat) = match found {
            None => (self.default.clone(), None),
            Some((data, stat)) => {
                let read = serde_json::from_slice(data).map_err(|error| error.to_string());
                let value = read.and_then(|value| self.judge(&value).map(|()| value));
                let value = value.map_err(|why| unreadable(path, stat.version, &why))?;
                (value, Some(stat))
            }
        };
        let document = serde_json::to_value(&value)
            .map_err(|why| unreadable(path, stat.map_or(0, |stat| stat.version), &why))?;
        // It was read as JSON.
        let json = found.and_then(|(data, _)| std::str::from_utf8(data).ok());
        Ok(Config::new(value, document, stat).stored_as(json))
    }

    fn judge(&self, value: &T) -> Result<(), String> {
        self.validate.as_ref().map_or(Ok(()), |validate| validate(value))
    }
}

fn unreadable(path: &str, version: i32, why: &dyn fmt::Display) -> Error {
    let message = format!("version {version} of the configuration at {path} cannot be used: {why}");
    Error { path: path.to_owned(), ..Error::new(ErrorKind::MarshallingError, message) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Limits {
        connections: u32,
        #[serde(default)]
        burst: u32,
    }

    fn options() -> ConfigOptions<Limits> {
        ConfigOptions::new(Limits { connections: 10, burst: 0 }).validate(|limits: &Limits| {
            match limits.connections {
                0 => Err("no connections"),
                _ => Ok(()),
            }
        })
    }

    fn read(data: &'static str) -> Result<Config<Limits>, Error> {
        options().read(
            "/limits",
            Some((&Bytes::from_static(data.as_bytes()), Stat { version: 7, ..Stat::default() })),
        )
    }

    #[test]
    fn what_is_read_is_the_value_or_the_default_or_a_problem_that_says_where_and_why() {
        let absent = options().read("/limits", None).unwrap();
        assert_eq!((absent.value.connections, absent.version()), (10, None));
        let found = read(r#"{"connections": 5, "unknown": 1}"#).unwrap();
        assert_eq!((found.value.connections, found.version()), (5, Some(7)));
        assert_eq!(*found.document(), json!({ "connections": 5, "burst": 0 }));
        for (data, why) in [
            ("{", "EOF"),
            (r#"{"connections": "x"}"#, "invalid type"),
            (r#"{"connections": 0}"#, "no connections"),
            ("", "EOF"),
        ] {
            let error = read(data).unwrap_err();
            assert_eq!(error.kind, ErrorKind::MarshallingError);
            assert!(["/limits", "version 7", why].iter().all(|part| error.message.contains(part)), "{error}");
        }
    }

    #[test]
    fn what_is_not_valid_is_not_written() {
        let refused = options().to_document(&Limits { connections: 0, burst: 1 }).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::BadArguments);
        assert!(refused.message.contains("no connections"), "{refused}");
        assert!(options().check_document(&json!({ "connections": 1, "unknown": 1 })).is_ok());
        for bad in [json!({ "connections": 0 }), json!({}), Value::Null] {
            assert_eq!(options().check_document(&bad).unwrap_err().kind, ErrorKind::BadArguments, "{bad}");
        }
        let default = ConfigOptions::new(1u8).validate(|_: &u8| Err("never"));
        assert_eq!(default.check().unwrap_err().kind, ErrorKind::BadArguments);
        assert_eq!(ConfigOptions::new(1u8).history(1_001).check().unwrap_err().kind, ErrorKind::BadArguments);
    }
}
