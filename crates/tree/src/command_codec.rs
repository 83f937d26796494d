//! Commands and batches as bytes, made piece by piece: a command is encoded once, when it is submitted, and a batch is
//! the concatenation of its commands.

use bytes::Bytes;
use serde::Serialize;

use crate::{Batch, Command, Origin};

impl Command<'_> {
    /// The bytes of this command as they stand in a batch.
    pub fn encode(&self) -> Bytes {
        encode_to(Vec::with_capacity(256), self).into()
    }
}

impl Batch<'_> {
    /// The same bytes as `Batch { origin, first_seq, commands }.encode()`, where `commands` are encoded already.
    pub fn encode_from_parts(origin: Origin, first_seq: u64, commands: &[Bytes]) -> Bytes {
        let length: usize = commands.iter().map(Bytes::len).sum();
        let head = encode_to(Vec::with_capacity(length + 32), &(origin, first_seq));
        let mut bytes = encode_to(head, &commands.len());
        for command in commands {
            bytes.extend_from_slice(command);
        }
        bytes.into()
    }
}

fn encode_to(bytes: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, bytes)
        .expect("writing to memory does not fail, and every type here has a length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_made_of_encoded_commands_is_the_batch() {
        let origin = Origin { node: 300, incarnation: 70_000 };
        let commands: Vec<_> = (0..200).map(|n| Command::ExpireZnodes(vec![(format!("/{n}"), n)])).collect();
        let parts: Vec<_> = commands.iter().map(Command::encode).collect();
        let whole = Batch { origin, first_seq: 9, commands }.encode();
        assert_eq!(Batch::encode_from_parts(origin, 9, &parts), whole);
    }
}
