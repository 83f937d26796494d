use serde::{Deserialize, Serialize};

use crate::{SessionId, Zxid};

/// What is known of a znode beside its data: ZooKeeper's eleven fields under ZooKeeper's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The zxid that created the znode. It is never given to another znode of this path, so it serves as the
    /// epoch of a grant.
    pub czxid: Zxid,
    /// The zxid that last changed the data.
    pub mzxid: Zxid,
    /// When it was created, in milliseconds since the Unix epoch by the leader's clock.
    pub ctime: u64,
    /// When the data last changed, likewise.
    pub mtime: u64,
    /// Changes of the data since creation.
    pub version: i32,
    /// Changes of the children: as in ZooKeeper, creations and deletions of direct children.
    pub cversion: i32,
    /// Changes of the ACL.
    pub aversion: i32,
    /// The session that owns an ephemeral znode; 0 for every other kind, also container and TTL.
    pub ephemeral_owner: SessionId,
    /// Bytes of data.
    pub data_length: u32,
    /// Direct children.
    pub num_children: u32,
    /// The zxid that last created or deleted a direct child; the czxid where there was none.
    pub pzxid: Zxid,
}
