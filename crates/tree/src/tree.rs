use std::sync::Arc;

use crate::acl_table::AclTable;
use crate::change::Step;
use crate::digest::Element;
use crate::due::Due;
use crate::history::History;
use crate::origins::Origins;
use crate::quota::Quotas;
use crate::sessions::Sessions;
use crate::znode::{Dir, Kind, Znode};
use crate::znodes::{KeyRef, ROOT_ID, Znodes};
use crate::{
    AclEntry, Applied, Command, EndReason, Entry, ErrorKind, OpError, Origin, Perms, Write, WriteOp, Zxid,
};

/// The state of the whole ensemble as of one zxid: znodes, ACLs, quotas, sessions, and the latest events.
///
/// A clone is cheap, and is an immutable version: it shares with the original whatever neither changes afterwards.
///
/// # Invariants
///
/// * Two trees that were given the same entries in the same order have equal digests and equal snapshots, also
///   where one of them was loaded from a snapshot in between.
/// * `digest()` is the one that [`Tree::recompute_digest`] finds; each part keeps its own up to date.
/// * What follows from the znodes (a session's ephemerals, the times znodes are due at, references to ACLs) is
///   neither stored nor hashed, but rebuilt by the loader.
#[derive(Clone)]
pub struct Tree {
    pub(crate) last_zxid: Zxid,
    pub(crate) time_ms: u64,
    pub(crate) znodes: Znodes,
    pub(crate) acls: AclTable,
    pub(crate) quotas: Quotas,
    pub(crate) sessions: Sessions,
    pub(crate) origins: Origins,
    pub(crate) history: History,
    pub(crate) due: Due,
}

impl Tree {
    /// The tree before the first command: the root, and the znodes that ZooKeeper has from the start:
    /// `/zookeeper`, `/zookeeper/quota`, and `/zookeeper/config`, which everybody may read and nobody but the
    /// operator's account may write.
    pub fn new() -> Tree {
        let mut acls = AclTable::new();
        let config_acl = acls.acquire(vec![AclEntry::world(Perms::READ)]);
        let mut znodes = Znodes::empty(ROOT_ID);
        let mut insert = |key, children, acl| {
            // These creations are not counted, so cversion starts below zero. It does in ZooKeeper.
            let id = if children > 0 { znodes.draw_id() } else { 0 };
            let dir = (children > 0).then(|| Box::new(Dir { id, creates: 0, children, pzxid: 0 }));
            let znode = Znode {
                czxid: 0,
                mzxid: 0,
                ctime: 0,
                mtime: 0,
                data: Arc::default(),
                kind: Kind::Persistent,
                dir,
                version: 0,
                aversion: 0,
                acl,
            };
            znodes.insert(key, znode);
            id
        };
        let root = insert(KeyRef::ROOT, 1, AclTable::OPEN);
        let system = insert(KeyRef { parent: root, name: "zookeeper" }, 2, AclTable::OPEN);
        insert(KeyRef { parent: system, name: "quota" }, 0, AclTable::OPEN);
        insert(KeyRef { parent: system, name: "config" }, 0, config_acl);
        Tree {
            last_zxid: 0,
            time_ms: 0,
            znodes,
            acls,
            quotas: Quotas::default(),
            sessions: Sessions::default(),
            origins: Origins::default(),
            history: History::default(),
            due: Due::default(),
        }
    }

    /// Applies an entry of the log. It cannot fail: a command that is refused is an applied result.
    ///
    /// `f` is called after each command that was taken, with its origin and its number there, in the order of
    /// their zxids, while the tree is just past that command: what is read then is the state that the command's
    /// events tell of. Commands that were skipped (see [`crate::Batch`]) take no zxid, and `f` is not called.
    pub fn apply(&mut self, entry: &Entry, f: impl FnMut(&Tree, Origin, u64, Applied)) {
        self.apply_entry(None, entry, f);
    }

    /// The same for an entry that a leader proposed in Raft's `term`: an expiry that an earlier leader decided is refused
    /// with [`ErrorKind::GuardFailed`], because every session has been granted a full timeout since (G6).
    pub fn apply_in_term(&mut self, term: u64, entry: &Entry, f: impl FnMut(&Tree, Origin, u64, Applied)) {
        self.apply_entry(Some(term), entry, f);
    }

    fn apply_entry(
        &mut self,
        term: Option<u64>,
        entry: &Entry,
        mut f: impl FnMut(&Tree, Origin, u64, Applied),
    ) {
        self.time_ms = self.time_ms.max(entry.time_ms);
        for batch in &entry.batches {
            for (index, command) in batch.commands.iter().enumerate() {
                let Some(seq) = batch.first_seq.checked_add(index as u64) else { break };
                if !self.origins.take(batch.origin, seq) {
                    continue;
                }
                let applied = self.apply_command(term, command);
                f(self, batch.origin, seq, applied);
                // Only now: `f` may ask about the ACLs of events that are dropped at once because they are many.
                self.shorten_history();
            }
        }
        self.sessions.forget(self.time_ms);
    }

    fn apply_command(&mut self, term: Option<u64>, command: &Command) -> Applied {
        self.last_zxid += 1;
        let mut step = Step { zxid: self.last_zxid, time_ms: self.time_ms, events: Vec::new() };
        let (zxid, result) = match command {
            Command::Write(write) => self.write(&mut step, write),
            Command::OpenSession(opening) => self.open_session(&step, opening),
            Command::EndSession { session, reason: EndReason::Expired { term: decided, .. } }
                if term.is_some_and(|term| term != *decided) =>
            {
                let message = format!(
                    "the expiry of session {session:#x} was decided in term {decided}, which is over"
                );
                (step.zxid, Err(OpError::new(ErrorKind::GuardFailed, "", message)))
            }
            Command::EndSession { session, reason } => {
                (step.zxid, self.end_session(&mut step, *session, reason))
            }
            Command::ExpireZnodes(candidates) => (step.zxid, self.expire_znodes(&mut step, candidates)),
        };
        step.events.iter().for_each(|event| self.history.push(event.clone()));
        let ended = match command {
            // A repeated close is answered from the record, at the place of the first one.
            _ if result.is_err() || zxid != step.zxid => None,
            Command::EndSession { session, .. } => Some(*session),
            Command::Write(Write { session, op: WriteOp::CloseSession, .. }) => Some(*session),
            _ => None,
        };
        Applied { zxid, result, events: step.events, ended }
    }

    fn shorten_history(&mut self) {
        while let Some(events) = self.history.pop_excess() {
            for event in events {
                self.acls.release(event.acl);
                self.acls.release(event.parent_acl);
            }
        }
    }

    /// The zxid of the last command; 0 before the first.
    pub fn last_zxid(&self) -> Zxid {
        self.last_zxid
    }

    /// The latest time of any entry, in milliseconds since the Unix epoch. It never goes back.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// How many znodes there are, the four that are always there included.
    pub fn znode_count(&self) -> u64 {
        self.znodes.len()
    }

    /// Bytes of data in all znodes together.
    pub fn data_bytes(&self) -> u64 {
        self.znodes.data_bytes()
    }

    /// The digest of the whole state (G8). It is kept up to date with every change, so asking costs nothing.
    /// Replicas compare it at equal zxids.
    pub fn digest(&self) -> u64 {
        self.digest_with([
            self.znodes.digest().get(),
            self.acls.digest().get(),
            self.quotas.digest().get(),
            self.sessions.digest().get(),
            self.origins.digest().get(),
            self.history.digest().get(),
        ])
    }

    /// The same from scratch, by looking at everything: what `digest()` must be. For tests and for a node that
    /// wants to know whether it is its own memory that is wrong.
    pub fn recompute_digest(&self) -> u64 {
        self.digest_with([
            self.znodes.recompute_digest().get(),
            self.acls.recompute_digest().get(),
            self.quotas.recompute_digest().get(),
            self.sessions.recompute_digest().get(),
            self.origins.recompute_digest().get(),
            self.history.recompute_digest().get(),
        ])
    }

    fn digest_with(&self, parts: [u64; 6]) -> u64 {
        let mut counters = Element::new(b'c');
        counters
            .u64(self.last_zxid)
            .u64(self.time_ms)
            .u64(self.znodes.next_id())
            .u32(self.acls.next())
            .u64(self.history.start());
        parts.into_iter().fold(counters.hash(), u64::wrapping_add)
    }

    /// How far the commands of `node` have been taken: its incarnation, and the number of the last one in it.
    /// `None` for a node that never proposed.
    pub fn taken(&self, node: u64) -> Option<(u64, u64)> {
        self.origins.get(node).map(|progress| (progress.incarnation, progress.last_seq))
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

/// The outlines only: a tree may be large.
impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("last_zxid", &self.last_zxid)
            .field("time_ms", &self.time_ms)
            .field("znodes", &self.znode_count())
            .field("data_bytes", &self.data_bytes())
            .field("sessions", &self.session_count())
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}
