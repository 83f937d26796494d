//! The replicated state machine of coordd: znodes, sessions, ACLs, quotas and the history of events.
//!
//! # Contract
//!
//! * [`Tree::apply`] is the only mutator. It is called with the same entries in the same order on every node
//!   and does the same on every node: nothing here reads a clock, draws a random number, does I/O, or iterates
//!   in hash order. Time and every generated value (session ids, passwords) come in the entry, stamped by the
//!   node that proposed it.
//! * A command that is refused is an *applied result* like any other ([`OpError`]); it takes its zxid.
//! * An entry that cannot be decoded is not a result: the caller must stop the process.
//! * Every command of an entry gets its own zxid, one more than the one before, so zxids are dense over the
//!   commands of the log and grow without end (64 bits).
//! * A [`Tree`] is cheap to clone: a clone is an immutable version that shares what did not change since. That
//!   is how a snapshot is cut while applies go on.
//!
//! ZooKeeper 3.9's documented behaviour is the specification of the data model; where coordd goes further the
//! item says so.

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod acl;
mod acl_table;
mod change;
mod codec;
mod command;
mod command_codec;
mod data;
mod detail;
mod digest;
mod due;
mod error;
mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod leaf_map;
mod limits;
mod ops;
mod origins;
mod outcome;
mod path;
pub mod planted;
mod quota;
mod read;
mod recorded;
mod session;
mod sessions;
mod snapshot;
mod stat;
mod tally;
mod tree;
mod znode;
mod znodes;

pub use acl::{Acl, AclEntry, Auth, AuthId, Perms, digest_id};
pub use command::{
    Batch, Bounds, Check, CheckKind, Command, Create, CreateMode, EndReason, Entry, MultiOp, OpenSession,
    Origin, Quota, RULES, Write, WriteOp,
};
pub use data::Data;
pub use detail::{Detail, Malformed, PathFault, QuotaUnit, Scarce, VersionField};
pub use error::{DecodeError, ErrorKind, OpError, Refusal};
pub use event::{Event, EventKind};
pub use limits::{Ceilings, LimitName, Limits};
pub use outcome::{Applied, OpResult, Outcome, WriteOutcome};
pub use path::validate_path;
pub use quota::QuotaReport;
pub use read::{Child, ChildrenPage, TableSizes};
pub use session::{EndedSession, Session};
pub use snapshot::TreeLoader;
pub use stat::Stat;
pub use tree::{Cursor, Tree};

/// The stamp of one command's place in history. 0 is "before everything"; the first command gets 1.
pub type Zxid = u64;
/// Names a session for ever: ids are never used again. 0 is "no session".
pub type SessionId = u64;
/// The number of a write within its session, from 1, without gaps. 0 is "not a numbered write".
pub type WriteSeq = u64;
