use crate::*;
use bytes::Bytes;

/// The state of the whole ensemble as of one zxid: znodes, sessions, quotas and the history of events.
///
/// A clone is cheap and shares what does not change afterwards; see the crate's contract.
#[derive(Clone, Debug, Default)]
pub struct Tree {}

#[allow(unused_variables, missing_docs)]
impl Tree {
    pub fn new() -> Tree {
        Tree {}
    }
    pub fn apply(&mut self, entry: &Entry, f: impl FnMut(&Tree, Origin, u64, Applied)) {
        unimplemented!()
    }
    pub fn last_zxid(&self) -> Zxid {
        unimplemented!()
    }
    pub fn time_ms(&self) -> u64 {
        unimplemented!()
    }
    pub fn digest(&self) -> u64 {
        unimplemented!()
    }
    pub fn znode_count(&self) -> u64 {
        unimplemented!()
    }
    pub fn data_bytes(&self) -> u64 {
        unimplemented!()
    }
    pub fn get(&self, path: &str, auth: &Auth) -> Result<(Bytes, Stat), OpError> {
        unimplemented!()
    }
    pub fn exists(&self, path: &str) -> Result<Option<Stat>, OpError> {
        unimplemented!()
    }
    pub fn children(
        &self,
        path: &str,
        auth: &Auth,
        after: Option<&str>,
        limit: usize,
        with_stat: bool,
    ) -> Result<ChildrenPage, OpError> {
        unimplemented!()
    }
    pub fn acl(&self, path: &str, auth: &Auth) -> Result<(Acl, Stat), OpError> {
        unimplemented!()
    }
    pub fn ephemerals(&self, session: SessionId, prefix: &str) -> Vec<String> {
        unimplemented!()
    }
    pub fn descendant_count(&self, path: &str, auth: &Auth) -> Result<u64, OpError> {
        unimplemented!()
    }
    pub fn quota(&self, path: &str) -> Result<QuotaReport, OpError> {
        unimplemented!()
    }
    pub fn may_read(&self, acl: u32, auth: &Auth) -> bool {
        unimplemented!()
    }
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        unimplemented!()
    }
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        std::iter::empty()
    }
    pub fn session_count(&self) -> usize {
        unimplemented!()
    }
    pub fn ended_session(&self, id: SessionId) -> Option<&EndedSession> {
        unimplemented!()
    }
    pub fn outcome(&self, session: SessionId, seq: WriteSeq) -> WriteOutcome {
        unimplemented!()
    }
    pub fn recorded(&self, session: SessionId, seq: WriteSeq) -> Option<(Zxid, OpResult)> {
        unimplemented!()
    }
    pub fn taken(&self, node: u64) -> Option<(u64, u64)> {
        unimplemented!()
    }
    pub fn expired_znodes(&self, now_ms: u64, limit: usize) -> Vec<(String, Zxid)> {
        unimplemented!()
    }
    pub fn history_start(&self) -> Zxid {
        unimplemented!()
    }
    pub fn history_since(&self, from: Zxid) -> Option<impl Iterator<Item = &Event>> {
        Some(std::iter::empty())
    }
    pub fn snapshot_chunks(&self) -> impl Iterator<Item = Vec<u8>> {
        std::iter::empty()
    }
}

/// One page of a znode's children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildrenPage {
    /// Of the parent.
    pub stat: Stat,
    /// Names ascending.
    pub children: Vec<Child>,
    /// Whether there are further children after the last one here.
    pub more: bool,
}

/// One child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name, without the parent's path.
    pub name: String,
    /// Where it was asked for.
    pub stat: Option<Stat>,
}

/// A quota and what counts against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaReport {
    /// The limits.
    pub quota: Quota,
    /// Znodes of the subtree, its top included.
    pub count: u64,
    /// Data bytes of the subtree, its top included.
    pub bytes: u64,
    /// Whether a soft limit is exceeded.
    pub exceeded_soft: bool,
}

/// A live session.
#[derive(Clone, Debug)]
pub struct Session {}

#[allow(unused_variables, missing_docs)]
impl Session {
    pub fn id(&self) -> SessionId {
        unimplemented!()
    }
    pub fn password(&self) -> &[u8; 16] {
        unimplemented!()
    }
    pub fn timeout_ms(&self) -> u32 {
        unimplemented!()
    }
    pub fn client_name(&self) -> &str {
        unimplemented!()
    }
    pub fn opened_zxid(&self) -> Zxid {
        unimplemented!()
    }
    pub fn opened_ms(&self) -> u64 {
        unimplemented!()
    }
    pub fn last_seq(&self) -> WriteSeq {
        unimplemented!()
    }
    pub fn acked(&self) -> WriteSeq {
        unimplemented!()
    }
    pub fn ephemeral_count(&self) -> usize {
        unimplemented!()
    }
}

/// A session that has ended.
#[derive(Clone, Debug)]
pub struct EndedSession {
    /// Which.
    pub id: SessionId,
    /// What the client called itself.
    pub client_name: String,
    /// Why it ended.
    pub reason: EndReason,
    /// The command that ended it.
    pub zxid: Zxid,
    /// The tree's time then.
    pub ended_ms: u64,
    /// The last write that was executed.
    pub last_seq: WriteSeq,
}

/// Rebuilds a [`Tree`] from the chunks of a snapshot.
#[derive(Debug)]
pub struct TreeLoader {}

#[allow(unused_variables, missing_docs, clippy::new_without_default)]
impl TreeLoader {
    pub fn new() -> Self {
        TreeLoader {}
    }
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), DecodeError> {
        unimplemented!()
    }
    pub fn finish(self) -> Result<Tree, DecodeError> {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs)]
impl Entry {
    pub fn encode(&self) -> Bytes {
        unimplemented!()
    }
    pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
        unimplemented!()
    }
    pub fn encode_from_parts(time_ms: u64, batches: &[Bytes]) -> Bytes {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs)]
impl Batch {
    pub fn encode(&self) -> Bytes {
        unimplemented!()
    }
    pub fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
        unimplemented!()
    }
}

/// What the origin node admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Data of one znode.
    pub value_bytes: usize,
    /// A path.
    pub path_bytes: usize,
    /// Operations of a multi.
    pub multi_ops: usize,
    /// Data of all operations of a multi.
    pub multi_bytes: usize,
    /// Entries of an ACL.
    pub acl_entries: usize,
    /// Guards of a write.
    pub guards: usize,
    /// Identities of a connection.
    pub auth_ids: usize,
}

#[allow(unused_variables, missing_docs)]
impl Write {
    pub fn validate(&self, limits: &Limits) -> Result<(), OpError> {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs)]
impl OpenSession {
    pub fn validate(&self) -> Result<(), OpError> {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs)]
pub fn validate_path(path: &str) -> Result<(), OpError> {
    unimplemented!()
}
#[allow(unused_variables, missing_docs)]
pub fn digest_id(user: &str, password: &str) -> String {
    unimplemented!()
}
