//! The nodes, as processes that are started, told and killed, and what the group says of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coordd_client::recipes::{AssignmentStatus, WorkAssignment};
use coordd_client::{Client, ErrorKind, ReadLevel};
use serde_json::Value;

use crate::{FLOWS, GROUP, ROOT, is_healthy, open_group};

/// A group that is not settled by then never is.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    client: Client,
    group: WorkAssignment,
    endpoints: String,
    nodes: BTreeMap<String, Child>,
    /// As it was printed last.
    moves: u64,
}

impl Cluster {
    /// A cluster without nodes, and its processors.
    pub(crate) async fn new(client: &Client, endpoints: &[String]) -> Result<Self, Box<dyn Error>> {
        let there = client.children(format!("{GROUP}/workers"), ReadLevel::Linearizable).await;
        let there = there.unwrap_or_default().join(" ");
        if !there.is_empty() {
            return Err(format!("the story deletes {ROOT}, and nodes work there: {there}").into());
        }
        // Of a run that was ended before it had tidied up.
        match client.delete_tree(ROOT, None).await {
            Err(error) if error.kind != ErrorKind::NoNode => return Err(error.into()),
            _ => {}
        }
        let (group, endpoints) = (open_group(client).await?, endpoints.join(","));
        Ok(Self { client: client.clone(), group, endpoints, nodes: BTreeMap::new(), moves: 0 })
    }

    pub(crate) fn group(&self) -> &WorkAssignment {
        &self.group
    }

    pub(crate) fn start(&mut self, name: &str, weight: f64) -> Result<(), Box<dyn Error>> {
        let child = Command::new(std::env::current_exe()?)
            .args(["node", name, "--weight", &weight.to_string(), "--endpoints", &self.endpoints])
            .stdin(Stdio::piped())
            .spawn()?;
        self.nodes.insert(name.to_owned(), child);
        Ok(())
    }

    pub(crate) fn tell(&mut self, name: &str, command: &str) -> Result<(), Box<dyn Error>> {
        println!("  > {name}: {command}");
        let node = self.nodes.get_mut(name).ok_or("no such node")?;
        writeln!(node.stdin.as_mut().ok_or("its input is closed")?, "{command}")?;
        Ok(())
    }

    /// Returns when the node has ended.
    pub(crate) fn leave(&mut self, name: &str) -> Result<(), Box<dyn Error>> {
        self.tell(name, "leave")?;
        self.wait(name)
    }

    fn wait(&mut self, name: &str) -> Result<(), Box<dyn Error>> {
        let mut node = self.nodes.remove(name).ok_or("no such node")?;
        let status = node.wait()?;
        if status.success() { Ok(()) } else { Err(format!("{name} has ended with {status}").into()) }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, name: &str) -> Result<(), Box<dyn Error>> {
        let mut node = self.nodes.remove(name).ok_or("no such node")?;
        node.kill()?;
        node.wait()?;
        Ok(())
    }

    pub(crate) async fn leader(&self) -> Result<String, Box<dyn Error>> {
        Ok(self.group.status().await?.leader.ok_or("nobody leads")?)
    }

    /// Waits until every processor runs where it is assigned, and prints the distribution.
    pub(crate) async fn settle(&mut self) -> Result<(), Box<dyn Error>> {
        self.settle_when(|_| true).await
    }

    /// The same, and until the scores are within a fifth of their average: which the group does by itself.
    pub(crate) async fn settle_evenly(&mut self) -> Result<(), Box<dyn Error>> {
        self.settle_when(is_even).await
    }

    /// The same, and until a node has processors, or has none.
    pub(crate) async fn settle_evenly_with(
        &mut self,
        name: &str,
        is_busy: bool,
    ) -> Result<(), Box<dyn Error>> {
        self.settle_when(|status| {
            let share = status.distribution.workers.iter().find(|share| share.id == name);
            is_even(status) && share.is_some_and(|share| (share.items > 0) == is_busy)
        })
        .await
    }

    async fn settle_when(
        &mut self,
        condition: impl Fn(&AssignmentStatus) -> bool,
    ) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        loop {
            let status = self.group.status().await?;
            let there: Vec<_> = status.distribution.workers.iter().map(|share| &share.id).collect();
            let is_settled = status.leader.is_some() && status.is_settled();
            if is_settled && there.iter().copied().eq(self.nodes.keys()) && condition(&status) {
                self.print(&status, start.elapsed());
                self.moves = status.moves;
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("not settled within {PATIENCE:?}: {status:#?}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn print(&self, status: &AssignmentStatus, after: Duration) {
        let mut processors: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, item) in &status.items {
            let owner = item.owner.as_ref().map_or("nobody", |owner| &owner.worker);
            processors.entry(owner).or_default().push(id);
        }
        println!("  {:<8}{:>6}{:>12}{:>8}  which", "NODE", "WEIGHT", "PROCESSORS", "SCORE");
        for share in &status.distribution.workers {
            let which = processors.get(share.id.as_str()).map_or(String::new(), |which| which.join(" "));
            println!("  {:<8}{:>6}{:>12}{:>8.2}  {which}", share.id, share.weight, share.items, share.score);
        }
        let nodes = &status.distribution.workers;
        println!(
            "  average load {:.2}, load range {:.2}; healthy nodes {} of {}; {} leads; {} moves; settled after {after:.1?}",
            status.distribution.average_score,
            status.distribution.score_range,
            nodes.iter().filter(|node| is_healthy(node)).count(),
            nodes.len(),
            status.leader.as_deref().unwrap_or("nobody"),
            status.moves - self.moves,
        );
    }

    /// All nodes leave.
    pub(crate) fn stop(&mut self) -> Result<(), Box<dyn Error>> {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        names.iter().try_for_each(|name| self.tell(name, "leave"))?;
        names.iter().try_for_each(|name| self.wait(name))
    }

    /// Each accepted batch has made the version of its processor's znode one more: if the numbers agree, none was lost, and none
    /// was done by two.
    pub(crate) async fn account(&self) -> Result<String, Box<dyn Error>> {
        let (mut batches, mut owners) = (0, 0);
        for id in self.client.children(FLOWS, ReadLevel::Linearizable).await? {
            let (data, stat) = self.client.get(format!("{FLOWS}/{id}"), ReadLevel::Local).await?;
            let done: Value = serde_json::from_slice(&data)?;
            if done["batches"].as_i64() != Some(stat.version.into()) {
                return Err(
                    format!("{id} was written by two at a time: {done}, version {}", stat.version).into()
                );
            }
            batches += stat.version;
            owners += done["owners"].as_u64().unwrap_or(0);
        }
        Ok(format!("  {batches} batches by {owners} owners, one after the other, and none twice"))
    }
}

fn is_even(status: &AssignmentStatus) -> bool {
    status.distribution.score_range <= 0.2 * status.distribution.average_score
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            // It may have ended by itself.
            let _ = node.kill();
        }
    }
}
