//! Losses of power, as far as a real ensemble can have them: the last record of a log is gone or torn after a kill -9. What
//! `power-loss.sh` does to one store in every way is done here to nodes that have clients.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use rand::Rng as _;

use super::disks::{slow_down, start_damaged};
use super::{OFTEN, Scenario};
use crate::network::HostId;
use crate::stage::Stage;

const SECTOR_BYTES: u64 = 512;
const ACKNOWLEDGED: &str = "acknowledged records torn";
/// As many of five nodes may refuse to start.
const LOST_MAX: usize = 2;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        nodes: 5,
        nodes_may_end: true,
        options: OFTEN,
        ..Scenario::new(
            "torn-writes",
            "what was being written to the logs when all nodes were killed is torn or gone; so is what one node had acknowledged",
            &["records torn", "records lost", ACKNOWLEDGED, "answers from the record"],
            |stage| torn_writes(stage).boxed(),
        )
    }]
}

async fn torn_writes(stage: &mut Stage) -> anyhow::Result<()> {
    let lost = stage.ensemble.nodes.values().filter(|node| node.is_lost).count();
    let is_first = stage.coverage.count(ACKNOWLEDGED) == 0;
    if lost < LOST_MAX && (is_first || stage.rng.random_bool(0.3)) {
        tear_acknowledged(stage).await
    } else {
        tear_unacknowledged(stage).await
    }
}

/// Nobody was told of what waited for the disk: all nodes come back without it, and nothing that anybody was told is missing.
async fn tear_unacknowledged(stage: &mut Stage) -> anyhow::Result<()> {
    let ids = stage.ensemble.running();
    let mut before = Vec::new();
    for id in &ids {
        before.push(last_record(stage, *id)?.map_or(0, |record| record.seq));
    }
    let delay = Duration::from_millis(stage.rng.random_range(20..200));
    let tracers = slow_down(stage, &ids, delay)?;
    stage.rest(800, 2000).await;
    stage.kill_all()?;
    drop(tracers);
    for (id, before) in ids.iter().zip(before) {
        let Some(record) = last_record(stage, *id)? else { continue };
        // What was there before may be older than the process, which took it for acknowledged when it read it.
        if record.seq > before.max(acknowledged_seq(stage, *id)?) {
            tear(stage, *id, &record)?;
        }
    }
    stage.rest(0, 500).await;
    for id in ids {
        stage.start(id)?;
    }
    stage.ensemble.wait_serving().await?;
    stage.rest(500, 1500).await;
    Ok(())
}

/// A disk that has lost what it had said was durable: its node must not take part any more.
async fn tear_acknowledged(stage: &mut Stage) -> anyhow::Result<()> {
    stage.rest(200, 800).await;
    let id = stage.random_node();
    stage.kill(id)?;
    let record = last_record(stage, id)?;
    let Some(record) = record.filter(|record| {
        // One that was being written is for the other way.
        acknowledged_seq(stage, id).is_ok_and(|acknowledged| record.seq <= acknowledged)
    }) else {
        stage.start(id)?;
        return stage.ensemble.wait_serving().await;
    };
    tear(stage, id, &record)?;
    stage.coverage.add(ACKNOWLEDGED, 1);
    let refused = start_damaged(stage, id).await?;
    ensure!(refused, "node {id} serves without record {} of its log, which it had acknowledged", record.seq);
    Ok(())
}

/// A record of a journal; the layout is in `journal_file.rs` of coordd-raft.
struct LastRecord {
    file: PathBuf,
    seq: u64,
    sectors: Range<u64>,
}

fn wal_dir(stage: &Stage, id: HostId) -> PathBuf {
    stage.ensemble.nodes[&id].data_dir.join("wal")
}

/// The newest record that the log of a node has, durable or not.
fn last_record(stage: &Stage, id: HostId) -> anyhow::Result<Option<LastRecord>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(wal_dir(stage, id))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("journal-") {
            files.push(entry.path());
        }
    }
    // The names have the numbers of their first records, with leading zeros.
    match files.into_iter().max() {
        Some(file) => last_record_of(&file),
        None => Ok(None),
    }
}

fn last_record_of(file: &Path) -> anyhow::Result<Option<LastRecord>> {
    let bytes = std::fs::read(file)?;
    ensure!(bytes.get(..4) == Some(b"cJNF"), "{}: no file of a journal", file.display());
    let mark = &bytes[12..16];
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let mut last: Option<LastRecord> = None;
    for (sector, frame) in (0..).zip(bytes.chunks_exact(SECTOR_BYTES as usize)).skip(1) {
        if frame[..4] != *mark {
            continue;
        }
        let at = usize::try_from(sector * SECTOR_BYTES)?;
        let seq = number(at + 8);
        let length = u64::from(u32::from_le_bytes(frame[16..20].try_into().expect("4 bytes")));
        if last.as_ref().is_none_or(|last| last.seq < seq) {
            let sectors = sector..sector + (20 + length).div_ceil(SECTOR_BYTES);
            last = Some(LastRecord { file: file.to_owned(), seq, sectors });
        }
    }
    Ok(last)
}

/// Up to where a node may have told others that its log is durable: the watermark beside the log, which is written before that.
fn acknowledged_seq(stage: &Stage, id: HostId) -> anyhow::Result<u64> {
    let path = wal_dir(stage, id).join("watermark");
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let slots = [0, SECTOR_BYTES as usize].map(|at| bytes.get(at..at + 8));
    let seqs = slots.into_iter().flatten().map(|slot| u64::from_le_bytes(slot.try_into().expect("8 bytes")));
    Ok(seqs.max().unwrap_or(0))
}

/// Some of the record's sectors, or all, are not as they were written.
fn tear(stage: &mut Stage, id: HostId, record: &LastRecord) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(&record.file)?;
    let all = record.sectors.clone().count();
    let mut lost: Vec<u64> = record.sectors.clone().filter(|_| stage.rng.random_bool(0.5)).collect();
    if lost.is_empty() {
        lost.extend(record.sectors.clone().last());
    }
    for sector in &lost {
        let mut bytes = [0; SECTOR_BYTES as usize];
        file.read_exact_at(&mut bytes, sector * SECTOR_BYTES)?;
        // What was there before is not known; it was something else.
        file.write_all_at(&bytes.map(|byte| !byte), sector * SECTOR_BYTES)?;
    }
    let what = if lost.len() == all { "records lost" } else { "records torn" };
    stage.say(format!("{} of {all} sectors of record {} of node {id} are gone", lost.len(), record.seq));
    stage.coverage.add(what, 1);
    Ok(())
}
