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
    /// There is a watermark beside the log, and something in it: without, or with nothing, it was damaged.
    pub(super) has_watermark: bool,
    /// The nodes that the ensemble was formed with, ascending. Empty until it is formed, and in directories of versions that
    /// did not write it down.
    pub(super) formed_with: Vec<NodeId>,
}

impl Identity {
    pub(super) fn new(node_id: NodeId) -> Identity {
        Identity {
            node_id,
            cluster_id: String::new(),
            incarnation: 0,
            log_started: false,
            has_watermark: false,
            formed_with: Vec::new(),
        }
    }

    /// Whether the id can stand in the file as it is.
    pub(super) fn is_cluster_id(id: &str) -> bool {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        (1..=64).contains(&id.len()) && id.bytes().all(allowed)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "# The identity of a coordd data directory. Written by coordd; do not edit or copy.\n\
             format = {FORMAT}\nnode_id = {}\ncluster_id = {}\nincarnation = {}\nlog_started = {}\n\
             has_watermark = {}\nformed_with = {}\n",
            self.node_id,
            self.cluster_id,
            self.incarnation,
            self.log_started,
            self.has_watermark,
            self.formed_with.iter().map(NodeId::to_string).collect::<Vec<_>>().join(","),
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
            // Of the same format before these were in it.
            has_watermark: field("has_watermark").is_ok_and(|value| value == "true"),
            formed_with: node_ids(field("formed_with").unwrap_or_default())?,
        })
    }
}

fn node_ids(list: &str) -> Result<Vec<NodeId>, IdentityError> {
    let ids = list.split(',').filter(|id| !id.is_empty()).map(str::parse);
    let ids: Result<Vec<NodeId>, _> = ids.collect();
    ids.map_err(|_| IdentityError::Damaged("formed_with is not a list of node ids".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            node_id: 3,
            cluster_id: "prod-1".into(),
            incarnation: 17,
            log_started: true,
            has_watermark: true,
            formed_with: vec![1, 3, 20],
        }
    }

    /// As versions wrote it that did not know the last two fields.
    #[test]
    fn older_identities_are_read() {
        let text = "format = 2\nnode_id = 3\ncluster_id = prod-1\nincarnation = 17\nlog_started = true\n";
        let older = Identity { has_watermark: false, formed_with: Vec::new(), ..identity() };
        assert_eq!(Identity::decode(&Identity::signed(text)), Ok(older));
        let garbage = Identity::signed(&format!("{text}formed_with = 1,x\n"));
        assert!(Identity::decode(&garbage).is_err());
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
