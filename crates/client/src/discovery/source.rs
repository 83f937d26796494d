use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

use super::multicast::Met;
use super::{Found, file, multicast};
use crate::{Error, ErrorKind};

/// The port of DNS, where a name server is given without one.
const DNS_PORT: u16 = 53;

/// One place where endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An address that needs no look-up.
    Address(SocketAddr),
    /// All addresses of a name; asked of the system, or of this name server.
    Name { host: String, port: u16, server: Option<SocketAddr> },
    /// The SRV records of a name.
    Srv { name: String, server: Option<SocketAddr> },
    /// Whoever answers in a multicast group, asked through the interface with this address.
    Multicast { group: SocketAddrV4, interface: Ipv4Addr },
    /// The lines of a file.
    File(PathBuf),
}

impl Source {
    /// Finds nodes, now. `met`: the ensemble that a multicast source has met.
    pub(crate) async fn find(&self, met: &mut Met) -> Result<Vec<Found>, String> {
        match self {
            Source::Address(address) => Ok(vec![Found::new(*address, address.to_string())]),
            Source::Name { host, port, server: None } => look_up(host, *port).await,
            Source::Name { host, port, server: Some(server) } => {
                named_server::addresses(host, *port, *server).await
            }
            Source::Srv { name, server } => named_server::srv(name, *server).await,
            Source::Multicast { group, interface } => multicast::ask(*group, *interface, met).await,
            Source::File(path) => {
                let mut found = Vec::new();
                for line in file::read(path).await? {
                    match line {
                        Source::Address(address) => found.push(Found::new(address, address.to_string())),
                        // One name that is gone must not hide the other lines.
                        Source::Name { host, port, .. } => match look_up(&host, port).await {
                            Ok(nodes) => found.extend(nodes),
                            Err(error) => tracing::warn!(%error, path = %path.display(), "an endpoint"),
                        },
                        Source::Srv { .. } | Source::Multicast { .. } | Source::File(_) => {}
                    }
                }
                Ok(found)
            }
        }
    }
}

/// All addresses that the system knows for a name.
async fn look_up(host: &str, port: u16) -> Result<Vec<Found>, String> {
    let label = format!("{host}:{port}");
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
    Ok(addresses.map(|address| Found::new(address, label.clone())).collect())
}

#[cfg(feature = "srv")]
use super::dns as named_server;

/// Never called: a source that needs a resolver of our own is refused when it is read.
#[cfg(not(feature = "srv"))]
mod named_server {
    use super::{Found, SocketAddr};

    pub(super) async fn addresses(_: &str, _: u16, _: SocketAddr) -> Result<Vec<Found>, String> {
        Err(super::NO_RESOLVER.into())
    }

    pub(super) async fn srv(_: &str, _: Option<SocketAddr>) -> Result<Vec<Found>, String> {
        Err(super::NO_RESOLVER.into())
    }
}

#[cfg(not(feature = "srv"))]
const NO_RESOLVER: &str = "this program was built without the feature `srv` of coordd-client";

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let refused = |cause: &str| {
            Error::new(ErrorKind::BadArguments, format!("endpoint {text:?} is not usable: {cause}"))
        };
        let parsed = match text.split_once(':') {
            Some(("dns", rest)) => {
                let (endpoint, server) = with_server(rest).map_err(refused)?;
                match host_and_port(endpoint) {
                    Some((host, port)) => Ok(Source::Name { host, port, server }),
                    None => Err("expected dns:HOST:PORT, or dns:HOST:PORT@NAMESERVER"),
                }
            }
            Some(("srv", rest)) => {
                let (name, server) = with_server(rest).map_err(refused)?;
                match name.is_empty() || name.contains(is_no_part_of_a_name) || name.contains(':') {
                    false => Ok(Source::Srv { name: name.to_owned(), server }),
                    true => Err("expected srv:NAME, or srv:NAME@NAMESERVER"),
                }
            }
            Some(("multicast", rest)) => multicast_group(rest),
            Some(("file", "")) => Err("expected file:PATH"),
            Some(("file", path)) => Ok(Source::File(path.into())),
            _ => endpoint(text).ok_or(
                "expected host:port, dns:HOST:PORT[@NAMESERVER], srv:NAME[@NAMESERVER], \
                 multicast:GROUP:PORT[@INTERFACE] or file:PATH",
            ),
        };
        let source = parsed.map_err(refused)?;
        #[cfg(not(feature = "srv"))]
        if matches!(source, Source::Srv { .. } | Source::Name { server: Some(_), .. }) {
            return Err(refused(NO_RESOLVER));
        }
        Ok(source)
    }
}

/// "host:port" of what a person may have written; the only form that a file's lines may have.
pub(super) fn endpoint(text: &str) -> Option<Source> {
    let (host, port) = host_and_port(text.trim_start_matches("http://").trim_end_matches('/'))?;
    let is_literal = host.trim_matches(['[', ']']).parse().map(|ip| SocketAddr::new(ip, port));
    Some(match is_literal {
        Ok(address) => Source::Address(address),
        Err(_) => Source::Name { host, port, server: None },
    })
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_ipv6 = host.starts_with('[') && host.ends_with(']');
    let is_host =
        !host.is_empty() && !host.contains(is_no_part_of_a_name) && (is_ipv6 || !host.contains(':'));
    // A name that the system cannot look up with its brackets.
    if !is_host || (is_ipv6 && host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>().is_err()) {
        return None;
    }
    Some((host.to_owned(), port.parse().ok()?))
}

/// Nobody means these, and they do not show in a log line.
fn is_no_part_of_a_name(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '/' | '@')
}

/// What stands before the "@", and the name server behind it.
fn with_server(text: &str) -> Result<(&str, Option<SocketAddr>), &'static str> {
    let Some((rest, server)) = text.split_once('@') else { return Ok((text, None)) };
    let with_port = server.parse::<SocketAddr>().ok();
    let without = || Some(SocketAddr::new(server.parse().ok()?, DNS_PORT));
    match with_port.or_else(without) {
        Some(server) => Ok((rest, Some(server))),
        None => Err("a name server is an IP address, or IP:PORT"),
    }
}

fn multicast_group(text: &str) -> Result<Source, &'static str> {
    let (group, interface) = text.split_once('@').unwrap_or((text, "0.0.0.0"));
    let group = group.parse::<SocketAddrV4>().ok().filter(|group| group.ip().is_multicast());
    match (group, interface.parse()) {
        (Some(group), Ok(interface)) if group.port() != 0 => Ok(Source::Multicast { group, interface }),
        (Some(_), Err(_)) => {
            Err("the interface of a multicast group is the IPv4 address of one of this machine's")
        }
        _ => Err("expected multicast:GROUP:PORT with an IPv4 group from 224.0.0.0 to 239.255.255.255"),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |server: &Option<SocketAddr>| server.map_or_else(String::new, |at| format!("@{at}"));
        match self {
            Source::Address(address) => write!(f, "{address}"),
            Source::Name { host, port, server: None } => write!(f, "{host}:{port}"),
            Source::Name { host, port, server } => write!(f, "dns:{host}:{port}{}", suffix(server)),
            Source::Srv { name, server } => write!(f, "srv:{name}{}", suffix(server)),
            Source::Multicast { group, interface } if interface.is_unspecified() => {
                write!(f, "multicast:{group}")
            }
            Source::Multicast { group, interface } => write!(f, "multicast:{group}@{interface}"),
            Source::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_as_it_is_written() {
        let mut same = vec![
            "127.0.0.1:7401",
            "node-1.example:1",
            "[::1]:7401",
            "multicast:239.1.2.3:7400",
            "multicast:239.1.2.3:7400@10.0.0.1",
            "file:/etc/coordd/nodes",
            "file:nodes",
        ];
        if cfg!(feature = "srv") {
            same.extend([
                "srv:_coordd._tcp.example.com",
                "srv:_coordd._tcp.example.com@127.0.0.1:8600",
                "dns:coordd.service.consul:7401@[::1]:8600",
            ]);
        }
        for text in same {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for (text, read) in [
            (" http://a:1/ ", "a:1"),
            ("dns:a:1", "a:1"),
            ("dns:127.0.0.1:1", "127.0.0.1:1"),
            ("localhost:7401", "localhost:7401"),
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), read);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_what_was_expected() {
        for (bad, expected) in [
            ("", "host:port"),
            ("host", "host:port"),
            (":7401", "host:port"),
            ("host:", "host:port"),
            ("host:70000", "host:port"),
            ("host:x", "host:port"),
            ("::1:7401", "host:port"),
            ("[node]:7401", "host:port"),
            ("https://a:1", "host:port"),
            ("a\tb:1", "host:port"),
            ("dns:a", "dns:HOST:PORT"),
            ("dns:\ra:1", "dns:HOST:PORT"),
            ("srv:a\nb", "srv:NAME"),
            ("dns:a:1@nowhere", "an IP address"),
            ("srv:", "srv:NAME"),
            ("srv:a:1", "srv:NAME"),
            ("srv:a@b", "an IP address"),
            ("multicast:10.0.0.1:7400", "224.0.0.0"),
            ("multicast:239.0.0.1", "multicast:GROUP:PORT"),
            ("multicast:239.0.0.1:0", "multicast:GROUP:PORT"),
            ("multicast:239.0.0.1:7400@eth0", "IPv4 address"),
            ("file:", "file:PATH"),
        ] {
            let error = bad.parse::<Source>().unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadArguments, "{bad}");
            let shown = bad.escape_debug().to_string();
            assert!(error.message.contains(expected) && error.message.contains(&shown), "{bad}: {error}");
        }
    }

    #[cfg(not(feature = "srv"))]
    #[test]
    fn without_the_feature_srv_is_refused_by_name() {
        for bad in ["srv:_coordd._tcp.example.com", "dns:a:1@127.0.0.1"] {
            assert!(bad.parse::<Source>().unwrap_err().message.contains("feature `srv`"));
        }
    }
}
