use serde::{Deserialize, Serialize};

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Local,
    Linearizable,
}

/// The kinds of znode that workloads create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    Persistent,
    Ephemeral,
    Sequential,
}

/// One set of a multi.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetOne {
    pub(crate) path: String,
    pub(crate) value: String,
    pub(crate) version: i32,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    Get {
        path: String,
        level: Level,
    },
    Set {
        path: String,
        value: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<i32>,
        /// Refused unless the grant of this epoch is in force.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
    Create {
        path: String,
        value: String,
        mode: Mode,
    },
    Delete {
        path: String,
    },
    /// All or nothing.
    Multi {
        sets: Vec<SetOne>,
    },
    /// One state, linearizable.
    MultiGet {
        paths: Vec<String>,
    },
    /// The end of the session by its client.
    Close,
}

impl Op {
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self, Op::Get { .. } | Op::MultiGet { .. })
    }

    /// It is a write that asks for a version.
    pub(crate) fn is_conditional(&self) -> bool {
        matches!(self, Op::Set { version: Some(_), .. } | Op::Multi { .. })
    }

    /// The znodes it is about.
    pub(crate) fn paths(&self) -> Vec<&str> {
        match self {
            Op::Get { path, .. } | Op::Set { path, .. } | Op::Create { path, .. } | Op::Delete { path } => {
                vec![path]
            }
            Op::Multi { sets } => sets.iter().map(|set| set.path.as_str()).collect(),
            Op::MultiGet { paths } => paths.iter().map(String::as_str).collect(),
            Op::Close => vec![],
        }
    }
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// To a get.
    Got { value: String, version: i32, mzxid: u64 },
    /// To a set: the version that it made.
    Set { version: i32, zxid: u64 },
    /// To a create: the path with its number.
    Created { path: String, zxid: u64 },
    /// To a delete.
    Deleted { zxid: u64 },
    /// To a multi: the versions that it made.
    Multi { versions: Vec<i32>, zxid: u64 },
    /// To a multi-get: value, version and mzxid of each.
    MultiGot(Vec<(String, i32, u64)>),
    /// To a close.
    Closed,
    /// Refused, under this name; nothing was done.
    Refused(String),
    /// An error that says nothing of what was done, and that no request here may get.
    Failed(String),
    /// The session ended first, so that nothing is known of a write.
    Unanswered,
}
