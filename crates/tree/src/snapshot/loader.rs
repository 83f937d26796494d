use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use compact_str::CompactString;
use serde::Deserialize;

use super::row;
use super::{Section, VERSION, VERSION_1};
use crate::acl_table::AclTable;
use crate::due::Due;
use crate::history::History;
use crate::origins::{Origins, Progress};
use crate::path::join;
use crate::planted::Bug;
use crate::quota::{Quotas, Usage};
use crate::recorded::Recorded;
use crate::session::{EndedSession, Session};
use crate::sessions::Sessions;
use crate::tally::{Slot, Sum, Tallies};
use crate::znode::{Dir, Kind, Znode};
use crate::znodes::{Key, KeyRef, ROOT_ID, Znodes};
use crate::{Acl, AclEntry, DecodeError, Event, Perms, RULES, SessionId, Tree, Zxid};

const WHAT: &str = "a snapshot";

/// Rebuilds a [`Tree`] from the chunks of [`Tree::snapshot_chunks`], in their order.
///
/// It trusts nothing: bytes that are no snapshot give an error, never a panic, nor more memory than a multiple of
/// their size. After an error it is of no further use.
#[derive(Debug)]
pub struct TreeLoader {
    /// The format version of its chunks.
    version: u8,
    section: Option<Section>,
    header: Option<row::Header>,
    acls: AclTable,
    origins: Origins,
    quotas: Quotas,
    live: BTreeMap<SessionId, Session>,
    ended: BTreeMap<SessionId, EndedSession>,
    znodes: Znodes,
    due: Due,
    tallies: Tallies,
    /// The znodes that have had children, by their id.
    dirs: BTreeMap<u64, Location>,
    last_key: Option<Key>,
    history: History,
    trailer: Option<row::Trailer>,
}

#[derive(Debug)]
struct Location {
    parent: u64,
    name: CompactString,
    slot: Slot,
    /// Bytes of its path; 0 of the root, which adds none to those below it.
    path_bytes: usize,
    /// How many children are still to come.
    missing: u32,
}

/// Counters that only grow stay below this for ever, so that a tree that was loaded never counts past their end.
const COUNT_MAX: u64 = u64::MAX >> 1;

impl TreeLoader {
    /// Before the first chunk.
    pub fn new() -> TreeLoader {
        TreeLoader {
            version: 0,
            section: None,
            header: None,
            acls: AclTable::restore(0, []),
            origins: Origins::default(),
            quotas: Quotas::default(),
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            znodes: Znodes::empty(ROOT_ID),
            due: Due::default(),
            tallies: Tallies::new(),
            dirs: BTreeMap::new(),
            last_key: None,
            history: History::default(),
            trailer: None,
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    ///
    /// Another format version; bytes that are cut short or damaged; chunks out of order; rows that contradict each
    /// other.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), DecodeError> {
        let &[version, section, ref rows @ ..] = chunk else {
            return Err(DecodeError::malformed(WHAT, "a chunk is shorter than its head"));
        };
        if !(VERSION_1..=VERSION).contains(&version) {
            return Err(DecodeError::Version { what: WHAT, found: version, known: VERSION });
        }
        if self.section.is_some() && version != self.version {
            return Err(inconsistent(format!("a chunk of version {version} in one of {}", self.version)));
        }
        self.version = version;
        let section = Section::from_byte(section)
            .ok_or_else(|| DecodeError::malformed(WHAT, format!("unknown section {section}")))?;
        if self.section.is_some_and(|before| section < before) {
            return Err(inconsistent(format!("{section:?} after {:?}", self.section)));
        }
        if (section == Section::Header) != self.header.is_none() {
            return Err(inconsistent(format!("{section:?} where a header is or is not to be")));
        }
        self.section = Some(section);
        match section {
            Section::Header if version == VERSION_1 => {
                each(rows, |common| self.header(row::Header { common, rules: 1 }))
            }
            Section::Header => each(rows, |row| self.header(row)),
            Section::Acls => each(rows, |row| self.acl(row)),
            Section::Origins => each(rows, |row| self.origin(row)),
            Section::Quotas => each(rows, |row| self.quota(row)),
            Section::Sessions if version == VERSION_1 => {
                each(rows, |common| self.live(row::Live { common, attached_zxid: 0 }))
            }
            Section::Sessions => each(rows, |row| self.live(row)),
            Section::Ended => each(rows, |row| self.ended(row)),
            Section::Results => each(rows, |row| self.result(row)),
            Section::Znodes => each(rows, |row| self.znode(row)),
            Section::Events => each(rows, |row| self.event(row)),
            Section::Trailer => each(rows, |row| self.trailer(row)),
        }
    }

    /// The tree, after the last chunk. Its digest was computed anew from what was loaded.
    ///
    /// # Errors
    ///
    /// Chunks are missing, or the tree is not the one that the snapshot was taken of.
    pub fn finish(self) -> Result<Tree, DecodeError> {
        let (tree, expected) = self.assemble()?;
        match tree.digest() {
            digest if digest == expected => Ok(tree),
            digest => Err(inconsistent(format!("its digest is {digest:#x}, expected {expected:#x}"))),
        }
    }

    /// The same whatever digest the snapshot names, so that a fuzzer gets behind it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn finish_unverified(self) -> Result<Tree, DecodeError> {
        self.assemble().map(|(tree, _)| tree)
    }

    /// The tree, and the digest that the snapshot says it has.
    fn assemble(self) -> Result<(Tree, u64), DecodeError> {
        let (Some(header), Some(trailer)) = (&self.header, &self.trailer) else {
            return Err(inconsistent("it is cut short"));
        };
        if self.znodes.len() != trailer.znodes {
            let count = self.znodes.len();
            return Err(inconsistent(format!("it has {count} znodes of {}", trailer.znodes)));
        }
        if let Some(dir) = self.dirs.values().find(|dir| dir.missing > 0) {
            return Err(inconsistent(format!("{} children of {:?} are missing", dir.missing, dir.name)));
        }
        if let Some(index) = self.acls.unreferenced() {
            return Err(inconsistent(format!("nothing refers to ACL {index}")));
        }
        let mut sessions = Sessions::default();
        for (id, session) in self.live {
            complete(id, session.last_seq, session.acked, &session.results)?;
            sessions.insert_live(session);
        }
        for (id, session) in self.ended {
            complete(id, session.last_seq, session.acked, &session.results)?;
            sessions.insert_ended(session);
        }
        let expected = trailer.digest;
        let tree = Tree {
            last_zxid: header.common.last_zxid,
            time_ms: header.common.time_ms,
            znodes: self.znodes,
            acls: self.acls,
            quotas: self.quotas,
            sessions,
            origins: self.origins,
            history: self.history,
            due: self.due,
            tallies: self.tallies,
            rules: header.rules,
        };
        Ok((tree, expected))
    }

    fn header(&mut self, row: row::Header) -> Result<(), DecodeError> {
        let common = &row.common;
        if common.last_zxid.max(common.next_id) > COUNT_MAX || common.history_start > common.last_zxid {
            return Err(inconsistent(format!("numbers that no history leads to: {row:?}")));
        }
        if row.rules > RULES {
            return Err(DecodeError::Rules { found: row.rules, known: RULES });
        }
        if row.rules < u32::from(self.version) {
            return Err(inconsistent(format!("rules {} in format version {}", row.rules, self.version)));
        }
        self.acls = AclTable::restore(common.next_acl, []);
        self.znodes = Znodes::empty(common.next_id);
        self.history = History::starting_at(common.history_start);
        match self.header.replace(row) {
            None => Ok(()),
            Some(_) => Err(inconsistent("it has two headers")),
        }
    }

    fn acl(&mut self, (index, acl): (u32, Acl)) -> Result<(), DecodeError> {
        if index == AclTable::OPEN && acl != [AclEntry::world(Perms::ALL)] {
            return Err(inconsistent(format!("ACL {index} is not the open one")));
        }
        match self.acls.put(index, Arc::new(acl)) {
            true => Ok(()),
            false => Err(inconsistent(format!("ACL {index} comes twice"))),
        }
    }

    fn origin(&mut self, row: row::Origin) -> Result<(), DecodeError> {
        if self.origins.get(row.node).is_some() {
            return Err(inconsistent(format!("node {} comes twice", row.node)));
        }
        self.origins.put(row.node, Progress { incarnation: row.incarnation, last_seq: row.last_seq });
        Ok(())
    }

    fn quota(&mut self, row: row::Quota<'_>) -> Result<(), DecodeError> {
        if self.quotas.report(row.path).is_ok() {
            return Err(inconsistent(format!("the quota of {:?} comes twice", row.path)));
        }
        self.quotas.put(row.path.into(), Usage { quota: row.quota, count: row.count, bytes: row.bytes });
        Ok(())
    }

    fn live(&mut self, row: row::Live) -> Result<(), DecodeError> {
        let row::Live { common: row, attached_zxid } = row;
        [row.opened_zxid, attached_zxid].into_iter().try_for_each(|zxid| self.past(zxid))?;
        let mut session = Session::new(row.opening, row.opened_zxid, row.opened_ms);
        (session.last_seq, session.acked) = (row.last_seq, row.acked);
        session.attached_zxid = attached_zxid;
        match self.live.insert(session.id(), session) {
            None => Ok(()),
            Some(twice) => Err(inconsistent(format!("session {:#x} comes twice", twice.id()))),
        }
    }

    fn ended(&mut self, row: row::Ended) -> Result<(), DecodeError> {
        self.past(row.zxid)?;
        let row::Ended { id, password, client_name, reason, zxid, ended_ms, last_seq, acked } = row;
        let results = VecDeque::new();
        let session =
            EndedSession { id, password, client_name, reason, zxid, ended_ms, last_seq, acked, results };
        match self.ended.insert(id, session).is_none() && !self.live.contains_key(&id) {
            true => Ok(()),
            false => Err(inconsistent(format!("session {id:#x} comes twice"))),
        }
    }

    fn result(&mut self, row: row::Recorded<'_>) -> Result<(), DecodeError> {
        self.past(row.zxid)?;
        let recorded = Recorded::restore(row.zxid, &row.bytes)?;
        if Bug::ResultsNotInSnapshots.is_planted() {
            return Ok(());
        }
        if let Some(session) = self.live.get_mut(&row.session) {
            session.result_bytes += recorded.bytes.len();
            session.results.push_back(recorded);
        } else if let Some(session) = self.ended.get_mut(&row.session) {
            session.results.push_back(recorded);
        } else {
            return Err(inconsistent(format!("a result of session {:#x}, which is not there", row.session)));
        }
        Ok(())
    }

    fn znode(&mut self, row: row::Znode<'_>) -> Result<(), DecodeError> {
        let key = KeyRef { parent: row.parent, name: row.name };
        if self.last_key.as_ref().is_some_and(|last| !equivalent::Comparable::compare(&key, last).is_gt()) {
            return Err(inconsistent(format!("znode {:?} of {} out of order", row.name, row.parent)));
        }
        [row.czxid, row.mzxid].into_iter().try_for_each(|zxid| self.past(zxid))?;
        let slot = self.place(&row)?;
        self.refer(row.acl)?;
        let creates = |dir: Dir| match Bug::SequenceNotInSnapshots.is_planted() {
            true => Dir { creates: dir.children.into(), slot, ..dir },
            false => Dir { slot, ..dir },
        };
        let znode = Znode {
            czxid: row.czxid,
            mzxid: row.mzxid,
            ctime: row.ctime,
            mtime: row.mtime,
            data: (*row.data).into(),
            kind: row.kind,
            dir: row.dir.map(|dir| Box::new(creates(dir))),
            version: row.version,
            aversion: row.aversion,
            acl: row.acl,
        };
        if let Some(due) = znode.due() {
            self.due.shift(&self.path(key), znode.czxid, None, Some(due));
        }
        if let Kind::Ephemeral(id) = znode.kind {
            let path = self.path(key);
            let Some(session) = self.live.get_mut(&id) else {
                return Err(inconsistent(format!(
                    "{path:?} belongs to session {id:#x}, which does not live"
                )));
            };
            session.ephemeral_bytes += Event::removal_cost(&path);
            session.ephemerals.insert(path.into());
        }
        self.last_key = Some(Key { parent: row.parent, name: row.name.into() });
        self.znodes.insert(key, znode);
        Ok(())
    }

    /// Checks that the znode has a parent that came before it, counts it at all above it, and remembers it as a parent
    /// itself. Returns the slot of its tally then.
    fn place(&mut self, row: &row::Znode<'_>) -> Result<Slot, DecodeError> {
        let is_root = self.last_key.is_none();
        if is_root != (row.parent == 0 && row.name.is_empty()) {
            return Err(inconsistent("the root is not the first znode"));
        }
        let (mut above, mut path_bytes) = (None, 0);
        if !is_root {
            let is_name = !row.name.is_empty() && !row.name.contains('/');
            let parent = self.dirs.get_mut(&row.parent).filter(|dir| is_name && dir.missing > 0);
            let Some(parent) = parent else {
                return Err(inconsistent(format!("no parent {} for a znode {:?}", row.parent, row.name)));
            };
            parent.missing -= 1;
            path_bytes = parent.path_bytes + 1 + row.name.len();
            above = Some(parent.slot);
            self.tallies.add(parent.slot, Sum::of(row.data.len(), path_bytes));
        }
        let mut slot = 0;
        if let Some(dir) = &row.dir {
            self.past(dir.pzxid)?;
            // A child's id is above its parent's, so the chain of parents ends.
            if dir.id <= row.parent || dir.id >= self.znodes.next_id() || (dir.id == ROOT_ID) != is_root {
                return Err(inconsistent(format!("znode {:?} has the id {}", row.name, dir.id)));
            }
            if dir.creates > COUNT_MAX {
                return Err(inconsistent(format!("znode {:?} has had {} children", row.name, dir.creates)));
            }
            slot = self.tallies.open(above);
            let (parent, name) = (row.parent, row.name.into());
            let location = Location { parent, name, slot, path_bytes, missing: dir.children };
            if self.dirs.insert(dir.id, location).is_some() {
                return Err(inconsistent(format!("two znodes have the id {}", dir.id)));
            }
        }
        Ok(slot)
    }

    fn event(&mut self, event: Event) -> Result<(), DecodeError> {
        let earliest = self.history.last().map_or(self.history.start().saturating_add(1), |last| last.zxid);
        if event.zxid < earliest {
            return Err(inconsistent(format!("an event of {} after one of {earliest}", event.zxid)));
        }
        self.past(event.zxid)?;
        self.refer(event.acl)?;
        self.refer(event.parent_acl)?;
        self.history.push(event);
        Ok(())
    }

    fn trailer(&mut self, row: row::Trailer) -> Result<(), DecodeError> {
        match self.trailer.replace(row) {
            None => Ok(()),
            Some(_) => Err(inconsistent("it has two trailers")),
        }
    }

    /// Nothing in a tree is newer than its last command: what comes next would not be.
    fn past(&self, zxid: Zxid) -> Result<(), DecodeError> {
        let last = self.header.as_ref().map_or(0, |header| header.common.last_zxid);
        match zxid <= last {
            true => Ok(()),
            false => Err(inconsistent(format!("something of {zxid}, after the last command's {last}"))),
        }
    }

    fn refer(&mut self, acl: u32) -> Result<(), DecodeError> {
        if self.acls.get(acl).is_none() {
            return Err(inconsistent(format!("no ACL {acl}")));
        }
        self.acls.retain(acl);
        Ok(())
    }

    fn path(&self, key: KeyRef<'_>) -> String {
        let mut names = vec![key.name];
        let mut id = key.parent;
        while let Some(dir) = self.dirs.get(&id).filter(|_| id != ROOT_ID) {
            names.push(&dir.name);
            id = dir.parent;
        }
        names.iter().rev().fold("/".to_owned(), |path, name| join(&path, name))
    }
}

impl Default for TreeLoader {
    fn default() -> TreeLoader {
        TreeLoader::new()
    }
}

fn each<'a, T: Deserialize<'a>>(
    mut rows: &'a [u8],
    mut take: impl FnMut(T) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !rows.is_empty() {
        let (row, rest) =
            postcard::take_from_bytes(rows).map_err(|error| DecodeError::malformed(WHAT, error))?;
        take(row)?;
        rows = rest;
    }
    Ok(())
}

fn complete(
    id: SessionId,
    last_seq: u64,
    acked: u64,
    results: &VecDeque<Recorded>,
) -> Result<(), DecodeError> {
    if last_seq.checked_sub(acked) == Some(results.len() as u64) && last_seq < u64::MAX {
        return Ok(());
    }
    let count = results.len();
    Err(inconsistent(format!(
        "session {id:#x} has {count} results for the writes after {acked} to {last_seq}"
    )))
}

fn inconsistent(cause: impl ToString) -> DecodeError {
    DecodeError::inconsistent(WHAT, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::znode::Dir;

    fn chunk(section: Section, row: &impl serde::Serialize) -> Vec<u8> {
        postcard::to_extend(row, vec![super::super::VERSION, section as u8]).unwrap()
    }

    fn header() -> row::Header {
        let common = row::Header1 { last_zxid: 7, time_ms: 0, next_id: 9, next_acl: 1, history_start: 0 };
        row::Header { common, rules: RULES }
    }

    fn header_with(change: impl FnOnce(&mut row::Header1)) -> row::Header {
        let mut header = header();
        change(&mut header.common);
        header
    }

    fn znode<'a>(parent: u64, name: &'a str, dir: Option<(u64, u32)>) -> row::Znode<'a> {
        row::Znode {
            parent,
            name,
            czxid: 1,
            mzxid: 1,
            ctime: 0,
            mtime: 0,
            version: 0,
            aversion: 0,
            acl: 0,
            kind: Kind::Persistent,
            dir: dir.map(|(id, children)| Dir { id, creates: 0, children, slot: 0, pzxid: 1 }),
            data: crate::Data::default(),
        }
    }

    fn event(zxid: Zxid) -> Event {
        Event { zxid, kind: EventKind::Created, path: "/a".into(), acl: 0, parent_acl: 0 }
    }

    /// What the loader says of these chunks after a header and the open ACL, whatever the digest.
    fn load(header: &row::Header, rows: &[Vec<u8>]) -> Result<Tree, DecodeError> {
        let mut loader = TreeLoader::new();
        loader.push(&chunk(Section::Header, header))?;
        loader.push(&chunk(Section::Acls, &(0u32, vec![AclEntry::world(Perms::ALL)])))?;
        rows.iter().try_for_each(|chunk| loader.push(chunk))?;
        let znodes = loader.znodes.len();
        loader.push(&chunk(Section::Trailer, &row::Trailer { znodes, digest: 0 }))?;
        loader.finish_unverified()
    }

    fn refusal(header: &row::Header, rows: &[Vec<u8>]) -> String {
        load(header, rows).expect_err("refused").to_string()
    }

    #[test]
    fn nothing_in_a_snapshot_is_newer_than_its_last_command() {
        let root = chunk(Section::Znodes, &znode(0, "", None));
        load(&header(), &[root.clone(), chunk(Section::Events, &event(7))]).unwrap();
        let refused = refusal(&header(), &[root, chunk(Section::Events, &event(8))]);
        assert!(refused.contains("something of 8, after the last command's 7"), "{refused}");
        let newer = row::Znode { mzxid: 8, ..znode(0, "", None) };
        assert!(refusal(&header(), &[chunk(Section::Znodes, &newer)]).contains("something of 8"));
        let refused = refusal(&header_with(|header| header.history_start = 8), &[]);
        assert!(refused.contains("no history leads to"), "{refused}");
    }

    #[test]
    fn counters_near_their_end_are_refused() {
        for header in [
            header_with(|header| header.last_zxid = u64::MAX),
            header_with(|header| header.next_id = u64::MAX),
        ] {
            assert!(refusal(&header, &[]).contains("no history leads to"));
        }
    }

    #[test]
    fn rules_fit_the_format_version() {
        for (rules, says) in [(RULES + 1, "start a newer build"), (1, "rules 1 in format version 2")] {
            let refused = refusal(&row::Header { rules, ..header() }, &[]);
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn each_parent_has_the_children_that_it_counts() {
        let root = |children| chunk(Section::Znodes, &znode(0, "", Some((ROOT_ID, children))));
        let parent = |children| chunk(Section::Znodes, &znode(ROOT_ID, "a", Some((5, children))));
        let child = chunk(Section::Znodes, &znode(5, "b", None));
        load(&header(), &[root(1), parent(1), child.clone()]).unwrap();
        // The sum is right.
        assert!(refusal(&header(), &[root(2), parent(0), child.clone()]).contains("no parent 5"));
        assert!(refusal(&header(), &[root(1), parent(2), child]).contains("1 children of \"a\" are missing"));
    }

    #[test]
    fn the_open_acl_is_the_first() {
        let mut loader = TreeLoader::new();
        loader.push(&chunk(Section::Header, &header())).unwrap();
        let closed = chunk(Section::Acls, &(0u32, vec![AclEntry::world(Perms::READ)]));
        assert!(loader.push(&closed).unwrap_err().to_string().contains("not the open one"));
    }
}
