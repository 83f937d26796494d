//! What a request asks for, and how it becomes a write that may be proposed: the same for streams and for calls.

use coordd_proto::v1;
use coordd_proto::v1::request::Op;
use coordd_tree::{Auth, Limits, SessionId, Write, WriteOp, WriteSeq};

use crate::convert::{IntoWrite, WriteRequest, error_to_wire, refused_write};
use crate::reads::Read;

/// What a request of a session stream asks for.
pub(crate) enum Asked {
    /// A write, or why it cannot be one.
    Write(Result<WriteRequest, v1::Error>),
    Read(Read),
    RemoveWatch(v1::RemoveWatchRequest),
    /// Something about the connection itself, which is answered at once.
    Now(Op),
}

impl Asked {
    pub(crate) fn of(op: Op) -> Asked {
        match op {
            Op::Create(op) => Asked::Write(op.into_write()),
            Op::Delete(op) => Asked::Write(op.into_write()),
            Op::Set(op) => Asked::Write(op.into_write()),
            Op::Multi(op) => Asked::Write(op.into_write()),
            Op::DeleteTree(op) => Asked::Write(op.into_write()),
            Op::SetAcl(op) => Asked::Write(op.into_write()),
            Op::SetQuota(op) => Asked::Write(op.into_write()),
            Op::DeleteQuota(op) => Asked::Write(op.into_write()),
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
    pub(crate) fn admit(self, asked: Result<WriteRequest, v1::Error>, auth: Auth, limits: &Limits) -> Write {
        let request = asked.unwrap_or_else(|refused| refused_write(&refused));
        let write = self.write(request, auth);
        match write.validate(limits) {
            Ok(()) => write,
            Err(refused) => self.write((WriteOp::OverLimit(refused), Vec::new()), Auth::default()),
        }
    }

    /// The same for a write without a number: then nothing is lost by a refusal.
    pub(crate) fn admit_unnumbered(
        self,
        request: WriteRequest,
        auth: Auth,
        limits: &Limits,
    ) -> Result<Write, v1::Error> {
        let write = self.write(request, auth);
        write.validate(limits).map_err(error_to_wire)?;
        Ok(write)
    }

    fn write(self, (op, guards): WriteRequest, auth: Auth) -> Write {
        let Place { session, seq, acked } = self;
        Write { session, seq, acked, auth, guards, op }
    }
}
