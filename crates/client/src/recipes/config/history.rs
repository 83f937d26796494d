use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::recipes::znode::to_json;
use crate::{Error, ErrorKind, Stat};

/// At most so many old versions go with one change; the rest goes with the next ones.
const PRUNED_MAX: usize = 100;

/// What a configuration was at one version, and who made it so.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigVersion {
    /// Its number.
    pub version: i32,
    /// Who wrote it; empty if the writer has no name.
    pub author: String,
    /// When: milliseconds since the Unix epoch by the clock of the ensemble's leader.
    pub at_ms: u64,
    /// The version that this one brought back.
    pub restored: Option<i32>,
    /// The document.
    pub value: Value,
    /// The same as it was written, byte for byte.
    pub json: String,
}

/// What stands in a znode of the history, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(default)]
    pub(super) author: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restored: Option<i32>,
    pub(super) value: Box<RawValue>,
}

impl Record {
    pub(super) fn to_bytes(&self) -> Result<Bytes, Error> {
        to_json(self)
    }

    pub(super) fn parse(path: &str, data: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(data).map_err(|error| {
            let message = format!("{path} holds something else than a version of a configuration: {error}");
            Error { path: path.to_owned(), ..Error::new(ErrorKind::MarshallingError, message) }
        })
    }

    pub(super) fn into_version(self, version: i32, stat: &Stat) -> ConfigVersion {
        let Record { author, restored, value } = self;
        let json = String::from(Box::<str>::from(value));
        // It was read out of JSON; what is too deep for a tree of values is shown as none.
        let value = serde_json::from_str(&json).unwrap_or_default();
        ConfigVersion { version, author, at_ms: stat.ctime, restored, value, json }
    }
}

/// The znode of a version below the configuration's.
pub(super) fn name(version: i32) -> String {
    format!("{version:010}")
}

/// `None` for a znode that is somebody else's.
pub(super) fn version(name_found: &str) -> Option<i32> {
    name_found.parse().ok().filter(|version| name(*version) == name_found)
}

/// Which versions go when `next` is written, so that it and `keep` less one before it stay: the oldest, and what lies ahead,
/// left by a configuration that was here before.
pub(super) fn pruned(mut versions: Vec<i32>, next: i32, keep: usize) -> Vec<i32> {
    versions.sort_unstable();
    let ahead = versions.split_off(versions.partition_point(|version| *version < next));
    let old = versions.len().saturating_sub(keep.saturating_sub(1)).min(PRUNED_MAX);
    versions.truncate(old);
    versions.extend(ahead);
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_versions_stay() {
        assert_eq!(pruned((0..10).rev().collect(), 10, 10), [0]);
        assert_eq!(pruned((3..10).collect(), 10, 3), [3, 4, 5, 6, 7]);
        assert!(pruned((0..5).collect(), 5, 10).is_empty());
        assert_eq!(pruned(vec![4], 5, 1), [4]);
        assert_eq!(pruned(vec![4], 5, 0), [4]);
        assert_eq!(pruned(vec![0, 1, 2], 1, 10), [1, 2], "of a life before");
        assert_eq!(pruned((0..500).collect(), 500, 2).len(), PRUNED_MAX);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(version(&name(7)), Some(7));
        assert_eq!(version(&name(i32::MAX)), Some(i32::MAX));
        for alien in ["7", "x", "", "+000000007", "00000000007"] {
            assert_eq!(version(alien), None, "{alien}");
        }
    }
}
