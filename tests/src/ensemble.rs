use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use coordd_client::{Admin, Client, ConnectOptions, NodeStatus};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::node::Node;
use crate::{EnsembleOptions, eventually, free_port};

/// Debug builds on a busy machine start slowly; a node that is not there by then does not come.
const START: Duration = Duration::from_secs(40);
/// A node that is to say how it is may be stopped, or cut off.
const ASK: Duration = Duration::from_millis(500);
/// What an operator does to a node that is there takes less.
const OPERATE: Duration = Duration::from_secs(10);
const LOG_TAIL_LINES: usize = 40;

/// Most tests measure time, and a machine has few cores.
static TURN: Mutex<()> = Mutex::new(());

/// Nodes of one ensemble, as processes on this machine. They are killed when it is dropped, also by a panic; then the
/// ends of their logs are printed.
pub struct Ensemble {
    nodes: BTreeMap<u64, Node>,
    options: EnsembleOptions,
    dir: TempDir,
    /// Dropped last.
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Ensemble {
    /// So many nodes with the defaults of coordd; all serve.
    pub async fn start(nodes: u64) -> Self {
        EnsembleOptions::new(nodes).start().await
    }

    pub(crate) async fn with(options: EnsembleOptions) -> Self {
        // Built before anything is timed. A test that failed has left nothing behind that could harm the next one.
        crate::coordd();
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Self::build(options, Some(turn)).await
    }

    pub(crate) async fn beside(options: EnsembleOptions) -> Self {
        Self::build(options, None).await
    }

    async fn build(options: EnsembleOptions, turn: Option<MutexGuard<'static, ()>>) -> Self {
        let dir = tempfile::Builder::new().prefix("coordd-test-").tempdir().expect("a temporary directory");
        let peer_address = |id| match &options.peer_host {
            Some(host) => format!("{host}:{}", 7500 + id),
            None => format!("127.0.0.1:{}", free_port()),
        };
        let nodes =
            (1..=options.nodes).map(|id| (id, Node::new(id, dir.path(), free_port(), peer_address(id))));
        let mut ensemble = Ensemble { nodes: nodes.collect(), options: options.clone(), dir, _turn: turn };
        if ensemble.options.wait {
            for id in ensemble.ids() {
                ensemble.restart(id);
            }
            ensemble.wait_serving().await;
        }
        ensemble
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// The others.
    pub fn ids_but(&self, id: u64) -> Vec<u64> {
        self.ids().into_iter().filter(|other| *other != id).collect()
    }

    fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the ensemble")
    }

    /// Where clients reach a node: `host:port`.
    pub fn endpoint(&self, id: u64) -> String {
        self.node(id).client_address()
    }

    /// Where clients reach all of them.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.values().map(Node::client_address).collect()
    }

    /// Where peers reach a node.
    pub fn peer_endpoint(&self, id: u64) -> String {
        self.node(id).peer_address.clone()
    }

    /// A node's data directory.
    pub fn data_dir(&self, id: u64) -> &Path {
        &self.node(id).data_dir
    }

    /// A directory for what a test needs besides; goes with the ensemble.
    pub fn scratch(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// What a node has logged in all its lives.
    pub fn log(&self, id: u64) -> String {
        self.node(id).log_text()
    }

    /// The id of a node's process.
    pub fn process_id(&self, id: u64) -> u32 {
        self.node(id).process_id().expect("the node runs")
    }

    /// The value of `--ensemble`.
    pub fn members(&self) -> String {
        let members: Vec<_> =
            self.nodes.values().map(|node| format!("{}={}", node.id, node.peer_address)).collect();
        // A node alone needs none.
        if members.len() == 1 { String::new() } else { members.join(",") }
    }

    /// The command that starts a node, for tests that change it.
    pub fn command(&self, id: u64) -> Command {
        self.node(id).command(&self.members(), &self.options.env)
    }

    /// An option of coordd, as it stands in the environment, for nodes that are started from here on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.options.env.retain(|(other, _)| other != name);
        self.options.env.push((name.to_owned(), value.to_owned()));
    }

    /// New addresses for the nodes' peers, for nodes that are started from here on.
    pub fn move_peers(&mut self) {
        for node in self.nodes.values_mut() {
            let host = self.options.peer_host.as_deref().unwrap_or("127.0.0.1");
            node.peer_address = format!("{host}:{}", free_port());
        }
    }

    /// Puts the data directory of a node that does not run aside, as `name`; what was there under that name is gone.
    pub fn keep_copy(&self, id: u64, name: &str) {
        assert!(!self.node(id).is_running(), "node {id} runs");
        copy_dir(self.data_dir(id), &self.scratch().join(format!("{name}-{id}")));
    }

    /// Puts such a copy in the place of the data directory of a node that does not run.
    pub fn put_copy(&self, id: u64, name: &str) {
        self.wipe(id);
        copy_dir(&self.scratch().join(format!("{name}-{id}")), self.data_dir(id));
    }

    /// Starts a node that does not run.
    pub fn restart(&mut self, id: u64) {
        let (members, env) = (self.members(), self.options.env.clone());
        self.node_mut(id).spawn(&members, &env);
    }

    /// `kill -9`.
    pub fn kill9(&mut self, id: u64) {
        self.node_mut(id).kill9();
    }

    /// SIGSTOP: the node keeps its connections and does nothing, from when this returns.
    pub fn pause(&mut self, id: u64) {
        self.node(id).signal(Signal::STOP);
        self.node(id).wait_stopped();
        self.node_mut(id).is_paused = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self, id: u64) {
        self.node(id).signal(Signal::CONT);
        self.node_mut(id).is_paused = false;
    }

    /// SIGTERM; returns how the node ended.
    pub async fn terminate(&mut self, id: u64) -> ExitStatus {
        self.node(id).signal(Signal::TERM);
        self.wait_exit(id).await
    }

    /// Waits until a node ends by itself.
    pub async fn wait_exit(&mut self, id: u64) -> ExitStatus {
        self.node_mut(id).wait_exit(Duration::from_secs(20)).await
    }

    /// Deletes the data of a node that does not run.
    pub fn wipe(&self, id: u64) {
        assert!(!self.node(id).is_running(), "node {id} runs");
        std::fs::remove_dir_all(self.data_dir(id)).expect("the data directory can be deleted");
    }

    /// The state of a node as it says itself; `None` if it does not answer.
    pub async fn status(&self, id: u64) -> Option<NodeStatus> {
        if !self.node(id).is_running() || self.node(id).is_paused {
            return None;
        }
        Admin::connect(self.endpoint(id), ASK).await.ok()?.status().await.ok()
    }

    /// The state of a node that runs, which may take its time on a busy machine.
    pub async fn status_of(&self, id: u64) -> NodeStatus {
        let admin = self.admin(id).await.unwrap_or_else(|error| panic!("node {id}: {error}"));
        admin.status().await.unwrap_or_else(|error| panic!("node {id}: {error}"))
    }

    /// How many watches the nodes have that answer.
    pub async fn watches(&self) -> u64 {
        let mut watches = 0;
        for id in self.ids() {
            watches += self.status(id).await.map_or(0, |status| status.watches);
        }
        watches
    }

    /// An operator's connection to a node.
    pub async fn admin(&self, id: u64) -> Result<Admin, coordd_client::Error> {
        Admin::connect(self.endpoint(id), OPERATE).await
    }

    /// Waits until all nodes that run, and are not paused, serve.
    pub async fn wait_serving(&mut self) {
        for id in self.ids() {
            if self.node(id).is_running() && !self.node(id).is_paused {
                self.wait_serving_on(id).await;
            }
        }
    }

    /// Waits until a node serves.
    pub async fn wait_serving_on(&mut self, id: u64) {
        let start = std::time::Instant::now();
        loop {
            let status = self.status(id).await;
            if status.as_ref().is_some_and(|status| status.not_serving.is_none()) {
                return;
            }
            if let Some(exit) = self.node_mut(id).exited() {
                panic!("node {id} has ended instead of serving: {exit}");
            }
            assert!(start.elapsed() < START, "node {id} does not serve: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the nodes that run agree on a leader among them; returns it.
    pub async fn leader(&self) -> u64 {
        let mut leader = 0;
        eventually(START, "a leader that all know", async || {
            let mut said = Vec::new();
            for id in self.ids() {
                if let Some(status) = self.status(id).await {
                    said.push((status.term, status.leader_id.unwrap_or(0), status.role == "leader"));
                }
            }
            leader = said.first().map_or(0, |(_, leader, _)| *leader);
            let agree = said.windows(2).all(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1));
            agree && leader != 0 && said.iter().filter(|(_, _, leads)| *leads).count() == 1
        })
        .await;
        leader
    }

    /// Some node that runs and does not lead.
    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        let follower = self.ids_but(leader).into_iter().find(|id| self.node(*id).is_running());
        follower.expect("an ensemble of several nodes")
    }

    /// Waits until all nodes that run have applied the same; fails if then their digests differ (G8). Returns the zxid.
    pub async fn wait_equal(&self) -> u64 {
        let mut states = Vec::new();
        eventually(START, "all nodes at the same zxid", async || {
            states.clear();
            for id in self.ids() {
                if self.node(id).is_running() {
                    states.push(self.status(id).await.map(|status| (status.zxid, status.digest)));
                }
            }
            states.iter().all(Option::is_some)
                && states.windows(2).all(|pair| pair[0].map(|state| state.0) == pair[1].map(|state| state.0))
        })
        .await;
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "same zxid, other trees: {states:x?}");
        states[0].map_or(0, |(zxid, _)| zxid)
    }

    /// A client of all nodes, with a session timeout.
    pub async fn client(&self, session_timeout: Duration) -> Client {
        self.client_of(&self.ids(), session_timeout).await
    }

    /// A client that knows these nodes only.
    pub async fn client_of(&self, ids: &[u64], session_timeout: Duration) -> Client {
        let endpoints: Vec<_> = ids.iter().map(|id| self.endpoint(*id)).collect();
        let options = ConnectOptions::new().session_timeout(session_timeout);
        options.connect(endpoints).await.expect("the ensemble takes a session")
    }

    /// Runs `coordctl` against these nodes; returns what it printed if it succeeded.
    pub async fn coordctl(&self, args: &[&str]) -> Result<String, String> {
        self.coordctl_at(&self.endpoints().join(","), args).await
    }

    /// The same with endpoints of the test's own.
    pub async fn coordctl_at(&self, endpoints: &str, args: &[&str]) -> Result<String, String> {
        let mut command = tokio::process::Command::new(crate::coordctl());
        command.env_remove("COORDCTL_AUTH").args(["--endpoints", endpoints]).args(args);
        let output = command.output().await.expect("coordctl starts");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for file in std::fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        let target = to.join(file.file_name());
        match file.path().is_dir() {
            true => copy_dir(&file.path(), &target),
            false => drop(std::fs::copy(file.path(), target).expect("a file")),
        }
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            node.kill9();
        }
        if std::thread::panicking() {
            for node in self.nodes.values() {
                let log = node.log_text();
                let lines: Vec<_> = log.lines().collect();
                eprintln!("--- the end of the log of node {}", node.id);
                for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
                    eprintln!("{line}");
                }
            }
        }
    }
}
