//! Losses of power, as far as a real ensemble can have them: the last record of a log is gone or torn after a kill -9. What
//! `power-loss.sh` does to one store in every way is done here to nodes that have clients.

use std::path::{Path, PathBuf};

use anyhow::bail;
use futures::FutureExt as _;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::damage::{Damage, REFUSED, start_damaged};
use super::disks::kill_all_with_slow_disks;
use super::{OFTEN, Scenario};
use crate::journal::{self, Frame, SECTOR_BYTES};
use crate::network::HostId;
use crate::stage::Stage;

const TORN: &str = "records torn";
const LOST: &str = "records lost";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        options: OFTEN,
        ..Scenario::new(
            "torn-writes",
            "what was being written to the logs when all nodes were killed is torn or gone; so is what one node had acknowledged",
            &[TORN, LOST, REFUSED, "answers from the record"],
            |stage| torn_writes(stage).boxed(),
        )
    }]
}

async fn torn_writes(stage: &mut Stage) -> anyhow::Result<()> {
    let is_first = stage.coverage.count(REFUSED) == 0;
    match is_first || stage.rng.random_bool(0.3) {
        true => tear_acknowledged(stage).await,
        false => tear_unacknowledged(stage).await,
    }
}

/// Nobody was told of what waited for the disk: all nodes come back without it, and nothing that anybody was told is missing.
async fn tear_unacknowledged(stage: &mut Stage) -> anyhow::Result<()> {
    let mut before = Vec::new();
    for id in stage.ensemble.ids() {
        let newest = journal::frames(&journal::newest_file(&wal_dir(stage, id))?)?.pop();
        before.push((id, newest.map_or(0, |frame| frame.seq)));
    }
    kill_all_with_slow_disks(stage, move |stage| {
        for (id, before) in before {
            let dir = wal_dir(stage, id);
            let file = journal::newest_file(&dir)?;
            let Some(last) = journal::frames(&file)?.pop() else { continue };
            // What was there before may be older than the process, which took it for acknowledged when it read it.
            if last.seq > before.max(journal::acknowledged_seq(&dir)?) {
                tear(stage, id, &file, &[last])?;
            }
        }
        Ok(())
    })
    .await
}

/// A disk that has lost what it had said was durable: its node must not take part.
async fn tear_acknowledged(stage: &mut Stage) -> anyhow::Result<()> {
    stage.rest(200, 800).await;
    let id = stage.random_node();
    stage.kill(id)?;
    let dir = wal_dir(stage, id);
    let (file, acknowledged) = (journal::newest_file(&dir)?, journal::acknowledged_seq(&dir)?);
    let frames = journal::frames(&file)?;
    // None if the file was begun just now.
    let Some(newest) = frames.iter().rposition(|frame| frame.seq <= acknowledged) else {
        return stage.start(id);
    };
    let record = format!("record {} of the log", frames[newest].seq);
    let damage = tear(stage, id, &file, &frames[newest..])?;
    start_damaged(stage, id, damage, &[&record, "is lost"]).await
}

pub(super) fn wal_dir(stage: &Stage, id: HostId) -> PathBuf {
    stage.ensemble.nodes[&id].data_dir.join("wal")
}

/// Some sectors of the first of these records, or all, are not as they were written; nothing is left of the others.
fn tear(stage: &mut Stage, id: HostId, file: &Path, frames: &[Frame]) -> anyhow::Result<Damage> {
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else { bail!("no record to be torn") };
    let sectors = (first.bytes.end - first.bytes.start).div_ceil(SECTOR_BYTES) as usize;
    let lost = lost_sectors(&mut stage.rng, sectors);
    stage.say(format!("{} of {sectors} sectors of record {} of node {id} are gone", lost.len(), first.seq));
    stage.coverage.add(if lost.len() == sectors { LOST } else { TORN }, 1);
    Damage::make(file, first.bytes.start..last.bytes.end.next_multiple_of(SECTOR_BYTES), |bytes| {
        for (number, sector) in bytes.chunks_mut(SECTOR_BYTES as usize).enumerate() {
            if number >= sectors || lost.contains(&number) {
                // What was there before is not known; it was something else.
                sector.iter_mut().for_each(|byte| *byte = !*byte);
            }
        }
    })
}

/// First the kind, because a random set of many sectors is next to never all of them or one end of them.
fn lost_sectors(rng: &mut StdRng, count: usize) -> Vec<usize> {
    match rng.random_range(0..4) {
        0 => (0..count).collect(),
        1 => vec![0],
        2 => vec![count - 1],
        _ => {
            let one = rng.random_range(0..count);
            (0..count).filter(|sector| *sector == one || rng.random_bool(0.5)).collect()
        }
    }
}
