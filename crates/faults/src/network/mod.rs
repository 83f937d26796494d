//! A network of the machine's own: hosts in network namespaces, and a switch between them that forwards, delays and drops
//! their packets.

mod host;
mod link;
mod switch;

pub(crate) use host::{Host, own_address};
pub(crate) use link::Link;
pub(crate) use switch::Switch;

use std::net::Ipv4Addr;

/// A host's number; its address ends with it.
pub(crate) type HostId = u8;

/// The host that runs the faults: no fault touches its links.
pub(crate) const CONTROLLER: HostId = 250;

/// The first host of clients; nodes come before it.
pub(crate) const FIRST_CLIENT: HostId = 100;

pub(crate) fn address_of(host: HostId) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, host)
}
