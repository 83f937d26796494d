//! The bytes of a snapshot file.
//!
//! ```text
//! header   magic "cSNP", u32 format version, u32 bytes, u32 crc32c, then so many bytes of protobuf `SnapshotHeader`
//! blocks   u32 bytes (not 0), u32 crc32c, data; one for each chunk of the tree, in order
//! trailer  u32 0, u32 crc32c of what follows, u64 count of blocks, u64 bytes of data, u32 crc32c of all data
//! ```
//!
//! Numbers are little-endian. A file without its trailer was never finished.

use std::io::{self, Read};

use bytes::{Buf as _, BufMut as _, Bytes};
use coordd_proto::peer;
use prost::Message;

use crate::convert::{
    log_id_to_wire, some_log_id_from_wire, stored_membership_from_wire, stored_membership_to_wire,
};
use crate::type_config::types::SnapshotMeta;

const MAGIC: [u8; 4] = *b"cSNP";
const FORMAT: u32 = 1;
const FIXED_HEADER_BYTES: usize = 16;
/// Far more than any membership; keeps a damaged length from being believed.
const HEADER_BYTES_MAX: usize = 16 << 20;
const BLOCK_HEADER_BYTES: usize = 8;
/// The largest block; keeps a damaged length from being believed.
pub(super) const BLOCK_BYTES_MAX: usize = 64 << 20;
/// Above this a length is believed only as far as there are bytes. The tree's chunks are half as large.
const BELIEVED_BYTES: usize = 1 << 20;
pub(super) const TRAILER_BYTES: usize = BLOCK_HEADER_BYTES + 20;

#[derive(Clone, PartialEq, Message)]
struct SnapshotHeader {
    #[prost(message, optional, tag = "1")]
    last_log_id: Option<peer::LogId>,
    #[prost(message, optional, tag = "2")]
    last_membership: Option<peer::StoredMembership>,
}

/// A file that is not a whole snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotDamage {
    /// It is not what was written.
    #[error("{0}")]
    Damaged(&'static str),
    /// Written by another version.
    #[error("snapshot format {0} is not known to this version of coordd, which knows {FORMAT}")]
    Format(u32),
}

impl From<SnapshotDamage> for io::Error {
    fn from(damage: SnapshotDamage) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, damage)
    }
}

/// What the trailer says of the blocks; built up by whoever writes or reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) blocks: u64,
    pub(super) data_bytes: u64,
    crc: u32,
}

impl Totals {
    fn add(&mut self, data: &[u8]) {
        self.blocks += 1;
        self.data_bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, data);
    }

    pub(super) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        let mut out = &mut bytes[BLOCK_HEADER_BYTES..];
        out.put_u64_le(self.blocks);
        out.put_u64_le(self.data_bytes);
        out.put_u32_le(self.crc);
        let crc = crc32c::crc32c(&bytes[BLOCK_HEADER_BYTES..]);
        bytes[4..BLOCK_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; TRAILER_BYTES]) -> Option<Totals> {
        let mut from = &bytes[BLOCK_HEADER_BYTES..];
        let totals =
            Totals { blocks: from.get_u64_le(), data_bytes: from.get_u64_le(), crc: from.get_u32_le() };
        (totals.encode() == *bytes).then_some(totals)
    }

    /// Bytes of the blocks in the file.
    pub(super) fn block_bytes(&self) -> Option<u64> {
        self.blocks.checked_mul(BLOCK_HEADER_BYTES as u64)?.checked_add(self.data_bytes)
    }
}

pub(super) fn encode_header(meta: &SnapshotMeta) -> Vec<u8> {
    let message = SnapshotHeader {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_wire),
        last_membership: Some(stored_membership_to_wire(&meta.last_membership)),
    }
    .encode_to_vec();
    seal_header(&message)
}

/// A header of this message, whatever it is.
pub(super) fn seal_header(message: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED_HEADER_BYTES + message.len());
    header.put_slice(&MAGIC);
    header.put_u32_le(FORMAT);
    header.put_u32_le(u32::try_from(message.len()).expect("a membership is small"));
    header.put_u32_le(crc32c::crc32c(message));
    header.put_slice(message);
    header
}

/// Reads the header, and tells its length.
pub(super) fn read_header(from: &mut impl Read) -> io::Result<(SnapshotMeta, u64)> {
    let mut fixed = [0; FIXED_HEADER_BYTES];
    read_exact(from, &mut fixed)?;
    let mut fields = &fixed[..];
    if fields.copy_to_bytes(4) != MAGIC[..] {
        return Err(SnapshotDamage::Damaged("not a snapshot file").into());
    }
    match fields.get_u32_le() {
        FORMAT => {}
        other => return Err(SnapshotDamage::Format(other).into()),
    }
    let bytes = fields.get_u32_le() as usize;
    let crc = fields.get_u32_le();
    if bytes > HEADER_BYTES_MAX {
        return Err(SnapshotDamage::Damaged("a header of an impossible size").into());
    }
    let message = read_bytes(from, bytes)?;
    if crc32c::crc32c(&message) != crc {
        return Err(SnapshotDamage::Damaged("the header's checksum does not match").into());
    }
    let malformed = |_| SnapshotDamage::Damaged("a header that cannot be decoded");
    let header = SnapshotHeader::decode(&message[..]).map_err(malformed)?;
    let membership =
        header.last_membership.ok_or(SnapshotDamage::Damaged("a header without a membership"))?;
    let last_membership = stored_membership_from_wire(membership)
        .map_err(|_| SnapshotDamage::Damaged("a header with a malformed membership"))?;
    let last_log_id = some_log_id_from_wire(header.last_log_id)
        .map_err(|_| SnapshotDamage::Damaged("a header with a malformed log id"))?;
    let meta = SnapshotMeta { last_log_id, last_membership };
    Ok((meta, (FIXED_HEADER_BYTES + bytes) as u64))
}

/// The header of a block of `data`, which is counted in `totals`.
pub(super) fn encode_block_header(data: &[u8], totals: &mut Totals) -> io::Result<[u8; BLOCK_HEADER_BYTES]> {
    if data.is_empty() || data.len() > BLOCK_BYTES_MAX {
        let message = format!("a snapshot chunk of {} bytes; allowed are 1 to {BLOCK_BYTES_MAX}", data.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    totals.add(data);
    let mut header = [0; BLOCK_HEADER_BYTES];
    header[..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&crc32c::crc32c(data).to_le_bytes());
    Ok(header)
}

/// Reads the next block and counts it in `totals`; `None` after the last one, when the trailer agrees with `totals` and
/// nothing follows it.
pub(super) fn read_block(from: &mut impl Read, totals: &mut Totals) -> io::Result<Option<Bytes>> {
    let mut header = [0; BLOCK_HEADER_BYTES];
    read_exact(from, &mut header)?;
    let mut fields = &header[..];
    let (bytes, crc) = (fields.get_u32_le() as usize, fields.get_u32_le());
    if bytes == 0 {
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..BLOCK_HEADER_BYTES].copy_from_slice(&header);
        read_exact(from, &mut trailer[BLOCK_HEADER_BYTES..])?;
        if Totals::decode(&trailer) != Some(*totals) {
            return Err(SnapshotDamage::Damaged("the trailer does not match the blocks").into());
        }
        return match from.read(&mut [0])? {
            0 => Ok(None),
            _ => Err(SnapshotDamage::Damaged("something follows the trailer").into()),
        };
    }
    if bytes > BLOCK_BYTES_MAX {
        return Err(SnapshotDamage::Damaged("a block of an impossible size").into());
    }
    let data = read_bytes(from, bytes)?;
    if crc32c::crc32c(&data) != crc {
        return Err(SnapshotDamage::Damaged("a block's checksum does not match").into());
    }
    totals.add(&data);
    Ok(Some(data.into()))
}

/// So many bytes, in memory that grows as they come: a damaged length must not cost what it says.
fn read_bytes(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut data = Vec::with_capacity(bytes.min(BELIEVED_BYTES));
    from.take(bytes as u64).read_to_end(&mut data)?;
    match data.len() == bytes {
        true => Ok(data),
        false => Err(SnapshotDamage::Damaged("the file ends too early").into()),
    }
}

fn read_exact(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<()> {
    from.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotDamage::Damaged("the file ends too early").into(),
        _ => e,
    })
}
