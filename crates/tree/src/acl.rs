use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::{Detail, ErrorKind, OpError};

/// The permissions of one [`AclEntry`], ZooKeeper's bits: read 1, write 2, create 4, delete 8, admin 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Perms(pub u8);

impl Perms {
    /// Read data and list children.
    pub const READ: Perms = Perms(1);
    /// Change data.
    pub const WRITE: Perms = Perms(2);
    /// Create children.
    pub const CREATE: Perms = Perms(4);
    /// Delete children.
    pub const DELETE: Perms = Perms(8);
    /// Change the ACL.
    pub const ADMIN: Perms = Perms(16);
    /// Everything.
    pub const ALL: Perms = Perms(31);

    /// Whether every permission of `other` is in `self`.
    pub fn contains(self, other: Perms) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One line of an ACL: who may do what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AclEntry {
    /// What is allowed.
    pub perms: Perms,
    /// `world`, `auth`, `digest` or `ip`. `auth` is replaced, when it is stored, by the writer's own ids.
    pub scheme: String,
    /// `anyone` for `world`; `user:base64(sha1(user:password))` for `digest`; an address or `address/bits` for `ip`.
    pub id: String,
}

/// The whole ACL of a znode. Order is kept. An empty one is not storable.
pub type Acl = Vec<AclEntry>;

/// One identity that a connection has proved, beside its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AuthId {
    /// `digest`, or `super` for the operator's own account, which passes every ACL.
    pub scheme: String,
    /// For `digest`: `user:base64(sha1(user:password))`.
    pub id: String,
}

/// Who asks: what the origin node knows of the connection that a request came from. It travels in the command,
/// because ACLs are checked where the command is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// The address the connection came from; `None` where there is none (an internal command).
    pub ip: Option<IpAddr>,
    /// Identities added by `add_auth`.
    pub ids: Vec<AuthId>,
}

impl AclEntry {
    /// `perms` for everybody.
    pub fn world(perms: Perms) -> AclEntry {
        AclEntry { perms, scheme: "world".into(), id: "anyone".into() }
    }

    /// Whether this entry speaks of somebody that `auth` is, whatever it allows.
    pub(crate) fn matches(&self, auth: &Auth) -> bool {
        match self.scheme.as_str() {
            "world" => self.id == "anyone",
            "ip" => auth.ip.is_some_and(|ip| Network::parse(&self.id).is_some_and(|net| net.contains(ip))),
            scheme => auth.ids.iter().any(|id| id.scheme == scheme && id.id == self.id),
        }
    }
}

impl Auth {
    /// The operator's own account, which passes every ACL; for commands that the system itself proposes.
    pub fn superuser() -> Auth {
        Auth { ip: None, ids: vec![AuthId { scheme: "super".into(), id: String::new() }] }
    }

    /// Whether every ACL lets it pass.
    pub fn is_super(&self) -> bool {
        self.ids.iter().any(|id| id.scheme == "super")
    }
}

/// The id of scheme `digest` for a user and password: `user:base64(sha1("user:password"))`.
pub fn digest_id(user: &str, password: &str) -> String {
    let digest = Sha1::digest(format!("{user}:{password}"));
    format!("{user}:{}", BASE64_STANDARD.encode(digest))
}

/// The ACL as it is stored: without duplicates, and with `auth` replaced by the writer's own ids.
///
/// # Errors
///
/// `InvalidAcl`: it is empty, a scheme is unknown, an id is malformed, a permission does not exist, or `auth` is
/// asked for by somebody who has added no identity.
pub(crate) fn resolve(acl: &Acl, auth: &Auth, path: &str) -> Result<Acl, OpError> {
    let invalid = |detail| Err(OpError::new(ErrorKind::InvalidAcl, path, detail));
    if acl.is_empty() {
        return invalid(Detail::AclEmpty);
    }
    let mut resolved = Acl::with_capacity(acl.len());
    let mut push = |entry: AclEntry| {
        if !resolved.contains(&entry) {
            resolved.push(entry);
        }
    };
    for entry in acl {
        if !Perms::ALL.contains(entry.perms) {
            return invalid(Detail::AclPerms(entry.perms.0));
        }
        let well_formed = match entry.scheme.as_str() {
            "world" => entry.id == "anyone",
            "digest" => entry.id.split(':').count() == 2,
            "ip" => Network::parse(&entry.id).is_some(),
            "auth" => {
                let mut own = auth.ids.iter().filter(|id| id.scheme == "digest").peekable();
                if own.peek().is_none() {
                    return invalid(Detail::AclWithoutIdentity);
                }
                own.for_each(|id| {
                    push(AclEntry { perms: entry.perms, scheme: id.scheme.clone(), id: id.id.clone() })
                });
                continue;
            }
            _ => return invalid(Detail::AclScheme(entry.scheme.clone())),
        };
        if !well_formed {
            return invalid(Detail::AclId { scheme: entry.scheme.clone(), id: entry.id.clone() });
        }
        push(entry.clone());
    }
    Ok(resolved)
}

/// The ACL as it is shown to somebody without `ADMIN`: hashes of passwords are masked, as ZooKeeper does.
pub(crate) fn mask(acl: &Acl) -> Acl {
    let masked = |entry: &AclEntry| match (entry.scheme.as_str(), entry.id.split_once(':')) {
        ("digest", Some((user, _))) => AclEntry { id: format!("{user}:x"), ..entry.clone() },
        _ => entry.clone(),
    };
    acl.iter().map(masked).collect()
}

/// What an id of scheme `ip` stands for.
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(id: &str) -> Option<Network> {
        let (address, bits) = match id.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (id, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        (bits <= width).then_some(Network { address, bits })
    }

    fn contains(&self, ip: IpAddr) -> bool {
        // A dual-stack socket shows a client of IPv4 under its mapped address.
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (net.to_bits() ^ ip.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (net.to_bits() ^ ip.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(scheme: &str, id: &str) -> AclEntry {
        AclEntry { perms: Perms::READ, scheme: scheme.into(), id: id.into() }
    }

    fn from(ip: &str) -> Auth {
        Auth { ip: Some(ip.parse().unwrap()), ids: vec![] }
    }

    fn digest(user: &str) -> Auth {
        Auth { ip: None, ids: vec![AuthId { scheme: "digest".into(), id: digest_id(user, "secret") }] }
    }

    #[test]
    fn a_digest_id_is_the_one_zookeeper_makes() {
        // The example of ZooKeeper's own documentation of the super user's digest.
        assert_eq!(digest_id("super", "admin"), "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=");
    }

    #[test]
    fn an_ip_entry_matches_its_network_only() {
        let net = entry("ip", "10.1.0.0/16");
        assert!(net.matches(&from("10.1.2.3")));
        assert!(net.matches(&from("::ffff:10.1.2.3")));
        assert!(!net.matches(&from("10.2.2.3")));
        assert!(!net.matches(&from("fe80::1")));
        assert!(!net.matches(&Auth::default()));
        assert!(entry("ip", "0.0.0.0/0").matches(&from("192.0.2.1")));
        assert!(entry("ip", "2001:db8::/32").matches(&from("2001:db8::7")));
        assert!(!entry("ip", "2001:db8::1").matches(&from("2001:db8::7")));
    }

    #[test]
    fn malformed_entries_are_refused() {
        for (scheme, id) in [
            ("world", "someone"),
            ("digest", "nocolon"),
            ("digest", "a:b:c"),
            ("ip", "300.0.0.1"),
            ("ip", "10.0.0.1/33"),
            ("ip", "10.0.0.1/x"),
            ("kerberos", "me"),
            ("auth", ""),
        ] {
            let refused = resolve(&vec![entry(scheme, id)], &Auth::default(), "/a").unwrap_err();
            assert_eq!(refused.kind, ErrorKind::InvalidAcl, "{scheme}:{id}");
        }
        let unknown = AclEntry { perms: Perms(32), ..AclEntry::world(Perms::READ) };
        assert_eq!(resolve(&vec![unknown], &Auth::default(), "/a").unwrap_err().kind, ErrorKind::InvalidAcl);
        assert_eq!(resolve(&vec![], &Auth::default(), "/a").unwrap_err().kind, ErrorKind::InvalidAcl);
    }

    #[test]
    fn auth_becomes_the_writers_own_ids_and_duplicates_go() {
        let own = digest("ann");
        let acl = vec![entry("auth", ""), entry("digest", &own.ids[0].id), entry("world", "anyone")];
        let resolved = resolve(&acl, &own, "/a").unwrap();
        assert_eq!(resolved, vec![entry("digest", &own.ids[0].id), entry("world", "anyone")]);
    }

    #[test]
    fn masking_hides_hashes_and_nothing_else() {
        let acl = vec![entry("digest", "ann:abc="), entry("ip", "10.0.0.1")];
        assert_eq!(mask(&acl), vec![entry("digest", "ann:x"), entry("ip", "10.0.0.1")]);
    }
}
