//! Compiles the .proto files with a protobuf compiler written in Rust, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("../../proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let public = protox::compile(["coordd/v1/coordd.proto"], [&root])?;
    std::fs::write(out.join("coordd_v1_descriptor.bin"), public.encode_to_vec())?;
    let peer = protox::compile(["coordd/peer/v1/peer.proto"], [&root])?;
    println!("cargo:rerun-if-changed=../../proto");

    // `Bytes`: values are shared with the receive buffer instead of copied out of it.
    tonic_prost_build::configure().bytes(".").compile_fds(public)?;
    tonic_prost_build::configure().bytes(".").compile_fds(peer)?;
    Ok(())
}
