use bytes::Bytes;

use crate::Stat;

/// The kinds of event, under ZooKeeper's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// The znode came to be.
    NodeCreated,
    /// The znode went.
    NodeDeleted,
    /// The znode's data were replaced.
    NodeDataChanged,
    /// A child of the znode was created or deleted.
    NodeChildrenChanged,
}

/// A change that a watch waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub event_type: EventType,
    /// To which znode.
    pub path: String,
    /// The change's place in history.
    pub zxid: u64,
    /// The new value and stat, if the watch asked for values and the type is `NodeCreated` or `NodeDataChanged`.
    /// `None` where the value has been replaced since: then another event for the path follows.
    pub value: Option<(Bytes, Stat)>,
}

/// What a watcher delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A change.
    Event(Event),
    /// The client was away for so long that the server no longer has the events it missed: read again what is
    /// watched. From `zxid` on events are complete again.
    Resync {
        /// From where on.
        zxid: u64,
    },
}

impl WatchEvent {
    /// The change, unless it is a resync.
    pub fn event(&self) -> Option<&Event> {
        match self {
            WatchEvent::Event(event) => Some(event),
            WatchEvent::Resync { .. } => None,
        }
    }

    /// The change's place in history, or from where on events are complete again.
    pub fn zxid(&self) -> u64 {
        match self {
            WatchEvent::Event(event) => event.zxid,
            WatchEvent::Resync { zxid } => *zxid,
        }
    }
}

/// What a lasting watch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WatchMode {
    /// Data and children events of one path.
    Persistent,
    /// `NodeCreated`, `NodeDeleted` and `NodeDataChanged` of a path and everything below it.
    PersistentRecursive,
}

/// A lasting watch to be made: its mode, and whether events carry values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchOptions {
    pub(crate) mode: WatchMode,
    pub(crate) with_value: bool,
}

impl WatchOptions {
    /// Without values.
    pub fn new(mode: WatchMode) -> Self {
        Self { mode, with_value: false }
    }

    /// Events carry the znode's new value and stat, which saves a read per event.
    #[must_use]
    pub fn with_value(mut self, with_value: bool) -> Self {
        self.with_value = with_value;
        self
    }
}

impl From<WatchMode> for WatchOptions {
    fn from(mode: WatchMode) -> Self {
        Self::new(mode)
    }
}
