use serde::{Deserialize, Serialize};

use crate::znode::{Dir, Kind};
use crate::{Data, EndReason, OpenSession, SessionId, WriteSeq, Zxid};

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
    pub(super) bytes: Data<'a>,
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
    pub(super) data: Data<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) znodes: u64,
    pub(super) digest: u64,
}
