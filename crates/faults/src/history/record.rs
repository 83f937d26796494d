use serde::{Deserialize, Serialize};

use super::{Answer, Op};

/// One line of a history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// When, by [`now`](super::now).
    pub(crate) at: u64,
    /// Who: `process/workload.number`.
    pub(crate) client: String,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum What {
    /// A session began; what follows of this client is in it.
    Opened {
        session: u64,
        /// What proves that it is one's own, in hexadecimal digits.
        password: String,
        timeout_ms: u64,
    },
    /// A request is about to be sent.
    Call { op: u64, call: Op },
    /// It was sent as this write of its session.
    Numbered { op: u64, seq: u64 },
    /// It was answered.
    Return { op: u64, answer: Answer },
    /// A watch was armed.
    Watching {
        /// Which one of its client; 0 in histories in which a client has one.
        #[serde(default)]
        watch: u64,
        path: String,
        #[serde(default)]
        kind: WatchKind,
        /// Of a one-shot watch: the read that armed it showed all that it waits for up to the first zxid, and nothing behind
        /// the second one. The others tell of all that comes behind their client's first write.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        read: Option<(u64, u64)>,
    },
    /// A watch told of a change.
    Told {
        #[serde(default)]
        watch: u64,
        #[serde(flatten)]
        told: Told,
    },
    /// A watch has missed what came before this zxid.
    Resync {
        #[serde(default)]
        watch: u64,
        zxid: u64,
    },
    /// All events that came before the last answer have been recorded.
    Drained,
    /// The session has ended, and not by its client.
    Ended { reason: String },
    /// A lock, a leadership or a claim was had.
    Granted { grant: String, epoch: u64 },
    /// The holder asked its own clock, and was told that it still has it.
    Held { grant: String, epoch: u64 },
    /// It gave it back, or stopped.
    LetGo { grant: String, epoch: u64 },
    /// A task is about to be put into the queue.
    Putting { task: String },
    /// A task was put into the queue.
    Put { task: String },
    /// A task was taken out.
    Claimed { task: String, attempt: u32 },
    /// A task was completed.
    Completed { task: String },
    /// A task was handed out that had been completed.
    CompletedAgain { task: String },
    /// 1 is about to be added to the counter.
    Adding,
    /// It was added, which made this value.
    Added { value: i64 },
    /// It was refused.
    NotAdded { error: String },
    /// Something was done to the ensemble or to clients.
    Fault(Fault),
    /// After the end: what became of a write.
    Outcome {
        process: u32,
        op: u64,
        /// Its zxid if it was carried out, and the name of its error if it was refused.
        applied: Option<(u64, Option<String>)>,
        /// That it never will be.
        never: bool,
    },
    /// After the end: a znode that is there.
    Znode { path: String, value: String, version: i32, czxid: u64, mzxid: u64, owner: u64 },
    /// After the end: a session that is live.
    Live { session: u64 },
    /// After the end: a task that is not completed.
    Remaining { task: String },
    /// After the end: all of that was written down.
    LookedAtAll,
}

/// What a watch is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WatchKind {
    /// Stays: all that happens to the znodes below its path.
    #[default]
    PersistentRecursive,
    /// Stays: what happens to its znode, and which children come and go.
    Persistent,
    /// One-shot: what happens to its znode, which was there.
    Data,
    /// The same, of a znode that was not there.
    Missing,
    /// One-shot: a child comes or goes, or the znode itself goes.
    Children,
}

impl WatchKind {
    pub(crate) fn is_one_shot(self) -> bool {
        !matches!(self, WatchKind::PersistentRecursive | WatchKind::Persistent)
    }
}

/// A change that a watch told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) zxid: u64,
    /// `created`, `deleted`, `changed` or `children`.
    pub(crate) change: String,
    pub(crate) path: String,
}

/// Something that was done to the ensemble or to clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// In words.
    pub(crate) text: String,
    /// Processes of clients that are silent from now on, by no fault of the ensemble.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) silenced: Vec<u32>,
    /// Processes of clients that can be heard again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) heard: Vec<u32>,
}
