use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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
