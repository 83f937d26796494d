use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;

use crate::{Batch, DecodeError, Entry};

/// The one format of entries there is so far.
const VERSION: u8 = 1;

impl Entry {
    /// The entry's encoded form; see the layout on [`Entry`].
    pub fn encode(&self) -> Bytes {
        let batches: Vec<Bytes> = self.batches.iter().map(Batch::encode).collect();
        Entry::encode_from_parts(self.time_ms, &batches)
    }

    /// The same from batches that are encoded already, in the order in which they are to take effect. The batches
    /// are not looked at: whoever received them from elsewhere decodes them first.
    pub fn encode_from_parts(time_ms: u64, batches: &[Bytes]) -> Bytes {
        let size: usize = batches.iter().map(Bytes::len).sum();
        // A version byte and two varints of at most ten bytes each.
        let mut entry = BytesMut::with_capacity(size + 21);
        entry.put_u8(VERSION);
        put_varint(&mut entry, time_ms);
        put_varint(&mut entry, batches.len() as u64);
        batches.iter().for_each(|batch| entry.put_slice(batch));
        entry.freeze()
    }

    /// Reads what [`Entry::encode`] wrote. Never panics, and allocates no more than a small multiple of `bytes`.
    ///
    /// # Errors
    ///
    /// Another version, bytes that are cut short, damaged, or left over.
    pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
        const WHAT: &str = "an entry";
        let Some((&version, mut rest)) = bytes.split_first() else {
            return Err(DecodeError::malformed(WHAT, "it is empty"));
        };
        if version != VERSION {
            return Err(DecodeError::Version { what: WHAT, found: version, known: VERSION });
        }
        let time_ms = take(WHAT, &mut rest)?;
        let count: u64 = take(WHAT, &mut rest)?;
        // A batch takes four bytes at least, so a count that is made up does not reserve more than there is.
        let mut batches =
            Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(rest.len() / 4));
        for _ in 0..count {
            batches.push(take(WHAT, &mut rest)?);
        }
        finish(WHAT, rest)?;
        Ok(Entry { time_ms, batches })
    }
}

impl Batch {
    /// The batch as it stands in an entry.
    pub fn encode(&self) -> Bytes {
        postcard::to_allocvec(self).expect("every sequence of a batch knows its length").into()
    }

    /// Reads what [`Batch::encode`] wrote, with the same care as [`Entry::decode`].
    ///
    /// # Errors
    ///
    /// Bytes that are cut short, damaged, or left over.
    pub fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
        const WHAT: &str = "a batch";
        let mut rest = bytes;
        let batch = take(WHAT, &mut rest)?;
        finish(WHAT, rest)?;
        Ok(batch)
    }
}

fn take<T: DeserializeOwned>(what: &'static str, rest: &mut &[u8]) -> Result<T, DecodeError> {
    let (value, after) =
        postcard::take_from_bytes(rest).map_err(|error| DecodeError::malformed(what, error))?;
    *rest = after;
    Ok(value)
}

fn finish(what: &'static str, rest: &[u8]) -> Result<(), DecodeError> {
    match rest {
        [] => Ok(()),
        _ => Err(DecodeError::malformed(what, format!("{} bytes are left over", rest.len()))),
    }
}

fn put_varint(buffer: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, EndReason, Origin};

    fn entry() -> Entry {
        let end = Command::EndSession { session: 9, reason: EndReason::Closed };
        let batch = |node, first_seq| Batch {
            origin: Origin { node, incarnation: 2 },
            first_seq,
            commands: vec![end.clone(); 3],
        };
        Entry { time_ms: 1_700_000_000_000, batches: vec![batch(1, 1), batch(2, u64::MAX)] }
    }

    #[test]
    fn an_entry_is_read_back() {
        assert_eq!(Entry::decode(&entry().encode()).unwrap(), entry());
        let empty = Entry { time_ms: u64::MAX, batches: vec![] };
        assert_eq!(Entry::decode(&empty.encode()).unwrap(), empty);
    }

    #[test]
    fn batches_stand_in_the_entry_as_their_origins_encoded_them() {
        let parts: Vec<Bytes> = entry().batches.iter().map(Batch::encode).collect();
        assert_eq!(Entry::encode_from_parts(entry().time_ms, &parts), entry().encode());
        assert_eq!(Batch::decode(&parts[1]).unwrap(), entry().batches[1]);
    }

    #[test]
    fn every_cut_and_every_addition_is_an_error() {
        let bytes = entry().encode();
        for cut in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Entry::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut bytes = entry().encode().to_vec();
        bytes[0] = 2;
        assert!(matches!(Entry::decode(&bytes), Err(DecodeError::Version { found: 2, known: 1, .. })));
    }
}
