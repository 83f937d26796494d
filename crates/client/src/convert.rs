//! Between the wire's messages and the types of this crate. Nothing generated is visible outside the crate.

use std::time::Duration;

use coordd_proto::v1;

use crate::types::Condition;
use crate::*;

impl From<ReadLevel> for v1::ReadLevel {
    fn from(level: ReadLevel) -> Self {
        match level {
            ReadLevel::Local => v1::ReadLevel::Local,
            ReadLevel::Linearizable => v1::ReadLevel::Linearizable,
        }
    }
}

impl From<&Lineage> for v1::Lineage {
    fn from(lineage: &Lineage) -> Self {
        Self { cluster_id: lineage.cluster_id.clone(), number: lineage.number }
    }
}

impl From<v1::Stat> for Stat {
    fn from(stat: v1::Stat) -> Self {
        Self {
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
}

/// A stat that the protocol promises.
pub(crate) fn stat(stat: Option<v1::Stat>) -> Result<Stat, Error> {
    stat.map(Stat::from).ok_or_else(|| Error::new(ErrorKind::Protocol, "the answer lacks its stat"))
}

/// The mode and the TTL in milliseconds. A TTL beyond 64 bits of milliseconds is over the server's limit anyway.
pub(crate) fn create_mode(mode: CreateMode) -> (v1::CreateMode, u64) {
    let ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    match mode {
        CreateMode::Persistent => (v1::CreateMode::Persistent, 0),
        CreateMode::Ephemeral => (v1::CreateMode::Ephemeral, 0),
        CreateMode::PersistentSequential => (v1::CreateMode::PersistentSequential, 0),
        CreateMode::EphemeralSequential => (v1::CreateMode::EphemeralSequential, 0),
        CreateMode::Container => (v1::CreateMode::Container, 0),
        CreateMode::PersistentWithTtl(ttl) => (v1::CreateMode::PersistentWithTtl, ms(ttl)),
        CreateMode::PersistentSequentialWithTtl(ttl) => {
            (v1::CreateMode::PersistentSequentialWithTtl, ms(ttl))
        }
    }
}

/// A create without guards, as it stands alone or in a multi.
pub(crate) fn create_request(path: String, data: bytes::Bytes, options: CreateOptions) -> v1::CreateRequest {
    let (mode, ttl_ms) = create_mode(options.mode);
    v1::CreateRequest {
        path,
        data,
        acl: options.acl.into_iter().map(Into::into).collect(),
        mode: mode as i32,
        ttl_ms,
        parents: options.parents,
        guards: Vec::new(),
        session: None,
    }
}

impl From<AclEntry> for v1::AclEntry {
    fn from(entry: AclEntry) -> Self {
        Self { perms: entry.perms.bits(), scheme: entry.scheme, id: entry.id }
    }
}

impl From<v1::AclEntry> for AclEntry {
    fn from(entry: v1::AclEntry) -> Self {
        Self { perms: Perms::from_bits(entry.perms), scheme: entry.scheme, id: entry.id }
    }
}

impl From<v1::Identity> for Identity {
    fn from(identity: v1::Identity) -> Self {
        Self { scheme: identity.scheme, id: identity.id }
    }
}

impl From<Credential> for v1::Credential {
    fn from(credential: Credential) -> Self {
        Self { scheme: credential.scheme, auth: credential.auth }
    }
}

impl From<Check> for v1::Check {
    fn from(check: Check) -> Self {
        let condition = match check.condition {
            Condition::Version(version) => v1::check::Condition::Version(version),
            Condition::Epoch(czxid) => v1::check::Condition::Epoch(czxid),
            Condition::Absent => v1::check::Condition::Absent(true),
        };
        let lineage = check.lineage.as_ref().map(Into::into);
        Self { path: check.path, condition: Some(condition), lineage }
    }
}

impl TryFrom<v1::CreateReply> for Created {
    type Error = Error;
    fn try_from(reply: v1::CreateReply) -> Result<Self, Error> {
        Ok(Self { path: reply.path, stat: stat(reply.stat)? })
    }
}

impl From<v1::Child> for Child {
    fn from(child: v1::Child) -> Self {
        Self { name: child.name, stat: child.stat.map(Stat::from) }
    }
}

impl TryFrom<v1::ListReply> for ListPage {
    type Error = Error;
    fn try_from(reply: v1::ListReply) -> Result<Self, Error> {
        let children = reply.children.into_iter().map(Child::from).collect();
        Ok(Self { children, stat: stat(reply.stat)?, more: reply.more })
    }
}

impl From<Quota> for v1::Quota {
    fn from(quota: Quota) -> Self {
        Self {
            count_soft: quota.count_soft,
            count_hard: quota.count_hard,
            bytes_soft: quota.bytes_soft,
            bytes_hard: quota.bytes_hard,
        }
    }
}

impl From<v1::Quota> for Quota {
    fn from(quota: v1::Quota) -> Self {
        Self {
            count_soft: quota.count_soft,
            count_hard: quota.count_hard,
            bytes_soft: quota.bytes_soft,
            bytes_hard: quota.bytes_hard,
        }
    }
}

impl From<v1::GetQuotaReply> for QuotaUsage {
    fn from(reply: v1::GetQuotaReply) -> Self {
        Self {
            quota: reply.quota.map(Quota::from).unwrap_or_default(),
            count: reply.count,
            bytes: reply.bytes,
            soft_exceeded: reply.soft_exceeded,
        }
    }
}

impl From<v1::QuotaInfo> for QuotaUsage {
    fn from(info: v1::QuotaInfo) -> Self {
        Self {
            quota: info.quota.map(Quota::from).unwrap_or_default(),
            count: info.count,
            bytes: info.bytes,
            soft_exceeded: info.soft_exceeded,
        }
    }
}

/// An event of a type this version knows.
pub(crate) fn event(event: v1::Event) -> Option<Event> {
    let event_type = match event.r#type() {
        v1::EventType::NodeCreated => EventType::NodeCreated,
        v1::EventType::NodeDeleted => EventType::NodeDeleted,
        v1::EventType::NodeDataChanged => EventType::NodeDataChanged,
        v1::EventType::NodeChildrenChanged => EventType::NodeChildrenChanged,
        v1::EventType::Unspecified => return None,
    };
    let value = event.value.zip(event.stat.map(Stat::from));
    Some(Event { event_type, path: event.path, zxid: event.zxid, value })
}

impl From<WatchMode> for v1::WatchKind {
    fn from(mode: WatchMode) -> Self {
        match mode {
            WatchMode::Persistent => v1::WatchKind::Persistent,
            WatchMode::PersistentRecursive => v1::WatchKind::PersistentRecursive,
        }
    }
}

impl From<v1::ErrorCode> for ErrorKind {
    fn from(code: v1::ErrorCode) -> Self {
        match code {
            v1::ErrorCode::NoNode => ErrorKind::NoNode,
            v1::ErrorCode::NodeExists => ErrorKind::NodeExists,
            v1::ErrorCode::BadVersion => ErrorKind::BadVersion,
            v1::ErrorCode::NotEmpty => ErrorKind::NotEmpty,
            v1::ErrorCode::NoChildrenForEphemerals => ErrorKind::NoChildrenForEphemerals,
            v1::ErrorCode::NoAuth => ErrorKind::NoAuth,
            v1::ErrorCode::InvalidAcl => ErrorKind::InvalidAcl,
            v1::ErrorCode::BadArguments => ErrorKind::BadArguments,
            v1::ErrorCode::QuotaExceeded => ErrorKind::QuotaExceeded,
            v1::ErrorCode::SessionExpired => ErrorKind::SessionExpired,
            v1::ErrorCode::NoSession => ErrorKind::NoSession,
            v1::ErrorCode::GuardFailed => ErrorKind::GuardFailed,
            v1::ErrorCode::BadEpoch => ErrorKind::BadEpoch,
            v1::ErrorCode::CountMismatch => ErrorKind::CountMismatch,
            v1::ErrorCode::SequenceGap => ErrorKind::SequenceGap,
            v1::ErrorCode::TooManyUnacknowledged => ErrorKind::TooManyUnacknowledged,
            v1::ErrorCode::AuthFailed => ErrorKind::AuthFailed,
            v1::ErrorCode::NotServing => ErrorKind::NotServing,
            v1::ErrorCode::Throttled => ErrorKind::Throttled,
            v1::ErrorCode::OutcomeUnknown => ErrorKind::OutcomeUnknown,
            v1::ErrorCode::NoWatcher => ErrorKind::NoWatcher,
            v1::ErrorCode::SessionMoved => ErrorKind::SessionMoved,
            v1::ErrorCode::NoSpace => ErrorKind::NoSpace,
            v1::ErrorCode::LimitExceeded => ErrorKind::LimitExceeded,
            v1::ErrorCode::OtherLineage => ErrorKind::OtherLineage,
            // A code that this version does not know: what it means for a retry is not known either.
            v1::ErrorCode::Protocol | v1::ErrorCode::Unspecified => ErrorKind::Protocol,
        }
    }
}

impl From<v1::Error> for Error {
    fn from(error: v1::Error) -> Self {
        let retry_after = u64::from(error.retry_after_ms);
        Self {
            kind: error.code().into(),
            message: error.message,
            path: error.path,
            op_index: error.op_index,
            retry_after: (retry_after > 0).then(|| Duration::from_millis(retry_after)),
            write_seq: None,
        }
    }
}

/// The error of a call. A status that coordd did not write is the transport's, or that of something that is no client port.
impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        if let Some(error) = coordd_proto::status::from_status(&status) {
            return error.into();
        }
        match status.code() {
            // Sent again it would be as large.
            tonic::Code::OutOfRange => {
                Error::new(ErrorKind::Protocol, format!("a message is too large: {}", status.message()))
            }
            tonic::Code::Unimplemented => Error::new(
                ErrorKind::ConnectionLoss,
                "this node does not know the call: it is of an older version, or this is no client port of \
                 coordd (--listen)",
            ),
            code => {
                let cause = innermost(&status).unwrap_or_else(|| status.message().to_owned());
                Error::new(ErrorKind::ConnectionLoss, format!("{code}: {cause}"))
            }
        }
    }
}

/// tonic says "transport error" and keeps the reason in the source.
fn innermost(status: &tonic::Status) -> Option<String> {
    let mut source = std::error::Error::source(status)?;
    while let Some(inner) = source.source() {
        source = inner;
    }
    Some(source.to_string())
}

impl From<v1::SessionEnd> for SessionEnd {
    fn from(end: v1::SessionEnd) -> Self {
        let reason = match end.reason() {
            v1::session_end::Reason::Closed => EndReason::Closed,
            v1::session_end::Reason::Killed => EndReason::Killed,
            v1::session_end::Reason::Expired | v1::session_end::Reason::Unspecified => EndReason::Expired,
        };
        Self { reason, detail: end.detail }
    }
}

impl From<v1::StatusReply> for NodeStatus {
    fn from(reply: v1::StatusReply) -> Self {
        Self {
            node_id: reply.node_id,
            cluster_id: reply.cluster_id,
            role: reply.role,
            term: reply.term,
            leader_id: (reply.leader_id != 0).then_some(reply.leader_id),
            last_log_index: reply.last_log_index,
            committed_index: reply.committed_index,
            applied_index: reply.applied_index,
            snapshot_index: reply.snapshot_index,
            purged_index: reply.purged_index,
            zxid: reply.zxid,
            digest: reply.digest,
            znodes: reply.znodes,
            data_bytes: reply.data_bytes,
            sessions: reply.sessions,
            attached_sessions: reply.attached_sessions,
            watches: reply.watches,
            not_serving: (!reply.serving).then_some(reply.not_serving_reason),
            members: reply.members.into_iter().map(MemberInfo::from).collect(),
            version: reply.version,
            uptime: Duration::from_millis(reply.uptime_ms),
            incarnation: reply.incarnation,
            log_bytes: reply.log_bytes,
            resident_bytes: reply.resident_bytes,
            disk_free_bytes: reply.disk_free_bytes,
            disk_is_low: reply.disk_is_low,
            growth_refused: reply.growth_refused,
            client_memory_bytes: reply.client_memory_bytes,
            client_memory_max_bytes: reply.client_memory_max_bytes,
            memory_limit_bytes: reply.memory_limit_bytes,
            memory_is_low: reply.memory_is_low,
            connections: reply.connections,
            connections_max: reply.connections_max,
            streams: reply.streams,
            watch_bytes: reply.watch_bytes,
            open_files: reply.open_files,
            open_files_max: reply.open_files_max,
            counters: reply.counters.into_iter().collect(),
            rules: reply.rules,
            rules_known: reply.rules_known,
            tables: reply.tables.into_iter().collect(),
        }
    }
}

impl From<v1::Member> for MemberInfo {
    fn from(member: v1::Member) -> Self {
        Self {
            node_id: member.node_id,
            peer_address: member.peer_address,
            client_address: (!member.client_address.is_empty()).then_some(member.client_address),
            voter: member.voter,
            matched_index: member.matched_index,
        }
    }
}

impl From<v1::SessionInfo> for SessionInfo {
    fn from(info: v1::SessionInfo) -> Self {
        Self {
            session_id: info.session_id,
            client_name: info.client_name,
            timeout: Duration::from_millis(u64::from(info.timeout_ms)),
            opened_ms: info.opened_ms,
            opened_zxid: info.opened_zxid,
            last_write_seq: info.last_write_seq,
            ephemerals: info.ephemerals,
            unacknowledged: info.unacknowledged,
            attached_here: info.attached_here,
            client_address: (!info.client_address.is_empty()).then_some(info.client_address),
        }
    }
}

impl From<v1::SessionEnd> for SessionRecord {
    fn from(end: v1::SessionEnd) -> Self {
        let expired = end.reason() == v1::session_end::Reason::Expired;
        SessionRecord::Ended {
            session_id: end.session_id,
            client_name: end.client_name.clone(),
            zxid: end.zxid,
            ended_ms: end.ended_ms,
            last_write_seq: end.last_write_seq,
            silence: expired.then(|| (Duration::from_millis(end.silent_ms), end.last_node)),
            end: end.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that does not know a call may be an older one, or the port may be another one: both are said.
    #[test]
    fn unknown_calls_are_explained() {
        let error = Error::from(tonic::Status::unimplemented("unknown method"));
        assert_eq!(error.kind, ErrorKind::ConnectionLoss);
        for says in ["does not know the call", "older version", "--listen"] {
            assert!(error.message.contains(says), "{error}");
        }
    }
}
