use crate::{Acl, Create, ErrorKind, MultiOp, OpError, OpenSession, Write, WriteOp};

/// Bytes of a client's name, of the scheme and id of an identity, and of those of an ACL entry.
const NAME_BYTES_MAX: usize = 256;
const ID_BYTES_MAX: usize = 1024;

/// What a node admits from its clients (G9).
///
/// They are checked before a write is proposed and never where it is applied: nodes may be configured differently,
/// and all must apply alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Bytes of a path.
    pub path_bytes: usize,
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            value_bytes: 1 << 20,
            path_bytes: 4096,
            multi_ops: 1000,
            multi_bytes: 4 << 20,
            acl_entries: 64,
            guards: 64,
            auth_ids: 64,
        }
    }
}

impl Write {
    /// Whether the write is within `limits`.
    ///
    /// # Errors
    ///
    /// `BadArguments` that names the limit and the actual size.
    pub fn validate(&self, limits: &Limits) -> Result<(), OpError> {
        at_most("guards", limits.guards, self.guards.len(), "")?;
        at_most("auth_ids", limits.auth_ids, self.auth.ids.len(), "")?;
        for id in &self.auth.ids {
            at_most("bytes of an identity", ID_BYTES_MAX, id.scheme.len() + id.id.len(), "")?;
        }
        self.guards.iter().try_for_each(|guard| limits.path(&guard.path))?;
        match &self.op {
            WriteOp::Create(create) => limits.create(create),
            WriteOp::SetData { path, data, .. } => limits.value(path, data.len()),
            WriteOp::SetAcl { path, acl, .. } => limits.path(path).and_then(|()| limits.acl(path, acl)),
            WriteOp::Multi(ops) => limits.multi(ops),
            WriteOp::Delete { path, .. }
            | WriteOp::DeleteTree { path, .. }
            | WriteOp::SetQuota { path, .. }
            | WriteOp::DeleteQuota { path } => limits.path(path),
            WriteOp::CloseSession | WriteOp::Refused(_) => Ok(()),
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
            return Err(OpError::new(ErrorKind::BadArguments, "", "0 is no id of a session"));
        }
        at_most("bytes of a client's name", NAME_BYTES_MAX, self.client_name.len(), "")
    }
}

impl Limits {
    fn create(&self, create: &Create) -> Result<(), OpError> {
        self.value(&create.path, create.data.len())?;
        self.acl(&create.path, &create.acl)
    }

    fn multi(&self, ops: &[MultiOp]) -> Result<(), OpError> {
        at_most("multi_ops", self.multi_ops, ops.len(), "")?;
        let mut bytes = 0;
        for (index, op) in ops.iter().enumerate() {
            let within = match op {
                MultiOp::Create(create) => {
                    bytes += create.data.len();
                    self.create(create)
                }
                MultiOp::SetData { path, data, .. } => {
                    bytes += data.len();
                    self.value(path, data.len())
                }
                MultiOp::Delete { path, .. } => self.path(path),
                MultiOp::Check(check) => self.path(&check.path),
            };
            within.map_err(|error| OpError { op_index: Some(index as u32), ..error })?;
        }
        at_most("multi_bytes", self.multi_bytes, bytes, "")
    }

    fn value(&self, path: &str, bytes: usize) -> Result<(), OpError> {
        self.path(path)?;
        at_most("value_bytes", self.value_bytes, bytes, path)
    }

    fn path(&self, path: &str) -> Result<(), OpError> {
        // The path is not repeated in the answer: it is too long.
        at_most("path_bytes", self.path_bytes, path.len(), "")
    }

    fn acl(&self, path: &str, acl: &Acl) -> Result<(), OpError> {
        at_most("acl_entries", self.acl_entries, acl.len(), path)?;
        acl.iter().try_for_each(|entry| {
            at_most("bytes of an ACL's id", ID_BYTES_MAX, entry.scheme.len() + entry.id.len(), path)
        })
    }
}

fn at_most(limit: &str, max: usize, actual: usize, path: &str) -> Result<(), OpError> {
    if actual <= max {
        return Ok(());
    }
    Err(OpError::new(ErrorKind::BadArguments, path, format!("{limit}: {actual} is above the limit of {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AclEntry, Auth, AuthId, Check, CheckKind, CreateMode, Perms};

    fn small() -> Limits {
        Limits {
            value_bytes: 4,
            path_bytes: 8,
            multi_ops: 2,
            multi_bytes: 6,
            acl_entries: 1,
            guards: 1,
            auth_ids: 1,
        }
    }

    fn create(path: &str, bytes: usize, acl_entries: usize) -> Create {
        Create {
            path: path.into(),
            data: vec![0; bytes].into(),
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
        error.message
    }

    #[test]
    fn what_is_at_the_limit_passes() {
        let ops = vec![MultiOp::Create(create("/1234567", 4, 1)), MultiOp::Create(create("/a", 2, 0))];
        assert_eq!(write(WriteOp::Multi(ops)).validate(&small()), Ok(()));
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
