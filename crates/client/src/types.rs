use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// How fresh a read is. There is no default: the level is an argument of every read, because the right one depends
/// on what the caller does with the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadLevel {
    /// The state of the node the session is attached to: sequential consistency. Never behind what this session has
    /// seen or written, possibly behind other clients' acknowledged writes. Costs nothing but the way to the node.
    #[default]
    Local,
    /// Everything acknowledged anywhere before the call is seen. Costs a round to the leader, which the node shares
    /// among the reads that wait for one.
    Linearizable,
}

/// ZooKeeper's eleven facts about a znode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stat {
    /// The zxid that created it. For the znode of a grant this is the grant's epoch ([`Check::epoch`]).
    pub czxid: u64,
    /// The zxid that last changed its data.
    pub mzxid: u64,
    /// The zxid that last created or deleted a child of it.
    pub pzxid: u64,
    /// When it was created: milliseconds since the Unix epoch by the leader's clock.
    pub ctime: u64,
    /// When its data last changed: milliseconds since the Unix epoch by the leader's clock.
    pub mtime: u64,
    /// How often its data changed.
    pub version: i32,
    /// How often its children changed.
    pub cversion: i32,
    /// How often its ACL changed.
    pub aversion: i32,
    /// The session that owns it if it is ephemeral, otherwise 0.
    pub ephemeral_owner: u64,
    /// Bytes of data.
    pub data_length: u32,
    /// Direct children.
    pub num_children: u32,
}

/// The kinds of znode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CreateMode {
    /// Stays until deleted.
    #[default]
    Persistent,
    /// Goes with its session; cannot have children.
    Ephemeral,
    /// Persistent, with a ten-digit number appended that grows with every create under the parent.
    PersistentSequential,
    /// Ephemeral and numbered.
    EphemeralSequential,
    /// Goes once it has had a child and has none any more.
    Container,
    /// Goes when it was childless and unmodified for so long; whole milliseconds, from 1 to 365 days.
    PersistentWithTtl(Duration),
    /// The same, numbered.
    PersistentSequentialWithTtl(Duration),
}

/// What to create beside the path and the data. A [`CreateMode`] alone will do where the rest is not needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    pub(crate) mode: CreateMode,
    pub(crate) acl: Vec<AclEntry>,
    pub(crate) parents: bool,
}

impl CreateOptions {
    /// Open to the world, and the parent must exist.
    pub fn new(mode: CreateMode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Who may do what with the znode. At most 64 entries; empty: everybody everything.
    #[must_use]
    pub fn acl(mut self, acl: impl IntoIterator<Item = AclEntry>) -> Self {
        self.acl = acl.into_iter().collect();
        self
    }

    /// Create missing parents too, in the same step: persistent, empty, with the same ACL.
    #[must_use]
    pub fn parents(mut self, parents: bool) -> Self {
        self.parents = parents;
        self
    }
}

impl From<CreateMode> for CreateOptions {
    fn from(mode: CreateMode) -> Self {
        Self::new(mode)
    }
}

/// What a create made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The full path, with the number of a sequential znode.
    pub path: String,
    /// The stat of the new znode.
    pub stat: Stat,
}

/// What an ACL entry allows: a set of bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Perms(u32);

impl Perms {
    /// Nothing.
    pub const NONE: Perms = Perms(0);
    /// Read the data and list the children.
    pub const READ: Perms = Perms(1);
    /// Replace the data.
    pub const WRITE: Perms = Perms(2);
    /// Create children.
    pub const CREATE: Perms = Perms(4);
    /// Delete children.
    pub const DELETE: Perms = Perms(8);
    /// Replace the ACL.
    pub const ADMIN: Perms = Perms(16);
    /// Everything.
    pub const ALL: Perms = Perms(31);

    /// The bits: read 1, write 2, create 4, delete 8, admin 16.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From bits; the server refuses bits it does not know.
    pub const fn from_bits(bits: u32) -> Self {
        Perms(bits)
    }

    /// Whether all of `other` is allowed.
    pub const fn contains(self, other: Perms) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Perms {
    type Output = Perms;
    fn bitor(self, other: Perms) -> Perms {
        Perms(self.0 | other.0)
    }
}

/// ZooKeeper's letters: `cdrwa`, in that order, those that are set.
impl fmt::Display for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Perms::CREATE, 'c'),
            (Perms::DELETE, 'd'),
            (Perms::READ, 'r'),
            (Perms::WRITE, 'w'),
            (Perms::ADMIN, 'a'),
        ];
        letters
            .iter()
            .filter(|(perm, _)| self.contains(*perm))
            .try_for_each(|(_, letter)| write!(f, "{letter}"))
    }
}

impl fmt::Debug for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Perms({self})")
    }
}

/// One line of an ACL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AclEntry {
    /// What is allowed.
    pub perms: Perms,
    /// "world", "auth", "digest" or "ip".
    pub scheme: String,
    /// "anyone"; "user:base64(sha1(user:password))"; an address or "address/bits".
    pub id: String,
}

impl AclEntry {
    /// An entry for an identity of a scheme.
    pub fn new(perms: Perms, scheme: impl Into<String>, id: impl Into<String>) -> Self {
        Self { perms, scheme: scheme.into(), id: id.into() }
    }

    /// Everybody.
    pub fn world(perms: Perms) -> Self {
        Self::new(perms, "world", "anyone")
    }

    /// Every identity that the connection of the caller has proved.
    pub fn auth(perms: Perms) -> Self {
        Self::new(perms, "auth", "")
    }
}

/// An identity that the server takes the connection for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// "ip", "digest", ...
    pub scheme: String,
    /// The identity in that scheme.
    pub id: String,
}

/// A condition on one znode: in a multi, or as a guard of a write ([`Client::guarded`](crate::Client::guarded)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    pub(crate) path: String,
    pub(crate) condition: Condition,
    pub(crate) lineage: Option<Lineage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Condition {
    Version(i32),
    Epoch(u64),
    Absent,
}

impl Check {
    /// The data version of the znode is `version`.
    pub fn version(path: impl Into<String>, version: i32) -> Self {
        Self { path: path.into(), condition: Condition::Version(version), lineage: None }
    }

    /// The znode exists.
    pub fn exists(path: impl Into<String>) -> Self {
        Self { path: path.into(), condition: Condition::Version(-1), lineage: None }
    }

    /// The znode exists and was created by this zxid ([`Stat::czxid`]): the grant that was given is still in force.
    /// A znode that was deleted and created again under the same name does not pass.
    pub fn epoch(path: impl Into<String>, czxid: u64) -> Self {
        Self { path: path.into(), condition: Condition::Epoch(czxid), lineage: None }
    }

    /// The znode does not exist.
    pub fn absent(path: impl Into<String>) -> Self {
        Self { path: path.into(), condition: Condition::Absent, lineage: None }
    }

    /// Says which history the zxid of [`epoch`](Self::epoch) belongs to, for a check that may outlive its
    /// ensemble: in another lineage it does not hold, whatever stands at the path. The checks of grants say
    /// it.
    #[must_use]
    pub fn in_lineage(self, lineage: impl Into<Option<Lineage>>) -> Self {
        Self { lineage: lineage.into(), ..self }
    }
}

/// One child of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name, without the parent's path.
    pub name: String,
    /// Its stat, if it was asked for.
    pub stat: Option<Stat>,
}

/// One page of a listing: one state of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// In byte order of the names.
    pub children: Vec<Child>,
    /// The stat of the znode that is listed.
    pub stat: Stat,
    /// There are more: ask again with [`ListOptions::after`] the last name.
    pub more: bool,
}

/// One page of the ephemerals of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EphemeralsPage {
    /// In byte order.
    pub paths: Vec<String>,
    /// There are more: ask again with the last path as `after`.
    pub more: bool,
}

/// Which part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Names after this one, in byte order; empty: from the first.
    pub after: String,
    /// At most so many; 0, or more than the server's limit (10,000): the server's limit.
    pub limit: u32,
    /// With the stat of each child.
    pub with_stat: bool,
}

/// Limits of a subtree, its top included. `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Znodes; going over shows in [`QuotaUsage::soft_exceeded`].
    pub count_soft: Option<u64>,
    /// Znodes; going over is refused with [`ErrorKind::QuotaExceeded`](crate::ErrorKind::QuotaExceeded).
    pub count_hard: Option<u64>,
    /// Bytes of data; going over shows in [`QuotaUsage::soft_exceeded`].
    pub bytes_soft: Option<u64>,
    /// Bytes of data; going over is refused.
    pub bytes_hard: Option<u64>,
}

/// The quota of a subtree and what it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaUsage {
    /// The limits.
    pub quota: Quota,
    /// Znodes in the subtree, the top included.
    pub count: u64,
    /// Bytes of data in the subtree.
    pub bytes: u64,
    /// A soft limit is exceeded.
    pub soft_exceeded: bool,
}

/// Which history zxids and epochs belong to. Those of two lineages must not be compared: an ensemble that was
/// formed anew, or restored from a backup, gives out numbers that were given out before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// The ensemble, as it was named when it was formed.
    pub cluster_id: String,
    /// 0 as long as the ensemble was not restored; each restore begins another one.
    pub number: u64,
}

/// What proves that a session is one's own. Outlives the session: [`Client::outcome`](crate::Client::outcome) asks
/// with it for the fate of a write after the end.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken {
    /// The session.
    pub session_id: u64,
    /// Its password, 16 bytes.
    pub password: Bytes,
}

/// The password is a secret and does not belong in logs.
impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionToken").field("session_id", &self.session_id).finish_non_exhaustive()
    }
}

/// A proof of identity that a connection presents.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub(crate) scheme: String,
    pub(crate) auth: Bytes,
}

impl Credential {
    /// ZooKeeper's digest scheme.
    pub fn digest(user: &str, password: &str) -> Self {
        Self { scheme: "digest".into(), auth: Bytes::from(format!("{user}:{password}")) }
    }

    /// Any scheme the server knows, with what that scheme wants to see.
    pub fn new(scheme: impl Into<String>, auth: impl Into<Bytes>) -> Self {
        Self { scheme: scheme.into(), auth: auth.into() }
    }
}

/// The proof is a secret and does not belong in logs.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// The fate of a numbered write.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Carried out; it succeeded, or was refused with this error and changed nothing.
    Applied {
        /// The write's place in history.
        zxid: u64,
        /// How it was answered.
        result: Result<(), crate::Error>,
    },
    /// Carried out; the answer is no longer kept, because the client acknowledged it.
    Acknowledged,
    /// Not carried out, and never will be: the session has ended.
    Never,
    /// Not carried out so far; the session is live.
    NotYet,
    /// No such session: it never was, or ended over an hour ago.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perms_print_as_zookeeper_prints_them() {
        assert_eq!(Perms::ALL.to_string(), "cdrwa");
        assert_eq!((Perms::READ | Perms::ADMIN).to_string(), "ra");
    }

    #[test]
    fn secrets_do_not_reach_logs() {
        let token = SessionToken { session_id: 7, password: Bytes::from_static(b"hush") };
        let credential = Credential::digest("me", "hush");
        assert!(!format!("{token:?}{credential:?}").contains("hush"));
    }
}
