//! The public API's messages and the tree's types: the only place where the two meet.

use coordd_proto::status::cut;
use coordd_proto::v1::{self, ErrorCode};
use coordd_tree as tree;
use coordd_tree::{Detail, ErrorKind, Malformed, OpError, Outcome, WriteOp};

use crate::service::PATH_BYTES_MAX;

/// Of what an error says: texts of clients stand in it, and they have megabytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Anything that is answered with an error.
pub(crate) fn error(code: ErrorCode, message: impl Into<String>) -> v1::Error {
    let message = cut(message.into(), MESSAGE_BYTES_MAX);
    v1::Error { code: code as i32, message, ..v1::Error::default() }
}

pub(crate) fn bad_arguments(message: impl Into<String>) -> v1::Error {
    error(ErrorCode::BadArguments, message)
}

pub(crate) fn error_to_wire(refused: OpError) -> v1::Error {
    let code = match refused.kind {
        ErrorKind::NoNode => ErrorCode::NoNode,
        ErrorKind::NodeExists => ErrorCode::NodeExists,
        ErrorKind::BadVersion => ErrorCode::BadVersion,
        ErrorKind::NotEmpty => ErrorCode::NotEmpty,
        ErrorKind::NoChildrenForEphemerals => ErrorCode::NoChildrenForEphemerals,
        ErrorKind::NoAuth => ErrorCode::NoAuth,
        ErrorKind::InvalidAcl => ErrorCode::InvalidAcl,
        ErrorKind::BadArguments => ErrorCode::BadArguments,
        ErrorKind::QuotaExceeded => ErrorCode::QuotaExceeded,
        ErrorKind::SessionExpired => ErrorCode::SessionExpired,
        ErrorKind::NoSession => ErrorCode::NoSession,
        ErrorKind::GuardFailed => ErrorCode::GuardFailed,
        ErrorKind::BadEpoch => ErrorCode::BadEpoch,
        ErrorKind::CountMismatch => ErrorCode::CountMismatch,
        ErrorKind::SequenceGap => ErrorCode::SequenceGap,
        ErrorKind::TooManyUnacknowledged => ErrorCode::TooManyUnacknowledged,
        ErrorKind::NoSpace => ErrorCode::NoSpace,
        ErrorKind::LimitExceeded => ErrorCode::LimitExceeded,
        ErrorKind::SessionMoved => ErrorCode::SessionMoved,
    };
    v1::Error {
        code: code as i32,
        message: cut(refused.message(), MESSAGE_BYTES_MAX),
        path: cut(refused.path, PATH_BYTES_MAX),
        op_index: refused.op_index,
        retry_after_ms: 0,
    }
}

/// How a write without a number is refused: its code may say more than the kind that a numbered one is
/// recorded with.
pub(crate) fn unnumbered_to_wire(refused: OpError) -> v1::Error {
    let is_of_another = refused.detail == Detail::OtherLineage;
    let error = error_to_wire(refused);
    if is_of_another { v1::Error { code: ErrorCode::OtherLineage as i32, ..error } } else { error }
}

/// A refusal of a malformed request, in the tree's form: it may have to stand in the log, as a write that
/// every node refuses alike.
fn malformed(path: &str, what: Malformed) -> OpError {
    let kind = match what {
        Malformed::Perms(_) => ErrorKind::InvalidAcl,
        _ => ErrorKind::BadArguments,
    };
    // What was too long must not be proposed after all, as a part of its own refusal.
    OpError::new(kind, shorten(path, 256), Detail::Malformed(what))
}

fn shorten(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes.min(text.len()))].to_owned()
}

pub(crate) fn stat_to_wire(stat: &tree::Stat) -> v1::Stat {
    v1::Stat {
        czxid: stat.czxid,
        mzxid: stat.mzxid,
        pzxid: stat.pzxid,
        ctime: stat.ctime,
        mtime: stat.mtime,
        version: stat.version,
        cversion: stat.cversion,
        aversion: stat.aversion,
        ephemeral_owner: stat.ephemeral_owner,
        data_length: stat.data_length,
        num_children: stat.num_children,
    }
}

pub(crate) fn acl_to_wire(acl: tree::Acl) -> Vec<v1::AclEntry> {
    let entry = |entry: tree::AclEntry| v1::AclEntry {
        perms: entry.perms.0.into(),
        scheme: entry.scheme,
        id: entry.id,
    };
    acl.into_iter().map(entry).collect()
}

fn acl_from_wire(acl: Vec<v1::AclEntry>) -> Result<tree::Acl, OpError> {
    let entry = |entry: v1::AclEntry| {
        let perms = u8::try_from(entry.perms).ok().filter(|bits| *bits <= tree::Perms::ALL.0);
        let perms = perms.ok_or_else(|| malformed("", Malformed::Perms(entry.perms)))?;
        Ok(tree::AclEntry { perms: tree::Perms(perms), scheme: entry.scheme, id: entry.id })
    };
    acl.into_iter().map(entry).collect()
}

pub(crate) fn quota_to_wire(quota: &tree::Quota) -> v1::Quota {
    v1::Quota {
        count_soft: quota.count_soft,
        count_hard: quota.count_hard,
        bytes_soft: quota.bytes_soft,
        bytes_hard: quota.bytes_hard,
    }
}

/// `refusal` is how a numbered write is refused whose epoch is of another ensemble.
fn check_from_wire(
    check: v1::Check,
    own: OwnLineage<'_>,
    refusal: ErrorKind,
) -> Result<tree::Check<'static>, OpError> {
    use v1::check::Condition;
    if own.is_other(check.lineage.as_ref()) {
        return Err(OpError::new(refusal, shorten(&check.path, 256), Detail::OtherLineage));
    }
    let kind = match check.condition {
        Some(Condition::Version(version)) => tree::CheckKind::Version(version),
        Some(Condition::Epoch(epoch)) => tree::CheckKind::Epoch(epoch),
        Some(Condition::Absent(true)) => tree::CheckKind::Absent,
        Some(Condition::Absent(false)) => return Err(malformed(&check.path, Malformed::CheckAbsentFalse)),
        None => return Err(malformed(&check.path, Malformed::CheckWithoutCondition)),
    };
    Ok(tree::Check { path: check.path.into(), kind })
}

fn guards_from_wire(
    guards: Vec<v1::Check>,
    own: OwnLineage<'_>,
) -> Result<Vec<tree::Check<'static>>, OpError> {
    guards.into_iter().map(|check| check_from_wire(check, own, ErrorKind::GuardFailed)).collect()
}

fn create_from_wire(request: v1::CreateRequest) -> Result<tree::Create<'static>, OpError> {
    use v1::CreateMode as Wire;
    let mode =
        Wire::try_from(request.mode).map_err(|_| malformed("", Malformed::CreateMode(request.mode)))?;
    let mode = match mode {
        Wire::Unspecified | Wire::Persistent => tree::CreateMode::Persistent,
        Wire::Ephemeral => tree::CreateMode::Ephemeral,
        Wire::PersistentSequential => tree::CreateMode::PersistentSequential,
        Wire::EphemeralSequential => tree::CreateMode::EphemeralSequential,
        Wire::Container => tree::CreateMode::Container,
        Wire::PersistentWithTtl => tree::CreateMode::PersistentWithTtl,
        Wire::PersistentSequentialWithTtl => tree::CreateMode::PersistentSequentialWithTtl,
    };
    Ok(tree::Create {
        path: request.path.into(),
        data: request.data.into(),
        acl: acl_from_wire(request.acl)?,
        mode,
        ttl_ms: request.ttl_ms,
        parents: request.parents,
    })
}

fn multi_op_from_wire(op: v1::MultiOp, own: OwnLineage<'_>) -> Result<tree::MultiOp<'static>, OpError> {
    use v1::multi_op::Op;
    let plain = |guards: &[v1::Check], session: &Option<v1::SessionRef>| {
        if guards.is_empty() && session.is_none() { Ok(()) } else { Err(malformed("", Malformed::OwnGuards)) }
    };
    match op.op.ok_or_else(|| malformed("", Malformed::OperationMissing))? {
        Op::Create(create) => {
            plain(&create.guards, &create.session)?;
            Ok(tree::MultiOp::Create(create_from_wire(create)?))
        }
        Op::Delete(delete) => {
            plain(&delete.guards, &delete.session)?;
            Ok(tree::MultiOp::Delete { path: delete.path.into(), version: any_or(delete.version)? })
        }
        Op::Set(set) => {
            plain(&set.guards, &set.session)?;
            Ok(tree::MultiOp::SetData {
                path: set.path.into(),
                data: set.data.into(),
                version: any_or(set.version)?,
            })
        }
        Op::Check(check) => Ok(tree::MultiOp::Check(check_from_wire(check, own, ErrorKind::BadEpoch)?)),
    }
}

fn any_or(version: Option<i32>) -> Result<i32, OpError> {
    match version {
        None => Ok(-1),
        Some(version) if version >= -1 => Ok(version),
        Some(version) => Err(malformed("", Malformed::Version(version))),
    }
}

/// The history that this node's zxids belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnLineage<'a> {
    pub(crate) cluster_id: &'a str,
    pub(crate) number: u64,
}

impl OwnLineage<'_> {
    pub(crate) fn to_wire(self) -> v1::Lineage {
        v1::Lineage { cluster_id: self.cluster_id.to_owned(), number: self.number }
    }

    /// Whether another history is named. What names none is taken.
    fn is_other(self, named: Option<&v1::Lineage>) -> bool {
        named.is_some_and(|named| {
            (named.cluster_id.as_str(), named.number) != (self.cluster_id, self.number)
                && !named.cluster_id.is_empty()
                && !self.cluster_id.is_empty()
        })
    }

    /// Refuses what refers to another history.
    pub(crate) fn check(self, named: Option<&v1::Lineage>) -> Result<(), v1::Error> {
        let Some(named) = named.filter(|named| self.is_other(Some(named))) else { return Ok(()) };
        let name = |cluster_id: &str, number: u64| match number {
            0 => cluster_id.to_owned(),
            number => format!("{cluster_id} after restore {number}"),
        };
        let message = format!(
            "this node is of ensemble {}, the request is of ensemble {}: nothing of one is known in the other",
            name(self.cluster_id, self.number),
            name(&named.cluster_id, named.number)
        );
        Err(error(ErrorCode::OtherLineage, message))
    }
}

/// The operation of a write request, and its guards.
pub(crate) type WriteRequest = (WriteOp<'static>, Vec<tree::Check<'static>>);

/// A request that writes, taken apart.
pub(crate) trait IntoWrite {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError>;
}

impl IntoWrite for v1::CreateRequest {
    fn into_write(mut self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        let guards = guards_from_wire(std::mem::take(&mut self.guards), own)?;
        Ok((WriteOp::Create(create_from_wire(self)?), guards))
    }
}

impl IntoWrite for v1::DeleteRequest {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        let version = any_or(self.version)?;
        Ok((WriteOp::Delete { path: self.path.into(), version }, guards_from_wire(self.guards, own)?))
    }
}

impl IntoWrite for v1::SetRequest {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        let version = any_or(self.version)?;
        Ok((
            WriteOp::SetData { path: self.path.into(), data: self.data.into(), version },
            guards_from_wire(self.guards, own)?,
        ))
    }
}

impl IntoWrite for v1::MultiRequest {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        let ops = self.ops.into_iter().enumerate().map(|(index, op)| {
            multi_op_from_wire(op, own).map_err(|error| OpError { op_index: Some(index as u32), ..error })
        });
        Ok((WriteOp::Multi(ops.collect::<Result<_, _>>()?), guards_from_wire(self.guards, own)?))
    }
}

impl IntoWrite for v1::DeleteTreeRequest {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        let op = WriteOp::DeleteTree { path: self.path.into(), expected_count: self.expected_count };
        Ok((op, guards_from_wire(self.guards, own)?))
    }
}

impl IntoWrite for v1::SetAclRequest {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        let version = any_or(self.version)?;
        let op = WriteOp::SetAcl { path: self.path.into(), acl: acl_from_wire(self.acl)?, version };
        Ok((op, guards_from_wire(self.guards, own)?))
    }
}

impl IntoWrite for v1::SetQuotaRequest {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        let quota = self.quota.ok_or_else(|| malformed("", Malformed::QuotaMissing))?;
        let quota = tree::Quota {
            count_soft: quota.count_soft,
            count_hard: quota.count_hard,
            bytes_soft: quota.bytes_soft,
            bytes_hard: quota.bytes_hard,
        };
        Ok((WriteOp::SetQuota { path: self.path.into(), quota }, guards_from_wire(self.guards, own)?))
    }
}

impl IntoWrite for v1::DeleteQuotaRequest {
    fn into_write(self, own: OwnLineage<'_>) -> Result<WriteRequest, OpError> {
        Ok((WriteOp::DeleteQuota { path: self.path.into() }, guards_from_wire(self.guards, own)?))
    }
}

/// The reply to a write. `zxid` is set in the messages themselves only for unary calls.
pub(crate) fn outcome_to_wire(outcome: Outcome, zxid: u64) -> v1::reply::Result {
    use v1::reply::Result as Wire;
    match outcome {
        Outcome::Created { path, stat } => {
            Wire::Create(v1::CreateReply { path, stat: Some(stat_to_wire(&stat)), zxid })
        }
        Outcome::Deleted => Wire::Delete(v1::DeleteReply { zxid }),
        Outcome::DataSet(stat) => Wire::Set(v1::SetReply { stat: Some(stat_to_wire(&stat)), zxid }),
        Outcome::AclSet(stat) => Wire::SetAcl(v1::SetAclReply { stat: Some(stat_to_wire(&stat)), zxid }),
        Outcome::Multi(outcomes) => {
            let results = outcomes.into_iter().map(multi_outcome_to_wire).collect();
            Wire::Multi(v1::MultiReply { results, zxid })
        }
        Outcome::TreeDeleted(count) => Wire::DeleteTree(v1::DeleteTreeReply { count, zxid }),
        Outcome::QuotaSet => Wire::SetQuota(v1::SetQuotaReply { zxid }),
        Outcome::QuotaDeleted => Wire::DeleteQuota(v1::DeleteQuotaReply { zxid }),
        Outcome::SessionEnded(ephemerals) => Wire::Close(v1::CloseReply { ephemerals }),
        Outcome::Checked | Outcome::SessionOpened | Outcome::SessionAttached | Outcome::ZnodesExpired(_) => {
            Wire::Error(error(ErrorCode::Protocol, "an answer that no request asks for"))
        }
    }
}

fn multi_outcome_to_wire(outcome: Outcome) -> v1::MultiOpReply {
    use v1::multi_op_reply::Result as Wire;
    let result = match outcome {
        Outcome::Created { path, stat } => {
            Some(Wire::Create(v1::CreateReply { path, stat: Some(stat_to_wire(&stat)), zxid: 0 }))
        }
        Outcome::Deleted => Some(Wire::Delete(v1::DeleteReply { zxid: 0 })),
        Outcome::DataSet(stat) => Some(Wire::Set(v1::SetReply { stat: Some(stat_to_wire(&stat)), zxid: 0 })),
        Outcome::Checked => Some(Wire::Check(v1::CheckReply {})),
        _ => None,
    };
    v1::MultiOpReply { result }
}

/// The end of a session, for who asks or is told.
pub(crate) fn end_to_wire(ended: &tree::EndedSession) -> v1::SessionEnd {
    use v1::session_end::Reason;
    let (reason, detail, silent_ms, last_node) = match &ended.reason {
        tree::EndReason::Closed => (Reason::Closed, "closed by its client".to_owned(), 0, 0),
        tree::EndReason::Expired { silent_ms, term, last_node } => {
            let heard = match last_node {
                0 => "never heard by this leader".to_owned(),
                node => format!("last heard through node {node}"),
            };
            let detail = format!("silent for {silent_ms} ms, {heard}; decided by the leader of term {term}");
            (Reason::Expired, detail, *silent_ms, *last_node)
        }
        tree::EndReason::Killed { by } => (Reason::Killed, format!("ended by an operator: {by}"), 0, 0),
    };
    v1::SessionEnd {
        session_id: ended.id,
        client_name: ended.client_name.clone(),
        reason: reason as i32,
        detail,
        zxid: ended.zxid,
        ended_ms: ended.ended_ms,
        last_write_seq: ended.last_seq,
        silent_ms,
        last_node,
    }
}
