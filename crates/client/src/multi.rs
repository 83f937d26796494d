use bytes::Bytes;
use coordd_proto::v1;
use coordd_proto::v1::multi_op::Op as MultiOp;
use coordd_proto::v1::multi_op_reply;
use coordd_proto::v1::request::Op;

use crate::call::{Call, expect_reply};
use crate::{Check, Client, CreateOptions, Created, Error, ErrorKind, Stat, convert};

/// Several writes, all or none: collects operations, and [`commit`](Multi::commit) sends them.
#[derive(Clone)]
#[must_use = "nothing happens before `commit`"]
pub struct Multi {
    client: Client,
    ops: Vec<v1::MultiOp>,
}

/// What one operation of a multi did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiResult {
    /// A create.
    Create(Created),
    /// A delete.
    Delete,
    /// A set, and the stat after it.
    Set(Stat),
    /// A check that held.
    Check,
}

impl Client {
    /// Begins a multi: several writes that take effect in one step, or not at all.
    pub fn multi(&self) -> Multi {
        Multi { client: self.clone(), ops: Vec::new() }
    }
}

impl Multi {
    fn push(mut self, op: MultiOp) -> Self {
        self.ops.push(v1::MultiOp { op: Some(op) });
        self
    }

    /// Adds a create; see [`Client::create`].
    pub fn create(
        self,
        path: impl Into<String>,
        data: impl Into<Bytes>,
        options: impl Into<CreateOptions>,
    ) -> Self {
        self.push(MultiOp::Create(convert::create_request(path.into(), data.into(), options.into())))
    }

    /// Adds a delete; see [`Client::delete`].
    pub fn delete(self, path: impl Into<String>, version: Option<i32>) -> Self {
        self.push(MultiOp::Delete(v1::DeleteRequest { path: path.into(), version, ..Default::default() }))
    }

    /// Adds a set; see [`Client::set`].
    pub fn set(self, path: impl Into<String>, data: impl Into<Bytes>, version: Option<i32>) -> Self {
        let (path, data) = (path.into(), data.into());
        self.push(MultiOp::Set(v1::SetRequest { path, data, version, ..Default::default() }))
    }

    /// Adds a condition. It sees what the operations before it did.
    pub fn check(self, check: Check) -> Self {
        self.push(MultiOp::Check(check.into()))
    }

    /// How many operations were added.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Nothing was added.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Sends it. The results are in the order of the operations, at most 1,000.
    ///
    /// # Errors
    ///
    /// That of the first operation that cannot be done, with [`Error::op_index`]; `BadVersion`, `BadEpoch`, `NoNode` or
    /// `NodeExists` for a check that does not hold; `BadArguments` for none or too many operations; `GuardFailed`.
    /// Nothing was changed then.
    ///
    /// # Watches fired
    ///
    /// Those of its operations, all with the zxid of the multi.
    pub fn commit(self) -> Call<Vec<MultiResult>> {
        let guards = self.client.guards.to_vec();
        let request = v1::MultiRequest { ops: self.ops, guards, session: None };
        self.client.submit(Op::Multi(request), None, |answer| {
            expect_reply!(Multi, answer)?.results.into_iter().map(multi_result).collect()
        })
    }
}

fn multi_result(reply: v1::MultiOpReply) -> Result<MultiResult, Error> {
    match reply.result {
        Some(multi_op_reply::Result::Create(reply)) => Ok(MultiResult::Create(reply.try_into()?)),
        Some(multi_op_reply::Result::Delete(_)) => Ok(MultiResult::Delete),
        Some(multi_op_reply::Result::Set(reply)) => Ok(MultiResult::Set(convert::stat(reply.stat)?)),
        Some(multi_op_reply::Result::Check(_)) => Ok(MultiResult::Check),
        None => Err(Error::new(ErrorKind::Protocol, "the result of an operation is empty")),
    }
}
