//! Measures the log: appends per second, latency, the WAL thread's processor time; also while a snapshot is written.

use std::path::Path;
use std::time::{Duration, Instant};

use coordd_raft::TypeConfig;
use coordd_raft::storage::{LogStore, SnapshotStore};
use coordd_raft::types::{SnapshotMeta, StoredMembership};
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

use super::{Result, entry};

/// Entries are purged behind this many, as a node with snapshots does.
const ENTRIES_KEPT: u64 = 20_000;
const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// `clients` appends of one entry of `bytes` are kept under way for `seconds`.
pub(crate) async fn run(
    mut log: LogStore,
    dir: &str,
    clients: usize,
    bytes: usize,
    seconds: u64,
    snapshot_mib: usize,
) -> Result<()> {
    let data = entry(1, 0, bytes);
    let (done_tx, mut done_rx) = tokio::sync::mpsc::unbounded_channel();
    let mut next = log.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
    let first = next;
    let mut latencies_us: Vec<u64> = Vec::new();
    let before = log.stats();
    let cpu_before = thread_cpu()?;
    let start = Instant::now();
    let deadline = start + Duration::from_secs(seconds);
    let snapshot = (snapshot_mib > 0).then(|| {
        let dir = Path::new(dir).join("snapshots");
        std::thread::spawn(move || write_snapshot(&dir, snapshot_mib).map_err(|e| e.to_string()))
    });
    let mut under_way = 0;
    loop {
        let running =
            Instant::now() < deadline || snapshot.as_ref().is_some_and(|thread| !thread.is_finished());
        while running && under_way < clients {
            let mut one = data.clone();
            one.log_id.index = next;
            let log_id = one.log_id;
            next += 1;
            under_way += 1;
            let begin = Instant::now();
            let (durable, wait) = TypeConfig::oneshot();
            log.append([one], IOFlushed::signal(durable)).await?;
            let done_tx = done_tx.clone();
            tokio::spawn(async move {
                let result = wait.await;
                let _ = done_tx.send((begin.elapsed(), result.is_ok_and(|durable| durable.is_ok())));
            });
            if log_id.index.is_multiple_of(1000) && log_id.index > first + ENTRIES_KEPT {
                let mut upto = log_id;
                upto.index -= ENTRIES_KEPT;
                log.purge(upto).await?;
            }
        }
        if under_way == 0 {
            break;
        }
        let (latency, ok) = done_rx.recv().await.ok_or("no more results")?;
        if !ok {
            return Err("an append failed".into());
        }
        latencies_us.push(latency.as_micros() as u64);
        under_way -= 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = thread_cpu()?.into_iter().map(|(name, us)| {
        let earlier = cpu_before.iter().find(|(other, _)| *other == name).map_or(0, |(_, us)| *us);
        (name, us - earlier)
    });
    let after = log.stats();
    let groups = after.groups - before.groups;
    let per_group = |us: u64| us as f64 / groups as f64;
    latencies_us.sort_unstable();
    let percentile = |p: f64| latencies_us[((latencies_us.len() - 1) as f64 * p) as usize];
    println!("appends/s        {:.0}", latencies_us.len() as f64 / elapsed);
    println!("groups/s         {:.0}", groups as f64 / elapsed);
    println!("entries/group    {:.1}", (after.entries - before.entries) as f64 / groups as f64);
    println!("record MB/s      {:.1}", (after.bytes - before.bytes) as f64 / elapsed / 1e6);
    println!(
        "us/group         encode {:.0}, write {:.0}, sync {:.0}",
        per_group(after.encode_us - before.encode_us),
        per_group(after.write_us - before.write_us),
        per_group(after.sync_us - before.sync_us)
    );
    println!("longest commit   {} us", after.commit_us_max);
    println!(
        "latency us       p50 {} p99 {} p99.9 {} max {}",
        percentile(0.5),
        percentile(0.99),
        percentile(0.999),
        percentile(1.0)
    );
    for (name, us) in cpu.filter(|(_, us)| *us > 0) {
        println!("cpu us/group     {name}: {:.1}", per_group(us));
    }
    if let Some(snapshot) = snapshot {
        println!("{}", snapshot.join().map_err(|_| "the snapshot's thread panicked")??);
    }
    println!("log on disk      {} MiB", directory_bytes(&Path::new(dir).join("wal"))? >> 20);
    log.close();
    Ok(())
}

fn directory_bytes(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        let metadata = file.metadata()?;
        bytes += if metadata.is_dir() { directory_bytes(&file.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn write_snapshot(dir: &Path, mib: usize) -> std::io::Result<String> {
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let snapshots = SnapshotStore::open(dir)?;
    let meta = SnapshotMeta { last_log_id: None, last_membership: StoredMembership::default() };
    let mut writer = snapshots.writer(&meta)?;
    let chunk = super::payload(9, 9, SNAPSHOT_CHUNK_BYTES);
    for _ in 0..mib {
        writer.write_chunk(&chunk)?;
    }
    let file = writer.finish()?;
    Ok(format!("snapshot         {} MiB in {} ms", file.bytes >> 20, start.elapsed().as_millis()))
}

/// Processor time of this process's threads, by name, in microseconds.
fn thread_cpu() -> Result<Vec<(String, u64)>> {
    let mut times: Vec<(String, u64)> = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?.trim().to_owned();
        let stat = std::fs::read_to_string(task.join("schedstat"))?;
        let us = stat.split(' ').next().unwrap_or_default().parse::<u64>()? / 1000;
        match times.iter_mut().find(|(other, _)| *other == name) {
            Some((_, sum)) => *sum += us,
            None => times.push((name, us)),
        }
    }
    Ok(times)
}
