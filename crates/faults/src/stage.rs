//! What a scenario can do to an ensemble and its clients. Everything is written to the history.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rustix::process::Signal;

use crate::client_process::ClientProcesses;
use crate::coverage::Coverage;
use crate::ensemble::{Ensemble, PATIENCE};
use crate::history::{Fault, What, Writer};
use crate::network::{HostId, Link, Switch};
use crate::volume::Volume;

/// The name under which faults stand in the history.
pub(crate) const FAULTS: &str = "faults";

/// See the module.
pub(crate) struct Stage {
    pub(crate) switch: Switch,
    pub(crate) ensemble: Ensemble,
    pub(crate) clients: ClientProcesses,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) rng: StdRng,
    pub(crate) coverage: Coverage,
    pub(crate) writer: Arc<Writer>,
    pub(crate) session_timeout: Duration,
    /// The build that the nodes are to have in the end.
    pub(crate) coordd: PathBuf,
    /// Resident bytes of the nodes before the first attack, in a scenario that attacks them.
    pub(crate) memory_before: Option<BTreeMap<HostId, u64>>,
    /// Until when there are faults.
    pub(crate) deadline: Instant,
}

impl Stage {
    /// Writes down a fault.
    pub(crate) fn say(&self, text: impl Into<String>) {
        self.say_of_clients(text, vec![], vec![]);
    }

    fn say_of_clients(&self, text: impl Into<String>, silenced: Vec<u32>, heard: Vec<u32>) {
        self.writer.write(FAULTS, What::Fault(Fault { text: text.into(), silenced, heard }));
    }

    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.deadline
    }

    /// The small disk of a node, in a scenario that has them.
    pub(crate) fn volume(&self, id: HostId) -> &Volume {
        &self.volumes[usize::from(id) - 1]
    }

    /// A random time between two.
    pub(crate) async fn rest(&mut self, from_ms: u64, to_ms: u64) {
        let time = Duration::from_millis(self.rng.random_range(from_ms..=to_ms));
        tokio::time::sleep(time).await;
    }

    pub(crate) fn random_node(&mut self) -> HostId {
        let lost = self.ensemble.lost();
        let ids: Vec<_> = self.ensemble.ids().into_iter().filter(|id| !lost.contains(id)).collect();
        ids.choose(&mut self.rng).copied().unwrap_or(1)
    }

    /// The leader and one of the others, at random.
    pub(crate) async fn leader_and_follower(&mut self) -> anyhow::Result<(HostId, HostId)> {
        let leader = self.ensemble.leader().await?;
        let others: Vec<_> = self.ensemble.running().into_iter().filter(|id| *id != leader).collect();
        match others.choose(&mut self.rng) {
            Some(follower) => Ok((leader, *follower)),
            None => bail!("no node runs but the leader"),
        }
    }

    /// Two of the nodes, at random; the leader among them if `with_leader`.
    pub(crate) async fn two_nodes(&mut self, with_leader: bool) -> anyhow::Result<(HostId, Vec<HostId>)> {
        let leader = self.ensemble.leader().await?;
        let mut ids = self.ensemble.ids();
        ids.shuffle(&mut self.rng);
        if with_leader {
            ids.sort_by_key(|id| *id != leader);
        }
        ids.truncate(2);
        Ok((leader, ids))
    }

    pub(crate) fn kill(&mut self, id: HostId) -> anyhow::Result<()> {
        self.kill_together(&[id])
    }

    pub(crate) fn kill_all(&mut self) -> anyhow::Result<()> {
        self.kill_together(&self.ensemble.ids())
    }

    /// At the same moment.
    pub(crate) fn kill_together(&mut self, ids: &[HostId]) -> anyhow::Result<()> {
        self.say(format!("kill -9 of nodes {ids:?}"));
        let running = self.ensemble.running();
        self.coverage.add("nodes killed", ids.iter().filter(|id| running.contains(id)).count() as u64);
        self.ensemble.kill(ids)
    }

    pub(crate) fn start(&mut self, id: HostId) -> anyhow::Result<()> {
        self.say(format!("start of node {id}"));
        self.ensemble.start_node(id)
    }

    pub(crate) fn pause(&mut self, id: HostId) -> anyhow::Result<()> {
        self.say(format!("SIGSTOP to node {id}"));
        self.coverage.add("nodes stopped", 1);
        self.ensemble.signal(id, Signal::STOP)
    }

    pub(crate) fn resume(&mut self, id: HostId) -> anyhow::Result<()> {
        self.say(format!("SIGCONT to node {id}"));
        self.ensemble.signal(id, Signal::CONT)
    }

    /// Whether one of these nodes writes a snapshot, its own or one that it gets.
    pub(crate) fn writes_snapshot(&self, ids: &[HostId]) -> anyhow::Result<bool> {
        for id in ids {
            if self.ensemble.writes_snapshot(*id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for that, or until the time is over.
    pub(crate) async fn wait_snapshot(&mut self, ids: &[HostId], time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.writes_snapshot(ids)? && start.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Nothing crosses between the two groups of nodes.
    pub(crate) fn cut(&mut self, these: &[HostId], those: &[HostId]) {
        self.say(format!("nodes {these:?} are cut off from {those:?}"));
        self.coverage.add("partitions", 1);
        for (one, other) in these.iter().flat_map(|one| those.iter().map(move |other| (*one, *other))) {
            self.switch.set(one, other, Link::cut());
            self.switch.set(other, one, Link::cut());
        }
    }

    /// Nothing comes from one node to the other.
    pub(crate) fn cut_one_way(&mut self, from: HostId, to: HostId) {
        self.say(format!("nothing comes from node {from} to node {to}"));
        self.coverage.add("partitions", 1);
        self.switch.set(from, to, Link::cut());
    }

    /// All links between nodes, and between nodes and clients, are like this.
    pub(crate) fn weaken(&mut self, link: Link) {
        self.say(format!("all links are {link:?}"));
        self.coverage.add("weak networks", 1);
        let nodes = self.ensemble.ids();
        let clients: Vec<_> = self.clients.places().map(|place| self.clients.host(place)).collect();
        for one in &nodes {
            for other in nodes.iter().chain(&clients) {
                self.switch.set(*one, *other, link);
                self.switch.set(*other, *one, link);
            }
        }
    }

    /// All links are perfect.
    pub(crate) fn heal_network(&mut self) {
        self.say("the network is healed");
        self.switch.heal();
    }

    /// Waits until another node leads, in a higher term, while the old leader is where it cannot hear of it.
    pub(crate) async fn wait_successor(&mut self, old: HostId) -> anyhow::Result<HostId> {
        let start = Instant::now();
        loop {
            match self.ensemble.leader_now().await {
                // In a term that nobody has led before: who led an earlier one may not know yet that it is over.
                Some((term, leader)) if leader != old && term > self.ensemble.last_term() => {
                    self.say(format!("node {leader} leads after {:?}", start.elapsed()));
                    self.coverage.add("leaders elected by a majority", 1);
                    return Ok(leader);
                }
                _ if start.elapsed() > PATIENCE => bail!("no other leader than {old} within {PATIENCE:?}"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits until a leader that was cut off with a minority is replaced. It may have been replaced before the cut: then there is
    /// nothing to wait for, and the cut was another one.
    pub(crate) async fn wait_replaced(&mut self, leader: HostId) -> anyhow::Result<()> {
        let status = self.ensemble.status(leader).await;
        let term = self.ensemble.last_term();
        if status.is_some_and(|status| status.role == "leader" && status.term == term) {
            self.coverage.add("leaders in a minority", 1);
            self.wait_successor(leader).await?;
        }
        Ok(())
    }

    /// SIGSTOP to a process of clients.
    pub(crate) fn pause_clients(&mut self, place: usize) -> anyhow::Result<()> {
        let number = self.clients.number(place);
        self.say_of_clients(format!("SIGSTOP to clients {number}"), vec![number], vec![]);
        self.coverage.add("clients stopped", 1);
        self.clients.signal(place, Signal::STOP)
    }

    /// SIGCONT.
    pub(crate) fn resume_clients(&mut self, place: usize) -> anyhow::Result<()> {
        let number = self.clients.number(place);
        self.clients.signal(place, Signal::CONT)?;
        self.say_of_clients(format!("SIGCONT to clients {number}"), vec![], vec![number]);
        Ok(())
    }

    /// kill -9 of a process of clients; another one takes its place.
    pub(crate) fn kill_clients(&mut self, place: usize) -> anyhow::Result<()> {
        let number = self.clients.number(place);
        self.say_of_clients(format!("kill -9 of clients {number}"), vec![number], vec![]);
        self.coverage.add("clients killed", 1);
        self.clients.replace(place)
    }

    /// Clients do not reach these nodes.
    pub(crate) fn cut_off_clients(&mut self, place: usize, nodes: &[HostId]) {
        let (number, host) = (self.clients.number(place), self.clients.host(place));
        self.say_of_clients(
            format!("clients {number} are cut off from nodes {nodes:?}"),
            vec![number],
            vec![],
        );
        self.coverage.add("clients cut off", 1);
        for node in nodes {
            self.switch.set(*node, host, Link::cut());
            self.switch.set(host, *node, Link::cut());
        }
    }

    /// They do again.
    pub(crate) fn reconnect_clients(&mut self, place: usize) {
        let (number, host) = (self.clients.number(place), self.clients.host(place));
        for node in self.ensemble.ids() {
            self.switch.set(node, host, Link::default());
            self.switch.set(host, node, Link::default());
        }
        self.say_of_clients(format!("clients {number} are connected"), vec![], vec![number]);
    }

    /// Nothing is broken any more: waits until all nodes serve.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
        self.heal_network();
        for volume in &self.volumes {
            volume.make_room()?;
        }
        for id in self.ensemble.ids() {
            self.ensemble.signal(id, Signal::CONT)?;
            self.ensemble.start_node(id)?;
        }
        self.ensemble.wait_serving().await?;
        self.say("all nodes serve");
        Ok(())
    }
}
