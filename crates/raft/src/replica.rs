//! One node of the ensemble: the log, the tree, the peers, and the handle through which the server uses them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLockReadGuard};
use std::time::Duration;

use coordd_tree::{Command, Origin, SessionId, Tree};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::{Raft, ServerState};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::addresses::run_addresses;
use crate::clock::StampClock;
use crate::disk::{DiskRoom, Shortage, run_disk_watch};
use crate::formation::{Formation, FormationError};
use crate::leader::{LeaderQueue, run_leader};
use crate::leadership::{Leadership, follow_leadership};
use crate::link::{Contact, run_link};
use crate::members;
use crate::network::{Gate, NetworkFactory, PeerService, Peers, Streams, serve};
use crate::observer::{Observer, SignOfLife};
use crate::options::ReplicaOptions;
use crate::proposer::{Overloaded, Proposer};
use crate::read_index::{self, NoQuorum, run_read_index};
use crate::retention::run_retention;
use crate::rules::Rules;
use crate::seldom::Seldom;
use crate::state_machine::{Replicated, Shared, StateMachine};
use crate::storage::{
    DataDir, DataDirError, LOST_ADVICE, LogOptions, LogStore, OpenError, SnapshotStore, newer, private_file,
};
use crate::waiting::told;
use crate::{Member, NodeId, TypeConfig, types};

/// openraft over our tree.
pub(crate) type RaftNode<O> = Raft<TypeConfig, StateMachine<O>>;

/// A replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is not usable.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log is not usable.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The snapshots are not usable.
    #[error("snapshots: {0}")]
    Snapshots(#[source] std::io::Error),
    /// The log goes on from a snapshot that is not there.
    #[error(
        "a snapshot is missing in {dir}: the log begins behind entry {purged}, and {found}, so what the entries up to there did \
         is lost on this node; put the snapshot back if there is a copy of it; without one, {LOST_ADVICE}"
    )]
    SnapshotLost {
        /// Where it should be.
        dir: String,
        /// The last entry that is in the log no more.
        purged: u64,
        /// Which snapshot is there.
        found: String,
    },
    /// The ensemble could not be formed or joined.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// Raft's options contradict each other.
    #[error("timing: {0}")]
    Timing(#[from] openraft::ConfigError),
    /// The options name other nodes than those of this directory's ensemble. Nothing was changed in it.
    #[error(
        "--ensemble names the nodes {configured:?}, but {dir} is of an ensemble that was formed with the nodes {formed:?} and \
         has the members {members:?} now: start this node with one of these lists (the addresses may be new; a node alone \
         is started without --ensemble), or with its own data directory. Nothing was changed"
    )]
    Membership {
        /// The data directory.
        dir: PathBuf,
        /// In the options.
        configured: Vec<NodeId>,
        /// The ensemble's first members, as the directory knows them.
        formed: Vec<NodeId>,
        /// In the log or the snapshot.
        members: Vec<NodeId>,
    },
    /// This node was found to lack what it had acknowledged.
    #[error(
        "this node stopped because of data that it had acknowledged and lost, and cannot take part: {found}"
    )]
    Outdated {
        /// What was found.
        found: String,
    },
    /// The tree of this directory was found to differ from the leader's.
    #[error(
        "{file}: this node stopped because its tree differed from the leader's: {found}; if directories of other nodes were \
         replaced by older copies, this one may be the only one that has what was acknowledged since; if none was, report it; \
         {LOST_ADVICE}"
    )]
    Diverged {
        /// The file that says so.
        file: String,
        /// What was found.
        found: String,
    },
    /// openraft would not start.
    #[error("raft: {0}")]
    Raft(String),
}

/// Everything the tasks of a node share.
pub(crate) struct Node<O: Observer> {
    pub(crate) raft: RaftNode<O>,
    pub(crate) shared: Arc<Shared<O>>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) leader: Arc<LeaderQueue>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) clock: Arc<StampClock>,
    pub(crate) contact: Contact,
    pub(crate) disk: Arc<DiskRoom>,
    pub(crate) leadership: Arc<watch::Sender<Leadership>>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) log: LogStore,
    pub(crate) options: ReplicaOptions,
    data_dir: Arc<Mutex<DataDir>>,
}

impl<O: Observer> Node<O> {
    pub(crate) fn id(&self) -> NodeId {
        self.options.node_id
    }

    /// On the leader: a majority has answered within the lease, so nobody else leads.
    pub(crate) fn has_fresh_quorum(&self) -> bool {
        let lease = self.options.timing.election_max;
        let Ok(leader) = self.raft.as_leader() else { return false };
        self.options.members.len() == 1
            || leader.last_quorum_acked().is_some_and(|at| openraft::Instant::elapsed(&at) <= lease)
    }

    /// This node's tree is not the leader's at the same entry (G8). It stops at once, and does not start again before
    /// somebody has looked.
    pub(crate) fn diverged(&self, index: u64, leaders: u64, ours: u64) -> ! {
        let message = format!(
            "node {}: the tree differs from the leader's at log index {index}: digest {ours:016x}, the leader's {leaders:016x}. \
             Which of the two is right is not known: keep the directories of all nodes",
            self.id()
        );
        tracing::error!("{message}");
        self.mark(DIVERGED, &message, "the divergence could not be recorded");
        std::process::abort()
    }

    /// This node lacks what it had acknowledged, or what was committed: it stops at once, and does not start again before
    /// somebody has looked. Others count on what is gone.
    pub(crate) fn outdated(&self, message: &str) -> ! {
        tracing::error!("{message}");
        self.mark(OUTDATED, message, "the loss could not be recorded");
        std::process::exit(EXIT_OUTDATED.into())
    }

    /// Leaves a file in the data directory that says what was found.
    fn mark(&self, name: &str, found: &str, failed: &str) {
        let path = self.data_dir().path().join(name);
        let file = private_file().truncate(true).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(found.as_bytes())) {
            tracing::error!(%error, path = %path.display(), "{failed}");
        }
    }

    pub(crate) fn data_dir(&self) -> MutexGuard<'_, DataDir> {
        self.data_dir.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How often a node that stops looks whether its disk lets it.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// How long calls of peers may take to end when a node stops.
const DRAIN: Duration = Duration::from_secs(1);
/// Present in a data directory whose tree was found to differ from the leader's.
const DIVERGED: &str = "DIVERGED";
/// Present in a data directory that was found to lack what its node had acknowledged.
const OUTDATED: &str = "OUTDATED";
/// How a process ends that has found that it lacks what it had acknowledged, and one that is started with such a directory.
pub const EXIT_OUTDATED: u8 = 3;

/// A running node. Cheap to clone; the node runs until [`Replica::shutdown`].
pub struct Replica<O: Observer> {
    node: Arc<Node<O>>,
    reads: mpsc::UnboundedSender<read_index::Waiter>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    stop_serving: CancellationToken,
    /// Closed before Raft stops.
    gate: Gate,
}

impl<O: Observer> Clone for Replica<O> {
    fn clone(&self) -> Self {
        Replica {
            node: self.node.clone(),
            reads: self.reads.clone(),
            tasks: self.tasks.clone(),
            stop_serving: self.stop_serving.clone(),
            gate: self.gate.clone(),
        }
    }
}

/// The state of a node, for operators.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: &'static str,
    /// Raft's term.
    pub term: u64,
    /// Who leads, if this node knows.
    pub leader: Option<NodeId>,
    /// The last entry of the log; 0: none.
    pub last_log_index: u64,
    /// The last entry known to be committed.
    pub committed_index: u64,
    /// The last entry that the newest snapshot covers.
    pub snapshot_index: u64,
    /// The last entry removed from the log.
    pub purged_index: u64,
    /// On the leader: what each follower is known to have.
    pub matched: BTreeMap<NodeId, u64>,
    /// The voters.
    pub voters: Vec<NodeId>,
    /// How long ago this node heard a leader that knows itself to lead, itself included.
    pub leader_silence: Option<Duration>,
    /// Writes of this node that wait to be applied, and their bytes.
    pub backlog: (usize, usize),
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// Bytes that are left on the disk.
    pub disk_free_bytes: u64,
    /// Less is left than the reserve.
    pub disk_is_low: bool,
    /// See [`Replica::set_memory_is_low`].
    pub memory_is_low: bool,
    /// See [`Replica::growth_refused`].
    pub growth_refused: bool,
    /// How often this node began to lead with a clock that was far from what most agreed on.
    pub clock_corrections: u64,
}

/// A look at the tree. Applies wait while it is held: look, and drop it; never across an await.
pub struct TreeRef<'a>(RwLockReadGuard<'a, Replicated>);

impl TreeRef<'_> {
    /// The index of the last entry that is applied to all of its commands, 0 before the first, and the digest after it. Two
    /// nodes that say the same index have the same digest. The tree itself may have applied commands of the next entry, too.
    pub fn applied(&self) -> (u64, u64) {
        self.0.applied()
    }
}

impl Deref for TreeRef<'_> {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.0.tree
    }
}

impl<O: Observer> Replica<O> {
    /// Starts a node: opens its data directory, forms or joins the ensemble, replays its log.
    ///
    /// `listener` is where its peers reach it; `observer` is made with the origin that the commands of this process
    /// carry. `new_cluster_id` names the ensemble if this call forms it. Returns when the node takes part in Raft,
    /// which does not mean that there is a leader. Forming waits for all nodes.
    pub async fn start(
        options: ReplicaOptions,
        listener: TcpListener,
        new_cluster_id: String,
        observer: impl FnOnce(Origin) -> O,
    ) -> Result<Self, StartError> {
        let node_id = options.node_id;
        let directory = options.data_dir.clone();
        let configured: Vec<NodeId> = options.members.keys().copied().collect();
        // Before anything is served: who is not a member must not answer as one.
        let opened = blocking(move || {
            let mut data_dir = DataDir::inspect(directory, node_id)?;
            refuse_marked(&data_dir)?;
            let first_look = members::first_look(&data_dir, &configured)?;
            data_dir.begin()?;
            let log = LogStore::open(&mut data_dir, LogOptions::default())?;
            let snapshots = SnapshotStore::open(&data_dir.snapshot_dir()).map_err(StartError::Snapshots)?;
            refuse_lost_snapshot(&data_dir.snapshot_dir(), log.purged_index(), &snapshots)?;
            let members = newer(log.membership(), snapshots.latest().map(|file| file.meta.last_membership));
            if log.has_begun() {
                members::check(&mut data_dir, &configured, members.or(first_look))?;
            }
            Ok::<_, StartError>((data_dir, log, snapshots))
        });
        let (data_dir, log, snapshots) = told("reading the log", opened).await?;
        let origin = Origin { node: node_id, incarnation: data_dir.incarnation() };
        let data_dir = Arc::new(Mutex::new(data_dir));
        let has_log = log.has_begun();

        let peers = Arc::new(Peers::new(node_id, options.members.clone()));
        let formation = Formation::new(data_dir.clone(), has_log);
        let stop_serving = CancellationToken::new();
        let started = Arc::new(OnceLock::new());
        let service = PeerService {
            peers: peers.clone(),
            formation: formation.clone(),
            node: started.clone(),
            receiving: Arc::new(Semaphore::new(1)),
            open: Gate::default(),
            client_address: options.client_address.clone(),
            streams: Arc::new(Streams::default()),
        };
        let gate = service.open.clone();
        let stopped = stop_serving.clone();
        let server = tokio::spawn(async move {
            if let Err(error) = serve(service, listener, stopped.cancelled_owned()).await {
                tracing::error!(%error, "the peer API stopped");
                std::process::abort();
            }
        });
        formation.join(&peers, new_cluster_id).await?;
        log.set_cluster_id(peers.cluster_id());

        let rules = Arc::new(Rules::new(peers.others()));
        let shared = Arc::new(Shared::new(observer(origin), Proposer::new(origin), rules.clone()));
        let disk = DiskRoom::new(options.data_dir.clone(), options.disk_reserve_bytes);
        let (state_machine_shared, state_machine_disk) = (shared.clone(), disk.clone());
        let state_machine_snapshots = snapshots.clone();
        let loaded = blocking(move || {
            StateMachine::open(state_machine_shared, state_machine_snapshots, state_machine_disk)
        });
        let state_machine = told("loading the snapshot", loaded).await.map_err(StartError::Snapshots)?;

        let config = Arc::new(options.timing.config(peers.cluster_id())?);
        let network = NetworkFactory { peers: peers.clone() };
        let built = Raft::build(node_id, config, network, log.clone(), state_machine);
        let raft = told("replaying the log", built).await.map_err(|e| StartError::Raft(e.to_string()))?;
        let (leader, queue) = LeaderQueue::new();
        let node = Arc::new(Node {
            raft: raft.clone(),
            shared,
            peers,
            leader: leader.clone(),
            rules: rules.clone(),
            clock: Arc::new(StampClock::new(node_id)),
            contact: Contact::new(),
            disk,
            leadership: Arc::new(watch::Sender::new(Leadership::default())),
            snapshots,
            log,
            options,
            data_dir,
        });
        // The peer API answers for Raft from here on.
        let _ = started.set(node.clone());
        raft.run();
        told("writing the beginning of the log", node.initialize()).await?;
        if node.data_dir().formed_with().is_empty() {
            tokio::spawn(members::check_later(node.clone()));
        }

        let (reads, waiting_reads) = mpsc::unbounded_channel();
        let tasks = vec![
            server,
            tokio::spawn(follow_leadership(raft.clone(), node.leadership.clone())),
            tokio::spawn(run_leader(raft.clone(), leader, queue, node.clock.clone(), rules)),
            tokio::spawn(run_link(node.clone())),
            tokio::spawn(run_read_index(node.clone(), waiting_reads)),
            tokio::spawn(run_retention(node.clone())),
            tokio::spawn(run_disk_watch(node.clone())),
            tokio::spawn(run_addresses(node.clone())),
            tokio::spawn(watch_for_failure(raft)),
            tokio::spawn(watch_for_loss(node.clone())),
        ];
        Ok(Replica { node, reads, tasks: Arc::new(Mutex::new(tasks)), stop_serving, gate })
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.node.id()
    }

    /// The ensemble's id.
    pub fn cluster_id(&self) -> &str {
        self.node.peers.cluster_id()
    }

    /// What the commands of this process carry.
    pub fn origin(&self) -> Origin {
        self.node.shared.proposer.origin()
    }

    /// A look at the tree as this node has applied it.
    pub fn tree(&self) -> TreeRef<'_> {
        TreeRef(self.node.shared.read())
    }

    /// Who is told of what is applied.
    pub fn observer(&self) -> &O {
        &self.node.shared.observer
    }

    /// The newest rules that the tree has followed. All members know them, and the commands that came with them.
    pub fn rules(&self) -> u32 {
        self.node.rules.in_force()
    }

    /// Puts commands into this node's stream, in order, each with what waits for its result. They are sent to whoever
    /// leads until they are applied here, across changes of the leader; the observer then gets the result. Nothing that
    /// was accepted is dropped while the process lives.
    pub fn submit<'a>(
        &self,
        commands: impl IntoIterator<Item = (Command<'a>, O::Waiter)>,
    ) -> Result<(), Overloaded> {
        self.node.shared.proposer.submit(commands)
    }

    /// This node has heard from a session. Reaches the leader within a tenth of a second.
    pub fn touch(&self, sign: SignOfLife) {
        self.node.contact.touch(sign);
    }

    /// Passes signs of life on to the leader, and returns the sessions that no leader, present or later, expires within
    /// their timeouts from this call on (G7: who holds a grant must know how long it surely does). Fails if the leader, or
    /// a majority, is out of reach; ask again then.
    pub async fn renew(&self, signs: Vec<SignOfLife>) -> Result<Vec<SessionId>, NoQuorum> {
        read_index::renew(&self.node, signs).await
    }

    /// Waits until this node's tree shows everything that was acknowledged, on any node, before the call. Cheap when many
    /// call: they share a round to the leader. Dropping the future gives the wait up.
    pub async fn read_barrier(&self) -> Result<(), NoQuorum> {
        let (waiter, answer) = oneshot::channel();
        self.reads.send(waiter).map_err(|_| NoQuorum)?;
        answer.await.unwrap_or(Err(NoQuorum))
    }

    /// Who leads, and changes of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.node.leadership.subscribe()
    }

    /// On the leader: the time that the next entry would be stamped with, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.node.clock.now_ms()
    }

    /// How long ago this node heard a leader that knows itself to lead, itself included; `None`: never.
    pub fn leader_silence(&self) -> Option<Duration> {
        self.node.contact.leader_silence()
    }

    /// This node leads, and a majority has confirmed it within the lease.
    pub fn leads_with_quorum(&self) -> bool {
        self.node.leadership.borrow().is_own && self.node.has_fresh_quorum()
    }

    /// The nodes that have room on their disks, or memory, are no majority: nothing should be submitted that makes something
    /// larger (G9). The leader decides it; this node hears of it within half a second.
    pub fn growth_refused(&self) -> Option<Shortage> {
        self.node.disk.growth_refused()
    }

    /// Says whether this process has little memory left; the leader hears of it within half a second.
    pub fn set_memory_is_low(&self, is_low: bool) {
        self.node.disk.set_memory_is_low(is_low);
    }

    /// What was said last with [`Replica::set_memory_is_low`].
    pub fn memory_is_low(&self) -> bool {
        self.node.disk.memory_is_low()
    }

    /// How long this node has not been able to write its log for want of room on its disk.
    pub fn waits_for_room(&self) -> Option<Duration> {
        self.node.log.waits_for_room()
    }

    /// The node's state.
    pub fn status(&self) -> ReplicaStatus {
        let matched = self.node.matched();
        let metrics = self.node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<types::LogId>| id.map_or(0, |id| id.index);
        ReplicaStatus {
            role: match metrics.state {
                ServerState::Leader => "leader",
                ServerState::Follower => "follower",
                ServerState::Candidate => "candidate",
                _ => "learner",
            },
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(metrics.cluster_committed.max(metrics.local_committed)),
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
            matched,
            voters: metrics.membership_config.voter_ids().collect(),
            leader_silence: self.leader_silence(),
            backlog: self.node.shared.proposer.backlog(),
            log_bytes: self.node.log.log_bytes_since_purge(),
            disk_free_bytes: self.node.disk.free_bytes(),
            disk_is_low: self.node.disk.is_low(),
            memory_is_low: self.node.disk.memory_is_low(),
            growth_refused: self.growth_refused().is_some(),
            clock_corrections: self.node.clock.corrections(),
        }
    }

    /// The members as they are configured.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        self.node.peers.members()
    }

    /// Where the clients of a node reach it: `host:port`. `None` while it has not said so.
    pub fn client_address(&self, id: NodeId) -> Option<String> {
        self.node.peers.client_addresses().get(id)
    }

    /// Says where the clients of this node reach it, for the other nodes.
    pub fn set_client_address(&self, address: &str) {
        self.node.peers.client_addresses().set(self.id(), address);
    }

    /// Stops the node: hands the leadership over if it has it, then stops Raft and closes the log. Commands that are not
    /// applied by then stay without a result; what is durable stays durable.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        // Whoever asked a Raft that has stopped would find an error where there is none: first nobody asks any more.
        self.stop_serving.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        for task in tasks {
            task.abort();
        }
        self.gate.close(DRAIN).await;
        let shutdown = self.node.raft.shutdown();
        tokio::pin!(shutdown);
        let stopped = loop {
            tokio::select! {
                stopped = &mut shutdown => break stopped,
                () = tokio::time::sleep(ROOM_INTERVAL) => {
                    // Raft may be waiting for a disk that is full, for ever.
                    if self.node.log.waits_for_room().is_some() {
                        self.node.log.stop_writing();
                    }
                }
            }
        };
        if let Err(error) = stopped {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let log = self.node.log.clone();
        if tokio::task::spawn_blocking(move || log.close()).await.is_err() {
            tracing::warn!("the log was not closed");
        }
    }

    /// If this node leads: asks the follower that has most of the log to lead, and waits a little for it. Writes under way
    /// are sent to the new leader.
    pub async fn hand_over(&self) {
        self.node.hand_over(|_| true).await;
    }
}

impl<O: Observer> Node<O> {
    /// See [`Replica::hand_over`]; to one of those that `may` lead.
    pub(crate) async fn hand_over(&self, may: impl Fn(NodeId) -> bool) {
        let mut leadership = self.leadership.subscribe();
        if !leadership.borrow().is_own {
            return;
        }
        let matched = self.matched();
        let others = matched.iter().filter(|(id, _)| **id != self.id() && may(**id));
        let Some((to, _)) = others.max_by_key(|(_, matched)| **matched) else { return };
        tracing::info!(to, "handing the leadership over");
        if self.raft.trigger().transfer_leader(*to).await.is_err() {
            return;
        }
        let other_leads = leadership.wait_for(|now| !now.is_own && now.leader.is_some());
        if tokio::time::timeout(self.options.timing.election_max, other_leads).await.is_err() {
            tracing::warn!(to, "nobody took the leadership in time");
        }
    }

    /// On the leader: the last entry that each follower is known to have.
    fn matched(&self) -> BTreeMap<NodeId, u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten();
        matched.map(|(id, matched)| (*id, matched.map_or(0, |id| id.index))).collect()
    }

    /// Begins the log, if this is the node that does.
    async fn initialize(&self) -> Result<(), StartError> {
        if self.options.members.keys().next() != Some(&self.id()) {
            return Ok(());
        }
        match self.raft.initialize(self.options.members.clone()).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError::Raft(error.to_string())),
        }
    }
}

/// Runs work that blocks on the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// A directory that this node has found not to be what it must be.
fn refuse_marked(data_dir: &DataDir) -> Result<(), StartError> {
    let read = |name: &str| match std::fs::read(data_dir.path().join(name)) {
        Ok(found) => Ok(Some(String::from_utf8_lossy(&found).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StartError::Snapshots(error)),
    };
    if let Some(found) = read(DIVERGED)? {
        let file = data_dir.path().join(DIVERGED).display().to_string();
        return Err(StartError::Diverged { file, found });
    }
    read(OUTDATED)?.map_or(Ok(()), |found| Err(StartError::Outdated { found }))
}

/// What was purged from the log is in a snapshot.
fn refuse_lost_snapshot(
    dir: &Path,
    purged: Option<u64>,
    snapshots: &SnapshotStore,
) -> Result<(), StartError> {
    let Some(purged) = purged else { return Ok(()) };
    let newest = snapshots.latest().map(|file| file.meta.last_log_id.map_or(0, |id| id.index));
    if newest.is_some_and(|newest| newest >= purged) {
        return Ok(());
    }
    let found = match newest {
        Some(newest) => format!("the newest snapshot covers entry {newest} and those before it"),
        None => "there is no snapshot".to_owned(),
    };
    Err(StartError::SnapshotLost { dir: dir.display().to_string(), purged, found })
}

/// Ends the process when a peer has shown that this node leads a majority that lost what was committed. Without a majority it is
/// this node that may have all of it, and the peers that lost some: none of them can write, and whoever they elect instead
/// is shown the same by this one.
async fn watch_for_loss<O: Observer>(node: Arc<Node<O>>) {
    let mut loss = node.peers.loss.subscribe();
    let said = Seldom::default();
    while loss.changed().await.is_ok() {
        let Some(found) = loss.borrow_and_update().clone() else { continue };
        let leadership = *node.leadership.borrow();
        let applied = node.raft.metrics().borrow_watched().last_applied;
        let has_majority = applied.is_some_and(|applied| applied.leader_id.term == leadership.term);
        if leadership.is_own && has_majority && node.has_fresh_quorum() {
            node.outdated(&found);
        }
        if let Some(times) = said.is_due() {
            tracing::error!(times, "{found}; or the other one has, and is in the majority");
        }
    }
}

/// Ends the process when openraft has stopped because of an error: a node whose log has failed must not go on as if it
/// had one.
async fn watch_for_failure<O: Observer>(raft: RaftNode<O>) {
    let mut metrics = raft.metrics();
    loop {
        let failed = metrics.borrow_watched().running_state.clone().err();
        match failed {
            Some(Fatal::Stopped) => return,
            Some(error) => {
                tracing::error!(%error, "raft has failed; the process ends");
                std::process::abort();
            }
            None => {}
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
