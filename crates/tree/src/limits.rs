use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::path::validate_path;
use crate::{Acl, Auth, Create, Detail, ErrorKind, MultiOp, OpError, OpenSession, Write, WriteOp};

/// Bytes of a client's name, of the scheme and id of an identity, and of those of an ACL entry.
const NAME_BYTES_MAX: usize = 256;
const ID_BYTES_MAX: usize = 1024;
/// ACL entries of a multi, for each operation that it may have.
const ACL_ENTRIES_PER_OP: usize = 16;
/// Digits that a sequential name gets, while its number is below ten thousand million.
const SEQUENCE_DIGITS: usize = 10;
/// What an event counts for beside its path, as in the history.
const EVENT_BYTES: usize = 64;
/// What an answer takes beside a path: a stat, and the frame around both.
const REPLY_BYTES: usize = 96;

/// What a node admits from its clients (G9): the one table of what a command may cost.
///
/// What the command alone decides is checked before it is proposed and never where it is applied: nodes may be configured
/// differently, and all must apply alike. Where the cost depends on the tree, the command carries the ceiling of the
/// node that proposes it ([`Ceilings`]), and applying refuses what is above by looking at counts that the tree keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Bytes of a path, with the digits of a sequential one.
    pub path_bytes: usize,
    /// Components of the path of a znode that is created.
    pub depth: usize,
    /// Operations of a multi.
    pub multi_ops: usize,
    /// Bytes of all values of a multi together.
    pub multi_bytes: usize,
    /// Entries of an ACL.
    pub acl_entries: usize,
    /// Guards of a write.
    pub guards: usize,
    /// Identities of a connection.
    pub auth_ids: usize,
    /// Znodes that one command makes, with the missing parents that it may have to make.
    pub created_znodes: usize,
    /// Bytes of the events of one command: their paths, and 64 bytes each for the rest.
    pub event_bytes: usize,
    /// Bytes of the answer to one command: the paths in it, and 96 bytes for each operation.
    pub reply_bytes: usize,
    /// What is checked where the command is applied.
    pub ceilings: Ceilings,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            value_bytes: 1 << 20,
            path_bytes: 4096,
            depth: 128,
            multi_ops: 1000,
            multi_bytes: 4 << 20,
            acl_entries: 64,
            guards: 64,
            auth_ids: 64,
            created_znodes: 5000,
            event_bytes: 5 << 20,
            reply_bytes: 3 << 20,
            ceilings: Ceilings::default(),
        }
    }
}

/// Limits whose use depends on the tree. Commands carry them, so that all nodes apply a command alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Znodes that one `DeleteTree` removes.
    pub tree_znodes: u32,
    /// Bytes of the events of one command that removes many znodes: their paths, and 64 bytes each for the
    /// rest. The ephemerals of a session count 48 more for each znode above them, because each of them has to
    /// be found.
    pub removed_event_bytes: u32,
    /// Ephemeral znodes of one session; its end removes them in one step (G6).
    pub ephemerals: u32,
    /// Quotas of the tree.
    pub quotas: u32,
    /// Bytes of all distinct ACLs of the tree.
    pub acl_bytes: u32,
}

impl Ceilings {
    /// No ceiling at all: for entries of rules 1.
    pub(crate) const NONE: Ceilings = Ceilings {
        tree_znodes: u32::MAX,
        removed_event_bytes: u32::MAX,
        ephemerals: u32::MAX,
        quotas: u32::MAX,
        acl_bytes: u32::MAX,
    };
    /// The default, which is part of rules 2: commands that carry no ceilings have these.
    pub(crate) const RULES_2: Ceilings = Ceilings {
        tree_znodes: 5000,
        removed_event_bytes: 5 << 20,
        ephemerals: 5000,
        quotas: 10_000,
        acl_bytes: 64 << 20,
    };
}

impl Default for Ceilings {
    fn default() -> Ceilings {
        Ceilings::RULES_2
    }
}

/// The name of a limit, as refusals tell it. The order is part of the format of recorded answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are named as the fields of `Limits` and `Ceilings` are")]
pub enum LimitName {
    ValueBytes,
    PathBytes,
    Depth,
    MultiOps,
    MultiBytes,
    AclEntries,
    AclIdBytes,
    Guards,
    AuthIds,
    IdentityBytes,
    ClientNameBytes,
    CreatedZnodes,
    EventBytes,
    ReplyBytes,
    TreeZnodes,
    RemovedEventBytes,
    Ephemerals,
    EphemeralBytes,
    Quotas,
    AclTableBytes,
}

impl LimitName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LimitName::ValueBytes => "value_bytes",
            LimitName::PathBytes => "path_bytes",
            LimitName::Depth => "depth",
            LimitName::MultiOps => "multi_ops",
            LimitName::MultiBytes => "multi_bytes",
            LimitName::AclEntries => "acl_entries",
            LimitName::AclIdBytes => "bytes of an ACL's id",
            LimitName::Guards => "guards",
            LimitName::AuthIds => "auth_ids",
            LimitName::IdentityBytes => "bytes of an identity",
            LimitName::ClientNameBytes => "bytes of a client's name",
            LimitName::CreatedZnodes => "created_znodes",
            LimitName::EventBytes => "event_bytes",
            LimitName::ReplyBytes => "reply_bytes",
            LimitName::TreeZnodes => "tree_znodes",
            LimitName::RemovedEventBytes => "removed_event_bytes",
            LimitName::Ephemerals => "ephemerals of the session",
            LimitName::EphemeralBytes => "event bytes of the session's ephemerals",
            LimitName::Quotas => "quotas",
            LimitName::AclTableBytes => "acl_bytes",
        }
    }

    /// What to do about it, as the end of a sentence.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            LimitName::TreeZnodes | LimitName::RemovedEventBytes => {
                "; delete the subtree in batches, children first (`coordctl delete -r` does)"
            }
            LimitName::CreatedZnodes | LimitName::EventBytes | LimitName::ReplyBytes => {
                "; split the write into smaller ones"
            }
            LimitName::Ephemerals | LimitName::EphemeralBytes => "; open another session",
            LimitName::Quotas => "; remove quotas that are not needed (`coordctl quota list`)",
            LimitName::AclTableBytes => "; use fewer different ACLs",
            _ => "",
        }
    }
}

impl Write<'_> {
    /// Whether the write is within `limits`.
    ///
    /// # Errors
    ///
    /// `BadArguments` that names the limit and the actual size.
    pub fn validate(&self, limits: &Limits) -> Result<(), OpError> {
        at_most(LimitName::Guards, limits.guards, self.guards.len(), "")?;
        at_most(LimitName::AuthIds, limits.auth_ids, self.auth.ids.len(), "")?;
        for id in &self.auth.ids {
            at_most(LimitName::IdentityBytes, ID_BYTES_MAX, id.scheme.len() + id.id.len(), "")?;
        }
        self.guards.iter().try_for_each(|guard| limits.existing_path(&guard.path))?;
        match &self.op {
            WriteOp::Create(create) => {
                limits.create(create, &self.auth)?;
                limits.cost(Cost::of_create(create))
            }
            WriteOp::SetData { path, data, .. } => limits.value(path, data.len()),
            WriteOp::SetAcl { path, acl, .. } => {
                limits.existing_path(path).and_then(|()| limits.acl(path, acl, &self.auth))
            }
            WriteOp::Multi(ops) => limits.multi(ops, &self.auth),
            WriteOp::Delete { path, .. }
            | WriteOp::DeleteTree { path, .. }
            | WriteOp::SetQuota { path, .. }
            | WriteOp::DeleteQuota { path } => limits.existing_path(path),
            WriteOp::CloseSession | WriteOp::Refused(_) | WriteOp::RefusedWith(_) => Ok(()),
        }
    }
}

impl OpenSession {
    /// Whether the session may be proposed.
    ///
    /// # Errors
    ///
    /// `BadArguments`: the id is 0, or the client's name is longer than 256 bytes.
    pub fn validate(&self) -> Result<(), OpError> {
        if self.session == 0 {
            return Err(OpError::new(ErrorKind::BadArguments, "", Detail::SessionZero));
        }
        at_most(LimitName::ClientNameBytes, NAME_BYTES_MAX, self.client_name.len(), "")
    }
}

/// What a write costs at most, as far as the write alone tells.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    created: usize,
    event_bytes: usize,
    reply_bytes: usize,
}

impl Cost {
    /// A create by itself.
    fn of_create(create: &Create) -> Cost {
        let path_bytes = stored_bytes(create);
        let parents = if create.parents { components(&create.path).saturating_sub(1) } else { 0 };
        Cost {
            created: 1 + parents,
            event_bytes: (path_bytes + EVENT_BYTES) * (1 + parents),
            reply_bytes: path_bytes + REPLY_BYTES,
        }
    }

    /// All operations of a multi, each as if it were alone.
    fn of_multi(ops: &[MultiOp]) -> Cost {
        ops.iter().map(Cost::of_op).fold(Cost::default(), |sum, cost| Cost {
            created: sum.created + cost.created,
            event_bytes: sum.event_bytes + cost.event_bytes,
            reply_bytes: sum.reply_bytes + cost.reply_bytes,
        })
    }

    fn of_op(op: &MultiOp) -> Cost {
        match op {
            MultiOp::Create(create) => Cost::of_create(create),
            MultiOp::Delete { path, .. } | MultiOp::SetData { path, .. } => {
                Cost { created: 0, event_bytes: path.len() + EVENT_BYTES, reply_bytes: REPLY_BYTES }
            }
            MultiOp::Check(_) => Cost { reply_bytes: REPLY_BYTES, ..Cost::default() },
        }
    }

    /// The same, where parents that several operations share count once. Takes time and memory in proportion to the paths.
    fn of_multi_exact(ops: &[MultiOp]) -> Cost {
        let mut total = Cost::default();
        // Every directory once, by its parent's number and its own name.
        let mut known: HashMap<(usize, &str), usize> = HashMap::new();
        let mut targets = HashSet::new();
        for op in ops {
            let mut cost = Cost::of_op(op);
            if let MultiOp::Create(create) = op {
                let (mut above, mut bytes) = (0, 0);
                let (parents, name) = create.path.rsplit_once('/').unwrap_or(("", &create.path));
                cost.created = 1;
                cost.event_bytes = stored_bytes(create) + EVENT_BYTES;
                for component in parents.split('/').skip(1).filter(|_| create.parents) {
                    bytes += 1 + component.len();
                    let next = known.len() + 1;
                    let number = *known.entry((above, component)).or_insert(next);
                    if number == next && !targets.contains(&(above, component)) {
                        cost.created += 1;
                        cost.event_bytes += bytes + EVENT_BYTES;
                    }
                    above = number;
                }
                targets.insert((above, name));
            }
            total.created += cost.created;
            total.event_bytes += cost.event_bytes;
            total.reply_bytes += cost.reply_bytes;
        }
        total
    }
}

/// Bytes of the path that is stored for a create.
fn stored_bytes(create: &Create) -> usize {
    create.path.len() + if create.mode.is_sequential() { SEQUENCE_DIGITS } else { 0 }
}

/// Refuses a path that cannot be created, in the words in which all other operations refuse it. Applying a
/// create looks for the parent first, which a malformed path has not.
fn path_to_create(create: &Create) -> Result<(), OpError> {
    let Err(refused) = validate_path(&create.path) else { return Ok(()) };
    if !create.mode.is_sequential() {
        return Err(refused);
    }
    // Of a sequential path the part before the number may end with a slash.
    let numbered = format!("{}{:010}", create.path, 0);
    validate_path(&numbered).map_err(|refused| OpError { path: create.path.to_string(), ..refused })
}

/// Names between the slashes of a path.
fn components(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

impl Limits {
    fn create(&self, create: &Create, auth: &Auth) -> Result<(), OpError> {
        at_most(LimitName::PathBytes, self.path_bytes, stored_bytes(create), "")?;
        path_to_create(create)?;
        at_most(LimitName::Depth, self.depth, components(&create.path), &create.path)?;
        at_most(LimitName::ValueBytes, self.value_bytes, create.data.len(), &create.path)?;
        self.acl(&create.path, &create.acl, auth)
    }

    fn multi(&self, ops: &[MultiOp], auth: &Auth) -> Result<(), OpError> {
        at_most(LimitName::MultiOps, self.multi_ops, ops.len(), "")?;
        let (mut bytes, mut acl_entries) = (0, 0);
        for (index, op) in ops.iter().enumerate() {
            let within = match op {
                MultiOp::Create(create) => {
                    bytes += create.data.len();
                    acl_entries += stored_entries(&create.acl, auth);
                    self.create(create, auth)
                }
                MultiOp::SetData { path, data, .. } => {
                    bytes += data.len();
                    self.value(path, data.len())
                }
                MultiOp::Delete { path, .. } => self.existing_path(path),
                MultiOp::Check(check) => self.existing_path(&check.path),
            };
            within.map_err(|error| OpError { op_index: Some(index as u32), ..error })?;
        }
        at_most(LimitName::MultiBytes, self.multi_bytes, bytes, "")?;
        // When an ACL is stored, each entry is looked for among the others: all ACLs of a multi must not take
        // long.
        at_most(LimitName::AclEntries, self.multi_ops * ACL_ENTRIES_PER_OP, acl_entries, "")?;
        let cost = Cost::of_multi(ops);
        match self.cost(cost) {
            Err(_) if cost.created > ops.len() => self.cost(Cost::of_multi_exact(ops)),
            within => within,
        }
    }

    fn cost(&self, cost: Cost) -> Result<(), OpError> {
        at_most(LimitName::CreatedZnodes, self.created_znodes, cost.created, "")?;
        at_most(LimitName::EventBytes, self.event_bytes, cost.event_bytes, "")?;
        at_most(LimitName::ReplyBytes, self.reply_bytes, cost.reply_bytes, "")
    }

    fn value(&self, path: &str, bytes: usize) -> Result<(), OpError> {
        self.existing_path(path)?;
        at_most(LimitName::ValueBytes, self.value_bytes, bytes, path)
    }

    /// A path of what may be there already. Builds before rules 2 stored sequential names that were longer than the limit by
    /// their digits: those can still be named.
    fn existing_path(&self, path: &str) -> Result<(), OpError> {
        // The path is not repeated in the answer: it is too long.
        match path.len() {
            bytes if bytes <= self.path_bytes + SEQUENCE_DIGITS => Ok(()),
            bytes => at_most(LimitName::PathBytes, self.path_bytes, bytes, ""),
        }
    }

    fn acl(&self, path: &str, acl: &Acl, auth: &Auth) -> Result<(), OpError> {
        at_most(LimitName::AclEntries, self.acl_entries, stored_entries(acl, auth), path)?;
        acl.iter().try_for_each(|entry| {
            at_most(LimitName::AclIdBytes, ID_BYTES_MAX, entry.scheme.len() + entry.id.len(), path)
        })
    }
}

/// Entries that an ACL has when it is stored: one that says `auth` stands for all identities of the caller.
fn stored_entries(acl: &Acl, auth: &Auth) -> usize {
    acl.iter().map(|entry| if entry.scheme == "auth" { auth.ids.len().max(1) } else { 1 }).sum()
}

fn at_most(limit: LimitName, max: usize, actual: usize, path: &str) -> Result<(), OpError> {
    if actual <= max {
        return Ok(());
    }
    let detail = Detail::Limit { limit, max: max as u64, actual: actual as u64 };
    Err(OpError::new(ErrorKind::BadArguments, path, detail))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{AclEntry, AuthId, Check, CheckKind, CreateMode, Perms};

    fn small() -> Limits {
        Limits {
            value_bytes: 4,
            path_bytes: 8,
            multi_ops: 2,
            multi_bytes: 6,
            acl_entries: 1,
            guards: 1,
            auth_ids: 1,
            ..Limits::default()
        }
    }

    fn create(path: &str, bytes: usize, acl_entries: usize) -> Create<'_> {
        Create {
            path: path.into(),
            data: Bytes::from(vec![0; bytes]).into(),
            acl: vec![AclEntry::world(Perms::ALL); acl_entries],
            mode: CreateMode::Persistent,
            ttl_ms: 0,
            parents: false,
        }
    }

    fn write(op: WriteOp) -> Write {
        Write { session: 0, seq: 0, acked: 0, auth: Auth::default(), guards: vec![], op }
    }

    fn refusal(write: &Write) -> String {
        let error = write.validate(&small()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadArguments);
        error.message()
    }

    /// C16: a malformed path is refused in the same words, whether it is to be created or not.
    #[test]
    fn malformed_paths_are_refused_alike() {
        let limits = Limits::default();
        for path in ["", "a", "a/b", "/a/", "//", "/a//b", "/.", "/a/../b", "/a\0", "/\u{1f600}"] {
            let refused = validate_path(path).unwrap_err();
            for mode in [CreateMode::Persistent, CreateMode::Ephemeral, CreateMode::Container] {
                let create = Create { mode, ..create(path, 0, 0) };
                assert_eq!(write(WriteOp::Create(create)).validate(&limits), Err(refused.clone()));
            }
            let ops = vec![MultiOp::Create(create("/good", 0, 0)), MultiOp::Create(create(path, 0, 0))];
            let in_multi = write(WriteOp::Multi(ops)).validate(&limits).unwrap_err();
            assert_eq!(in_multi, OpError { op_index: Some(1), ..refused });
        }
        let sequential = |path: &str| {
            let create = Create { mode: CreateMode::PersistentSequential, ..create(path, 0, 0) };
            write(WriteOp::Create(create)).validate(&limits)
        };
        for path in ["/", "/a/", "/a/n-", "/."] {
            assert_eq!(sequential(path), Ok(()), "{path}");
        }
        for path in ["a", "/a//", "/../n-"] {
            let refused = validate_path(&format!("{path}0")).unwrap_err();
            assert_eq!(sequential(path), Err(OpError { path: path.into(), ..refused }), "{path}");
        }
    }

    #[test]
    fn what_is_at_the_limit_passes() {
        let ops = vec![MultiOp::Create(create("/1234567", 4, 1)), MultiOp::Create(create("/a", 2, 0))];
        assert_eq!(write(WriteOp::Multi(ops)).validate(&small()), Ok(()));
    }

    /// `auth` counts as what it stands for, and a multi has as many entries as can be stored in its time.
    #[test]
    fn acl_entries_count_as_they_are_stored() {
        let limits = Limits::default();
        let own = AuthId { scheme: "digest".into(), id: "ann:x".into() };
        let auth = Auth { ip: None, ids: vec![own; 16] };
        let acl =
            |entries| vec![AclEntry { perms: Perms::ALL, scheme: "auth".into(), id: String::new() }; entries];
        let validate = |op| Write { auth: auth.clone(), ..write(op) }.validate(&limits);
        let create = |entries| Create { acl: acl(entries), ..create("/a", 0, 0) };
        assert_eq!(validate(WriteOp::Create(create(4))), Ok(()));
        let refused = validate(WriteOp::Create(create(5))).unwrap_err();
        assert_eq!(refused.message(), "acl_entries: 80 is above the limit of 64");
        let multi = |creates| WriteOp::Multi(vec![MultiOp::Create(create(4)); creates]);
        assert_eq!(validate(multi(250)), Ok(()));
        let refused = validate(multi(251)).unwrap_err();
        assert_eq!(refused.message(), "acl_entries: 16064 is above the limit of 16000");
    }

    #[test]
    fn each_limit_is_named_with_the_actual_size() {
        let check = Check { path: "/a".into(), kind: CheckKind::Absent };
        let id = AuthId { scheme: "digest".into(), id: "x".repeat(2000) };
        let op = |op| write(op);
        assert_eq!(
            refusal(&op(WriteOp::Create(create("/a", 5, 0)))),
            "value_bytes: 5 is above the limit of 4"
        );
        assert_eq!(
            refusal(&op(WriteOp::Create(create("/12345678", 0, 0)))),
            "path_bytes: 9 is above the limit of 8"
        );
        assert_eq!(
            refusal(&op(WriteOp::Create(create("/a", 0, 2)))),
            "acl_entries: 2 is above the limit of 1"
        );
        assert_eq!(
            refusal(&op(WriteOp::Multi(vec![MultiOp::Check(check.clone()); 3]))),
            "multi_ops: 3 is above the limit of 2"
        );
        assert_eq!(
            refusal(&op(WriteOp::Multi(vec![MultiOp::Create(create("/a", 4, 0)); 2]))),
            "multi_bytes: 8 is above the limit of 6"
        );
        let guarded = Write { guards: vec![check; 2], ..op(WriteOp::CloseSession) };
        assert_eq!(refusal(&guarded), "guards: 2 is above the limit of 1");
        let many = Auth { ip: None, ids: vec![AuthId { id: "x".into(), ..id.clone() }; 2] };
        assert_eq!(
            refusal(&Write { auth: many, ..op(WriteOp::CloseSession) }),
            "auth_ids: 2 is above the limit of 1"
        );
        let long = Auth { ip: None, ids: vec![id] };
        assert_eq!(
            refusal(&Write { auth: long, ..op(WriteOp::CloseSession) }),
            "bytes of an identity: 2006 is above the limit of 1024"
        );
    }

    #[test]
    fn a_limit_within_a_multi_is_told_with_the_operation() {
        let ops = vec![MultiOp::Create(create("/a", 0, 0)), MultiOp::Create(create("/b", 5, 0))];
        let error = write(WriteOp::Multi(ops)).validate(&small()).unwrap_err();
        assert_eq!((error.op_index, error.path.as_str()), (Some(1), "/b"));
    }

    #[test]
    fn a_session_needs_an_id_and_a_short_name() {
        let open = |session, name: usize| OpenSession {
            session,
            password: [0; 16],
            timeout_ms: 1000,
            client_name: "x".repeat(name),
        };
        assert_eq!(open(1, 256).validate(), Ok(()));
        assert!(open(1, 257).validate().is_err());
        assert!(open(0, 1).validate().is_err());
    }
}
