//! An ensemble of real `coordd` processes, each on a host of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use coordd_client::{Admin, NodeStatus};
use rustix::process::{Pid, Signal, kill_process};

use crate::network::{Host, HostId, Switch, address_of};

const CLIENT_PORT: u16 = 7401;
const PEER_PORT: u16 = 7501;
/// A node that does not serve by then does not come.
const START: Duration = Duration::from_secs(40);
const ASK: Duration = Duration::from_millis(500);

/// One node: its host, its directory, and its process while it has one.
pub(crate) struct Node {
    host: Host,
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    is_stopped: bool,
    /// It is not to be started any more: it refused to, and was right.
    pub(crate) is_lost: bool,
    /// For its next starts.
    pub(crate) env: Vec<(String, String)>,
}

/// All nodes.
pub(crate) struct Ensemble {
    pub(crate) nodes: BTreeMap<HostId, Node>,
    coordd: PathBuf,
    options: Vec<String>,
}

impl Ensemble {
    /// Nodes 1 to `count` with their directories below `dir`; none is started.
    pub(crate) fn new(
        switch: &Switch,
        count: HostId,
        coordd: PathBuf,
        dir: &Path,
        options: &[&str],
        env: &[(String, String)],
    ) -> anyhow::Result<Ensemble> {
        let mut nodes = BTreeMap::new();
        for id in 1..=count {
            let host = Host::start(id)?;
            switch.connect(id, host.device());
            let (data_dir, log) = (dir.join(format!("node-{id}/data")), dir.join(format!("node-{id}.log")));
            std::fs::create_dir_all(dir.join(format!("node-{id}")))?;
            let env = env.to_vec();
            let node = Node { host, data_dir, log, child: None, is_stopped: false, is_lost: false, env };
            nodes.insert(id, node);
        }
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Ok(Ensemble { nodes, coordd, options })
    }

    pub(crate) fn ids(&self) -> Vec<HostId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn others(&self, id: HostId) -> Vec<HostId> {
        self.ids().into_iter().filter(|other| *other != id).collect()
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
        let members: Vec<_> =
            self.ids().into_iter().map(|id| format!("{id}={}:{PEER_PORT}", address_of(id))).collect();
        let (coordd, options) = (self.coordd.clone(), self.options.clone());
        let node = self.node(id);
        if node.child.is_some() || node.is_lost {
            return Ok(());
        }
        let mut command = Command::new(coordd);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COORDD_")) {
            command.env_remove(name);
        }
        command.envs(node.env.iter().cloned());
        command.args(["--id", &id.to_string(), "--listen", &endpoint(id), "--ensemble", &members.join(",")]);
        command.arg("--data-dir").arg(&node.data_dir).args(options);
        let log = File::options().create(true).append(true).open(&node.log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        node.child = Some(node.host.spawn(command)?);
        node.is_stopped = false;
        Ok(())
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

    pub(crate) fn kill(&mut self, id: HostId) -> anyhow::Result<()> {
        if let Some(mut child) = self.node(id).child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// All at the same moment, as a power failure does: none has the time to write what another one was told.
    pub(crate) fn kill_all(&mut self) -> anyhow::Result<()> {
        for id in self.ids() {
            self.signal(id, Signal::KILL)?;
        }
        self.ids().into_iter().try_for_each(|id| self.kill(id))
    }

    /// SIGTERM, and the end it leads to.
    pub(crate) async fn terminate(&mut self, id: HostId) -> anyhow::Result<ExitStatus> {
        self.signal(id, Signal::TERM)?;
        let start = Instant::now();
        loop {
            if let Some(exit) = self.exited(id)? {
                return Ok(exit);
            }
            if start.elapsed() > START {
                bail!("node {id} does not end after SIGTERM");
            }
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
                if start.elapsed() > START {
                    let why = status.and_then(|status| status.not_serving).unwrap_or_default();
                    bail!("node {id} does not serve within {START:?} after all faults were healed: {why}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Waits until all that run have applied the same; they must have the same digest then. Returns the zxid.
    pub(crate) async fn wait_equal(&self) -> anyhow::Result<u64> {
        let start = Instant::now();
        loop {
            let mut states = BTreeMap::new();
            for id in self.running() {
                if let Some(status) = self.status(id).await {
                    states.insert(id, (status.zxid, status.digest));
                }
            }
            let mut zxids: Vec<_> = states.values().map(|(zxid, _)| *zxid).collect();
            zxids.dedup();
            if zxids.len() == 1 && states.len() == self.running().len() {
                let mut digests: Vec<_> = states.values().map(|(_, digest)| *digest).collect();
                digests.dedup();
                if digests.len() != 1 {
                    bail!("same zxid, other trees: {states:x?}");
                }
                return Ok(zxids[0]);
            }
            if start.elapsed() > START {
                bail!("the nodes do not come to the same zxid: {states:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a leader that a majority of the nodes that run agrees on.
    pub(crate) async fn leader(&self) -> anyhow::Result<HostId> {
        let start = Instant::now();
        let mut leader = None;
        while leader.is_none() {
            leader = self.leader_now().await;
            if leader.is_none() && start.elapsed() > START {
                bail!("no leader within {START:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        leader.context("a leader")
    }

    /// The node that leads in the highest term, if one says so.
    pub(crate) async fn leader_now(&self) -> Option<HostId> {
        let mut newest = None;
        for id in self.running() {
            if let Some(status) = self.status(id).await
                && status.role == "leader"
                && newest.is_none_or(|(term, _)| status.term > term)
            {
                newest = Some((status.term, id));
            }
        }
        newest.map(|(_, id)| id)
    }

    fn last_line(&self, id: HostId) -> String {
        self.log(id).lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for id in self.ids() {
            // What cannot be killed goes with the namespace of all processes.
            drop(self.kill(id));
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
