use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;

use crate::{Batch, Command, DecodeError, Entry, Origin, RULES};

/// The format of entries of rules 1.
const VERSION_1: u8 = 1;
/// The format of all later ones.
const VERSION: u8 = 2;
/// The rules of entries that do not name theirs.
const RULES_1: u32 = 1;

impl<'a> Entry<'a> {
    /// The entry's encoded form; see the layout on [`Entry`].
    pub fn encode(&self) -> Bytes {
        let batches: Vec<Bytes> = self.batches.iter().map(Batch::encode).collect();
        Entry::encode_from_parts(self.rules, self.time_ms, &batches)
    }

    /// The same from batches that are encoded already, in the order in which they are to take effect. The batches
    /// are not looked at: whoever received them from elsewhere decodes them first.
    pub fn encode_from_parts(rules: u32, time_ms: u64, batches: &[Bytes]) -> Bytes {
        let size: usize = batches.iter().map(Bytes::len).sum();
        // A version byte, a varint of at most five bytes, and two of at most ten.
        let mut entry = BytesMut::with_capacity(size + 26);
        if rules == RULES_1 {
            entry.put_u8(VERSION_1);
        } else {
            entry.put_u8(VERSION);
            put_varint(&mut entry, rules.into());
        }
        put_varint(&mut entry, time_ms);
        put_varint(&mut entry, batches.len() as u64);
        batches.iter().for_each(|batch| entry.put_slice(batch));
        entry.freeze()
    }

    /// Reads what [`Entry::encode`] wrote. Never panics. Paths and data stay where they are; a command of two
    /// bytes takes a hundred times as much in memory, and no command takes a larger multiple.
    ///
    /// # Errors
    ///
    /// Another version, rules that this build does not know, bytes that are cut short, damaged, or left over.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (rules, time_ms, count, mut rest) = take_head(bytes)?;
        // A batch takes four bytes at least, so a count that is made up does not reserve more than there is.
        let mut batches =
            Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(rest.len() / 4));
        for _ in 0..count {
            batches.push(take(ENTRY, &mut rest)?);
        }
        finish(ENTRY, rest)?;
        Ok(Entry { rules, time_ms, batches })
    }

    /// Whether [`Entry::decode`] would read it. Keeps one command at a time: it is for bytes that are not
    /// trusted so far, in which a command may take a hundred times as much memory as its bytes.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn check(bytes: &[u8]) -> Result<(), DecodeError> {
        let (.., count, mut rest) = take_head(bytes)?;
        for _ in 0..count {
            check_batch(ENTRY, &mut rest)?;
        }
        finish(ENTRY, rest)
    }
}

const ENTRY: &str = "an entry";
const BATCH: &str = "a batch";

/// The rules, the time and the number of batches of an entry, and the bytes of these.
fn take_head(bytes: &[u8]) -> Result<(u32, u64, u64, &[u8]), DecodeError> {
    let Some((&version, mut rest)) = bytes.split_first() else {
        return Err(DecodeError::malformed(ENTRY, "it is empty"));
    };
    let rules = match version {
        VERSION_1 => RULES_1,
        VERSION => take(ENTRY, &mut rest)?,
        _ => return Err(DecodeError::Version { what: ENTRY, found: version, known: VERSION }),
    };
    if rules > RULES {
        return Err(DecodeError::Rules { found: rules, known: RULES });
    }
    if rules < u32::from(version) {
        let message = format!("rules {rules} in format version {version}");
        return Err(DecodeError::inconsistent(ENTRY, message));
    }
    let time_ms = take(ENTRY, &mut rest)?;
    let count = take(ENTRY, &mut rest)?;
    Ok((rules, time_ms, count, rest))
}

/// Reads over a batch: the fields of [`Batch`], with one command at a time.
fn check_batch(what: &'static str, rest: &mut &[u8]) -> Result<Origin, DecodeError> {
    let (origin, _first_seq): (Origin, u64) = take(what, rest)?;
    let count: u64 = take(what, rest)?;
    for _ in 0..count {
        let _command: Command<'_> = take(what, rest)?;
    }
    Ok(origin)
}

impl<'a> Batch<'a> {
    /// The batch as it stands in an entry.
    pub fn encode(&self) -> Bytes {
        postcard::to_allocvec(self).expect("every sequence of a batch knows its length").into()
    }

    /// Reads what [`Batch::encode`] wrote, with the same care as [`Entry::decode`].
    ///
    /// # Errors
    ///
    /// Bytes that are cut short, damaged, or left over.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        let batch = take(BATCH, &mut rest)?;
        finish(BATCH, rest)?;
        Ok(batch)
    }

    /// Whether [`Batch::decode`] would read it, as [`Entry::check`] does, and whose it is.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn check(bytes: &[u8]) -> Result<Origin, DecodeError> {
        let mut rest = bytes;
        let origin = check_batch(BATCH, &mut rest)?;
        finish(BATCH, rest)?;
        Ok(origin)
    }
}

fn take<'a, T: Deserialize<'a>>(what: &'static str, rest: &mut &'a [u8]) -> Result<T, DecodeError> {
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
    use std::borrow::Cow;

    use super::*;
    use crate::{
        Auth, Check, CheckKind, Command, Create, CreateMode, Data, EndReason, MultiOp, Origin, Write, WriteOp,
    };

    fn entry() -> Entry<'static> {
        let end = Command::EndSession { session: 9, reason: EndReason::Closed };
        let batch = |node, first_seq| Batch {
            origin: Origin { node, incarnation: 2 },
            first_seq,
            commands: vec![end.clone(); 3],
        };
        Entry { rules: RULES, time_ms: 1_700_000_000_000, batches: vec![batch(1, 1), batch(2, u64::MAX)] }
    }

    #[test]
    fn an_entry_is_read_back() {
        assert_eq!(Entry::decode(&entry().encode()).unwrap(), entry());
        for rules in 1..=RULES {
            let empty = Entry { rules, time_ms: u64::MAX, batches: vec![] };
            assert_eq!(Entry::decode(&empty.encode()).unwrap(), empty);
        }
    }

    #[test]
    fn batches_stand_in_the_entry_as_their_origins_encoded_them() {
        let parts: Vec<Bytes> = entry().batches.iter().map(Batch::encode).collect();
        assert_eq!(Entry::encode_from_parts(RULES, entry().time_ms, &parts), entry().encode());
        assert_eq!(Batch::decode(&parts[1]).unwrap(), entry().batches[1]);
    }

    /// Each node reads each entry twice, when it comes and when it is applied.
    #[test]
    fn paths_and_data_stay_where_they_are() {
        let create = Create {
            path: "/a".into(),
            data: Bytes::from_static(b"value").into(),
            acl: vec![],
            mode: CreateMode::Persistent,
            ttl_ms: 0,
            parents: false,
        };
        let guards = vec![Check { path: "/g".into(), kind: CheckKind::Absent }];
        let op = WriteOp::Multi(vec![MultiOp::Create(create)]);
        let write = Write { session: 0, seq: 0, acked: 0, auth: Auth::default(), guards, op };
        let commands = vec![Command::Write(write)];
        let origin = Origin { node: 1, incarnation: 1 };
        let bytes = Batch { origin, first_seq: 1, commands }.encode();
        let batch = Batch::decode(&bytes).unwrap();
        let Command::Write(write) = &batch.commands[0] else { panic!("{batch:?}") };
        assert!(matches!(write.guards[0].path, Cow::Borrowed("/g")));
        let WriteOp::Multi(ops) = &write.op else { panic!("{batch:?}") };
        let MultiOp::Create(create) = &ops[0] else { panic!("{batch:?}") };
        assert!(matches!(create.path, Cow::Borrowed("/a")));
        assert!(matches!(create.data, Data::Borrowed(b"value")));
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
        bytes[0] = 3;
        assert!(matches!(Entry::decode(&bytes), Err(DecodeError::Version { found: 3, known: 2, .. })));
    }

    #[test]
    fn newer_rules_are_refused_by_name() {
        let newer = Entry { rules: RULES + 1, time_ms: 1, batches: vec![] };
        let error = Entry::decode(&newer.encode()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an entry follows rules 3; this build knows them up to 2: start a newer build"
        );
    }

    /// An entry of rules 1 is written as builds before rules 2 wrote it.
    #[test]
    fn rules_1_keep_their_format() {
        let entry = Entry { rules: 1, time_ms: 5, batches: vec![] };
        assert_eq!(entry.encode(), [1, 5, 0].as_slice());
        assert!(Entry::decode(&[2, 1, 5, 0]).is_err(), "a second form for the same entry");
    }
}
