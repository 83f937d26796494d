//! The codec of the public API: prost's, behind a check of what a message takes in memory.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::shape::{Received, Refused, check};
use crate::status::into_status;
use crate::v1::{Error, ErrorCode};

/// Encodes `T`, and decodes `U` unless its sub-messages would take too much memory.
#[derive(Debug)]
pub struct BoundedCodec<T, U> {
    types: PhantomData<(T, U)>,
}

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec { types: PhantomData }
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Received + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder { decoder: ProstCodec::<T, U>::default().decoder() }
    }
}

/// The decoder of [`BoundedCodec`].
#[derive(Debug)]
pub struct BoundedDecoder<U> {
    decoder: ProstDecoder<U>,
}

impl<U: Message + Default + Received> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message is in one piece.
        debug_assert_eq!(bytes.chunk().len(), bytes.remaining());
        check::<U>(bytes.chunk()).map_err(refuse::<U>)?;
        self.decoder.decode(bytes)
    }
}

fn refuse<U: Received>(refused: Refused) -> Status {
    match refused {
        // As tonic answers what prost cannot decode.
        Refused::Malformed(error) => Status::internal(error.to_string()),
        Refused::TooLarge(limit) => {
            let code = if U::IS_STREAMED { ErrorCode::Protocol } else { ErrorCode::BadArguments };
            let message = format!(
                "the requests, operations, guards, ACL entries, credentials and watches of one message would \
                 take more than {limit} bytes of memory; send fewer at a time"
            );
            into_status(Error { code: code as i32, message, ..Error::default() })
        }
    }
}
