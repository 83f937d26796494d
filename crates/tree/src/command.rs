use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Acl, Auth, Ceilings, Data, OpError, Refusal, SessionId, WriteSeq, Zxid};

/// The newest version of the rules that this build applies entries by; it knows all older ones, too.
///
/// * 1: builds up to 62ff85c.
/// * 2: recorded answers hold values instead of sentences; commands that carry no [`Ceilings`] have the default ones;
///   a sequential name takes the next free number; a count that does not match is told before the ACLs are looked at.
pub const RULES: u32 = 2;

/// What one Raft entry carries: the batches of one or more nodes, and the time they were proposed at.
///
/// Encoded form: a version byte, `rules` (absent in version 1, which is written for rules 1), `time_ms` and the number of
/// batches as postcard varints, then each batch as postcard. A batch stands in the entry as the very bytes its origin
/// encoded, so the leader merges batches without decoding them (`Entry::encode_from_parts`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// By which rules all nodes apply the entry, whatever newer ones they know: from 1 to [`RULES`]. The leader stamps the
    /// newest that all members know.
    pub rules: u32,
    /// The leader's clock in milliseconds since the Unix epoch. The tree takes `max(last, this)`, so time never
    /// goes back.
    pub time_ms: u64,
    /// In the order in which they take effect.
    pub batches: Vec<Batch<'a>>,
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry { rules: RULES, time_ms: 0, batches: Vec::new() }
    }
}

/// A node's life: which node, and which start of its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The node that proposed.
    pub node: u64,
    /// Grows with every start of that node's process.
    pub incarnation: u64,
}

/// Commands of one node, numbered in its own stream.
///
/// The tree keeps, per node, the incarnation and the number of the last command it took. It takes a command
/// only when its number is the last plus one in the same incarnation, or 1 in a newer one; every other command is
/// skipped: it takes no zxid and has no result. So a node may send a batch again after any failure, and what was
/// applied already stays applied once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<'a> {
    /// Who numbered these commands.
    pub origin: Origin,
    /// The number of the first command; the others follow without gaps.
    pub first_seq: u64,
    /// In order.
    #[serde(borrow)]
    pub commands: Vec<Command<'a>>,
}

/// One step of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// A client's write.
    Write(#[serde(borrow)] Write<'a>),
    /// Starts a session. Opening an id that is live answers as the first time (the node that lost the answer asks
    /// again); an id that has ended is refused with `SessionExpired`.
    OpenSession(OpenSession),
    /// Ends a session for a reason other than the client's own wish: its ephemerals go in the same step. Proposed
    /// by the leader, or by an operator. `NoSession` where it has ended already.
    EndSession {
        /// Which.
        session: SessionId,
        /// Why; kept, and told to whom asks.
        reason: EndReason,
    },
    /// Deletes the TTL znodes and empty containers among these (path, czxid) that are due by the tree's time.
    /// Proposed by the leader from [`crate::Tree::expired_znodes`]; what is no longer due is left alone.
    ExpireZnodes(Vec<(String, Zxid)>),
    /// A client's write with what bounds it. From rules 2 on.
    Bounded(#[serde(borrow)] Write<'a>, Bounds),
    /// A stream takes the session over: later writes of older streams are refused with `SessionMoved`. The zxid of this command
    /// is the stream's generation. From rules 2 on.
    Attach {
        /// Which. `SessionExpired` or `NoSession` where it does not live.
        session: SessionId,
    },
    /// As [`Command::ExpireZnodes`]; of containers that never had a child, those that are older than `unused_ms` are due, too.
    /// From rules 2 on.
    Sweep {
        /// Paths and czxids.
        candidates: Vec<(String, Zxid)>,
        /// How long a container may wait for its first child, in milliseconds of the tree's time.
        unused_ms: u64,
    },
}

impl Command<'_> {
    /// Whether it is about one znode or one session, and nothing is so large that it takes long to apply.
    pub fn is_light(&self) -> bool {
        match self {
            Command::Write(write) | Command::Bounded(write, _) => match &write.op {
                WriteOp::Create(create) => !create.parents,
                WriteOp::Delete { .. }
                | WriteOp::SetData { .. }
                | WriteOp::SetAcl { .. }
                | WriteOp::Refused(_)
                | WriteOp::RefusedWith(_) => true,
                WriteOp::Multi(_)
                | WriteOp::DeleteTree { .. }
                | WriteOp::SetQuota { .. }
                | WriteOp::DeleteQuota { .. }
                | WriteOp::CloseSession => false,
            },
            Command::OpenSession(_) | Command::Attach { .. } => true,
            Command::EndSession { .. } | Command::ExpireZnodes(_) | Command::Sweep { .. } => false,
        }
    }

    /// The rules that the command came with: entries that hold it follow them at least.
    pub(crate) fn rules(&self) -> u32 {
        match self {
            Command::Write(Write { op: WriteOp::RefusedWith(_), .. }) => 2,
            Command::Write(_)
            | Command::OpenSession(_)
            | Command::EndSession { .. }
            | Command::ExpireZnodes(_) => 1,
            Command::Bounded(..) | Command::Attach { .. } | Command::Sweep { .. } => 2,
        }
    }
}

/// What bounds a write where it is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The generation of the stream that the write came by: the zxid of its attach. 0 is not checked.
    pub generation: Zxid,
    /// The ceilings of the node that proposes the write; `None` for the default ones.
    pub ceilings: Option<Ceilings>,
}

/// Starts a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Drawn at random by the origin node; never 0.
    pub session: SessionId,
    /// 16 bytes drawn by the origin node. Whoever shows it may attach to the session.
    pub password: [u8; 16],
    /// The negotiated timeout.
    pub timeout_ms: u32,
    /// What the client calls itself, for operators. At most 256 bytes.
    pub client_name: String,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// The client closed it.
    Closed,
    /// The client was silent for the session's timeout, as the leader of `term` counted it.
    Expired {
        /// How long the leader had heard nothing, in milliseconds of its waking time.
        silent_ms: u64,
        /// The term of the leader that decided.
        term: u64,
        /// The node the session was last heard through; 0 if it never was.
        last_node: u64,
    },
    /// An operator ended it.
    Killed {
        /// What the operator said, at most 256 bytes.
        by: String,
    },
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EndReason::Closed => f.write_str("closed by its client"),
            EndReason::Expired { silent_ms, term, last_node } => write!(
                f,
                "expired by the leader of term {term}, silent for {silent_ms} ms, last heard through node {last_node}"
            ),
            EndReason::Killed { by } => write!(f, "killed by {by}"),
        }
    }
}

/// A client's write.
///
/// # Exactly once (G4)
///
/// With a `session`, the tree executes `seq == last + 1` only. A `seq` at or below the last is answered from the
/// recorded results, without executing; one above `last + 1` is refused with [`crate::ErrorKind::SequenceGap`] and
/// changes nothing. `acked` frees the recorded results up to it. Without a session (`session == 0`, `seq == 0`) the
/// write is executed as it comes; then an ephemeral cannot be created. With a session and `seq == 0` it is
/// executed as it comes too, on behalf of the session, and its result is not recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write<'a> {
    /// 0 for a write outside any session.
    pub session: SessionId,
    /// The write's number in its session.
    pub seq: WriteSeq,
    /// The client has the results of all writes up to this one.
    pub acked: WriteSeq,
    /// Who asks.
    pub auth: Auth,
    /// All must hold, or nothing is done and the answer is [`crate::ErrorKind::GuardFailed`] with the path of the
    /// first that does not. Checked in the same step as the operation (G7).
    #[serde(borrow)]
    pub guards: Vec<Check<'a>>,
    /// What to do.
    #[serde(borrow)]
    pub op: WriteOp<'a>,
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteOp<'a> {
    /// See [`Create`].
    Create(#[serde(borrow)] Create<'a>),
    /// Deletes a znode without children.
    Delete {
        /// Which.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// -1 for any.
        version: i32,
    },
    /// Replaces a znode's data.
    SetData {
        /// Which.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// The new value.
        #[serde(borrow)]
        data: Data<'a>,
        /// -1 for any.
        version: i32,
    },
    /// Replaces a znode's ACL.
    SetAcl {
        /// Which.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// The new one.
        acl: Acl,
        /// The expected `aversion`; -1 for any.
        version: i32,
    },
    /// All of them or none, with one zxid.
    Multi(#[serde(borrow)] Vec<MultiOp<'a>>),
    /// Deletes a znode and everything below it in one step. Beyond ZooKeeper.
    DeleteTree {
        /// The top of what goes.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// If given: how many znodes are to go, the top included; otherwise [`crate::ErrorKind::CountMismatch`].
        expected_count: Option<u64>,
    },
    /// Sets or replaces the quota of a subtree.
    SetQuota {
        /// The top of the subtree.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// The limits.
        quota: Quota,
    },
    /// Removes the quota of a subtree; `NoNode` where there is none.
    DeleteQuota {
        /// The top of the subtree.
        #[serde(borrow)]
        path: Cow<'a, str>,
    },
    /// The client ends its own session, in order after its other writes. Its ephemerals go in the same step.
    CloseSession,
    /// Does nothing and answers with this: a write that its node refused at the door (too large, malformed), and that
    /// needs its number taken so that the writes after it are in order.
    Refused(Refusal),
    /// The same, with the values instead of the sentence. From rules 2 on; before that the sentence is made
    /// from them when the write is proposed.
    RefusedWith(OpError),
}

impl WriteOp<'_> {
    /// Whether it may make the tree larger. What only deletes, checks or ends does not, and is let through when the disks are
    /// full.
    pub fn may_grow(&self) -> bool {
        match self {
            WriteOp::Create(_)
            | WriteOp::SetData { .. }
            | WriteOp::SetAcl { .. }
            | WriteOp::SetQuota { .. } => true,
            WriteOp::Multi(ops) => ops.iter().any(MultiOp::may_grow),
            WriteOp::Delete { .. }
            | WriteOp::DeleteTree { .. }
            | WriteOp::DeleteQuota { .. }
            | WriteOp::CloseSession
            | WriteOp::Refused(_)
            | WriteOp::RefusedWith(_) => false,
        }
    }
}

/// Creates a znode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create<'a> {
    /// The path; for a sequential mode the prefix of it, which may end in `/`.
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    /// The value.
    #[serde(borrow)]
    pub data: Data<'a>,
    /// Empty: open to the world.
    pub acl: Acl,
    /// The kind of znode.
    pub mode: CreateMode,
    /// For the TTL modes: how long it may stay childless and unmodified, in milliseconds; otherwise 0.
    pub ttl_ms: u64,
    /// Create the missing parents too, persistent, empty, with the same ACL. Beyond ZooKeeper.
    pub parents: bool,
}

/// The kinds of znode, ZooKeeper's numbers 0 to 6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreateMode {
    /// Stays until it is deleted.
    #[default]
    Persistent,
    /// Goes with its session; has no children.
    Ephemeral,
    /// Persistent, with a ten-digit number appended that grows with every create under the parent.
    PersistentSequential,
    /// Ephemeral, numbered likewise.
    EphemeralSequential,
    /// Goes once it has had a child and has none any more.
    Container,
    /// Goes when it has been childless and unmodified for its TTL.
    PersistentWithTtl,
    /// The same, numbered.
    PersistentSequentialWithTtl,
}

impl CreateMode {
    /// Whether a number is appended to the name.
    pub fn is_sequential(self) -> bool {
        match self {
            CreateMode::PersistentSequential
            | CreateMode::EphemeralSequential
            | CreateMode::PersistentSequentialWithTtl => true,
            CreateMode::Persistent
            | CreateMode::Ephemeral
            | CreateMode::Container
            | CreateMode::PersistentWithTtl => false,
        }
    }
}

/// One operation of a [`WriteOp::Multi`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MultiOp<'a> {
    /// See [`Create`].
    Create(#[serde(borrow)] Create<'a>),
    /// See [`WriteOp::Delete`].
    Delete {
        /// Which.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// -1 for any.
        version: i32,
    },
    /// See [`WriteOp::SetData`].
    SetData {
        /// Which.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// The new value.
        #[serde(borrow)]
        data: Data<'a>,
        /// -1 for any.
        version: i32,
    },
    /// Fails the whole where it does not hold. It sees what the operations before it did.
    Check(#[serde(borrow)] Check<'a>),
}

impl MultiOp<'_> {
    fn may_grow(&self) -> bool {
        match self {
            MultiOp::Create(_) | MultiOp::SetData { .. } => true,
            MultiOp::Delete { .. } | MultiOp::Check(_) => false,
        }
    }
}

/// A condition on one znode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check<'a> {
    /// Which.
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    /// What must hold.
    pub kind: CheckKind,
}

/// What a [`Check`] asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// The data version; -1 asks only that the znode is there. `NoNode` or `BadVersion` in a multi, as in ZooKeeper.
    Version(i32),
    /// The znode is the very one created by this zxid: the epoch of a grant. Beyond ZooKeeper.
    Epoch(Zxid),
    /// There is no such znode. Beyond ZooKeeper.
    Absent,
}

/// Limits of a subtree, its top included. `None` is unlimited. A soft limit only shows in the quota's report; a
/// hard one refuses the write with [`crate::ErrorKind::QuotaExceeded`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Soft limit of znodes.
    pub count_soft: Option<u64>,
    /// Hard limit of znodes.
    pub count_hard: Option<u64>,
    /// Soft limit of data bytes.
    pub bytes_soft: Option<u64>,
    /// Hard limit of data bytes.
    pub bytes_hard: Option<u64>,
}
