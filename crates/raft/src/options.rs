use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Member, NodeId};

/// What a replica is started with.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// This node.
    pub node_id: NodeId,
    /// All nodes of the ensemble, this one too. The same on every node.
    pub members: BTreeMap<NodeId, Member>,
    /// Where this node's clients connect: told to those who try the peers' port.
    pub client_address: String,
    /// This node's own directory.
    pub data_dir: PathBuf,
    /// Raft's times.
    pub timing: Timing,
    /// A snapshot is cut when the log has grown by so many bytes since the last one.
    pub snapshot_log_bytes: u64,
    /// So many bytes of log are kept behind a snapshot, for nodes that lag less than that.
    pub keep_log_bytes: u64,
    /// With less than that left on its disk, beside what the next snapshot takes, a node is without room.
    pub disk_reserve_bytes: u64,
}

/// Raft's times. The same on every node.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a leader that has nothing to say says that it leads; also the time a heartbeat's answer may take,
    /// which includes an fdatasync of the follower.
    pub heartbeat: Duration,
    /// A follower that hears nothing waits the lease, which is `election_max`, and then a random time between these two
    /// before it asks for an election. A process that died is noticed at once and waits for neither.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(600),
        }
    }
}

impl Timing {
    /// openraft's form of it.
    pub(crate) fn config(self, cluster_id: &str) -> Result<openraft::Config, openraft::ConfigError> {
        let ms = |duration: Duration| duration.as_millis() as u64;
        openraft::Config {
            cluster_name: cluster_id.to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            // A node that comes back must not depose a leader that a majority hears.
            enable_pre_vote: Some(true),
            // A leader that restarts has lost its state machine's tail: it has to win an election like all others.
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(ms(self.election_max) * 3),
            install_snapshot_timeout: 300_000,
            // Requests are bounded in bytes by the log store.
            max_payload_entries: 4096,
            max_append_entries: Some(4096),
            // The log is cut by bytes, by `Replica`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1024,
            broadcast_submitted_on_append: Some(true),
            backoff: "20ms 40ms 80ms 160ms 320ms 500ms".to_owned(),
            ..openraft::Config::default()
        }
        .validate()
    }
}
