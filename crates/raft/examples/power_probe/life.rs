//! Everything that a node does to its disk, at random, with a line on stdout before each step and one after what it
//! promises:
//!
//! ```text
//! opened STATE                   the store is open, and this is in it
//! step N append FIRST TERM BYTES...   N counts the steps that go to the log
//! step N vote TERM | truncate TERM.INDEX | purge TERM.INDEX | committed TERM.INDEX
//! acknowledged N                 all steps up to N were acknowledged as durable
//! cluster ID | clustered         the ensemble's name goes into the directory; it is there
//! snapshot TERM.INDEX | snapshotted TERM.INDEX   a snapshot is begun; it is there
//! ```
//!
//! Like Raft it votes for a term before it writes in it, truncates only to write in a new term, and purges no further
//! than the newest snapshot goes.

use std::collections::VecDeque;
use std::future::Future;
use std::io::Read as _;
use std::pin::Pin;

use coordd_raft::TypeConfig;
use coordd_raft::storage::{SnapshotFile, SnapshotStore, WalSizes};
use coordd_raft::types::LogId;
use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

use super::store::{Store, entry, format_log_id, log_id, meta, open, snapshot_chunk, snapshot_chunks, vote};
use super::{Result, tell};

/// More are purged as soon as a snapshot covers them.
const ENTRIES_KEPT: usize = 250;
const UNDER_WAY_MAX: usize = 6;

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A step, and what is to be waited for until it is acknowledged.
type UnderWay = (u64, Pin<Box<dyn Future<Output = Result<()>>>>);

struct Life {
    store: Store,
    random: Random,
    sizes: WalSizes,
    /// Where the "leader" keeps the snapshots that it sends; outside of the directory that loses power.
    leader_dir: std::path::PathBuf,
    ids: VecDeque<LogId>,
    next: u64,
    term: u64,
    steps: u64,
    acknowledged: u64,
    snapshot: Option<LogId>,
    under_way: VecDeque<UnderWay>,
}

pub(crate) async fn run(dir: &str, sizes: WalSizes, seed: u64, steps: u64, close: bool) -> Result<()> {
    let mut store = open(dir, sizes)?;
    tell(format_args!("opened {}", store.describe().await?));
    let leader_dir =
        std::path::Path::new(dir).ancestors().nth(3).ok_or("no place for the leader")?.join("leader");
    let ids: VecDeque<LogId> =
        store.log.try_get_log_entries(..).await?.iter().map(|entry| entry.log_id).collect();
    let next = store.log.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
    let term = store.log.read_vote().await?.map_or(0, |vote| vote.leader_id.term);
    let snapshot = store.snapshots.latest().and_then(|file| file.meta.last_log_id);
    let mut life = Life {
        store,
        random: Random(seed),
        sizes,
        leader_dir,
        ids,
        next,
        term,
        steps: 0,
        acknowledged: 0,
        snapshot,
        under_way: VecDeque::new(),
    };
    if steps > 0 {
        life.begin().await?;
    }
    for _ in 0..steps {
        life.step().await?;
    }
    match close {
        true => {
            life.wait(0).await?;
            life.store.log.close();
        }
        // As abrupt as it can be from within: the log's thread is in the middle of something.
        false => std::process::exit(0),
    }
    Ok(())
}

impl Life {
    /// What Raft does first: it closes the gap that a crash between a snapshot and its purge leaves, and has a term.
    async fn begin(&mut self) -> Result<()> {
        if self.store.dir.cluster_id().is_none() {
            tell(format_args!("cluster rig"));
            self.store.dir.set_cluster_id("rig")?;
            self.store.log.set_cluster_id("rig");
            tell(format_args!("clustered"));
        }
        let last = self.store.log.get_log_state().await?.last_log_id;
        if let Some(snapshot) = self.snapshot
            && Some(snapshot) > last
        {
            self.purge(snapshot).await?;
        }
        self.vote().await
    }

    fn announce(&mut self, step: &str) -> u64 {
        self.steps += 1;
        tell(format_args!("step {} {step}", self.steps));
        self.steps
    }

    async fn step(&mut self) -> Result<()> {
        match self.random.below(40) {
            0 => self.vote().await?,
            1 if self.ids.len() > 1 => {
                self.vote().await?;
                let gone = 1 + self.random.below((self.ids.len() as u64 - 1).min(5)) as usize;
                let keep = self.ids[self.ids.len() - 1 - gone];
                self.announce(&format!("truncate {}", format_log_id(Some(keep))));
                self.store.log.truncate_after(Some(keep)).await?;
                self.ids.retain(|id| id.index <= keep.index);
                self.next = keep.index + 1;
            }
            2 if !self.ids.is_empty() => {
                let committed = self.ids[self.random.below(self.ids.len() as u64) as usize];
                self.announce(&format!("committed {}", format_log_id(Some(committed))));
                self.store.log.save_committed(Some(committed)).await?;
            }
            3 if self.random.below(8) == 0 => self.install().await?,
            4 => {
                let wait = self.store.log.clone();
                self.under_way.push_back((self.steps, Box::pin(async move { Ok(wait.sync().await?) })));
            }
            _ if self.ids.len() > ENTRIES_KEPT => self.build().await?,
            _ => self.append().await?,
        }
        let leave = self.random.below(UNDER_WAY_MAX as u64) as usize;
        self.wait(leave).await
    }

    /// Waits until no more than `leave` of what was begun is under way.
    async fn wait(&mut self, leave: usize) -> Result<()> {
        while self.under_way.len() > leave {
            if let Some((step, done)) = self.under_way.pop_front() {
                done.await?;
                self.acknowledge(step);
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, step: u64) {
        if step > self.acknowledged {
            self.acknowledged = step;
            tell(format_args!("acknowledged {step}"));
        }
    }

    async fn vote(&mut self) -> Result<()> {
        self.term += 1;
        let step = self.announce(&format!("vote {}", self.term));
        self.store.log.save_vote(&vote(self.term)).await?;
        self.acknowledge(step);
        Ok(())
    }

    async fn append(&mut self) -> Result<()> {
        let count = 1 + self.random.below(6);
        // Mostly small, some of several chunks, and now and then one that is larger than a file of the journal.
        let bytes = match self.random.below(200) {
            0 => self.sizes.journal_bytes + self.random.below(self.sizes.chunk_bytes as u64 * 4),
            1..70 => self.sizes.chunk_bytes as u64 * (1 + self.random.below(4)) + self.random.below(1000),
            70..130 => self.random.below(self.sizes.chunk_bytes as u64),
            _ => self.random.below(400),
        };
        let count = if bytes > self.sizes.journal_bytes { 1 } else { count };
        let entries: Vec<_> =
            (self.next..self.next + count).map(|index| entry(self.term, index, bytes as usize)).collect();
        let sizes: Vec<String> = (0..count).map(|_| bytes.to_string()).collect();
        let step = self.announce(&format!("append {} {} {}", self.next, self.term, sizes.join(" ")));
        self.ids.extend(entries.iter().map(|entry| entry.log_id));
        self.next += count;
        let (durable, wait) = TypeConfig::oneshot();
        self.store.log.append(entries, IOFlushed::signal(durable)).await?;
        self.under_way.push_back((step, Box::pin(async move { Ok(wait.await??) })));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<()> {
        self.announce(&format!("purge {}", format_log_id(Some(upto))));
        self.store.log.purge(upto).await?;
        self.ids.retain(|id| id.index > upto.index);
        self.next = self.next.max(upto.index + 1);
        Ok(())
    }

    /// A snapshot of what this node has applied, and the purge that follows it.
    async fn build(&mut self) -> Result<()> {
        self.wait(0).await?;
        let at = self.ids.len() / 4 + self.random.below(self.ids.len() as u64 / 2) as usize;
        let id = self.ids[at];
        if self.snapshot < Some(id) {
            tell(format_args!("snapshot {}", format_log_id(Some(id))));
            let file = write_snapshot(&self.store.snapshots, id)?;
            self.done(id, &file)?;
        }
        let behind = self.random.below(at as u64 + 1) as usize;
        self.purge(self.ids[at - behind.min(20)]).await
    }

    /// A snapshot from a leader that is ahead, and the purge of the whole log that follows it.
    async fn install(&mut self) -> Result<()> {
        self.vote().await?;
        let id = log_id(self.term, self.next + 20);
        let leader = SnapshotStore::open(&self.leader_dir)?;
        let file = write_snapshot(&leader, id)?;
        tell(format_args!("snapshot {}", format_log_id(Some(id))));
        let mut receiver = self.store.snapshots.receive(&meta(id), file.bytes)?;
        let mut bytes = Vec::new();
        file.open_raw()?.read_to_end(&mut bytes)?;
        for part in bytes.chunks(30_000) {
            receiver.write(part)?;
        }
        let received = receiver.finish()?;
        std::fs::remove_dir_all(&self.leader_dir)?;
        self.done(id, &received)?;
        self.purge(id).await
    }

    fn done(&mut self, id: LogId, file: &SnapshotFile) -> Result<()> {
        self.store.snapshots.keep_only(file)?;
        self.snapshot = Some(id);
        tell(format_args!("snapshotted {}", format_log_id(Some(id))));
        Ok(())
    }
}

fn write_snapshot(store: &SnapshotStore, id: LogId) -> Result<SnapshotFile> {
    let mut writer = store.writer(&meta(id))?;
    for number in 0..snapshot_chunks(id) {
        writer.write_chunk(&snapshot_chunk(id, number))?;
    }
    Ok(writer.finish()?)
}
