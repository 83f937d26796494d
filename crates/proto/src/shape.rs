//! How much memory a message takes once it is decoded, told from its bytes.
//!
//! A sub-message of two bytes becomes a struct of up to 200, so 4 MiB become 400 MB before anybody has looked
//! at a limit. [`check`] walks the tags of a message and allocates nothing.

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field};

/// Bytes of a message that is not walked: its sub-messages are fewer than what the limits of a request allow.
const SHORT: usize = 4 << 10;
/// Bytes that the repeated sub-messages of a unary request may take. The largest request within all other
/// limits, a multi of 1,000 creates with 64 ACL entries each, takes less.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Bytes that the repeated sub-messages of a message of a stream may take; of a larger message four times its
/// bytes. 1 MiB of the smallest operations, of eight bytes each, takes less.
pub const FRAME_BYTES_MAX: usize = 24 << 20;
const FRAME_FACTOR: usize = 4;

/// The fields of a message that hold messages and are, or contain, repeated ones.
#[derive(Debug)]
pub struct Shape {
    parts: &'static [Part],
}

/// One of these fields.
#[derive(Debug)]
struct Part {
    number: u32,
    /// Bytes of memory that each message of the field takes; 0 where the field is not repeated.
    bytes: usize,
    shape: &'static Shape,
}

/// A message that a call sends or is answered with. The implementations are generated from the .proto file.
pub trait Received {
    /// Where to look for repeated sub-messages. Empty for what only clients receive.
    const SHAPE: &'static Shape;
    /// The client sends a stream of it.
    const IS_STREAMED: bool;
}

mod generated {
    use super::{Part, Received, Shape};
    include!(concat!(env!("OUT_DIR"), "/coordd_v1_shapes.rs"));
}

/// Why a message is not decoded.
#[derive(Debug)]
pub enum Refused {
    /// It is no message of its type.
    Malformed(DecodeError),
    /// Its repeated sub-messages would take more than so many bytes.
    TooLarge(usize),
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Self {
        Refused::Malformed(error)
    }
}

/// Checks that the repeated sub-messages of a message of the type `M` take no more memory than its limit
/// allows.
///
/// # Errors
///
/// They take more, or the bytes cannot be decoded. Bytes that pass may still be malformed in places where
/// there are no repeated sub-messages.
pub fn check<M: Received>(bytes: &[u8]) -> Result<(), Refused> {
    if bytes.len() <= SHORT || M::SHAPE.parts.is_empty() {
        return Ok(());
    }
    measure::<M>(bytes).map(|_| ())
}

/// Bytes that the repeated sub-messages of a message of the type `M` take.
///
/// # Errors
///
/// See [`check`].
pub fn measure<M: Received>(bytes: &[u8]) -> Result<usize, Refused> {
    let limit = match M::IS_STREAMED {
        true => FRAME_BYTES_MAX.max(bytes.len().saturating_mul(FRAME_FACTOR)),
        false => REQUEST_BYTES_MAX,
    };
    let mut left = limit;
    walk(M::SHAPE, bytes, &mut left).map_err(|refused| refused.unwrap_or(Refused::TooLarge(limit)))?;
    Ok(limit - left)
}

/// Takes what the repeated sub-messages take off `left`; `Err(None)` if that is not enough. Where prost is
/// stricter, it finds that out later. Where this is stricter (a sub-message that is longer than the message
/// around it), prost would decode the sub-message first and refuse afterwards.
fn walk(shape: &Shape, mut bytes: &[u8], left: &mut usize) -> Result<(), Option<Refused>> {
    let malformed = |error: DecodeError| Some(Refused::Malformed(error));
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).map_err(malformed)?;
        let field = bytes;
        // Checks the length, and steps over it.
        skip_field(wire_type, number, &mut bytes, DecodeContext::default()).map_err(malformed)?;
        let Some(part) = shape.parts.iter().find(|part| part.number == number) else { continue };
        check_wire_type(WireType::LengthDelimited, wire_type).map_err(malformed)?;
        *left = left.checked_sub(part.bytes).ok_or(None)?;
        if !part.shape.parts.is_empty() {
            let mut inner = &field[..field.len() - bytes.len()];
            decode_varint(&mut inner).map_err(malformed)?;
            walk(part.shape, inner, left)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::v1::{self, request::Op};

    fn guards(count: usize) -> Vec<v1::Check> {
        vec![v1::Check { path: "/g".into(), ..Default::default() }; count]
    }

    fn acl(count: usize) -> Vec<v1::AclEntry> {
        vec![v1::AclEntry { perms: 31, scheme: "world".into(), id: "anyone".into() }; count]
    }

    fn credentials(count: usize) -> Vec<v1::Credential> {
        vec![v1::Credential::default(); count]
    }

    fn create() -> v1::CreateRequest {
        let data = vec![b'\n'; 100].into();
        v1::CreateRequest { path: "/c".into(), data, acl: acl(2), guards: guards(3), ..Default::default() }
    }

    fn create_bytes() -> usize {
        2 * size_of::<v1::AclEntry>() + 3 * size_of::<v1::Check>()
    }

    fn multi() -> v1::MultiRequest {
        let op = |op| v1::MultiOp { op: Some(op) };
        let ops =
            vec![op(v1::multi_op::Op::Create(create())), op(v1::multi_op::Op::Check(Default::default()))];
        v1::MultiRequest { ops, guards: guards(1), session: Some(Default::default()) }
    }

    fn multi_bytes() -> usize {
        2 * size_of::<v1::MultiOp>() + create_bytes() + size_of::<v1::Check>()
    }

    fn multi_read() -> v1::MultiReadRequest {
        let get = v1::GetRequest { path: "/g".into(), credentials: credentials(2), ..Default::default() };
        let ops = vec![v1::ReadOp { op: Some(v1::read_op::Op::Get(get)) }];
        v1::MultiReadRequest { ops, credentials: credentials(1), ..Default::default() }
    }

    fn multi_read_bytes() -> usize {
        size_of::<v1::ReadOp>() + 3 * size_of::<v1::Credential>()
    }

    fn requests() -> Vec<v1::Request> {
        let ops = [
            Op::Create(create()),
            Op::Multi(multi()),
            Op::MultiRead(multi_read()),
            Op::SetAcl(v1::SetAclRequest { acl: acl(3), guards: guards(1), ..Default::default() }),
            Op::Delete(v1::DeleteRequest { guards: guards(1), ..Default::default() }),
            Op::Set(v1::SetRequest { guards: guards(1), ..Default::default() }),
            Op::DeleteTree(v1::DeleteTreeRequest { guards: guards(1), ..Default::default() }),
            Op::SetQuota(v1::SetQuotaRequest { guards: guards(1), ..Default::default() }),
            Op::DeleteQuota(v1::DeleteQuotaRequest { guards: guards(1), ..Default::default() }),
            Op::List(v1::ListRequest { credentials: credentials(1), ..Default::default() }),
            Op::GetAcl(v1::GetAclRequest { credentials: credentials(1), ..Default::default() }),
            Op::GetEphemerals(v1::GetEphemeralsRequest { credentials: credentials(1), ..Default::default() }),
            Op::Sync(v1::SyncRequest {}),
        ];
        ops.into_iter().map(|op| v1::Request { id: 7, write_seq: 9, op: Some(op) }).collect()
    }

    fn frame() -> v1::ClientFrame {
        let watch = v1::ResumeWatch { spec: Some(Default::default()), path: "/w".into() };
        let attach =
            v1::Attach { credentials: credentials(1), watches: vec![watch; 4], ..Default::default() };
        v1::ClientFrame { attach: Some(attach), requests: requests(), ..Default::default() }
    }

    fn measured<M: Received + prost::Message>(message: &M) -> usize {
        measure::<M>(&message.encode_to_vec()).expect("a small message")
    }

    /// All repeated sub-messages are counted with the size of their structs, wherever they are.
    #[test]
    fn repeated_parts_are_counted() {
        assert_eq!(measured(&create()), create_bytes());
        assert_eq!(measured(&multi()), multi_bytes());
        assert_eq!(measured(&multi_read()), multi_read_bytes());
        let of_frame = requests().len() * size_of::<v1::Request>()
            + create_bytes()
            + multi_bytes()
            + multi_read_bytes()
            + 3 * size_of::<v1::AclEntry>()
            + 6 * size_of::<v1::Check>()
            + (3 + 1) * size_of::<v1::Credential>()
            + 4 * size_of::<v1::ResumeWatch>();
        assert_eq!(measured(&frame()), of_frame);
        let paths = vec![v1::SubscribePath::default(); 3];
        let subscribe = v1::SubscribeRequest { paths, credentials: credentials(2), ..Default::default() };
        let of_subscribe = 3 * size_of::<v1::SubscribePath>() + 2 * size_of::<v1::Credential>();
        assert_eq!(measured(&subscribe), of_subscribe);
        let quotas = v1::ListQuotasRequest { credentials: credentials(2), ..Default::default() };
        assert_eq!(measured(&quotas), 2 * size_of::<v1::Credential>());
    }

    fn refused<M: Received>(bytes: &[u8]) -> usize {
        match check::<M>(bytes) {
            Err(Refused::TooLarge(limit)) => limit,
            other => panic!("{other:?}"),
        }
    }

    /// A field of this number whose bytes are `inner`.
    fn nested(number: u32, inner: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(number, WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend_from_slice(inner);
        bytes
    }

    /// G9: megabytes of empty sub-messages are refused before they are decoded, at each depth.
    #[test]
    fn empty_parts_are_refused() {
        let empty = |number: u32| nested(number, &[]).repeat(1 << 21);
        assert_eq!(refused::<v1::ClientFrame>(&empty(2)), FRAME_BYTES_MAX);
        assert_eq!(refused::<v1::MultiRequest>(&empty(1)), REQUEST_BYTES_MAX);
        assert_eq!(refused::<v1::MultiReadRequest>(&empty(1)), REQUEST_BYTES_MAX);
        assert_eq!(refused::<v1::GetRequest>(&empty(5)), REQUEST_BYTES_MAX);
        for op in [9, 10] {
            refused::<v1::ClientFrame>(&nested(2, &nested(op, &empty(1))));
        }
        refused::<v1::ClientFrame>(&nested(1, &empty(6)));
        // An operation of a frame is no larger because it is longer than the request around it.
        let mut longer = nested(2, &nested(9, &empty(1)));
        longer[1..5].copy_from_slice(&[0x85, 0x80, 0x80, 0]);
        assert!(matches!(check::<v1::ClientFrame>(&longer), Err(Refused::Malformed(_))));
    }

    /// The largest requests that the limits of the server allow are decoded, and a full frame of small
    /// operations.
    #[test]
    fn honest_messages_pass() {
        let create = v1::CreateRequest { path: "/a".into(), acl: acl(64), ..Default::default() };
        let op = v1::MultiOp { op: Some(v1::multi_op::Op::Create(create)) };
        let multi = v1::MultiRequest { ops: vec![op; 1000], guards: guards(64), session: None };
        check::<v1::MultiRequest>(&multi.encode_to_vec()).expect("the largest multi");
        let delete = v1::DeleteRequest { path: "/a".into(), ..Default::default() };
        let op = v1::MultiOp { op: Some(v1::multi_op::Op::Delete(delete)) };
        let multi = v1::MultiRequest { ops: vec![op; 1000], ..Default::default() };
        let request = v1::Request { id: 1, write_seq: 1, op: Some(Op::Multi(multi)) };
        let frame = v1::ClientFrame { requests: vec![request; 130], ..Default::default() };
        let bytes = frame.encode_to_vec();
        assert!(bytes.len() > 1_000_000);
        check::<v1::ClientFrame>(&bytes).expect("1 MiB of the smallest operations");
        let sync = v1::Request { id: 1, write_seq: 0, op: Some(Op::Sync(v1::SyncRequest {})) };
        let frame = v1::ClientFrame { requests: vec![sync; 10_000], ..Default::default() };
        check::<v1::ClientFrame>(&frame.encode_to_vec()).expect("as many requests as a frame may have");
    }

    /// Whatever the bytes are, the walk comes to an end, and finds malformed only what prost refuses as well.
    #[test]
    fn malformed_means_undecodable() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let honest = frame().encode_to_vec();
        let mut malformed = 0;
        for _ in 0..20_000 {
            let mut bytes = honest.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(honest.len() - random(3) * random(50));
            if let Err(Refused::Malformed(_)) = measure::<v1::ClientFrame>(&bytes) {
                malformed += 1;
                assert!(v1::ClientFrame::decode(&bytes[..]).is_err(), "{bytes:?}");
            }
        }
        assert!(malformed > 1000, "{malformed}");
    }
}
