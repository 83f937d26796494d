use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CheckKind, CreateMode, EndReason, LimitName, Perms, SessionId, WriteSeq, Zxid};

/// What a refusal says beside its kind and its path: values, from which the sentence is made when it is shown.
///
/// Answers are recorded, and what is recorded is part of the digest (G8). A sentence there could never be changed, because
/// replicas of two versions would differ. The order of the variants is part of the format, and so are their fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// A sentence that came with the command, or that was recorded under rules 1.
    Text(String),
    /// There is no znode at the path.
    NoZnode,
    /// The path names no znode: what is wrong, and at which byte.
    InvalidPath {
        /// The offset of the first byte that is wrong.
        at: u32,
        /// What is wrong there.
        fault: PathFault,
    },
    /// The ACL has no entry.
    AclEmpty,
    /// An entry of the ACL has permissions that do not exist.
    AclPerms(u8),
    /// An entry of the ACL has scheme `auth`, and the caller has no identity.
    AclWithoutIdentity,
    /// An entry of the ACL has a scheme that is not known.
    AclScheme(String),
    /// An entry of the ACL has an id that does not fit its scheme.
    AclId {
        /// The scheme.
        scheme: String,
        /// The id.
        id: String,
    },
    /// A TTL that is 0 or too long.
    TtlRange {
        /// The TTL in milliseconds.
        ttl_ms: u64,
    },
    /// A TTL for a znode that can have none.
    TtlMode {
        /// The TTL in milliseconds.
        ttl_ms: u64,
        /// The mode of the create.
        mode: CreateMode,
    },
    /// An ephemeral znode outside any session.
    EphemeralWithoutSession,
    /// There is a znode at the path.
    Exists,
    /// The parent is ephemeral.
    EphemeralParent {
        /// The parent's path is so many first bytes of the path.
        parent_bytes: u32,
    },
    /// The znode has children.
    Children(u32),
    /// The znode belongs to the system.
    Reserved,
    /// Another version than the expected one.
    Version {
        /// Which version of the stat.
        field: VersionField,
        /// The znode's.
        actual: i32,
        /// The request's.
        expected: i32,
    },
    /// Another number of znodes in the subtree than the expected one.
    SubtreeCount {
        /// The znodes of the subtree, its top included.
        actual: u64,
        /// The request's number.
        expected: u64,
    },
    /// A multi without operations.
    EmptyMulti,
    /// A check or guard that does not hold.
    Check {
        /// What was expected.
        expected: CheckKind,
        /// The epoch and the version of the znode; `None` where there is none.
        found: Option<(Zxid, i32)>,
    },
    /// The ACL gives the caller none of these permissions.
    Denied(Perms),
    /// There is no quota on the path.
    NoQuota,
    /// A hard quota would be exceeded.
    Quota {
        /// What the quota counts.
        unit: QuotaUnit,
        /// What would be in use.
        used: u64,
        /// The quota.
        limit: u64,
        /// The quota is on so many first bytes of the path.
        top_bytes: u32,
    },
    /// A session with the id 0.
    SessionZero,
    /// The drawn session id belongs to another client.
    SessionTaken(SessionId),
    /// No session with this id is known.
    SessionUnknown(SessionId),
    /// The session has ended.
    SessionEnded {
        /// The session.
        session: SessionId,
        /// Why.
        reason: EndReason,
    },
    /// A later stream has attached to the session.
    SessionMoved {
        /// The session.
        session: SessionId,
        /// The generation of the write.
        generation: Zxid,
        /// The generation of the latest attach.
        current: Zxid,
    },
    /// A close outside any session.
    CloseWithoutSession,
    /// The expiry was decided in a term that is over.
    StaleExpiry {
        /// The session.
        session: SessionId,
        /// The term.
        term: u64,
    },
    /// The write's number leaves a gap.
    Gap {
        /// The session.
        session: SessionId,
        /// The write's number.
        seq: WriteSeq,
        /// The number that comes next.
        expected: WriteSeq,
    },
    /// Too many answers are not acknowledged.
    Outstanding {
        /// The session.
        session: SessionId,
        /// How many.
        count: u64,
        /// How large they are together.
        bytes: u64,
    },
    /// The answer was acknowledged and is no longer kept.
    AnswerForgotten {
        /// The session.
        session: SessionId,
        /// The write's number.
        seq: WriteSeq,
    },
    /// Over a limit.
    Limit {
        /// Which limit.
        limit: LimitName,
        /// The limit.
        max: u64,
        /// What was asked for, or would be in use.
        actual: u64,
    },
    /// The request is malformed.
    Malformed(Malformed),
    /// Nothing may grow while the nodes have too little left of this.
    Scarce(Scarce),
    /// The epoch of a check or a guard is of another ensemble, or of this one before it was restored.
    OtherLineage,
}

/// What is wrong with a request. The order is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Malformed {
    /// Permissions of an ACL's entry that do not exist.
    Perms(u32),
    /// A check with `absent = false`.
    CheckAbsentFalse,
    /// A check without a condition.
    CheckWithoutCondition,
    /// A create mode that is not known.
    CreateMode(i32),
    /// An operation of a multi has guards or a session of its own.
    OwnGuards,
    /// A version below -1.
    Version(i32),
    /// A request that sets a quota has none.
    QuotaMissing,
    /// An operation of a multi is missing.
    OperationMissing,
}

/// What a majority of the nodes is short of. The order is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scarce {
    /// Room on the disks.
    Disk,
    /// Memory.
    Memory,
}

/// What is wrong with a path. The order is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathFault {
    /// It is empty.
    Empty,
    /// It does not begin with a slash.
    NotAbsolute,
    /// It ends with a slash.
    TrailingSlash,
    /// Two slashes with nothing between them.
    EmptyComponent,
    /// A component `.` or `..`.
    RelativeComponent,
    /// A character that ZooKeeper refuses.
    Character,
    /// There is no slash in it.
    NoSlash,
}

/// One of the versions of a stat. The order is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionField {
    /// Changes of the data.
    Version,
    /// Changes of the ACL.
    Aversion,
}

/// What a quota counts. The order is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaUnit {
    /// Znodes.
    Znodes,
    /// Bytes of data.
    Bytes,
}

impl Detail {
    /// The sentence for a person.
    ///
    /// Entries of rules 1 record it, so for what those can refuse it stays as it is, word for word.
    pub(crate) fn fmt(&self, path: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::Text(text) => f.write_str(text),
            Detail::NoZnode => write!(f, "no znode {path:?}"),
            Detail::InvalidPath { fault: PathFault::NoSlash, .. } => {
                write!(f, "invalid path {path:?}: it has no slash")
            }
            Detail::InvalidPath { at, fault } => {
                let reason = match fault {
                    PathFault::Empty => "empty path",
                    PathFault::NotAbsolute => "path must start with /",
                    PathFault::TrailingSlash => "path must not end with /",
                    PathFault::EmptyComponent => "empty component",
                    PathFault::RelativeComponent => "relative component",
                    PathFault::Character | PathFault::NoSlash => "character that is not allowed",
                };
                write!(f, "invalid path {path:?}: {reason} at byte {at}")
            }
            Detail::AclEmpty => write!(f, "the ACL for {path:?} is empty"),
            Detail::AclPerms(perms) => {
                write!(f, "the ACL for {path:?} has unknown permissions {perms:#x}")
            }
            Detail::AclWithoutIdentity => {
                write!(f, "the ACL for {path:?} has scheme auth, but no identity was added")
            }
            Detail::AclScheme(scheme) => {
                write!(f, "the ACL for {path:?} has an unknown scheme {scheme:?}")
            }
            Detail::AclId { scheme, id } => {
                write!(f, "the ACL for {path:?} has a malformed id {id:?} of scheme {scheme}")
            }
            Detail::TtlRange { ttl_ms } => {
                write!(f, "a TTL of {ttl_ms} ms is not within 1 to {}", crate::ops::TTL_MS_MAX)
            }
            Detail::TtlMode { ttl_ms, mode } => {
                write!(f, "a TTL of {ttl_ms} ms does not go with the mode {mode:?}")
            }
            Detail::EphemeralWithoutSession => f.write_str("an ephemeral znode needs a session"),
            Detail::Exists => write!(f, "znode {path:?} exists"),
            Detail::EphemeralParent { parent_bytes } => {
                write!(f, "{:?} is ephemeral and so has no children", first(path, *parent_bytes))
            }
            Detail::Children(count) => write!(f, "{path:?} has {count} children"),
            Detail::Reserved => write!(f, "{path:?} belongs to the system and cannot be deleted"),
            Detail::Version { field, actual, expected } => {
                let field = match field {
                    VersionField::Version => "version",
                    VersionField::Aversion => "aversion",
                };
                write!(f, "{path:?} has {field} {actual}, expected {expected}")
            }
            Detail::SubtreeCount { actual, expected } => {
                write!(f, "the subtree of {path:?} has {actual} znodes, expected {expected}")
            }
            Detail::EmptyMulti => f.write_str("a multi without operations"),
            Detail::Check { expected, found } => {
                match found {
                    Some((epoch, version)) => {
                        write!(f, "{path:?} has epoch {epoch} and version {version}, ")?
                    }
                    None => write!(f, "no znode {path:?}, ")?,
                }
                match expected {
                    CheckKind::Version(-1) => f.write_str("expected it to exist"),
                    CheckKind::Version(version) => write!(f, "expected version {version}"),
                    CheckKind::Epoch(epoch) => write!(f, "expected epoch {epoch}"),
                    CheckKind::Absent => f.write_str("expected none"),
                }
            }
            Detail::Denied(perms) => {
                write!(f, "the ACL of {path:?} does not allow {}", names(*perms))
            }
            Detail::NoQuota => write!(f, "no quota for {path:?}"),
            Detail::Quota { unit, used, limit, top_bytes } => {
                let unit = match unit {
                    QuotaUnit::Znodes => "znodes",
                    QuotaUnit::Bytes => "bytes",
                };
                let top = first(path, *top_bytes);
                write!(f, "{used} {unit} would exceed the hard quota of {limit} {unit} on {top:?}")
            }
            Detail::SessionZero => f.write_str("0 is no id of a session"),
            Detail::SessionTaken(session) => write!(f, "session {session:#x} belongs to another client"),
            Detail::SessionUnknown(session) => write!(f, "no session {session:#x}"),
            Detail::SessionEnded { session, reason } => {
                write!(f, "session {session:#x} has ended: {reason}")
            }
            Detail::SessionMoved { session, generation, current } => write!(
                f,
                "session {session:#x} has moved to another connection: this one attached at zxid {generation}, the \
                 latest at {current}"
            ),
            Detail::CloseWithoutSession => f.write_str("a write outside any session cannot close one"),
            Detail::StaleExpiry { session, term } => {
                write!(f, "the expiry of session {session:#x} was decided in term {term}, which is over")
            }
            Detail::Gap { session, seq, expected } => {
                write!(f, "write {seq} of session {session:#x}: expected {expected}")
            }
            Detail::Outstanding { session, count, bytes } => {
                let (count_max, bytes_max) = crate::ops::UNACKNOWLEDGED_MAX;
                write!(
                    f,
                    "session {session:#x} has {count} answers of {bytes} bytes outstanding; the limits are {count_max} \
                     and {bytes_max}"
                )
            }
            Detail::AnswerForgotten { session, seq } => write!(
                f,
                "write {seq} of session {session:#x} was carried out and its answer acknowledged; it is no longer kept"
            ),
            Detail::Limit { limit, max, actual } => {
                write!(f, "{}: {actual} is above the limit of {max}", limit.name())?;
                f.write_str(limit.remedy())
            }
            Detail::Malformed(malformed) => malformed.fmt(path, f),
            Detail::OtherLineage => {
                write!(f, "the epoch for {path:?} is of another ensemble: nothing of it holds here")
            }
            Detail::Scarce(Scarce::Disk) => f.write_str("the disks are almost full (--disk-reserve-bytes)"),
            Detail::Scarce(Scarce::Memory) => f.write_str("the nodes have no memory left (--memory-limit)"),
        }
    }
}

impl Malformed {
    fn fmt(&self, path: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Perms(perms) => write!(f, "permissions {perms} are not in 0 to 31"),
            Malformed::CheckAbsentFalse => {
                write!(f, "the check of {path:?} has absent = false; use version -1")
            }
            Malformed::CheckWithoutCondition => write!(f, "the check of {path:?} has no condition"),
            Malformed::CreateMode(mode) => write!(f, "create mode {mode} is not known"),
            Malformed::OwnGuards => {
                f.write_str("guards and session belong to the multi, not to its operations")
            }
            Malformed::Version(version) => write!(f, "version {version} is below -1"),
            Malformed::QuotaMissing => f.write_str("quota is missing"),
            Malformed::OperationMissing => f.write_str("an operation of the multi is missing"),
        }
    }
}

/// The first so many bytes of `path`, or all of it where that is not possible.
fn first(path: &str, bytes: u32) -> &str {
    path.get(..bytes as usize).unwrap_or(path)
}

fn names(perms: Perms) -> String {
    [
        (Perms::READ, "READ"),
        (Perms::WRITE, "WRITE"),
        (Perms::CREATE, "CREATE"),
        (Perms::DELETE, "DELETE"),
        (Perms::ADMIN, "ADMIN"),
    ]
    .into_iter()
    .filter_map(|(perm, name)| perms.contains(perm).then_some(name))
    .collect::<Vec<_>>()
    .join(" or ")
}
