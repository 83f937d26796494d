use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::json::Json;
use super::znode::to_json;
use crate::{Error, Stat};

/// Who takes part in a recipe, as others see it: the JSON object `{"id", "address", "data"}` in its znode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its name.
    pub id: String,
    /// Where it is reached; empty if it does not say.
    pub address: String,
    /// Whatever else others should know; `null` if nothing.
    pub data: Json,
}

impl Owner {
    /// Under a name.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// Where others reach it.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Whatever else others should know: a value, or a [`Json`], whose text is kept. With the rest at most 1
    /// MiB as JSON.
    #[must_use]
    pub fn data(mut self, data: impl Into<Json>) -> Self {
        self.data = data.into();
        self
    }

    pub(crate) fn to_bytes(&self) -> Result<Bytes, Error> {
        to_json(self)
    }

    /// Whoever wrote something else takes part all the same, without a name.
    pub(crate) fn parse(data: &[u8]) -> Self {
        serde_json::from_slice(data).unwrap_or_default()
    }
}

/// One who holds, or waits for, a lock or a permit.
#[derive(Clone, Debug, PartialEq)]
pub struct Participant {
    /// Who it says it is.
    pub owner: Owner,
    /// It holds now; otherwise it waits.
    pub holds: bool,
    /// Its znode. Deleting it takes away what is held, or the place in the line.
    pub path: String,
    /// The creation zxid of that znode: the epoch of the grant.
    pub epoch: u64,
    /// Its session.
    pub session_id: u64,
    /// Since when the znode is there: milliseconds since the Unix epoch by the clock of the ensemble's leader.
    pub since_ms: u64,
}

impl Participant {
    pub(crate) fn new(path: String, data: &[u8], stat: &Stat, holds: bool) -> Self {
        let (epoch, session_id, since_ms) = (stat.czxid, stat.ephemeral_owner, stat.ctime);
        Self { owner: Owner::parse(data), holds, path, epoch, session_id, since_ms }
    }
}
