use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Element;
use crate::tally::Slot;
use crate::{SessionId, Stat, Zxid};

/// One element of the tree.
///
/// A million of these is an ordinary ensemble, so what only some znodes have is boxed in [`Dir`], and neither the
/// path nor the name is here: they are in the key (see [`crate::znodes::Key`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Znode {
    pub(crate) czxid: Zxid,
    pub(crate) mzxid: Zxid,
    pub(crate) ctime: u64,
    pub(crate) mtime: u64,
    /// Of the exact size and shared with readers, never a slice of the entry it came in: that would keep the
    /// whole entry alive.
    pub(crate) data: Arc<[u8]>,
    pub(crate) kind: Kind,
    /// From the first child on.
    pub(crate) dir: Option<Box<Dir>>,
    pub(crate) version: i32,
    pub(crate) aversion: i32,
    /// In the tree's table of ACLs, where this znode holds one reference.
    pub(crate) acl: u32,
}

/// What decides how long a znode lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Persistent,
    Container,
    Ephemeral(SessionId),
    /// The TTL in milliseconds.
    Ttl(u64),
}

/// When a znode may be swept away, in milliseconds of the tree's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// From then on.
    From(u64),
    /// It is a container that was made then and has had no child since: when it has waited long enough for the first one.
    UnusedSince(u64),
}

/// What a znode has once it has had a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dir {
    /// The children's keys begin with it. Ids grow, so a child's is above its parent's.
    pub(crate) id: u64,
    /// Children ever created: the number of the next sequential one.
    pub(crate) creates: u64,
    pub(crate) children: u32,
    /// Where its tally stands. It follows from the znodes, so it is in neither snapshot nor digest.
    #[serde(skip)]
    pub(crate) slot: Slot,
    pub(crate) pzxid: Zxid,
}

impl Znode {
    pub(crate) fn num_children(&self) -> u32 {
        self.dir.as_ref().map_or(0, |dir| dir.children)
    }

    pub(crate) fn creates(&self) -> u64 {
        self.dir.as_ref().map_or(0, |dir| dir.creates)
    }

    pub(crate) fn is_ephemeral(&self) -> bool {
        matches!(self.kind, Kind::Ephemeral(_))
    }

    pub(crate) fn stat(&self) -> Stat {
        let (creates, num_children) = (self.creates(), self.num_children());
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            // Creations plus deletions, which are the creations less what is left of them. ZooKeeper's field
            // has 32 bits and so wraps; the sequence counter below it does not.
            cversion: creates.wrapping_mul(2).wrapping_sub(u64::from(num_children)) as i32,
            aversion: self.aversion,
            ephemeral_owner: match self.kind {
                Kind::Ephemeral(session) => session,
                Kind::Persistent | Kind::Container | Kind::Ttl(_) => 0,
            },
            data_length: self.data.len() as u32,
            num_children,
            pzxid: self.dir.as_ref().map_or(self.czxid, |dir| dir.pzxid),
        }
    }

    /// When the znode may be swept away; `None` as long as nothing makes it due.
    pub(crate) fn due(&self) -> Option<When> {
        match self.kind {
            _ if self.num_children() > 0 => None,
            Kind::Ttl(ttl_ms) => Some(When::From(self.mtime.saturating_add(ttl_ms))),
            Kind::Container if self.creates() > 0 => Some(When::From(0)),
            Kind::Container => Some(When::UnusedSince(self.ctime)),
            Kind::Persistent | Kind::Ephemeral(_) => None,
        }
    }

    /// The hash of everything but the data.
    pub(crate) fn fields_hash(&self, parent: u64, name: &str) -> u64 {
        let (kind, extra) = match self.kind {
            Kind::Persistent => (0, 0),
            Kind::Container => (1, 0),
            Kind::Ephemeral(session) => (2, session),
            Kind::Ttl(ttl_ms) => (3, ttl_ms),
        };
        let mut element = Element::new(b'z');
        element
            .bytes(name.as_bytes())
            .u64(parent)
            .u64(self.czxid)
            .u64(self.mzxid)
            .u64(self.ctime)
            .u64(self.mtime)
            .u32(kind)
            .u64(extra)
            .u32(self.version as u32)
            .u32(self.aversion as u32)
            .u32(self.acl);
        if let Some(dir) = &self.dir {
            element.u64(dir.id).u64(dir.creates).u32(dir.children).u64(dir.pzxid);
        }
        element.hash()
    }

    /// The hash of the data at their place. It is an element of its own, so that a new child does not cost a hash
    /// of its parent's data.
    pub(crate) fn data_hash(&self, parent: u64, name: &str) -> u64 {
        Element::new(b'd').bytes(name.as_bytes()).bytes(&self.data).u64(parent).hash()
    }
}

/// The version after this one. It wraps from the largest to 0, past the -1 that stands for "any".
pub(crate) fn next_version(version: i32) -> i32 {
    version.checked_add(1).unwrap_or(0)
}
