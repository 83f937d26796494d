//! An ensemble of real `coordd` processes, each on a host of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use coordd_client::{Admin, NodeStatus};
use rustix::process::{Pid, Signal, kill_process};

use crate::memory_limit::MemoryLimit;
use crate::network::{Host, HostId, Switch, address_of};
use crate::scenarios::Scenario;

const CLIENT_PORT: u16 = 7401;
const PEER_PORT: u16 = 7501;
/// What has not happened by then does not happen, on a busy machine neither.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
const ASK: Duration = Duration::from_millis(500);

/// One node: its host, its directory, and its process while it has one.
pub(crate) struct Node {
    host: Host,
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    is_stopped: bool,
    /// Unfinished snapshots that were there when its process was started, which removes them.
    old_snapshots: Unfinished,
    /// It is not to be started any more: it refused to, and was right.
    pub(crate) is_lost: bool,
    /// For its next starts.
    pub(crate) env: Vec<(String, String)>,
    /// For its next starts.
    pub(crate) coordd: PathBuf,
    /// Bounds the memory of its processes, in a scenario that has such bounds.
    memory: Option<MemoryLimit>,
}

impl Node {
    fn unfinished_snapshots(&self) -> anyhow::Result<Unfinished> {
        let files = match std::fs::read_dir(self.data_dir.join("snapshots")) {
            // The node has not made that yet.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Unfinished::new()),
            files => files?,
        };
        let mut unfinished = Unfinished::new();
        for file in files {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "tmp") {
                continue;
            }
            match path.metadata() {
                // It was finished meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                metadata => drop(unfinished.insert((path, metadata?.modified()?))),
            }
        }
        Ok(unfinished)
    }
}

/// Files of snapshots that are not finished, each with the time of its last change: a name may be used again.
type Unfinished = BTreeSet<(PathBuf, SystemTime)>;

/// All nodes.
pub(crate) struct Ensemble {
    pub(crate) nodes: BTreeMap<HostId, Node>,
    options: Vec<String>,
    /// The most files that a node may have open, in a scenario that has such a bound.
    open_files: Option<u32>,
    /// Of the leader that somebody asked for last.
    last_term: AtomicU64,
}

impl Ensemble {
    /// Nodes 1 to `count` with their directories below `dir`; none is started.
    pub(crate) fn new(
        switch: &Switch,
        scenario: &Scenario,
        coordd: PathBuf,
        dir: &Path,
        env: &[(String, String)],
    ) -> anyhow::Result<Ensemble> {
        let mut nodes = BTreeMap::new();
        for id in 1..=scenario.nodes {
            let host = Host::start(switch, id)?;
            let (data_dir, log) = (dir.join(format!("node-{id}/data")), dir.join(format!("node-{id}.log")));
            std::fs::create_dir_all(dir.join(format!("node-{id}")))?;
            let env = env.to_vec();
            let node = Node {
                host,
                data_dir,
                log,
                child: None,
                is_stopped: false,
                old_snapshots: Unfinished::new(),
                is_lost: false,
                env,
                coordd: coordd.clone(),
                memory: None,
            };
            nodes.insert(id, node);
        }
        let options = scenario.options.iter().map(|option| (*option).to_owned()).collect();
        Ok(Ensemble { nodes, options, open_files: scenario.open_files, last_term: AtomicU64::new(0) })
    }

    pub(crate) fn ids(&self) -> Vec<HostId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn others(&self, id: HostId) -> Vec<HostId> {
        self.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// Nodes that are not to be started any more.
    pub(crate) fn lost(&self) -> Vec<HostId> {
        self.ids().into_iter().filter(|id| self.nodes[id].is_lost).collect()
    }

    /// Nodes that have a process which is not stopped.
    pub(crate) fn running(&self) -> Vec<HostId> {
        let runs = |(id, node): (&HostId, &Node)| (node.child.is_some() && !node.is_stopped).then_some(*id);
        self.nodes.iter().filter_map(runs).collect()
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.ids().into_iter().map(endpoint).collect()
    }

    pub(crate) fn node(&mut self, id: HostId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the ensemble")
    }

    /// Starts a node that does not run.
    pub(crate) fn start_node(&mut self, id: HostId) -> anyhow::Result<()> {
        self.reap(id)?;
        let members: Vec<_> =
            self.ids().into_iter().map(|id| format!("{id}={}:{PEER_PORT}", address_of(id))).collect();
        let (options, open_files) = (self.options.clone(), self.open_files);
        let node = self.node(id);
        if node.child.is_some() || node.is_lost {
            return Ok(());
        }
        let mut command = match open_files {
            // It becomes coordd.
            Some(most) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={most}")).arg(&node.coordd);
                command
            }
            None => Command::new(&node.coordd),
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COORDD_")) {
            command.env_remove(name);
        }
        command.envs(node.env.iter().cloned());
        command.args(["--id", &id.to_string(), "--listen", &endpoint(id), "--ensemble", &members.join(",")]);
        command.arg("--data-dir").arg(&node.data_dir).args(options);
        let log = File::options().create(true).append(true).open(&node.log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        node.old_snapshots = node.unfinished_snapshots()?;
        let child = node.host.spawn(command)?;
        if let Some(memory) = &node.memory {
            memory.add(child.id())?;
        }
        node.child = Some(child);
        node.is_stopped = false;
        Ok(())
    }

    /// Bounds the memory of a node's processes from its next start on. False if this machine cannot do that.
    pub(crate) fn limit_memory(&mut self, id: HostId, mebibytes: u64) -> bool {
        let limit = MemoryLimit::new(&format!("coordfault-{}-{id}", std::process::id()), mebibytes << 20);
        let node = self.node(id);
        node.memory = limit.ok();
        node.memory.is_some()
    }

    pub(crate) fn signal(&mut self, id: HostId, signal: Signal) -> anyhow::Result<()> {
        let node = self.node(id);
        if let Some(child) = &node.child {
            kill_process(Pid::from_child(child), signal)?;
            match signal {
                Signal::STOP => node.is_stopped = true,
                Signal::CONT => node.is_stopped = false,
                _ => {}
            }
        }
        Ok(())
    }

    /// kill -9 of these nodes at the same moment, as a power failure does: none has the time to write what another one was told.
    pub(crate) fn kill(&mut self, ids: &[HostId]) -> anyhow::Result<()> {
        for id in ids {
            self.reap(*id)?;
        }
        for id in ids {
            self.signal(*id, Signal::KILL)?;
        }
        for id in ids {
            if let Some(mut child) = self.node(*id).child.take() {
                let exit = child.wait()?;
                self.judge_kill(*id, exit)?;
            }
        }
        Ok(())
    }

    /// A node may have ended by itself just before it was killed.
    fn judge_kill(&self, id: HostId, exit: ExitStatus) -> anyhow::Result<()> {
        if exit.signal() == Some(Signal::KILL.as_raw()) { Ok(()) } else { self.judge_end(id, exit) }
    }

    /// That a node has not ended by itself. An end that is meant is taken by [`Ensemble::exited`] before.
    fn reap(&mut self, id: HostId) -> anyhow::Result<()> {
        match self.exited(id)? {
            Some(exit) => self.judge_end(id, exit),
            None => Ok(()),
        }
    }

    fn judge_end(&self, id: HostId, exit: ExitStatus) -> anyhow::Result<()> {
        bail!("node {id} ended by itself ({exit}): {}", self.last_line(id))
    }

    /// That no node has ended by itself.
    pub(crate) fn check_ends(&mut self) -> anyhow::Result<()> {
        self.ids().into_iter().try_for_each(|id| self.reap(id))
    }

    /// SIGTERM, and the end it leads to.
    pub(crate) async fn terminate(&mut self, id: HostId) -> anyhow::Result<ExitStatus> {
        self.reap(id)?;
        self.signal(id, Signal::TERM)?;
        self.wait_exited(id).await.context("after SIGTERM")
    }

    /// How a node ended, which must be soon.
    pub(crate) async fn wait_exited(&mut self, id: HostId) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(exit) = self.exited(id)? {
                return Ok(exit);
            }
            ensure!(start.elapsed() < PATIENCE, "node {id} goes on for {PATIENCE:?} and does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How a node ended, if it has.
    pub(crate) fn exited(&mut self, id: HostId) -> anyhow::Result<Option<ExitStatus>> {
        let node = self.node(id);
        let Some(child) = &mut node.child else { return Ok(None) };
        let exit = child.try_wait()?;
        if exit.is_some() {
            node.child = None;
        }
        Ok(exit)
    }

    pub(crate) fn process_id(&self, id: HostId) -> Option<u32> {
        self.nodes.get(&id)?.child.as_ref().map(Child::id)
    }

    /// Whether a node has begun a snapshot, its own or one that it gets, and not finished it.
    pub(crate) fn writes_snapshot(&self, id: HostId) -> anyhow::Result<bool> {
        let node = &self.nodes[&id];
        Ok(!node.unfinished_snapshots()?.is_subset(&node.old_snapshots))
    }

    pub(crate) fn log(&self, id: HostId) -> String {
        let log = self.nodes.get(&id).map(|node| std::fs::read(&node.log).unwrap_or_default());
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    pub(crate) async fn status(&self, id: HostId) -> Option<NodeStatus> {
        let node = self.nodes.get(&id)?;
        if node.child.is_none() || node.is_stopped {
            return None;
        }
        status_at(&endpoint(id)).await
    }

    /// Waits until all nodes that are not lost run and serve.
    pub(crate) async fn wait_serving(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        for id in self.ids() {
            while !self.node(id).is_lost {
                let status = self.status(id).await;
                if status.as_ref().is_some_and(|status| status.not_serving.is_none()) {
                    break;
                }
                if let Some(exit) = self.exited(id)? {
                    bail!("node {id} has ended instead of serving ({exit}): {}", self.last_line(id));
                }
                if start.elapsed() > PATIENCE {
                    let why = status.and_then(|status| status.not_serving).unwrap_or_default();
                    bail!("node {id} does not serve within {PATIENCE:?} after all faults were healed: {why}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Waits until all that run have applied the same; they must have the same digest then.
    pub(crate) async fn wait_equal(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let mut states = BTreeMap::new();
            for id in self.running() {
                if let Some(status) = self.status(id).await {
                    states.insert(id, (status.applied_index, status.digest));
                }
            }
            let mut distinct: Vec<_> = states.values().collect();
            distinct.dedup();
            if distinct.len() == 1 && states.len() == self.running().len() {
                return Ok(());
            }
            ensure!(start.elapsed() <= PATIENCE, "the nodes do not come to the same state: {states:x?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a leader: the one of the newest term, because who led before may not know yet that this is over.
    pub(crate) async fn leader(&self) -> anyhow::Result<HostId> {
        let start = Instant::now();
        loop {
            if let Some((term, leader)) = self.leader_now().await {
                self.last_term.store(term, Ordering::Relaxed);
                return Ok(leader);
            }
            ensure!(start.elapsed() < PATIENCE, "no leader within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The term of the leader that was asked for last.
    pub(crate) fn last_term(&self) -> u64 {
        self.last_term.load(Ordering::Relaxed)
    }

    /// The node that leads in the highest term, and that term, if one says so.
    pub(crate) async fn leader_now(&self) -> Option<(u64, HostId)> {
        let mut newest = None;
        for id in self.running() {
            if let Some(status) = self.status(id).await
                && status.role == "leader"
            {
                newest = newest.max(Some((status.term, id)));
            }
        }
        newest
    }

    /// What a node said last.
    pub(crate) fn last_line(&self, id: HostId) -> String {
        self.log(id).lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for id in self.ids() {
            // What cannot be killed goes with the namespace of all processes.
            drop(self.kill(&[id]));
        }
    }
}

/// Where clients reach a node.
pub(crate) fn endpoint(id: HostId) -> String {
    format!("{}:{CLIENT_PORT}", address_of(id))
}

/// What a node says of itself; `None` if it does not answer.
pub(crate) async fn status_at(endpoint: &str) -> Option<NodeStatus> {
    Admin::connect(endpoint, ASK).await.ok()?.status().await.ok()
}
