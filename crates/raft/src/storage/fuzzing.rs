//! The fuzz targets of what is on disk. Checksums are put right where a target is about what is behind them: no fuzzer gets
//! past one by itself.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::ops::ControlFlow;
use std::sync::Mutex;

use coordd_tree::TreeLoader;

use super::identity::Identity;
use super::journal_file::{JournalFile, file_bytes_for, frame_bytes};
use super::log_store::OpenError;
use super::recovery::{Recovered, recover};
use super::snapshot_file::SnapshotFile;
use super::snapshot_format::{Totals, encode_block_header, read_header};
use super::snapshot_store::SnapshotStore;
use super::wal::{CommitTimes, Wal, WalError};
use super::wal_record::{HEADER_BYTES, Record, RecordOp, RecordWriter, decode_record, sealed};
use super::watermark::Watermark;
use crate::type_config::types::SnapshotMeta;

/// Bytes as a record, as they are and with a header that fits them. What is one is read back as it is written.
pub fn wal_record(data: &[u8]) {
    let seq = data.get(16..24).map_or(0, |seq| u64::from_le_bytes(seq.try_into().expect("8 bytes")));
    let as_it_is = decode_record(seq, data.to_vec());
    let state_bytes = data.get(24..28).map_or(0, |n| u32::from_le_bytes(n.try_into().expect("4 bytes")));
    let body = data.get(HEADER_BYTES..).unwrap_or_default();
    let repaired = decode_record(seq, sealed(seq, state_bytes, body));
    for record in [as_it_is, repaired].into_iter().flatten() {
        let again = decode_record(seq, written(seq, &record)).expect("what was read can be written");
        assert_eq!((again.state, again.ops), (record.state, record.ops));
    }
}

fn written(seq: u64, record: &Record) -> Vec<u8> {
    let mut writer = RecordWriter::default();
    writer.begin();
    for op in &record.ops {
        match op {
            RecordOp::Append(entry) => writer.append(entry),
            RecordOp::TruncateAfter(after) => writer.truncate_after(after.as_ref()),
        }
    }
    writer.finish(seq, &record.state).to_vec()
}

/// A whole log: two bytes, the acknowledged and the first sequence number, and then the records. Each has a byte that says
/// whether it is as it should be, the lengths of its state (a byte) and its operations (two), and these.
///
/// Recovery takes a log without holes, of which every entry can be read, or it says why not (G1); and a second one finds what
/// the first one left.
pub fn wal_recovery(data: &[u8]) {
    let [acknowledged, first, rest @ ..] = data else { return };
    let mut rest = rest;
    let mut records = BTreeMap::new();
    let mut seq = u64::from(*first);
    while let Some((&[kind, state_bytes, low, high], after)) = rest.split_first_chunk::<4>() {
        let (state, after) = after.split_at(usize::from(state_bytes).min(after.len()));
        let (ops, after) = after.split_at(usize::from(u16::from_le_bytes([low, high])).min(after.len()));
        rest = after;
        let record = match kind {
            // As it was written.
            0..=239 => Some(sealed(seq, state.len() as u32, &[ops, state].concat())),
            240..=245 => None,
            246..=250 => Some(ops.to_vec()),
            _ => Some(sealed(seq, state.len() as u32 + 1, &[ops, state].concat())),
        };
        records.extend(record.map(|record| (seq, record)));
        seq += 1;
    }
    let wal = Records { records: Mutex::new(records), acknowledged: u64::from(*acknowledged) };
    let Recovered { memory, seq, state } = match recover(&wal, 256) {
        Ok(recovered) => recovered,
        Err(OpenError::AcknowledgedDataLost { .. } | OpenError::Unreadable { .. }) => return,
        Err(error) => panic!("an error of nothing that is there: {error}"),
    };
    assert!(seq >= wal.acknowledged, "acknowledged data is gone and nobody was told");
    let indexes = memory.indexes();
    assert_eq!(memory.last_log_id().map_or(0, |id| id.index + 1), indexes.end.max(purged_end(&memory)));
    assert!(memory.committed <= memory.last_log_id());
    let read = memory.read(0..u64::MAX, usize::MAX);
    let hot: Vec<u64> = read.hot.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(hot, (read.cold.end..indexes.end).collect::<Vec<_>>());
    for index in read.cold {
        let span = memory.span_of(index).expect("an entry is in memory or on disk");
        let bytes = wal.read(span.seq).expect("in memory").expect("a span names a record that is there");
        let record = decode_record(span.seq, bytes).expect("it was read before");
        let is_it = |op: &RecordOp| matches!(op, RecordOp::Append(entry) if entry.log_id.index == index);
        assert!(record.ops.iter().any(is_it), "record {} does not have entry {index}", span.seq);
    }
    let again = recover(&wal, 256).expect("what was recovered once");
    assert_eq!((again.seq, again.state), (seq, state));
    assert_eq!((again.memory.last_log_id(), again.memory.indexes()), (memory.last_log_id(), indexes));
    assert_eq!((again.memory.vote, again.memory.committed), (memory.vote, memory.committed));
}

fn purged_end(memory: &super::log_memory::LogMemory) -> u64 {
    memory.purged().map_or(0, |id| id.index + 1)
}

/// An engine in memory.
struct Records {
    records: Mutex<BTreeMap<u64, Vec<u8>>>,
    acknowledged: u64,
}

impl Wal for Records {
    fn bounds(&self) -> Result<Option<(u64, u64)>, WalError> {
        let records = self.records.lock().expect("one thread");
        Ok(records
            .first_key_value()
            .zip(records.last_key_value())
            .map(|((first, _), (last, _))| (*first, *last)))
    }

    fn read(&self, seq: u64) -> Result<Option<Vec<u8>>, WalError> {
        Ok(self.records.lock().expect("one thread").get(&seq).cloned())
    }

    fn acknowledged_seq(&self) -> u64 {
        self.acknowledged
    }

    fn commit(&self, _: u64, _: &[u8]) -> Result<CommitTimes, WalError> {
        unreachable!("recovery commits nothing")
    }

    fn remove_prefix(&self, _: u64, _: usize) -> Result<bool, WalError> {
        unreachable!("recovery keeps what is before the log")
    }

    fn remove_suffix(&self, from: u64) -> Result<(), WalError> {
        self.records.lock().expect("one thread").retain(|seq, _| *seq < from);
        Ok(())
    }

    fn close(&self) -> Result<(), WalError> {
        Ok(())
    }
}

/// Bytes as one of the small files of a data directory, which the first of them chooses.
pub fn data_files(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        0 => identity(data),
        1 => identity(&Identity::signed(&String::from_utf8_lossy(data))),
        2 => watermark(data),
        3 => journal(data),
        _ => damaged_journal(data),
    }
}

fn identity(bytes: &[u8]) {
    if let Ok(identity) = Identity::decode(bytes) {
        assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
    }
}

/// Whatever a watermark says, it says the same until it is advanced.
fn watermark(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("a file");
    let mark = Watermark::open(file.path()).expect("no error but the disk's");
    let said = mark.at_open();
    assert_eq!(Watermark::open(file.path()).expect("likewise").at_open(), said);
    if let Some(next) = said.checked_add(1) {
        mark.advance(next).expect("likewise");
        assert_eq!(Watermark::open(file.path()).expect("likewise").at_open(), next);
    }
}

/// A file of the journal: it is refused, or its records come in ascending order.
fn journal(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("a file");
    let Ok(mut journal) = JournalFile::open(file.path()) else { return };
    let mut last = None;
    let read = journal.read(|_, seq, _| {
        assert!(last.replace(seq).is_none_or(|last| last < seq));
        Ok::<_, std::io::Error>(ControlFlow::Continue(()))
    });
    read.expect("no error but the disk's");
}

/// Records of the lengths that the bytes say, and one byte on disk that is changed: what is found was written, and all before
/// the change is found.
fn damaged_journal(data: &[u8]) {
    let [low, high, change, lengths @ ..] = data else { return };
    let lengths = lengths.iter().take(16).map(|length| usize::from(*length) * 64);
    let written: Vec<(u64, Vec<u8>)> =
        (7..).zip(lengths).map(|(seq, length)| (seq, vec![seq as u8; length])).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal");
    let bytes = file_bytes_for(written.iter().map(|(_, record)| record.len() + (1 << 10)).sum());
    let mut journal = JournalFile::create(&path, &path, 7, bytes).expect("no error but the disk's");
    for (seq, record) in &written {
        journal.append(*seq, record).expect("likewise");
    }
    let at = u64::from(u16::from_le_bytes([*low, *high])) % bytes;
    {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options().read(true).write(true).open(&path).expect("likewise");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("likewise");
        byte[0] ^= change;
        file.write_all_at(&byte, at).expect("likewise");
    }
    // A change of the header is found out as a whole.
    let Ok(mut journal) = JournalFile::open(&path) else { return };
    let mut found = Vec::new();
    let read = journal.read(|_, seq, record| {
        found.push((seq, record.to_vec()));
        Ok::<_, std::io::Error>(ControlFlow::Continue(()))
    });
    read.expect("likewise");
    assert!(found.iter().all(|record| written.contains(record)), "a record that nobody wrote");
    let mut end = file_bytes_for(0) - frame_bytes(0);
    let untouched = written.iter().take_while(|(_, record)| {
        end += frame_bytes(record.len());
        *change == 0 || end <= at
    });
    let untouched = untouched.count();
    assert_eq!(found[..untouched.min(found.len())], written[..untouched], "records before the change");
}

/// Bytes as a snapshot that a leader sends, as they are or with every checksum right: then the length of the header's message
/// in two bytes, the message, and so on for the blocks. It is taken with its tree, or nothing of it is left.
pub fn snapshot_file(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let bytes = match kind {
        0 => data.to_vec(),
        _ => sealed_snapshot(data),
    };
    let meta = match read_header(&mut Cursor::new(&bytes)) {
        Ok((meta, _)) => meta,
        Err(_) => SnapshotMeta::default(),
    };
    let dir = tempfile::tempdir().expect("a directory");
    let store = SnapshotStore::open(dir.path()).expect("no error but the disk's");
    let mut receiver = store.receive(&meta, bytes.len() as u64).expect("likewise");
    bytes.chunks(100).for_each(|part| receiver.write(part).expect("as much as was announced"));
    let received = receiver.finish_with(load);
    let kept = std::fs::read_dir(dir.path()).expect("likewise").count();
    let Ok((file, digest)) = received else {
        assert_eq!((kept, store.latest().is_none()), (0, true), "a refused snapshot is kept");
        return;
    };
    assert_eq!((kept, std::fs::read(&file.path).expect("likewise")), (1, bytes));
    let after_restart = SnapshotStore::open(dir.path()).expect("a snapshot that was taken");
    let latest = after_restart.latest().expect("there is one");
    assert_eq!(latest.meta, meta);
    assert_eq!(load(&latest).expect("it was loaded before"), digest);
}

fn load(file: &SnapshotFile) -> io::Result<u64> {
    let mut loader = TreeLoader::new();
    for chunk in file.chunks()? {
        loader.push(&chunk?).map_err(io::Error::other)?;
    }
    Ok(loader.finish().map_err(io::Error::other)?.digest())
}

fn sealed_snapshot(mut data: &[u8]) -> Vec<u8> {
    let mut parts = std::iter::from_fn(|| {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        data = rest;
        Some(part)
    });
    let mut bytes = super::snapshot_format::seal_header(parts.next().unwrap_or_default());
    let mut totals = Totals::default();
    for block in parts.filter(|block| !block.is_empty()) {
        bytes.extend(encode_block_header(block, &mut totals).expect("far below the largest"));
        bytes.extend(block);
    }
    bytes.extend(totals.encode());
    bytes
}

#[cfg(test)]
mod tests {
    use coordd_corpus::keep_seeds;
    use coordd_proto::peer;
    use coordd_tree::Tree;

    use super::super::journal_file::encoded;
    use super::super::wal_record::RecordState;
    use super::*;
    use crate::type_config::types::{Entry, EntryPayload, LeaderId, LogId, StoredMembership};
    use crate::type_config::{Member, Payload, types::Membership};

    fn log_id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id: 2 }, index }
    }

    fn membership() -> Membership {
        let member =
            |n: u64| (n, Member { peer_address: format!("h{n}:7501"), client_address: String::new() });
        Membership::new(vec![[1, 2].into()], BTreeMap::from([1, 2].map(member))).unwrap()
    }

    /// A log that was written, truncated, written on and purged.
    fn log() -> Vec<Record> {
        let append = |term, index, payload| RecordOp::Append(Entry { log_id: log_id(term, index), payload });
        let data = || EntryPayload::Normal(Payload("data".into()));
        let groups = [
            vec![append(1, 0, EntryPayload::Membership(membership())), append(1, 1, EntryPayload::Blank)],
            vec![append(1, 2, data()), append(1, 3, data())],
            vec![RecordOp::TruncateAfter(Some(log_id(1, 2))), append(2, 3, EntryPayload::Blank)],
            vec![append(2, 4, data()), RecordOp::TruncateAfter(Some(log_id(2, 3))), append(3, 4, data())],
        ];
        let record = |(ops, seq): (Vec<RecordOp>, u64)| {
            let state = RecordState {
                durable_seq: seq - 1,
                removed_through: seq.saturating_sub(4),
                node_id: 2,
                cluster_id: "ours".into(),
                vote: Some(peer::Vote { term: 3, node_id: 2, committed: true }),
                purged: (seq == 4).then_some(peer::LogId { term: 1, node_id: 2, index: 0 }),
                committed: Some(peer::LogId { term: 1, node_id: 2, index: 1 }),
            };
            Record { state, ops }
        };
        groups.into_iter().zip(1..).map(record).collect()
    }

    fn whole_log(acknowledged: u8, kinds: [u8; 4]) -> Vec<u8> {
        let mut input = vec![acknowledged, 1];
        for ((record, seq), kind) in log().iter().zip(1..).zip(kinds) {
            let bytes = written(seq, record);
            let state_bytes = u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
            let (ops, state) = bytes[HEADER_BYTES..].split_at(bytes.len() - HEADER_BYTES - state_bytes);
            input.extend([kind, state_bytes as u8, ops.len() as u8, (ops.len() >> 8) as u8]);
            input.extend([state, ops].concat());
        }
        input
    }

    #[test]
    fn the_seeds_are_what_is_written() {
        let records: Vec<Vec<u8>> = log().iter().zip(1..).map(|(record, seq)| written(seq, record)).collect();
        keep_seeds(
            "raft_wal_record",
            &[("first", records[0].clone()), ("second", records[1].clone()), ("last", records[3].clone())],
        );
        keep_seeds(
            "raft_wal_recovery",
            &[
                ("whole", whole_log(4, [0; 4])),
                ("unfinished", whole_log(3, [0, 0, 0, 255])),
                ("lost", whole_log(4, [0, 0, 0, 255])),
                ("hole", whole_log(0, [0, 240, 0, 0])),
            ],
        );
        let identity = Identity {
            node_id: 3,
            cluster_id: "ours".into(),
            incarnation: 17,
            log_started: true,
            has_watermark: true,
            formed_with: vec![1, 2, 3],
        };
        let identity = identity.encode();
        let unsigned = String::from_utf8(identity.clone()).unwrap();
        let unsigned = unsigned.split("crc32c").next().unwrap();
        let watermark = tempfile::NamedTempFile::new().unwrap();
        let mark = Watermark::open(watermark.path()).unwrap();
        (1..=3).for_each(|seq| mark.advance(seq).unwrap());
        keep_seeds(
            "raft_data_files",
            &[
                ("identity", [&[0], &identity[..]].concat()),
                ("identity-unsigned", [&[1], unsigned.as_bytes()].concat()),
                ("watermark", [&[2], &std::fs::read(watermark.path()).unwrap()[..528]].concat()),
                ("journal", [&[3], &encoded(17, 7, b"a record")[..]].concat()),
                ("journal-damaged", vec![4, 0, 17, 1, 1, 70, 0, 255]),
            ],
        );
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path()).unwrap();
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 70)),
            last_membership: StoredMembership::new(Some(log_id(1, 0)), membership()),
        };
        let mut writer = store.writer(&meta).unwrap();
        let chunks: Vec<Vec<u8>> = Tree::new().snapshot_chunks().collect();
        chunks.iter().for_each(|chunk| writer.write_chunk(chunk).unwrap());
        let bytes = std::fs::read(writer.finish().unwrap().path).unwrap();
        let header_bytes = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let part = |bytes: &[u8]| [&(bytes.len() as u16).to_le_bytes(), bytes].concat();
        let mut unsealed = [&[1], &part(&bytes[16..16 + header_bytes])[..]].concat();
        chunks.iter().for_each(|chunk| unsealed.extend(part(chunk)));
        assert_eq!(sealed_snapshot(&unsealed[1..]), bytes);
        keep_seeds("raft_snapshot_file", &[("whole", [&[0], &bytes[..]].concat()), ("unsealed", unsealed)]);
    }
}
