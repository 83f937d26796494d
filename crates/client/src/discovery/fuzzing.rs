//! What the fuzz targets reach of the discovery.

use std::net::SocketAddr;

use super::source::Source;

/// A source as it is shown, if the text is one.
pub(crate) fn source(text: &str) -> Option<String> {
    text.parse::<Source>().ok().map(|source| source.to_string())
}

/// The endpoints of a file, as they are shown.
pub(crate) fn file(text: &str) -> Result<Vec<String>, String> {
    super::file::parse(text).map(|sources| sources.iter().map(ToString::to_string).collect())
}

/// Where a node is that has answered in a group.
pub(crate) fn judge(datagram: &[u8], from: SocketAddr, nonce: &str) -> Option<SocketAddr> {
    super::multicast::judge(datagram, from, nonce).map(|(_, found)| found.address)
}
