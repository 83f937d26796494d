//! The tree as openraft's state machine: in memory, restored from the newest snapshot file and the log after it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use coordd_tree::{Entry, Tree, TreeLoader};
use futures::{FutureExt as _, Stream, StreamExt as _};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use tokio::sync::watch;

use crate::disk::{DiskRoom, snapshot_bytes};
use crate::observer::Observer;
use crate::proposer::Proposer;
use crate::rules::Rules;
use crate::storage::{SnapshotFile, SnapshotStore, is_full_disk};
use crate::type_config::types::{LeaderId, LogId, SnapshotMeta, StoredMembership};
use crate::type_config::{Member, NodeId, TypeConfig};

/// At most so many entries are applied under one hold of the lock, so that reads get their turn during a replay.
const ENTRIES_PER_HOLD: usize = 64;
/// The digests of so many past entries are kept, to be compared with the leader's.
const DIGESTS_KEPT: usize = 8192;
/// A snapshot for which there is no room is tried again so soon.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// A snapshot on its way in or out: the file, and, where it came from the leader, the tree that was built from it
/// while it was verified.
pub(crate) struct SnapshotData {
    pub(crate) file: SnapshotFile,
    pub(crate) tree: Option<Tree>,
}

/// openraft's snapshot of the tree.
pub(crate) type TreeSnapshot = Snapshot<LeaderId, NodeId, Member, SnapshotData>;

/// What the state machine shares with readers.
pub(crate) struct Replicated {
    pub(crate) tree: Tree,
    pub(crate) last_applied: Option<LogId>,
    membership: StoredMembership,
    /// (index, digest after it), ascending.
    digests: VecDeque<(u64, u64)>,
}

/// The replicated state and who is told of its changes.
pub(crate) struct Shared<O: Observer> {
    replicated: RwLock<Replicated>,
    pub(crate) observer: O,
    pub(crate) proposer: Proposer<O::Waiter>,
    rules: Arc<Rules>,
    /// The index of the last applied entry.
    pub(crate) applied: watch::Sender<u64>,
}

/// What comparing a digest with the leader's says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DigestVerdict {
    Equal,
    /// Not applied so far, or no longer kept.
    Unknown,
    Differs {
        ours: u64,
    },
}

impl<O: Observer> Shared<O> {
    pub(crate) fn new(observer: O, proposer: Proposer<O::Waiter>, rules: Arc<Rules>) -> Self {
        let replicated = Replicated {
            tree: Tree::new(),
            last_applied: None,
            membership: StoredMembership::default(),
            digests: VecDeque::new(),
        };
        let replicated = RwLock::new(replicated);
        Shared { replicated, observer, proposer, rules, applied: watch::Sender::new(0) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Replicated> {
        self.replicated.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The tree as it is now, and what a snapshot of it covers.
    fn version(&self) -> (Tree, SnapshotMeta) {
        let replicated = self.read();
        let meta = SnapshotMeta {
            last_log_id: replicated.last_applied,
            last_membership: replicated.membership.clone(),
        };
        (replicated.tree.clone(), meta)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Replicated> {
        self.replicated.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn compare_digest(&self, index: u64, digest: u64) -> DigestVerdict {
        let replicated = self.read();
        match replicated.digests.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(at) if replicated.digests[at].1 == digest => DigestVerdict::Equal,
            Ok(at) => DigestVerdict::Differs { ours: replicated.digests[at].1 },
            Err(_) => DigestVerdict::Unknown,
        }
    }

    fn apply(&self, entries: Vec<Decoded>) {
        let mut guard = self.write();
        let replicated = &mut *guard;
        let mut last_index = 0;
        for entry in entries {
            match entry.payload {
                DecodedPayload::Nothing => {}
                DecodedPayload::Membership(membership) => replicated.membership = membership,
                DecodedPayload::Commands(commands) => {
                    replicated.tree.apply_in_term(
                        entry.log_id.leader_id.term,
                        &commands,
                        |tree, origin, seq, applied| {
                            let waiter = self.proposer.applied(origin, seq);
                            self.observer.applied(tree, applied, waiter);
                        },
                    );
                }
            }
            last_index = entry.log_id.index;
            replicated.last_applied = Some(entry.log_id);
            replicated.remember_digest(last_index);
        }
        self.observer.settled(&replicated.tree);
        self.rules.applied(replicated.tree.rules());
        drop(guard);
        self.applied.send_replace(last_index);
    }

    /// Puts a snapshot in the place of the tree.
    fn install(&self, meta: &SnapshotMeta, tree: Tree) {
        let mut guard = self.write();
        let replicated = &mut *guard;
        let old = std::mem::replace(&mut replicated.tree, tree);
        replicated.last_applied = meta.last_log_id;
        replicated.membership = meta.last_membership.clone();
        replicated.digests.clear();
        let index = meta.last_log_id.map_or(0, |id| id.index);
        replicated.remember_digest(index);
        let mut origin = self.proposer.origin();
        let skipped = match replicated.tree.taken(origin.node) {
            Some((incarnation, seq)) => {
                origin.incarnation = incarnation;
                self.proposer.skipped(origin, seq)
            }
            None => Vec::new(),
        };
        self.observer.installed(&replicated.tree, skipped);
        self.rules.applied(replicated.tree.rules());
        drop(guard);
        self.applied.send_replace(index);
        // Freeing millions of znodes takes long enough to be felt.
        std::thread::spawn(move || drop(old));
    }
}

impl Replicated {
    fn remember_digest(&mut self, index: u64) {
        if self.digests.len() == DIGESTS_KEPT {
            self.digests.pop_front();
        }
        self.digests.push_back((index, self.tree.digest()));
    }
}

struct Decoded {
    log_id: LogId,
    payload: DecodedPayload,
}

enum DecodedPayload {
    Nothing,
    Membership(StoredMembership),
    Commands(Entry),
}

/// openraft's handle on the state machine.
pub(crate) struct StateMachine<O: Observer> {
    shared: Arc<Shared<O>>,
    snapshots: SnapshotStore,
    disk: Arc<DiskRoom>,
}

impl<O: Observer> StateMachine<O> {
    /// Loads the newest snapshot, if there is one.
    pub(crate) fn open(
        shared: Arc<Shared<O>>,
        snapshots: SnapshotStore,
        disk: Arc<DiskRoom>,
    ) -> io::Result<Self> {
        if let Some(file) = snapshots.latest() {
            let tree = load_tree(&file)?;
            shared.install(&file.meta, tree);
        }
        Ok(StateMachine { shared, snapshots, disk })
    }
}

/// Builds the tree that a snapshot file holds, verifying its checksums and its digest.
pub(crate) fn load_tree(file: &SnapshotFile) -> io::Result<Tree> {
    let mut loader = TreeLoader::new();
    for chunk in file.chunks()? {
        loader.push(&chunk?).map_err(io::Error::other)?;
    }
    loader.finish().map_err(io::Error::other)
}

fn decode(entry: crate::type_config::types::Entry) -> io::Result<Decoded> {
    let log_id = entry.log_id;
    let payload = match entry.payload {
        EntryPayload::Blank => DecodedPayload::Nothing,
        EntryPayload::Membership(membership) => {
            DecodedPayload::Membership(StoredMembership::new(Some(log_id), membership))
        }
        EntryPayload::Normal(data) => {
            let commands = Entry::decode(&data.0).map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("log entry {log_id}: {e}"))
            })?;
            DecodedPayload::Commands(commands)
        }
    };
    Ok(Decoded { log_id, payload })
}

impl<O: Observer> RaftStateMachine<TypeConfig> for StateMachine<O> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder<O>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let replicated = self.shared.read();
        Ok((replicated.last_applied, replicated.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + openraft::OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut decoded = Vec::new();
            let mut responders = Vec::new();
            let mut next = Some(first);
            while let Some(item) = next.take() {
                let (entry, responder) = item?;
                decoded.push(decode(entry)?);
                responders.extend(responder);
                if decoded.len() < ENTRIES_PER_HOLD {
                    // Only what is there already: the lock is not held across an await, and nobody waits for more.
                    next = entries.next().now_or_never().flatten();
                }
            }
            self.shared.apply(decoded);
            for responder in responders {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder<O>> {
        Some(SnapshotBuilder {
            version: self.shared.version(),
            shared: self.shared.clone(),
            snapshots: self.snapshots.clone(),
            disk: self.disk.clone(),
        })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<O> {
        let builder = self.try_create_snapshot_builder(true).await;
        builder.unwrap_or_else(|| unreachable!("a snapshot can be cut at any time"))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let tree = match snapshot.tree {
            Some(tree) => tree,
            None => load_tree(&snapshot.file)?,
        };
        self.shared.install(meta, tree);
        self.snapshots.keep_only(&snapshot.file)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<TreeSnapshot>, io::Error> {
        Ok(self
            .snapshots
            .latest()
            .map(|file| Snapshot { meta: file.meta.clone(), snapshot: SnapshotData { file, tree: None } }))
    }
}

/// Writes the tree to a file, as soon as there is room for it.
pub(crate) struct SnapshotBuilder<O: Observer> {
    version: (Tree, SnapshotMeta),
    shared: Arc<Shared<O>>,
    snapshots: SnapshotStore,
    disk: Arc<DiskRoom>,
}

impl<O: Observer> RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder<O> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<TreeSnapshot, io::Error> {
        let file = loop {
            // Without the room for all of it, an attempt would only take what the log still has.
            if self.disk.free_bytes() > snapshot_bytes(&self.version.0) {
                match self.write().await {
                    Err(error) if is_full_disk(&error) => {
                        tracing::warn!(%error, "a snapshot waits for room on the disk");
                    }
                    done => break done?,
                }
            }
            tokio::time::sleep(ROOM_INTERVAL).await;
            // Much may have been deleted meanwhile, to make room.
            self.version = self.shared.version();
        };
        self.version.0 = Tree::new();
        Ok(Snapshot { meta: file.meta.clone(), snapshot: SnapshotData { file, tree: None } })
    }
}

impl<O: Observer> SnapshotBuilder<O> {
    async fn write(&self) -> io::Result<SnapshotFile> {
        let _cutting = self.disk.cutting();
        let ((tree, meta), snapshots) = (self.version.clone(), self.snapshots.clone());
        // A thread of its own: it is long work, and it must not take a turn from the tasks that answer clients.
        let work = tokio::task::spawn_blocking(move || {
            let mut writer = snapshots.writer(&meta)?;
            for chunk in tree.snapshot_chunks() {
                writer.write_chunk(&chunk)?;
            }
            let file = writer.finish()?;
            snapshots.keep_only(&file)?;
            Ok(file)
        });
        work.await.map_err(io::Error::other)?
    }
}
