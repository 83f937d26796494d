//! A process with a log, for tests that kill it, trace it or damage its files, and for measurements.
//!
//! ```text
//! wal_probe workload DIR SEED     append, vote, truncate and purge until killed; tells on stdout what is durable
//! wal_probe dump DIR              open the log and print all of it
//! wal_probe traced DIR COUNT      COUNT appends, one after another, with a line before and after each
//! wal_probe fail-at DIR SEQ       the engine fails at the record SEQ
//! wal_probe bench DIR CLIENTS BYTES SECONDS [SNAPSHOT_MIB]
//! ```

#[path = "wal_probe/bench.rs"]
mod bench;
#[path = "wal_probe/workload.rs"]
mod workload;

use std::io;
use std::path::Path;

use coordd_raft::storage::{
    CommitTimes, DataDir, LogOptions, LogOwner, LogStore, SledWal, Wal, WalError, WalSizes,
};
use coordd_raft::types::{Entry, EntryPayload, LeaderId, LogId};
use coordd_raft::{Payload, TypeConfig};
use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const NODE_ID: u64 = 1;
const USAGE: &str = "usage: wal_probe workload|dump|traced|fail-at|bench DIR ...";

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["workload", dir, seed] => workload::run(open(dir)?, seed.parse()?).await,
        ["dump", dir] => dump(open(dir)?).await,
        ["traced", dir, count] => traced(open(dir)?, count.parse()?).await,
        ["fail-at", dir, seq] => fail_at(Path::new(dir), seq.parse()?).await,
        ["bench", dir, clients, bytes, seconds] => {
            bench::run(open(dir)?, dir, clients.parse()?, bytes.parse()?, seconds.parse()?, 0).await
        }
        ["bench", dir, clients, bytes, seconds, snapshot] => {
            bench::run(open(dir)?, dir, clients.parse()?, bytes.parse()?, seconds.parse()?, snapshot.parse()?)
                .await
        }
        _ => Err(USAGE.into()),
    }
}

fn open(dir: &str) -> Result<LogStore> {
    // The lock must live as long as the process, and the process ends with it.
    let dir = Box::leak(Box::new(DataDir::open(dir, NODE_ID)?));
    Ok(LogStore::open(dir, LogOptions::default())?)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let log_id = LogId { leader_id: LeaderId { term, node_id: NODE_ID }, index };
    Entry { log_id, payload: EntryPayload::Normal(Payload(payload(term, index, bytes).into())) }
}

/// Bytes that can be told from those of any other entry.
fn payload(term: u64, index: u64, bytes: usize) -> Vec<u8> {
    let mut seed = term.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index;
    std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    })
    .take(bytes)
    .collect()
}

/// Appends and waits for the callback.
async fn append(log: &mut LogStore, entries: Vec<Entry>) -> Result<()> {
    let (durable, wait) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(durable)).await?;
    Ok(wait.await??)
}

async fn dump(mut log: LogStore) -> Result<()> {
    let state = log.get_log_state().await?;
    println!("vote {:?}", log.read_vote().await?);
    println!("committed {:?}", log.read_committed().await?);
    println!("purged {:?} last {:?}", state.last_purged_log_id, state.last_log_id);
    for entry in log.try_get_log_entries(..).await? {
        let EntryPayload::Normal(data) = &entry.payload else { continue };
        println!("{} {:08x}", entry.log_id, crc32c::crc32c(&data.0));
    }
    log.close();
    Ok(())
}

async fn traced(mut log: LogStore, count: u64) -> Result<()> {
    let start = log.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
    for index in start..start + count {
        println!("begin {index}");
        append(&mut log, vec![entry(1, index, 1000)]).await?;
        println!("durable {index}");
    }
    println!("end");
    Ok(())
}

/// An engine whose disk fails.
struct FailingWal {
    inner: SledWal,
    fail_at: u64,
}

impl Wal for FailingWal {
    fn bounds(&self) -> std::result::Result<Option<(u64, u64)>, WalError> {
        self.inner.bounds()
    }
    fn read(&self, seq: u64) -> std::result::Result<Option<Vec<u8>>, WalError> {
        self.inner.read(seq)
    }
    fn acknowledged_seq(&self) -> u64 {
        self.inner.acknowledged_seq()
    }
    fn commit(&self, seq: u64, record: &[u8]) -> std::result::Result<CommitTimes, WalError> {
        if seq == self.fail_at {
            return Err(WalError { what: "fdatasync", source: io::Error::from_raw_os_error(5) });
        }
        self.inner.commit(seq, record)
    }
    fn remove_prefix(&self, through: u64, max: usize) -> std::result::Result<bool, WalError> {
        self.inner.remove_prefix(through, max)
    }
    fn remove_suffix(&self, from: u64) -> std::result::Result<(), WalError> {
        self.inner.remove_suffix(from)
    }
    fn close(&self) -> std::result::Result<(), WalError> {
        self.inner.close()
    }
}

async fn fail_at(dir: &Path, fail_at: u64) -> Result<()> {
    let wal = FailingWal { inner: SledWal::open(dir, WalSizes::default())?, fail_at };
    let owner = LogOwner { node_id: NODE_ID, cluster_id: String::new() };
    let mut log = LogStore::with_wal(Box::new(wal), owner, LogOptions::default())?;
    for index in 0.. {
        append(&mut log, vec![entry(1, index, 10)]).await?;
        println!("durable {index}");
    }
    Ok(())
}
