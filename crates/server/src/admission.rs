//! What a request asks for, and how it becomes a write that may be proposed: the same for streams and for calls.

use coordd_proto::v1;
use coordd_proto::v1::request::Op;
use coordd_tree::{Auth, Limits, OpError, SessionId, Write, WriteOp, WriteSeq};

use crate::convert::{IntoWrite, OwnLineage, WriteRequest, error_to_wire};
use crate::reads::Read;

/// What a request of a session stream asks for.
pub(crate) enum Asked {
    /// A write, or why it cannot be one.
    Write(Result<WriteRequest, OpError>),
    Read(Read),
    RemoveWatch(v1::RemoveWatchRequest),
    /// Something about the connection itself, which is answered at once.
    Now(Op),
}

impl Asked {
    pub(crate) fn of(op: Op, own: OwnLineage<'_>) -> Asked {
        match op {
            Op::Create(op) => Asked::Write(op.into_write(own)),
            Op::Delete(op) => Asked::Write(op.into_write(own)),
            Op::Set(op) => Asked::Write(op.into_write(own)),
            Op::Multi(op) => Asked::Write(op.into_write(own)),
            Op::DeleteTree(op) => Asked::Write(op.into_write(own)),
            Op::SetAcl(op) => Asked::Write(op.into_write(own)),
            Op::SetQuota(op) => Asked::Write(op.into_write(own)),
            Op::DeleteQuota(op) => Asked::Write(op.into_write(own)),
            Op::Close(v1::CloseRequest {}) => Asked::Write(Ok((WriteOp::CloseSession, Vec::new()))),
            Op::Get(op) => Asked::Read(Read::Get(op)),
            Op::Exists(op) => Asked::Read(Read::Exists(op)),
            Op::List(op) => Asked::Read(Read::List(op)),
            Op::MultiRead(op) => Asked::Read(Read::MultiRead(op)),
            Op::GetAcl(op) => Asked::Read(Read::GetAcl(op)),
            Op::GetEphemerals(op) => Asked::Read(Read::GetEphemerals(op)),
            Op::CountDescendants(op) => Asked::Read(Read::CountDescendants(op)),
            Op::GetQuota(op) => Asked::Read(Read::GetQuota(op)),
            Op::Sync(op) => Asked::Read(Read::Sync(op)),
            Op::RemoveWatch(op) => Asked::RemoveWatch(op),
            Op::AddWatch(_) | Op::AddAuth(_) | Op::WhoAmI(_) => Asked::Now(op),
        }
    }
}

/// Where a write stands in its session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) session: SessionId,
    pub(crate) seq: WriteSeq,
    pub(crate) acked: WriteSeq,
}

impl Place {
    /// The write that has this place. One that is refused at the door needs it all the same, or the session's order would
    /// have a hole: it is proposed as a write that every node refuses alike.
    pub(crate) fn admit(
        self,
        asked: Result<WriteRequest, OpError>,
        auth: Auth,
        limits: &Limits,
    ) -> Write<'static> {
        let request = asked.unwrap_or_else(|refused| (WriteOp::RefusedWith(refused), Vec::new()));
        let write = self.write(request, auth);
        match write.validate(limits) {
            Ok(()) => write,
            Err(refused) => self.write((WriteOp::RefusedWith(refused), Vec::new()), Auth::default()),
        }
    }

    /// The same for a write without a number: then nothing is lost by a refusal.
    pub(crate) fn admit_unnumbered(
        self,
        request: WriteRequest,
        auth: Auth,
        limits: &Limits,
    ) -> Result<Write<'static>, v1::Error> {
        let write = self.write(request, auth);
        write.validate(limits).map_err(error_to_wire)?;
        Ok(write)
    }

    fn write(self, (op, guards): WriteRequest, auth: Auth) -> Write<'static> {
        let Place { session, seq, acked } = self;
        Write { session, seq, acked, auth, guards, op }
    }
}

#[cfg(test)]
mod tests {
    use coordd_tree::{Detail, ErrorKind, Malformed};

    use super::*;

    const OWN: OwnLineage<'static> = OwnLineage { cluster_id: "own", number: 0 };

    /// G8: what stands in the log for a malformed write are values. The sentence is made when it is shown.
    #[test]
    fn malformed_writes_carry_values() {
        let place = Place { session: 7, seq: 1, acked: 0 };
        let check = v1::Check { path: "/c".into(), condition: None, lineage: None };
        let perms = v1::AclEntry { perms: 99, ..v1::AclEntry::default() };
        let set = v1::SetRequest { path: "/a".into(), version: Some(-2), ..v1::SetRequest::default() };
        let multi = v1::MultiRequest { ops: vec![v1::MultiOp { op: None }], ..v1::MultiRequest::default() };
        for (asked, kind, what, message) in [
            (
                set.clone().into_write(OWN),
                ErrorKind::BadArguments,
                Malformed::Version(-2),
                "version -2 is below -1",
            ),
            (
                v1::SetRequest { version: None, guards: vec![check], ..set }.into_write(OWN),
                ErrorKind::BadArguments,
                Malformed::CheckWithoutCondition,
                "the check of \"/c\" has no condition",
            ),
            (
                v1::SetAclRequest { path: "/a".into(), acl: vec![perms], ..v1::SetAclRequest::default() }
                    .into_write(OWN),
                ErrorKind::InvalidAcl,
                Malformed::Perms(99),
                "permissions 99 are not in 0 to 31",
            ),
            (
                multi.into_write(OWN),
                ErrorKind::BadArguments,
                Malformed::OperationMissing,
                "an operation of the multi is missing",
            ),
        ] {
            let write = place.admit(asked, Auth::default(), &Limits::default());
            let WriteOp::RefusedWith(refused) = &write.op else { panic!("{write:?}") };
            assert_eq!((refused.kind, &refused.detail), (kind, &Detail::Malformed(what)));
            assert_eq!(refused.message(), message);
        }
    }
}
