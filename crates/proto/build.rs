//! Compiles the .proto files with a protobuf compiler written in Rust, so that no protoc is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use prost::Message as _;
use tonic_prost_build::FileDescriptorSet;

/// `Type.TYPE_MESSAGE` and `Label.LABEL_REPEATED` of `google/protobuf/descriptor.proto`.
const TYPE_MESSAGE: i32 = 11;
const LABEL_REPEATED: i32 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("../../proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let public = protox::compile(["coordd/v1/coordd.proto"], [&root])?;
    std::fs::write(out.join("coordd_v1_descriptor.bin"), public.encode_to_vec())?;
    std::fs::write(out.join("coordd_v1_shapes.rs"), shapes(&public)?)?;
    let peer = protox::compile(["coordd/peer/v1/peer.proto"], [&root])?;
    println!("cargo:rerun-if-changed=../../proto");

    // `Bytes`: values are shared with the receive buffer instead of copied out of it.
    let public_code = tonic_prost_build::configure().bytes(".").codec_path("crate::codec::BoundedCodec");
    public_code.compile_fds(public)?;
    tonic_prost_build::configure().bytes(".").compile_fds(peer)?;
    Ok(())
}

/// A field that holds messages.
struct Field {
    number: i32,
    is_repeated: bool,
    of: String,
}

/// The implementations of `Received`: for what servers receive with the fields that can hold repeated
/// messages, for what clients receive without any.
fn shapes(files: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut fields: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    let (mut inputs, mut outputs, mut streamed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for file in &files.file {
        for message in &file.message_type {
            let of_messages = message.field.iter().filter(|field| field.r#type == Some(TYPE_MESSAGE));
            let of_messages = of_messages.map(|field| Field {
                number: field.number(),
                is_repeated: field.label == Some(LABEL_REPEATED),
                of: field.type_name().to_owned(),
            });
            fields.insert(format!(".{}.{}", file.package(), message.name()), of_messages.collect());
        }
        for method in file.service.iter().flat_map(|service| &service.method) {
            inputs.insert(method.input_type().to_owned());
            outputs.insert(method.output_type().to_owned());
            if method.client_streaming() {
                streamed.insert(method.input_type().to_owned());
            }
        }
    }
    let mut reached = BTreeSet::new();
    inputs.iter().for_each(|input| reach(&fields, input, &mut Vec::new(), &mut reached));
    let mut code = String::new();
    for message in reached.union(&outputs) {
        let mut parts = String::new();
        for field in fields[message].iter().filter(|_| reached.contains(message)) {
            let of = rust_path(&field.of);
            if field.is_repeated || holds_repeated(&fields, &field.of) {
                let bytes = if field.is_repeated { format!("size_of::<{of}>()") } else { "0".to_owned() };
                let shape = format!("<{of} as Received>::SHAPE");
                write!(parts, "Part {{ number: {}, bytes: {bytes}, shape: {shape} }}, ", field.number)?;
            }
        }
        let message_path = rust_path(message);
        let is_streamed = streamed.contains(message);
        writeln!(
            code,
            "impl Received for {message_path} {{\n    \
             const SHAPE: &'static Shape = &Shape {{ parts: &[{parts}] }};\n    \
             const IS_STREAMED: bool = {is_streamed};\n}}"
        )?;
    }
    Ok(code)
}

/// Adds a message and those that it holds. All must be known, and none may hold itself.
fn reach(
    fields: &BTreeMap<String, Vec<Field>>,
    message: &str,
    above: &mut Vec<String>,
    reached: &mut BTreeSet<String>,
) {
    assert!(!above.iter().any(|outer| outer == message), "{message} holds itself");
    let known =
        fields.get(message).unwrap_or_else(|| panic!("{message}: nested messages and maps are not walked"));
    reached.insert(message.to_owned());
    above.push(message.to_owned());
    known.iter().for_each(|field| reach(fields, &field.of, above, reached));
    above.pop();
}

fn holds_repeated(fields: &BTreeMap<String, Vec<Field>>, message: &str) -> bool {
    fields[message].iter().any(|field| field.is_repeated || holds_repeated(fields, &field.of))
}

fn rust_path(message: &str) -> String {
    format!("crate::v1::{}", message.rsplit('.').next().unwrap_or(message))
}
