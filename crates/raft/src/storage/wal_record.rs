//! The bytes of one group commit.
//!
//! ```text
//!  0  magic "cWAL"
//!  4  u32  format version
//!  8  u32  crc32c of all that follows
//! 12  u32  bytes of the whole record
//! 16  u64  seq
//! 24  u32  bytes of the state
//! 28  the operations in their order, each: u8 kind, u32 bytes, then
//!       kind 1  an entry: protobuf `coordd.peer.v1.Entry`
//!       kind 2  truncate: protobuf `TruncateAfter`
//!     the state: protobuf `RecordState`
//! ```
//!
//! Numbers are little-endian. Every record carries the whole small state *after* its operations, so the newest record
//! alone tells vote, purged and committed. On replay the newest `purged` takes effect before all operations.

use bytes::{Buf as _, BufMut as _, Bytes};
use coordd_proto::peer;
use prost::Message;

use crate::convert::{ConvertError, entry_from_wire, entry_to_wire, log_id_to_wire, some_log_id_from_wire};
use crate::type_config::types::{Entry, LogId};

const MAGIC: [u8; 4] = *b"cWAL";
const FORMAT: u32 = 1;
const CRC_FROM: usize = 12;
pub(super) const HEADER_BYTES: usize = 28;
const KIND_ENTRY: u8 = 1;
const KIND_TRUNCATE: u8 = 2;
/// Kind and length.
pub(super) const OP_HEADER_BYTES: usize = 5;

/// The small state that every record carries.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RecordState {
    /// The highest seq that was durable when this record was built.
    #[prost(uint64, tag = "1")]
    pub(super) durable_seq: u64,
    /// Records up to this seq are not needed and may be gone.
    #[prost(uint64, tag = "2")]
    pub(super) removed_through: u64,
    #[prost(uint64, tag = "3")]
    pub(super) node_id: u64,
    /// Empty until the ensemble is formed.
    #[prost(string, tag = "4")]
    pub(super) cluster_id: String,
    #[prost(message, optional, tag = "5")]
    pub(super) vote: Option<peer::Vote>,
    #[prost(message, optional, tag = "6")]
    pub(super) purged: Option<peer::LogId>,
    #[prost(message, optional, tag = "7")]
    pub(super) committed: Option<peer::LogId>,
}

#[derive(Clone, PartialEq, Message)]
struct TruncateAfter {
    /// Absent: the whole log.
    #[prost(message, optional, tag = "1")]
    log_id: Option<peer::LogId>,
}

/// One change of the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RecordOp {
    Append(Entry),
    /// Keep up to here, inclusive; `None`: keep nothing.
    TruncateAfter(Option<LogId>),
}

/// A record read back.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) state: RecordState,
    pub(super) ops: Vec<RecordOp>,
}

/// The bytes are not a whole record.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("{0}")]
    Damaged(&'static str),
    /// Whole, but not for this version.
    #[error("record format {0} is not known to this version of coordd, which knows {FORMAT}")]
    Format(u32),
    #[error(transparent)]
    Malformed(#[from] ConvertError),
}

/// Builds records in one buffer that is used again.
#[derive(Debug, Default)]
pub(super) struct RecordWriter {
    buffer: Vec<u8>,
}

/// What the buffer may keep between records.
const BUFFER_KEEP_BYTES: usize = 4 << 20;

impl RecordWriter {
    /// Begins the operations of a record.
    pub(super) fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEEP_BYTES);
        self.buffer.resize(HEADER_BYTES, 0);
    }

    /// Adds an entry.
    pub(super) fn append(&mut self, entry: &Entry) {
        self.op(KIND_ENTRY, &entry_to_wire(entry));
    }

    /// Adds a truncation.
    pub(super) fn truncate_after(&mut self, after: Option<&LogId>) {
        self.op(KIND_TRUNCATE, &TruncateAfter { log_id: after.map(log_id_to_wire) });
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    fn op(&mut self, kind: u8, message: &impl Message) {
        let bytes = message.encoded_len();
        self.buffer.reserve(OP_HEADER_BYTES + bytes);
        self.buffer.put_u8(kind);
        self.buffer.put_u32_le(u32::try_from(bytes).expect("entries are bounded far below 4 GiB"));
        message.encode_raw(&mut self.buffer);
    }

    /// The finished record.
    pub(super) fn finish(&mut self, seq: u64, state: &RecordState) -> &[u8] {
        let out = &mut self.buffer;
        let ops_end = out.len();
        state.encode_raw(out);
        let (total, state_bytes) = (out.len(), out.len() - ops_end);
        let total = u32::try_from(total).expect("a group is bounded far below 4 GiB");
        seal(out, seq, total, u32::try_from(state_bytes).expect("the state is small"));
        out
    }
}

/// Fills in the header of a record that has everything else.
fn seal(record: &mut [u8], seq: u64, total: u32, state_bytes: u32) {
    let mut header = &mut record[..HEADER_BYTES];
    header.put_slice(&MAGIC);
    header.put_u32_le(FORMAT);
    header.put_u32_le(0);
    header.put_u32_le(total);
    header.put_u64_le(seq);
    header.put_u32_le(state_bytes);
    let crc = crc32c::crc32c(&record[CRC_FROM..]);
    record[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
}

/// A record of any bytes under a header that fits them.
#[cfg(any(test, fuzzing))]
pub(super) fn sealed(seq: u64, state_bytes: u32, body: &[u8]) -> Vec<u8> {
    let mut record = [&[0; HEADER_BYTES], body].concat();
    let total = record.len() as u32;
    seal(&mut record, seq, total, state_bytes);
    record
}

/// Reads the record `seq` from `bytes`. Payloads share `bytes`.
pub(super) fn decode_record(seq: u64, bytes: Vec<u8>) -> Result<Record, RecordError> {
    let mut rest = Bytes::from(bytes);
    if rest.len() < HEADER_BYTES || rest[..4] != MAGIC {
        return Err(RecordError::Damaged("no record header"));
    }
    let crc = u32::from_le_bytes(rest[8..12].try_into().expect("4 bytes"));
    if u32::from_le_bytes(rest[12..16].try_into().expect("4 bytes")) as usize != rest.len() {
        return Err(RecordError::Damaged("a part of the record is missing"));
    }
    if crc32c::crc32c(&rest[CRC_FROM..]) != crc {
        return Err(RecordError::Damaged("the record's checksum does not match"));
    }
    rest.advance(4);
    match rest.get_u32_le() {
        FORMAT => {}
        other => return Err(RecordError::Format(other)),
    }
    rest.advance(8);
    if rest.get_u64_le() != seq {
        return Err(RecordError::Damaged("a record under another's sequence number"));
    }
    // From here on the checksum has vouched for the bytes; what does not fit is a defect of the writer.
    let state_bytes = rest.get_u32_le() as usize;
    let ops_bytes =
        rest.len().checked_sub(state_bytes).ok_or(RecordError::Damaged("a state beyond the record's end"))?;
    let state = RecordState::decode(rest.split_off(ops_bytes)).map_err(|e| malformed("state", e))?;
    let mut ops = Vec::new();
    while !rest.is_empty() {
        ops.push(decode_op(&mut rest)?);
    }
    Ok(Record { state, ops })
}

fn decode_op(rest: &mut Bytes) -> Result<RecordOp, RecordError> {
    let mut header = split(rest, OP_HEADER_BYTES)?;
    let kind = header.get_u8();
    let bytes = split(rest, header.get_u32_le() as usize)?;
    match kind {
        KIND_ENTRY => {
            let wire = peer::Entry::decode(bytes).map_err(|e| malformed("entry", e))?;
            Ok(RecordOp::Append(entry_from_wire(wire)?))
        }
        KIND_TRUNCATE => {
            let wire = TruncateAfter::decode(bytes).map_err(|e| malformed("truncation", e))?;
            Ok(RecordOp::TruncateAfter(some_log_id_from_wire(wire.log_id)?))
        }
        _ => Err(RecordError::Damaged("an operation of an unknown kind")),
    }
}

fn split(rest: &mut Bytes, bytes: usize) -> Result<Bytes, RecordError> {
    if bytes > rest.len() {
        return Err(RecordError::Damaged("a length beyond the record's end"));
    }
    Ok(rest.split_to(bytes))
}

fn malformed(what: &'static str, error: prost::DecodeError) -> RecordError {
    RecordError::Malformed(ConvertError::new(what, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::Payload;
    use crate::type_config::types::{EntryPayload, LeaderId};

    fn log_id(index: u64) -> LogId {
        LogId { leader_id: LeaderId { term: 4, node_id: 2 }, index }
    }

    fn record() -> (Vec<u8>, RecordState, Vec<RecordOp>) {
        let state = RecordState {
            durable_seq: 8,
            removed_through: 3,
            node_id: 2,
            cluster_id: "prod".into(),
            vote: Some(peer::Vote { term: 4, node_id: 2, committed: true }),
            purged: None,
            committed: Some(log_id_to_wire(&log_id(11))),
        };
        let ops = vec![
            RecordOp::TruncateAfter(Some(log_id(10))),
            RecordOp::Append(Entry { log_id: log_id(11), payload: EntryPayload::Blank }),
            RecordOp::Append(Entry {
                log_id: log_id(12),
                payload: EntryPayload::Normal(Payload("abc".into())),
            }),
            RecordOp::TruncateAfter(None),
        ];
        let mut writer = RecordWriter::default();
        writer.begin();
        for op in &ops {
            match op {
                RecordOp::Append(entry) => writer.append(entry),
                RecordOp::TruncateAfter(after) => writer.truncate_after(after.as_ref()),
            }
        }
        (writer.finish(9, &state).to_vec(), state, ops)
    }

    #[test]
    fn a_record_survives_its_encoding() {
        let (bytes, state, ops) = record();
        let back = decode_record(9, bytes).unwrap();
        assert_eq!((back.state, back.ops), (state, ops));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let (bytes, ..) = record();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(decode_record(9, bad).is_err(), "flipped byte {at}");
            assert!(decode_record(9, bytes[..at].to_vec()).is_err(), "cut to {at} bytes");
        }
        assert!(decode_record(10, bytes.clone()).is_err(), "another's number");
        assert!(decode_record(9, [bytes, vec![0]].concat()).is_err(), "a byte too many");
    }
}
