//! Everything that Raft does to a log, at random, with one line on stdout for each promise made:
//!
//! ```text
//! found FIRST LAST TERM    so many entries of this term, one line per run of them
//! ready VOTE_TERM          all that was found has the content it was written with
//! durable FIRST LAST TERM  these entries were acknowledged
//! voted TERM               this vote was acknowledged
//! truncating FIRST         entries from here on are about to go
//! purging LAST             entries up to here are about to go
//! ```

use std::io::Write as _;

use coordd_raft::storage::LogStore;
use coordd_raft::types::{EntryPayload, LeaderId, LogId, Vote};
use openraft::RaftLogReader as _;
use openraft::storage::RaftLogStorage as _;

use super::{NODE_ID, Result, append, entry, payload};

const ENTRIES_KEPT: u64 = 300;

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn tell(line: std::fmt::Arguments<'_>) {
    // A line that the parent cannot take any more means that the parent is gone: then so is the reason to run.
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

pub(crate) async fn run(mut log: LogStore, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let mut term = check(&mut log).await?;
    let mut ids: Vec<LogId> = log.try_get_log_entries(..).await?.iter().map(|entry| entry.log_id).collect();
    let mut next = log.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
    loop {
        match random.below(20) {
            0 => {
                term += 1;
                let leader_id = LeaderId { term, node_id: NODE_ID };
                log.save_vote(&Vote { leader_id, committed: true }).await?;
                tell(format_args!("voted {term}"));
            }
            1 if ids.len() > 1 => {
                let keep = ids.len() - 1 - random.below((ids.len() as u64 - 1).min(5)) as usize;
                tell(format_args!("truncating {}", ids[keep - 1].index + 1));
                log.truncate_after(Some(ids[keep - 1])).await?;
                ids.truncate(keep);
                next = ids[keep - 1].index + 1;
            }
            2 if ids.len() as u64 > ENTRIES_KEPT => {
                let upto = ids[random.below(ids.len() as u64 / 2) as usize];
                tell(format_args!("purging {}", upto.index));
                log.purge(upto).await?;
                ids.retain(|id| id.index > upto.index);
            }
            3 => log.save_committed(ids.last().copied()).await?,
            _ => {
                let first = next;
                let count = 1 + random.below(8);
                // Mostly small, some of several chunks.
                let bytes = [10, 100, 1000, 70_000][random.below(4) as usize];
                let entries: Vec<_> = (first..first + count).map(|index| entry(term, index, bytes)).collect();
                ids.extend(entries.iter().map(|entry| entry.log_id));
                next = first + count;
                append(&mut log, entries).await?;
                tell(format_args!("durable {first} {} {term}", next - 1));
            }
        }
    }
}

/// Tells what was found, and checks that it is what was written. Returns the vote's term.
async fn check(log: &mut LogStore) -> Result<u64> {
    let entries = log.try_get_log_entries(..).await?;
    for entry in &entries {
        let EntryPayload::Normal(data) = &entry.payload else {
            return Err("an entry that was not written".into());
        };
        if *data.0 != payload(entry.log_id.leader_id.term, entry.log_id.index, data.0.len()) {
            return Err(format!("entry {} has other bytes than were written", entry.log_id).into());
        }
    }
    for run in entries.chunk_by(|a, b| a.log_id.leader_id == b.log_id.leader_id) {
        let (first, last) = (run[0].log_id, run[run.len() - 1].log_id);
        tell(format_args!("found {} {} {}", first.index, last.index, first.leader_id.term));
    }
    let committed = log.read_committed().await?;
    if committed > log.get_log_state().await?.last_log_id {
        return Err(format!("committed {committed:?} is beyond the log's end").into());
    }
    let term = log.read_vote().await?.map_or(1, |vote| vote.leader_id.term);
    tell(format_args!("ready {term}"));
    Ok(term)
}
