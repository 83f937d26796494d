use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// Bytes in a command or in a row of a snapshot, most of them a znode's data: borrowed from the entry or the
/// chunk that brings them, or from whoever proposes them, or shared.
#[derive(Clone)]
pub enum Data<'a> {
    /// A part of what it was read from.
    Borrowed(&'a [u8]),
    /// Shared with others.
    Shared(Bytes),
}

impl Deref for Data<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Data::Borrowed(data) => data,
            Data::Shared(data) => data,
        }
    }
}

impl From<Bytes> for Data<'_> {
    fn from(data: Bytes) -> Self {
        Data::Shared(data)
    }
}

impl Default for Data<'_> {
    fn default() -> Self {
        Data::Borrowed(&[])
    }
}

impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl PartialEq for Data<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Data<'_> {}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Borrow).map(Data::Borrowed)
    }
}

struct Borrow;

impl<'de> Visitor<'de> for Borrow {
    type Value = &'de [u8];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes that live as long as the input")
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
        Ok(bytes)
    }
}
