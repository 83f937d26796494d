//! Who the members are, read from the log and the snapshot without changing anything: a start that is to be refused leaves
//! the directory as it was.

use std::io;

use super::data_dir::DataDir;
use super::journal::read_records;
use super::snapshot_store::newest_meta;
use super::wal_record::{RecordOp, decode_record};
use crate::type_config::NodeId;
use crate::type_config::types::{EntryPayload, LogId, Membership, StoredMembership};

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct OnDisk {
    /// The ids of the members, ascending, as the newest membership of the log and the snapshot has them, if there is one.
    pub(crate) members: Option<Vec<NodeId>>,
    /// There is anything of Raft: an entry, a vote, a snapshot.
    pub(crate) has_begun: bool,
}

/// Looks. What is damaged is passed over: whoever opens the log says what is wrong with it. Blocks on the disk: reads the
/// whole journal.
pub(crate) fn membership_on_disk(dir: &DataDir) -> io::Result<OnDisk> {
    let mut has_begun = false;
    let mut logged: Vec<(LogId, Membership)> = Vec::new();
    let take = |seq: u64, record: &[u8]| {
        let Ok(record) = decode_record(seq, record.to_vec()) else { return };
        has_begun |= record.state.vote.is_some() || record.state.purged.is_some() || !record.ops.is_empty();
        for op in record.ops {
            match op {
                RecordOp::Append(entry) => {
                    if let EntryPayload::Membership(membership) = entry.payload {
                        logged.push((entry.log_id, membership));
                    }
                }
                RecordOp::TruncateAfter(keep) => logged.retain(|(id, _)| Some(*id) <= keep),
            }
        }
    };
    let snapshot = if_there(newest_meta(&dir.snapshot_dir()))?.flatten();
    if_there(read_records(&dir.wal_dir(), take))?;
    has_begun |= snapshot.is_some();
    let members = newer(logged.pop(), snapshot.map(|meta| meta.last_membership));
    Ok(OnDisk { members, has_begun })
}

/// Of the log's membership and the snapshot's, the ids in the newer one.
pub(crate) fn newer(
    logged: Option<(LogId, Membership)>,
    snapshot: Option<StoredMembership>,
) -> Option<Vec<NodeId>> {
    let snapshot = snapshot.filter(|stored| stored.membership().nodes().next().is_some());
    let ids = |membership: &Membership| membership.nodes().map(|(id, _)| *id).collect();
    match (logged, snapshot) {
        (Some((id, membership)), Some(stored)) => match Some(id) >= *stored.log_id() {
            true => Some(ids(&membership)),
            false => Some(ids(stored.membership())),
        },
        (Some((_, membership)), None) => Some(ids(&membership)),
        (None, Some(stored)) => Some(ids(stored.membership())),
        (None, None) => None,
    }
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
