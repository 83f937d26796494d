use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::znode::{Dir, Kind};
use crate::{EndReason, OpenSession, SessionId, WriteSeq, Zxid};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) common: Header1,
    pub(super) rules: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Header1 {
    pub(super) last_zxid: Zxid,
    pub(super) time_ms: u64,
    pub(super) next_id: u64,
    pub(super) next_acl: u32,
    pub(super) history_start: Zxid,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) node: u64,
    pub(super) incarnation: u64,
    pub(super) last_seq: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Quota<'a> {
    pub(super) path: &'a str,
    pub(super) quota: crate::Quota,
    pub(super) count: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) common: Live1,
    pub(super) attached_zxid: Zxid,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Live1 {
    pub(super) opening: OpenSession,
    pub(super) opened_zxid: Zxid,
    pub(super) opened_ms: u64,
    pub(super) last_seq: WriteSeq,
    pub(super) acked: WriteSeq,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) id: SessionId,
    pub(super) password: [u8; 16],
    pub(super) client_name: String,
    pub(super) reason: EndReason,
    pub(super) zxid: Zxid,
    pub(super) ended_ms: u64,
    pub(super) last_seq: WriteSeq,
    pub(super) acked: WriteSeq,
}

/// An answer; its number follows from its place after the session's `acked`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Recorded<'a> {
    pub(super) session: SessionId,
    pub(super) zxid: Zxid,
    #[serde(borrow)]
    pub(super) bytes: Blob<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Znode<'a> {
    pub(super) parent: u64,
    pub(super) name: &'a str,
    pub(super) czxid: Zxid,
    pub(super) mzxid: Zxid,
    pub(super) ctime: u64,
    pub(super) mtime: u64,
    pub(super) version: i32,
    pub(super) aversion: i32,
    pub(super) acl: u32,
    pub(super) kind: Kind,
    pub(super) dir: Option<Dir>,
    #[serde(borrow)]
    pub(super) data: Blob<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) znodes: u64,
    pub(super) digest: u64,
}

/// Bytes that are borrowed from the chunk. Serde takes a plain slice for a sequence of numbers, one by one.
#[derive(Debug)]
pub(super) struct Blob<'a>(pub(super) &'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Blob<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob<'a>, D::Error> {
        struct Borrow;

        impl<'de> Visitor<'de> for Borrow {
            type Value = Blob<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Blob<'de>, E> {
                Ok(Blob(bytes))
            }
        }

        deserializer.deserialize_bytes(Borrow)
    }
}
