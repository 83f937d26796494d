//! coordd's wire: the public API ([`v1`]) and the private peer API ([`peer`]), as generated code.
//!
//! The .proto files in `proto/` are the documentation of every message and field.

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

/// The public API.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("coordd.v1");

    /// The encoded `FileDescriptorSet` of this package, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/coordd_v1_descriptor.bin"));
}

/// The API between nodes.
pub mod peer {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("coordd.peer.v1");
}

mod codec;
mod shape;
pub mod status;
mod wrong_port;

pub use codec::{BoundedCodec, BoundedDecoder};
pub use shape::{FRAME_BYTES_MAX, REQUEST_BYTES_MAX, Received, Refused, Shape, check, measure};
pub use wrong_port::WrongPort;
