use std::sync::Arc;

use imbl::OrdMap;

use crate::digest::{Digest, Element};
use crate::{Acl, AclEntry, Auth, Perms};

/// The distinct ACLs of the tree, each stored once and known by its index.
///
/// Znodes and events of the history hold references; an ACL that nobody refers to is dropped, so the table is never
/// larger than what refers to it. The ACL that is open to the world is always there at index 0 and is not counted:
/// it is the one of nearly every znode.
#[derive(Clone, Debug)]
pub(crate) struct AclTable {
    by_index: OrdMap<u32, Row>,
    by_acl: OrdMap<Arc<Acl>, u32>,
    /// Where the search for an unused index begins. Indices are handed out in a circle, so that one which was just
    /// dropped is not given to another ACL at once.
    next: u32,
    /// Of all ACLs, as [`bytes_of`] counts.
    bytes: u64,
    digest: Digest,
}

#[derive(Clone, Debug)]
struct Row {
    acl: Arc<Acl>,
    references: u64,
}

impl AclTable {
    /// The ACL `world:anyone` with every permission.
    pub(crate) const OPEN: u32 = 0;

    pub(crate) fn new() -> AclTable {
        AclTable::restore(1, [(AclTable::OPEN, open())])
    }

    /// A table with these rows, none of them referred to yet.
    pub(crate) fn restore(next: u32, rows: impl IntoIterator<Item = (u32, Acl)>) -> AclTable {
        let mut table = AclTable {
            by_index: OrdMap::new(),
            by_acl: OrdMap::new(),
            next,
            bytes: 0,
            digest: Digest::default(),
        };
        for (index, acl) in rows {
            table.put(index, Arc::new(acl));
        }
        table
    }

    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        self.iter().map(|(index, acl)| hash(index, acl)).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Acl)> {
        self.by_index.iter().map(|(index, row)| (*index, &*row.acl))
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Acl> {
        self.by_index.get(&index).map(|row| &*row.acl)
    }

    /// How many ACLs there are.
    pub(crate) fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Bytes of all ACLs.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Only the ACL that is open to the world is in use, and once the one at `index`.
    pub(crate) fn is_open_beside(&self, index: u32) -> bool {
        self.by_index.iter().all(|(at, row)| *at == AclTable::OPEN || (*at == index && row.references == 1))
    }

    /// How many bytes `acl` would add to the table: none if it is there already.
    pub(crate) fn bytes_added_by(&self, acl: &Acl) -> u64 {
        if self.by_acl.contains_key(acl) { 0 } else { bytes_of(acl) }
    }

    /// The index of `acl`, with one reference for the caller.
    pub(crate) fn acquire(&mut self, acl: Acl) -> u32 {
        let index = match self.by_acl.get(&acl) {
            Some(index) => *index,
            None => {
                while self.by_index.contains_key(&self.next) {
                    self.next = self.next.wrapping_add(1);
                }
                let index = self.next;
                self.next = self.next.wrapping_add(1);
                self.put(index, Arc::new(acl));
                index
            }
        };
        self.retain(index);
        index
    }

    /// One more reference to an index that has one already.
    pub(crate) fn retain(&mut self, index: u32) {
        if index == AclTable::OPEN {
            return;
        }
        if let Some(row) = self.by_index.get_mut(&index) {
            row.references += 1;
        }
    }

    /// One reference less; the last one takes the ACL with it.
    pub(crate) fn release(&mut self, index: u32) {
        if index == AclTable::OPEN {
            return;
        }
        let Some(row) = self.by_index.get_mut(&index) else { return };
        row.references = row.references.saturating_sub(1);
        if row.references == 0 {
            self.bytes -= bytes_of(&row.acl);
            self.digest.remove(hash(index, &row.acl));
            self.by_acl.remove(&row.acl);
            self.by_index.remove(&index);
        }
    }

    /// Whether `auth` has any of `wanted` under the ACL `index`. An index that is not there allows nothing.
    pub(crate) fn allows(&self, index: u32, wanted: Perms, auth: &Auth) -> bool {
        if index == AclTable::OPEN {
            return true;
        }
        self.get(index).is_some_and(|acl| {
            auth.is_super() || acl.iter().any(|entry| entry.perms.0 & wanted.0 != 0 && entry.matches(auth))
        })
    }

    /// An ACL that nobody refers to. There is none but while a table is being restored.
    pub(crate) fn unreferenced(&self) -> Option<u32> {
        self.by_index
            .iter()
            .find(|(index, row)| **index != AclTable::OPEN && row.references == 0)
            .map(|(i, _)| *i)
    }

    /// Adds a row without a reference. `false`, and nothing is done, if the index or the ACL is there already.
    pub(crate) fn put(&mut self, index: u32, acl: Arc<Acl>) -> bool {
        if self.by_index.contains_key(&index) || self.by_acl.contains_key(&acl) {
            return false;
        }
        self.bytes += bytes_of(&acl);
        self.digest.add(hash(index, &acl));
        self.by_acl.insert(acl.clone(), index);
        self.by_index.insert(index, Row { acl, references: 0 });
        true
    }
}

fn open() -> Acl {
    vec![AclEntry::world(Perms::ALL)]
}

/// What an ACL counts for where ACLs are bounded.
fn bytes_of(acl: &Acl) -> u64 {
    acl.iter().map(|entry| entry.scheme.len() + entry.id.len() + 64).sum::<usize>() as u64 + 128
}

fn hash(index: u32, acl: &Acl) -> u64 {
    let mut element = Element::new(b'a');
    for entry in acl {
        element.bytes(&[entry.perms.0]).bytes(entry.scheme.as_bytes()).bytes(entry.id.as_bytes());
    }
    element.u32(index).hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable() -> Acl {
        vec![AclEntry::world(Perms::READ)]
    }

    #[test]
    fn equal_acls_share_an_index_until_the_last_reference_goes() {
        let mut table = AclTable::new();
        let fresh = table.digest();
        let index = table.acquire(readable());
        assert_eq!(table.acquire(readable()), index);
        assert_eq!(table.digest(), table.recompute_digest());
        table.release(index);
        assert_eq!(table.get(index), Some(&readable()));
        table.release(index);
        assert_eq!(table.get(index), None);
        assert_eq!(table.digest(), fresh);
    }

    #[test]
    fn a_dropped_index_is_not_handed_out_at_once() {
        let mut table = AclTable::new();
        let first = table.acquire(readable());
        table.release(first);
        assert_ne!(table.acquire(vec![AclEntry::world(Perms::WRITE)]), first);
    }

    #[test]
    fn indices_wrap_around_past_those_in_use() {
        let mut table = AclTable::restore(u32::MAX, [(AclTable::OPEN, open())]);
        assert_eq!(table.acquire(readable()), u32::MAX);
        assert_eq!(table.acquire(vec![AclEntry::world(Perms::WRITE)]), 1);
    }

    #[test]
    fn an_index_that_is_gone_allows_nothing() {
        let root = Auth::superuser();
        assert!(!AclTable::new().allows(9, Perms::READ, &root));
    }
}
