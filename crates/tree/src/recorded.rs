use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::digest::Element;
use crate::{DecodeError, OpError, OpResult, Outcome, Refusal, SessionId, WriteSeq, Zxid};

const WHAT: &str = "a recorded result";

/// The answer to a numbered write, kept until the client says that it has it (G4).
///
/// It is kept encoded: most answers are never looked at again, and a session may have thousands. Layout: a byte
/// (0 error of rules 1, 1 outcome, 2 multi, 3 error), then the error, the outcome, or the outcomes one after the other, as
/// postcard. Under rules 1 an error is kept with its sentence, from rules 2 on with the values that the sentence is made
/// from. The outcomes of a multi are written flat, because decoding a recursive type follows the input as deep as it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) zxid: Zxid,
    pub(crate) bytes: Arc<[u8]>,
}

impl Recorded {
    pub(crate) fn new(zxid: Zxid, rules: u32, result: &OpResult) -> Recorded {
        let mut bytes = Vec::with_capacity(96);
        match result {
            Err(error) if rules == 1 => {
                bytes.push(0);
                append(&Refusal::from(error), &mut bytes);
            }
            Err(error) => {
                bytes.push(3);
                append(error, &mut bytes);
            }
            Ok(Outcome::Multi(outcomes)) => {
                bytes.push(2);
                outcomes.iter().for_each(|outcome| append(outcome, &mut bytes));
            }
            Ok(outcome) => {
                bytes.push(1);
                append(outcome, &mut bytes);
            }
        }
        Recorded { zxid, bytes: bytes.into() }
    }

    /// What a snapshot says, if it can be decoded.
    pub(crate) fn restore(zxid: Zxid, bytes: &[u8]) -> Result<Recorded, DecodeError> {
        let recorded = Recorded { zxid, bytes: bytes.into() };
        match recorded.decode() {
            Ok(_) => Ok(recorded),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    ///
    /// Never for what [`Recorded::new`] made or [`Recorded::restore`] tried.
    pub(crate) fn decode(&self) -> Result<OpResult, DecodeError> {
        let (form, mut rest) =
            self.bytes.split_first().ok_or_else(|| DecodeError::malformed(WHAT, "it is empty"))?;
        let result = match form {
            0 => Err(take::<Refusal>(&mut rest)?.into()),
            3 => Err(take::<OpError>(&mut rest)?),
            1 => Ok(take_flat(&mut rest)?),
            2 => {
                let mut outcomes = Vec::new();
                while !rest.is_empty() {
                    outcomes.push(take_flat(&mut rest)?);
                }
                Ok(Outcome::Multi(outcomes))
            }
            form => return Err(DecodeError::malformed(WHAT, format!("it has the unknown form {form}"))),
        };
        match rest {
            [] => Ok(result),
            _ => Err(DecodeError::malformed(WHAT, format!("{} bytes are left over", rest.len()))),
        }
    }

    pub(crate) fn hash(&self, session: SessionId, seq: WriteSeq) -> u64 {
        Element::new(b'r').bytes(&self.bytes).u64(session).u64(seq).u64(self.zxid).hash()
    }
}

fn append(value: &impl serde::Serialize, bytes: &mut Vec<u8>) {
    postcard::to_io(value, bytes)
        .expect("a vector takes any bytes, and every sequence here knows its length");
}

/// The ordinal of [`Outcome::Multi`], the one variant that contains outcomes.
const MULTI: u32 = 5;

fn take<T: DeserializeOwned>(rest: &mut &[u8]) -> Result<T, DecodeError> {
    let (value, after) =
        postcard::take_from_bytes(rest).map_err(|error| DecodeError::malformed(WHAT, error))?;
    *rest = after;
    Ok(value)
}

fn take_flat(rest: &mut &[u8]) -> Result<Outcome, DecodeError> {
    let malformed = |error| DecodeError::malformed(WHAT, error);
    let (variant, _) = postcard::take_from_bytes::<u32>(rest).map_err(malformed)?;
    if variant == MULTI {
        return Err(DecodeError::malformed(WHAT, "a multi within an outcome"));
    }
    take(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Detail, ErrorKind, Stat};

    /// Under rules 1 an error keeps its sentence, and the bytes are those of builds that knew no others.
    #[test]
    fn rules_1_record_sentences() {
        let error = OpError::new(ErrorKind::NoNode, "/a", Detail::NoZnode);
        let recorded = Recorded::new(3, 1, &Err(error.clone()));
        assert_eq!(&*recorded.bytes, b"\0\0\x02/a\0\x0dno znode \"/a\"");
        let read = recorded.decode().unwrap().unwrap_err();
        assert_eq!((read.message(), read.detail), (error.message(), Detail::Text(error.message())));
    }

    #[test]
    fn what_was_recorded_is_read_back() {
        let created = Outcome::Created { path: "/a".into(), stat: Stat { czxid: 7, ..Stat::default() } };
        for result in [
            Ok(created.clone()),
            Ok(Outcome::Multi(vec![])),
            Ok(Outcome::Multi(vec![created, Outcome::Deleted, Outcome::Checked])),
            Err(OpError::new(ErrorKind::NoNode, "/a", Detail::NoZnode)),
        ] {
            assert_eq!(Recorded::new(3, 2, &result).decode().unwrap(), result);
        }
    }

    #[test]
    fn a_multi_within_a_multi_is_refused_however_deep() {
        assert_eq!(postcard::to_allocvec(&Outcome::Multi(vec![])).unwrap(), [MULTI as u8, 0]);
        let deep = [[2].as_slice(), &[MULTI as u8, 1].repeat(1 << 20)].concat();
        assert!(Recorded { zxid: 1, bytes: deep.into() }.decode().is_err());
        // The same ordinal, written with a superfluous byte.
        assert!(
            Recorded { zxid: 1, bytes: [1, 0x80 | MULTI as u8, 0, 0].as_slice().into() }.decode().is_err()
        );
    }
}
