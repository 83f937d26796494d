//! From the records on disk to the log: takes a prefix, and refuses to start where acknowledged data is missing.

use coordd_tree::planted::Bug;

use super::log_memory::LogMemory;
use super::log_store::OpenError;
use super::wal::Wal;
use super::wal_record::{Record, RecordError, RecordState, decode_record};
use crate::convert::{ConvertError, some_log_id_from_wire, vote_from_wire};

/// The number of the first record that a log ever has.
const FIRST_SEQ: u64 = 1;

/// The log as it was.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) memory: LogMemory,
    /// The last record's; 0 if there is none.
    pub(super) seq: u64,
    pub(super) state: RecordState,
}

/// Reads the log, cuts off a record that was under way when the process ended, and checks all others.
///
/// A record is built only after all before it are durable. So a record that is damaged or missing was acknowledged if
/// anything is found after it, or if the engine's own watermark covers it; then the answer is an error. A damaged last
/// record was never acknowledged and is removed.
pub(super) fn recover(wal: &dyn Wal, cached_bytes_max: usize) -> Result<Recovered, OpenError> {
    let mut memory = LogMemory::new(cached_bytes_max);
    let acknowledged = wal.acknowledged_seq();
    let lost = |seq: u64, cause: String| {
        // The caller knows where it is.
        OpenError::AcknowledgedDataLost { seq, acknowledged, cause, place: String::new() }
    };

    let Some((lowest, highest)) = wal.bounds()? else {
        return match acknowledged {
            0 => Ok(Recovered { memory, seq: 0, state: RecordState::default() }),
            _ => Err(lost(acknowledged, "the log is empty".into())),
        };
    };
    if lowest < FIRST_SEQ {
        let cause = format!("records are numbered from {FIRST_SEQ}");
        return Err(OpenError::Unreadable { seq: lowest, cause, place: String::new() });
    }
    let (acknowledged, highest) = match Bug::LogCutAtDamage.is_planted() {
        true => (0, cut_at_damage(wal, lowest, highest)?),
        false => (acknowledged, highest),
    };
    // The newest record says which are needed.
    let (last_seq, last) = match read(wal, highest)? {
        Ok(record) => (highest, record),
        Err(cause) if highest <= acknowledged => return Err(lost(highest, cause)),
        Err(cause) => {
            // Begun only when the one before it was durable. The first of all has none.
            let before = match highest {
                FIRST_SEQ if acknowledged == 0 => None,
                _ => Some(read(wal, highest - 1)?.map_err(|cause| lost(highest - 1, cause))?),
            };
            tracing::warn!(seq = highest, %cause, "removing a record that was not finished");
            wal.remove_suffix(highest)?;
            match before {
                Some(record) => (highest - 1, record),
                None => return Ok(Recovered { memory, seq: 0, state: RecordState::default() }),
            }
        }
    };
    if last_seq < acknowledged && !Bug::LostTailAccepted.is_planted() {
        return Err(lost(last_seq + 1, "the log ends before it".into()));
    }
    if last.state.durable_seq >= last_seq || last.state.removed_through >= last_seq {
        return Err(lost(last_seq, "its numbers contradict each other".into()));
    }

    let unreadable = |cause: ConvertError| unreadable(last_seq, cause.to_string());
    if let Some(purged) = some_log_id_from_wire(last.state.purged).map_err(unreadable)? {
        memory.purge(purged);
    }
    for seq in last.state.removed_through + 1..last_seq {
        let record = read(wal, seq)?.map_err(|cause| lost(seq, cause))?;
        replay(&mut memory, seq, record)?;
    }
    let state = last.state.clone();
    replay(&mut memory, last_seq, last)?;

    let first = memory.indexes().start;
    if let Some(purged) = memory.purged()
        && !memory.indexes().is_empty()
        && first != purged.index + 1
    {
        return Err(lost(
            last_seq,
            format!("the log begins at {first}, but was purged up to {}", purged.index),
        ));
    }
    memory.vote = state.vote.map(vote_from_wire).transpose().map_err(unreadable)?;
    // An entry is queued before it can be committed, so this is never beyond the end; openraft does not start if it is.
    let committed = some_log_id_from_wire(state.committed).map_err(unreadable)?;
    memory.committed = committed.filter(|id| Some(*id) <= memory.last_log_id());
    Ok(Recovered { memory, seq: last_seq, state })
}

fn unreadable(seq: u64, cause: String) -> OpenError {
    OpenError::Unreadable { seq, cause, place: String::new() }
}

/// A record, or what is wrong with it. An error of the engine is not a damaged record.
fn read(wal: &dyn Wal, seq: u64) -> Result<Result<Record, String>, OpenError> {
    let Some(bytes) = wal.read(seq)? else {
        return Ok(Err("it is missing".into()));
    };
    match decode_record(seq, bytes) {
        Ok(record) => Ok(Ok(record)),
        Err(RecordError::Damaged(cause)) => Ok(Err(cause.into())),
        Err(cause @ (RecordError::Format(_) | RecordError::Malformed(_))) => {
            Err(unreadable(seq, cause.to_string()))
        }
    }
}

/// What is done with [`Bug::LogCutAtDamage`]. Returns the number of the last record that is left.
fn cut_at_damage(wal: &dyn Wal, lowest: u64, highest: u64) -> Result<u64, OpenError> {
    for seq in lowest..=highest {
        if read(wal, seq)?.is_err() {
            wal.remove_suffix(seq)?;
            return Ok(seq - 1);
        }
    }
    Ok(highest)
}

fn replay(memory: &mut LogMemory, seq: u64, record: Record) -> Result<(), OpenError> {
    memory.replay(seq, record.ops).map_err(|cause| unreadable(seq, cause.to_string()))
}
