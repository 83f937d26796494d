use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Zxid;

/// One change of one znode, as it is kept in the history and matched against watches.
///
/// A change of a parent's children is not an event of its own: it follows from `Created` and `Deleted` of the child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The command that made it. The events of a multi share one.
    pub zxid: Zxid,
    /// What happened.
    pub kind: EventKind,
    /// Of which znode.
    pub path: Arc<str>,
    /// The ACL of the znode (of a deleted one: its last), in the tree's table of ACLs.
    pub acl: u32,
    /// The ACL of its parent, likewise.
    pub parent_acl: u32,
}

impl Event {
    /// The bytes that an event stands for where events are bounded: those of its path, and 64 for the rest.
    pub(crate) fn cost(path: &str) -> usize {
        path.len() + 64
    }

    /// What a znode at `path` counts for where a command removes it that has to find it first: the bytes of
    /// its event, and 48 for each znode on the way.
    pub(crate) fn removal_cost(path: &str) -> usize {
        Event::cost(path) + 48 * path.bytes().filter(|byte| *byte == b'/').count()
    }
}

/// What happened to a znode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// It came to be.
    Created,
    /// It went.
    Deleted,
    /// Its data were replaced (with the same bytes too).
    DataChanged,
}
