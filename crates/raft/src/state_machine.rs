//! The tree as openraft's state machine: in memory, restored from the newest snapshot file and the log after it.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::{Duration, Instant};

use coordd_tree::{Command, Cursor, Entry, Tree, TreeLoader};
use futures::{FutureExt as _, Stream, StreamExt as _};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use tokio::sync::{oneshot, watch};

use crate::disk::{DiskRoom, snapshot_bytes};
use crate::observer::Observer;
use crate::proposer::Proposer;
use crate::rules::Rules;
use crate::storage::{SnapshotFile, SnapshotStore, is_full_disk};
use crate::type_config::types::{self, LeaderId, LogId, SnapshotMeta, StoredMembership};
use crate::type_config::{Member, NodeId, TypeConfig};
use crate::waiting::Waiting;

/// At most so many entries are taken at once, so that openraft hears of progress during a replay.
const ENTRIES_PER_RUN: usize = 64;
/// The digests of so many past entries are kept, to be compared with the leader's.
const DIGESTS_KEPT: usize = 8192;
/// Entries of so few bytes and commands are applied where they arrive, if the commands are light: some
/// microseconds, and a few milliseconds if each acknowledges all answers that a session may have. To hand
/// them to the thread for applying costs a lone write a twelfth of its time.
const LIGHT_BYTES: usize = 4096;
const LIGHT_COMMANDS: usize = 3;
/// The tree's lock is held for so long at most, or for one command.
const HOLD: Duration = Duration::from_millis(10);
/// How long readers have to take their turn.
const TURN: Duration = Duration::from_micros(50);
/// An entry that is being applied while the tree is read by somebody else goes on so soon.
const WITHIN_ENTRY: Duration = Duration::from_millis(1);
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
    /// The first commands of an entry are applied and the others are not: the tree may be read, and is of no index.
    is_within_entry: bool,
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
            is_within_entry: false,
        };
        let replicated = RwLock::new(replicated);
        Shared { replicated, observer, proposer, rules, applied: watch::Sender::new(0) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Replicated> {
        self.replicated.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The tree after the last entry that is applied, and what a snapshot of it covers.
    async fn version(&self) -> (Tree, SnapshotMeta) {
        loop {
            if let Some(version) = self.version_now() {
                return version;
            }
            tokio::time::sleep(WITHIN_ENTRY).await;
        }
    }

    /// `None` within an entry.
    fn version_now(&self) -> Option<(Tree, SnapshotMeta)> {
        let replicated = self.read();
        let meta = SnapshotMeta {
            last_log_id: replicated.last_applied,
            last_membership: replicated.membership.clone(),
        };
        (!replicated.is_within_entry).then(|| (replicated.tree.clone(), meta))
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

    /// Applies what is light, if nobody has the tree; says whether it did.
    fn apply_light(&self, entries: &[types::Entry]) -> io::Result<bool> {
        let payload_bytes = |entry: &types::Entry| match &entry.payload {
            EntryPayload::Normal(data) => data.0.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        if entries.iter().map(payload_bytes).sum::<usize>() > LIGHT_BYTES || !self.observer.tells_few() {
            return Ok(false);
        }
        let entries = entries.iter().map(decode).collect::<io::Result<Vec<_>>>()?;
        let batches = entries.iter().flat_map(|entry| match &entry.payload {
            DecodedPayload::Nothing | DecodedPayload::Membership(_) => &[],
            DecodedPayload::Commands(entry) => &entry.batches[..],
        });
        let mut commands = batches.flat_map(|batch| &batch.commands);
        let is_light =
            commands.by_ref().take(LIGHT_COMMANDS).all(Command::is_light) && commands.next().is_none();
        let guard = is_light.then(|| self.replicated.try_write());
        let Some(Ok(guard)) = guard else { return Ok(false) };
        self.apply_holding(Hold::of(self, guard), entries);
        Ok(true)
    }

    fn apply(&self, entries: &[types::Entry]) -> io::Result<()> {
        let entries = entries.iter().map(decode).collect::<io::Result<Vec<_>>>()?;
        self.apply_holding(Hold::of(self, self.write()), entries);
        Ok(())
    }

    fn apply_holding(&self, mut hold: Hold<'_, O>, entries: Vec<Decoded<'_>>) {
        let mut last_index = 0;
        for entry in entries {
            match entry.payload {
                DecodedPayload::Nothing => {}
                DecodedPayload::Membership(membership) => hold.replicated().membership = membership,
                DecodedPayload::Commands(commands) => {
                    self.apply_commands(&mut hold, entry.log_id.leader_id.term, &commands);
                }
            }
            last_index = entry.log_id.index;
            let replicated = hold.replicated();
            replicated.last_applied = Some(entry.log_id);
            replicated.remember_digest(last_index);
            hold.pause_if_long();
        }
        self.rules.applied(hold.replicated().tree.rules());
        drop(hold);
        self.applied.send_replace(last_index);
    }

    fn apply_commands(&self, hold: &mut Hold<'_, O>, term: u64, commands: &Entry<'_>) {
        let mut cursor = Cursor::default();
        loop {
            let since = hold.since;
            let replicated = hold.replicated();
            let is_done =
                replicated.tree.apply_from(term, commands, &mut cursor, |tree, origin, seq, applied| {
                    let waiter = self.proposer.applied(origin, seq);
                    self.observer.applied(tree, applied, waiter);
                    match since.elapsed() < HOLD {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                });
            replicated.is_within_entry = !is_done;
            if is_done {
                return;
            }
            hold.pause_if_long();
        }
    }

    /// Puts a snapshot in the place of the tree.
    fn install(&self, meta: &SnapshotMeta, tree: Tree) {
        let mut guard = self.write();
        let replicated = &mut *guard;
        let old = std::mem::replace(&mut replicated.tree, tree);
        replicated.last_applied = meta.last_log_id;
        replicated.membership = meta.last_membership.clone();
        replicated.digests.clear();
        replicated.is_within_entry = false;
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

/// The tree's lock, held for writing. Readers are told of what was applied before they get their turn.
struct Hold<'a, O: Observer> {
    shared: &'a Shared<O>,
    guard: Option<RwLockWriteGuard<'a, Replicated>>,
    since: Instant,
}

impl<'a, O: Observer> Hold<'a, O> {
    fn of(shared: &'a Shared<O>, guard: RwLockWriteGuard<'a, Replicated>) -> Self {
        Hold { shared, guard: Some(guard), since: Instant::now() }
    }

    fn replicated(&mut self) -> &mut Replicated {
        self.guard.get_or_insert_with(|| self.shared.write())
    }

    /// Lets readers have their turn if they have waited for long.
    fn pause_if_long(&mut self) {
        if self.since.elapsed() < HOLD {
            return;
        }
        self.give_back();
        // Readers that are woken need a moment; whoever asks at once gets the lock before them.
        std::thread::sleep(TURN);
        self.guard = Some(self.shared.write());
        self.since = Instant::now();
    }

    fn give_back(&mut self) {
        if let Some(guard) = self.guard.take() {
            self.shared.observer.settled(&guard.tree);
        }
    }
}

impl<O: Observer> Drop for Hold<'_, O> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Replicated {
    /// The index of the last entry that is applied, and the digest of the tree after it. 0 before the first.
    pub(crate) fn applied(&self) -> (u64, u64) {
        self.digests.back().copied().unwrap_or_else(|| (0, self.tree.digest()))
    }

    fn remember_digest(&mut self, index: u64) {
        if self.digests.len() == DIGESTS_KEPT {
            self.digests.pop_front();
        }
        self.digests.push_back((index, self.tree.digest()));
    }
}

/// An entry whose commands stand where they are in its bytes.
struct Decoded<'a> {
    log_id: LogId,
    payload: DecodedPayload<'a>,
}

enum DecodedPayload<'a> {
    Nothing,
    Membership(StoredMembership),
    Commands(Entry<'a>),
}

/// openraft's handle on the state machine.
pub(crate) struct StateMachine<O: Observer> {
    shared: Arc<Shared<O>>,
    thread: ApplyThread,
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
        Ok(StateMachine { shared, thread: ApplyThread::start()?, snapshots, disk })
    }
}

/// The thread on which the tree is changed by all that is not light: it may take as long as the largest
/// command does, and the runtime's threads answer clients and peers meanwhile.
struct ApplyThread {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl ApplyThread {
    fn start() -> io::Result<ApplyThread> {
        let (work, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        // It ends with the state machine, which has the other end.
        std::thread::Builder::new().name("apply".to_owned()).spawn(move || {
            for work in queue {
                work();
            }
        })?;
        Ok(ApplyThread { work })
    }

    /// Runs `work` after everything before it, and waits for its end.
    async fn run(&self, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let (done, waiting) = oneshot::channel();
        // A panic of the thread ends the process.
        let _ = self.work.send(Box::new(move || drop(done.send(work()))));
        waiting.await.map_err(io::Error::other)?
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

fn decode(entry: &types::Entry) -> io::Result<Decoded<'_>> {
    let log_id = entry.log_id;
    let payload = match &entry.payload {
        EntryPayload::Blank => DecodedPayload::Nothing,
        EntryPayload::Membership(membership) => {
            DecodedPayload::Membership(StoredMembership::new(Some(log_id), membership.clone()))
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
            let mut run = Vec::new();
            let mut responders = Vec::new();
            let mut next = Some(first);
            while let Some(item) = next.take() {
                let (entry, responder) = item?;
                run.push(entry);
                responders.extend(responder);
                if run.len() < ENTRIES_PER_RUN {
                    // Only what is there already: nobody waits for more.
                    next = entries.next().now_or_never().flatten();
                }
            }
            if !self.shared.apply_light(&run)? {
                let shared = self.shared.clone();
                self.thread.run(move || shared.apply(&run)).await?;
            }
            for responder in responders {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder<O>> {
        Some(SnapshotBuilder {
            version: self.shared.version().await,
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
        let (shared, meta, file) = (self.shared.clone(), meta.clone(), snapshot.file.clone());
        self.thread
            .run(move || {
                let tree = match snapshot.tree {
                    Some(tree) => tree,
                    None => load_tree(&file)?,
                };
                shared.install(&meta, tree);
                Ok(())
            })
            .await?;
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
        let mut waiting = Waiting::begin();
        let file = loop {
            if let Some(waited_s) = waiting.due() {
                let (free_bytes, needed_bytes) = (self.disk.free_bytes(), snapshot_bytes(&self.version.0));
                tracing::warn!(
                    waited_s,
                    free_bytes,
                    needed_bytes,
                    "a snapshot waits for room on this node's disk"
                );
            }
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
            self.version = self.shared.version().await;
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

#[cfg(test)]
mod tests {
    use coordd_tree::{Applied, Auth, Batch, EndReason, Origin, RULES, SessionId, Write, WriteOp};

    use super::*;
    use crate::observer::SignOfLife;
    use crate::type_config::Payload;

    /// The commands are of another node.
    const ORIGIN: Origin = Origin { node: 2, incarnation: 1 };

    /// Takes longer over each command than the lock may be held.
    struct SlowObserver;

    impl Observer for SlowObserver {
        type Waiter = ();

        fn applied(&self, _: &Tree, _: Applied, _: Option<()>) {
            let start = Instant::now();
            while start.elapsed() < HOLD {
                std::hint::spin_loop();
            }
        }
        fn tells_few(&self) -> bool {
            true
        }
        fn settled(&self, _: &Tree) {}
        fn installed(&self, _: &Tree, _: Vec<()>) {}
        fn touched(&self, _: NodeId, _: &[SignOfLife]) {}
        fn renewed(&self, _: u64, _: NodeId, _: &[SignOfLife]) -> Vec<SessionId> {
            Vec::new()
        }
    }

    fn shared() -> Shared<SlowObserver> {
        let rules = Arc::new(Rules::new([]));
        Shared::new(SlowObserver, Proposer::new(Origin { node: 1, ..ORIGIN }), rules)
    }

    fn entry(index: u64, commands: usize) -> Decoded<'static> {
        let command = Command::EndSession { session: 1, reason: EndReason::Closed };
        let batch = Batch { origin: ORIGIN, first_seq: 1, commands: vec![command; commands] };
        let log_id = LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
        let payload = DecodedPayload::Commands(Entry { rules: RULES, time_ms: 1, batches: vec![batch] });
        Decoded { log_id, payload }
    }

    fn stored(commands: Vec<Command<'static>>) -> types::Entry {
        let batch = Batch { origin: ORIGIN, first_seq: 1, commands };
        let bytes = Entry { rules: RULES, time_ms: 1, batches: vec![batch] }.encode();
        let log_id = LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index: 7 };
        types::Entry { log_id, payload: EntryPayload::Normal(Payload(bytes)) }
    }

    /// Entries that may take long, or would wait for a reader, are left to the thread for applying.
    #[test]
    fn only_light_entries_skip_the_thread() {
        let attach = || stored(vec![Command::Attach { session: 1 }]);
        let shared = shared();
        let is_applied = |entry| shared.apply_light(&[entry]).expect("it can be decoded");
        assert!(!is_applied(stored(vec![Command::EndSession { session: 1, reason: EndReason::Closed }])));
        assert!(!is_applied(stored(vec![Command::Attach { session: 1 }; LIGHT_COMMANDS + 1])));
        let path = "x".repeat(LIGHT_BYTES);
        let op = WriteOp::Delete { path: path.into(), version: -1 };
        let (auth, guards) = (Auth::default(), Vec::new());
        let write = Write { session: 0, seq: 0, acked: 0, auth, guards, op };
        assert!(!is_applied(stored(vec![Command::Write(write)])));
        let reader = shared.read();
        assert!(!is_applied(attach()), "somebody reads");
        drop(reader);
        assert_eq!(shared.read().applied().0, 0);
        assert!(is_applied(attach()));
        assert_eq!(shared.read().applied().0, 7);
    }

    /// G9: a long entry holds the lock for no longer than 10 ms or one command. What is read meanwhile is of no index.
    #[test]
    fn readers_have_their_turn_within_an_entry() {
        let shared = Arc::new(shared());
        let commands = 30;
        let applying = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                shared.apply_holding(Hold::of(&shared, shared.write()), vec![entry(7, commands)]);
            })
        };
        let mut seen_within = 0;
        while !applying.is_finished() {
            let replicated = shared.read();
            if replicated.is_within_entry {
                seen_within += 1;
                assert_eq!(replicated.applied().0, 0, "the entry is not applied so far");
                assert!(replicated.tree.last_zxid() <= commands as u64);
                drop(replicated);
                // It may be done by now; a version within the entry is what there must not be.
                assert!(shared.version_now().is_none_or(|(tree, _)| tree.last_zxid() == commands as u64));
            }
        }
        applying.join().expect("applying does not panic");
        assert!(seen_within > 0, "nobody had a turn in {commands} times 10 ms");
        assert_eq!(shared.read().applied(), (7, shared.read().tree.digest()));
        assert!(shared.version_now().is_some());
    }
}
