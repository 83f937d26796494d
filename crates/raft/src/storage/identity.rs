//! The IDENTITY file of a data directory: a few lines of text, for the operator's eyes too, with a checksum.

use std::fmt::Write as _;

use super::LOST_ADVICE;
use crate::type_config::NodeId;

/// Version of the whole data directory's format. A node opens its own version only.
const FORMAT: u64 = 2;
const CHECKSUM: &str = "crc32c = ";

/// What is wrong with an IDENTITY file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The content is not what was written.
    #[error(
        "damaged ({0}); restore the file from a copy of it, which may be older; without one, {LOST_ADVICE}"
    )]
    Damaged(String),
    /// Written by another version.
    #[error(
        "data format {0} is not known to this version of coordd, which knows {FORMAT}; use the version that wrote it"
    )]
    Format(u64),
}

/// The content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node_id: NodeId,
    /// Empty until the ensemble is formed.
    pub(super) cluster_id: String,
    pub(super) incarnation: u64,
    pub(super) log_started: bool,
}

impl Identity {
    pub(super) fn new(node_id: NodeId) -> Identity {
        Identity { node_id, cluster_id: String::new(), incarnation: 0, log_started: false }
    }

    /// Whether the id can stand in the file as it is.
    pub(super) fn is_cluster_id(id: &str) -> bool {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        (1..=64).contains(&id.len()) && id.bytes().all(allowed)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "# The identity of a coordd data directory. Written by coordd; do not edit or copy.\n\
             format = {FORMAT}\nnode_id = {}\ncluster_id = {}\nincarnation = {}\nlog_started = {}\n",
            self.node_id, self.cluster_id, self.incarnation, self.log_started
        );
        Identity::sign(&mut text);
        text.into_bytes()
    }

    fn sign(text: &mut String) {
        let crc = crc32c::crc32c(text.as_bytes());
        writeln!(text, "{CHECKSUM}{crc:08x}").expect("writing to a string does not fail");
    }

    /// Any text with the checksum of it.
    #[cfg(any(test, fuzzing))]
    pub(super) fn signed(text: &str) -> Vec<u8> {
        let mut text = text.to_owned();
        Identity::sign(&mut text);
        text.into_bytes()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Identity, IdentityError> {
        let damaged = |cause: &str| IdentityError::Damaged(cause.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
        let (body, checksum) = text.rsplit_once(CHECKSUM).ok_or_else(|| damaged("no checksum"))?;
        if checksum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("the checksum does not match"));
        }
        let field = |name: &str| {
            body.lines()
                .filter_map(|line| line.split_once(" = "))
                .find_map(|(key, value)| (key == name).then_some(value))
                .ok_or_else(|| IdentityError::Damaged(format!("no {name}")))
        };
        let number = |name: &str| {
            field(name)?.parse::<u64>().map_err(|_| IdentityError::Damaged(format!("{name} is not a number")))
        };
        // The format first: another one may have other fields.
        match number("format")? {
            FORMAT => {}
            other => return Err(IdentityError::Format(other)),
        }
        Ok(Identity {
            node_id: number("node_id")?,
            cluster_id: field("cluster_id")?.to_owned(),
            incarnation: number("incarnation")?,
            log_started: field("log_started")? == "true",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { node_id: 3, cluster_id: "prod-1".into(), incarnation: 17, log_started: true }
    }

    #[test]
    fn an_identity_survives_its_encoding() {
        assert_eq!(Identity::decode(&identity().encode()), Ok(identity()));
        assert_eq!(Identity::decode(&Identity::new(1).encode()), Ok(Identity::new(1)));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let good = identity().encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Identity::decode(&bad).is_err(), "flipped byte {at}");
            assert!(Identity::decode(&good[..at]).is_err(), "cut to {at} bytes");
        }
    }

    #[test]
    fn another_format_is_named() {
        let body = "format = 3\nnode = x\n";
        let text = format!("{body}{CHECKSUM}{:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert_eq!(Identity::decode(text.as_bytes()), Err(IdentityError::Format(3)));
    }
}
