use bytes::Bytes;
use coordd_proto::v1;
use coordd_proto::v1::read_op::Op as ReadOp;
use coordd_proto::v1::read_op_reply;
use coordd_proto::v1::request::Op;

use crate::call::{Call, expect_reply};
use crate::ops::read::{exists_request, get_request, list_request, wire};
use crate::{Client, Error, ErrorKind, ListOptions, ListPage, ReadLevel, Stat, convert};

/// Several reads of one state of the tree: collects them, and [`send`](MultiRead::send) sends them.
#[must_use = "nothing happens before `send`"]
pub struct MultiRead {
    client: Client,
    level: ReadLevel,
    ops: Vec<v1::ReadOp>,
}

/// What one read of a [`MultiRead`] showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadResult {
    /// Data and stat.
    Get(Bytes, Stat),
    /// The stat, if the znode is there.
    Exists(Option<Stat>),
    /// The first page of the children.
    List(ListPage),
}

impl Client {
    /// Begins several reads of one state of the tree; each has its own answer.
    pub fn multi_read(&self, level: ReadLevel) -> MultiRead {
        MultiRead { client: self.clone(), level, ops: Vec::new() }
    }
}

impl MultiRead {
    fn push(mut self, op: ReadOp) -> Self {
        self.ops.push(v1::ReadOp { op: Some(op) });
        self
    }

    /// Adds a read of a znode's data.
    pub fn get(self, path: impl Into<String>) -> Self {
        // A read of several takes the level of the whole; its own must be empty.
        self.push(ReadOp::Get(v1::GetRequest { level: 0, ..get_request(path.into(), ReadLevel::Local) }))
    }

    /// Adds a question for a znode.
    pub fn exists(self, path: impl Into<String>) -> Self {
        self.push(ReadOp::Exists(v1::ExistsRequest {
            level: 0,
            ..exists_request(path.into(), ReadLevel::Local)
        }))
    }

    /// Adds a listing of a znode's children.
    pub fn list(self, path: impl Into<String>, options: ListOptions) -> Self {
        let request = list_request(path.into(), ReadLevel::Local, options);
        self.push(ReadOp::List(v1::ListRequest { level: 0, ..request }))
    }

    /// Sends them. The answers are in the order of the reads, at most 1,000; one that fails (`NoNode`, `NoAuth`) does not
    /// fail the others.
    ///
    /// # Errors
    ///
    /// `BadArguments` for none or too many reads.
    pub fn send(self) -> Call<Vec<Result<ReadResult, Error>>> {
        let request = v1::MultiReadRequest { ops: self.ops, level: wire(self.level), ..Default::default() };
        self.client.submit(Op::MultiRead(request), None, |answer| {
            Ok(expect_reply!(MultiRead, answer)?.results.into_iter().map(read_result).collect())
        })
    }
}

fn read_result(reply: v1::ReadOpReply) -> Result<ReadResult, Error> {
    match reply.result {
        Some(read_op_reply::Result::Error(error)) => Err(error.into()),
        Some(read_op_reply::Result::Get(reply)) => {
            Ok(ReadResult::Get(reply.data, convert::stat(reply.stat)?))
        }
        Some(read_op_reply::Result::Exists(reply)) => Ok(ReadResult::Exists(reply.stat.map(Stat::from))),
        Some(read_op_reply::Result::List(reply)) => Ok(ReadResult::List(reply.try_into()?)),
        None => Err(Error::new(ErrorKind::Protocol, "the result of a read is empty")),
    }
}
