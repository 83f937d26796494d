use std::ops::ControlFlow;
use std::sync::Arc;

use crate::acl_table::AclTable;
use crate::change::Step;
use crate::digest::Element;
use crate::due::Due;
use crate::history::History;
use crate::origins::Origins;
use crate::quota::Quotas;
use crate::sessions::Sessions;
use crate::tally::{Slot, Sum, Tallies};
use crate::znode::{Dir, Kind, Znode};
use crate::znodes::{KeyRef, ROOT_ID, Znodes};
use crate::{
    AclEntry, Applied, Bounds, Ceilings, Command, Detail, EndReason, Entry, ErrorKind, OpError, Origin,
    Perms, WriteOp, Zxid,
};

/// An entry forgets so many ended sessions at most, and one more for each of its commands: each may end one.
const FORGOTTEN_MAX: usize = 1000;

/// The state of the whole ensemble as of one zxid: znodes, ACLs, quotas, sessions, and the latest events.
///
/// A clone is cheap, and is an immutable version: it shares with the original whatever neither changes afterwards.
///
/// # Invariants
///
/// * Two trees that were given the same entries in the same order have equal digests and equal snapshots, also
///   where one of them was loaded from a snapshot in between.
/// * `digest()` is the one that [`Tree::recompute_digest`] finds; each part keeps its own up to date.
/// * What follows from the znodes (a session's ephemerals, the times znodes are due at, references to ACLs, how much is
///   below a znode) is neither stored nor hashed, but rebuilt by the loader.
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
    pub(crate) tallies: Tallies,
    /// The newest rules of any entry.
    pub(crate) rules: u32,
}

/// Where in an entry an apply stands: the batch, and the command in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    batch: usize,
    command: usize,
}

impl Tree {
    /// The tree before the first command: the root, and the znodes that ZooKeeper has from the start:
    /// `/zookeeper`, `/zookeeper/quota`, and `/zookeeper/config`, which everybody may read and nobody but the
    /// operator's account may write.
    pub fn new() -> Tree {
        let mut acls = AclTable::new();
        let config_acl = acls.acquire(vec![AclEntry::world(Perms::READ)]);
        let mut znodes = Znodes::empty(ROOT_ID);
        let mut tallies = Tallies::new();
        let mut insert = |key, path: &str, above: Option<Slot>, children, acl| {
            // These creations are not counted, so cversion starts below zero. It does in ZooKeeper.
            let id = if children > 0 { znodes.draw_id() } else { 0 };
            let slot = if children > 0 { tallies.open(above) } else { 0 };
            let dir = (children > 0).then(|| Box::new(Dir { id, creates: 0, children, slot, pzxid: 0 }));
            if let Some(above) = above {
                tallies.add(above, Sum::of(0, path.len()));
            }
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
            (id, Some(slot))
        };
        let (root, slot) = insert(KeyRef::ROOT, "/", None, 1, AclTable::OPEN);
        let key = KeyRef { parent: root, name: "zookeeper" };
        let (system, slot) = insert(key, "/zookeeper", slot, 2, AclTable::OPEN);
        insert(KeyRef { parent: system, name: "quota" }, "/zookeeper/quota", slot, 0, AclTable::OPEN);
        insert(KeyRef { parent: system, name: "config" }, "/zookeeper/config", slot, 0, config_acl);
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
            tallies,
            rules: 1,
        }
    }

    /// Applies an entry of the log. It cannot fail: a command that is refused is an applied result.
    ///
    /// `f` is called after each command that was taken, with its origin and its number there, in the order of
    /// their zxids, while the tree is just past that command: what is read then is the state that the command's
    /// events tell of. Commands that were skipped (see [`crate::Batch`]) take no zxid, and `f` is not called.
    pub fn apply(&mut self, entry: &Entry, mut f: impl FnMut(&Tree, Origin, u64, Applied)) {
        self.apply_entry(None, entry, &mut Cursor::default(), |tree, origin, seq, applied| {
            f(tree, origin, seq, applied);
            ControlFlow::Continue(())
        });
    }

    /// The same for an entry that a leader proposed in Raft's `term`: an expiry that an earlier leader decided is refused
    /// with [`ErrorKind::GuardFailed`], because every session has been granted a full timeout since (G6).
    pub fn apply_in_term(
        &mut self,
        term: u64,
        entry: &Entry,
        mut f: impl FnMut(&Tree, Origin, u64, Applied),
    ) {
        self.apply_entry(Some(term), entry, &mut Cursor::default(), |tree, origin, seq, applied| {
            f(tree, origin, seq, applied);
            ControlFlow::Continue(())
        });
    }

    /// The same from `cursor` on, until `f` breaks off after a command. Returns whether the entry is done; if it is not, the
    /// next call goes on after that command. In between the tree may be read, and must not be changed by anything else.
    pub fn apply_from(
        &mut self,
        term: u64,
        entry: &Entry,
        cursor: &mut Cursor,
        f: impl FnMut(&Tree, Origin, u64, Applied) -> ControlFlow<()>,
    ) -> bool {
        self.apply_entry(Some(term), entry, cursor, f)
    }

    fn apply_entry(
        &mut self,
        term: Option<u64>,
        entry: &Entry,
        cursor: &mut Cursor,
        mut f: impl FnMut(&Tree, Origin, u64, Applied) -> ControlFlow<()>,
    ) -> bool {
        self.time_ms = self.time_ms.max(entry.time_ms);
        self.rules = self.rules.max(entry.rules);
        while let Some(batch) = entry.batches.get(cursor.batch) {
            while let Some(command) = batch.commands.get(cursor.command) {
                let Some(seq) = batch.first_seq.checked_add(cursor.command as u64) else { break };
                cursor.command += 1;
                if !self.origins.take(batch.origin, seq) {
                    continue;
                }
                let applied = self.apply_command(term, entry.rules, command);
                let flow = f(self, batch.origin, seq, applied);
                // Only now: `f` may ask about the ACLs of events that are dropped at once because they are many.
                self.shorten_history();
                if flow.is_break() {
                    return false;
                }
            }
            *cursor = Cursor { batch: cursor.batch + 1, command: 0 };
        }
        // Under rules 1 all at once, however many they are.
        let commands = entry.batches.iter().map(|batch| batch.commands.len()).sum::<usize>();
        let forgotten_max = if entry.rules == 1 { usize::MAX } else { FORGOTTEN_MAX + commands };
        self.sessions.forget(self.time_ms, forgotten_max);
        true
    }

    fn apply_command(&mut self, term: Option<u64>, rules: u32, command: &Command) -> Applied {
        self.last_zxid += 1;
        let rules = rules.max(command.rules());
        self.rules = self.rules.max(rules);
        let ceilings = match command {
            Command::Bounded(_, Bounds { ceilings: Some(ceilings), .. }) => *ceilings,
            _ if rules == 1 => Ceilings::NONE,
            _ => Ceilings::RULES_2,
        };
        let mut step = Step::new(self.last_zxid, self.time_ms, rules, ceilings);
        let (zxid, result) = match command {
            Command::Write(write) => self.write(&mut step, write, 0),
            Command::Bounded(write, bounds) => self.write(&mut step, write, bounds.generation),
            Command::OpenSession(opening) => self.open_session(&step, opening),
            Command::EndSession { session, reason: EndReason::Expired { term: decided, .. } }
                if term.is_some_and(|term| term != *decided) =>
            {
                let detail = Detail::StaleExpiry { session: *session, term: *decided };
                (step.zxid, Err(OpError::new(ErrorKind::GuardFailed, "", detail)))
            }
            Command::EndSession { session, reason } => {
                (step.zxid, self.end_session(&mut step, *session, reason))
            }
            Command::ExpireZnodes(candidates) => (step.zxid, self.expire_znodes(&mut step, candidates, None)),
            Command::Sweep { candidates, unused_ms } => {
                (step.zxid, self.expire_znodes(&mut step, candidates, Some(*unused_ms)))
            }
            Command::Attach { session } => (step.zxid, self.attach_session(&step, *session)),
        };
        let events_dropped = self.remember(&mut step);
        let is_first = result.is_ok() && zxid == step.zxid;
        let (mut ended, mut attached) = (None, None);
        match command {
            // A repeated close is answered from the record, at the place of the first one.
            _ if !is_first => {}
            Command::EndSession { session, .. } => ended = Some(*session),
            Command::Write(write) | Command::Bounded(write, _) if write.op == WriteOp::CloseSession => {
                ended = Some(write.session);
            }
            Command::Attach { session } => attached = Some(*session),
            _ => {}
        }
        Applied { zxid, result, events: step.events, events_dropped, ended, attached }
    }

    /// Puts the events into the history. Returns whether they were too many: then the history begins anew after them.
    fn remember(&mut self, step: &mut Step) -> bool {
        step.events.iter().for_each(|event| self.history.push(event.clone()));
        let Some(dropped) = step.dropped.take() else { return false };
        for event in self.history.start_after(step.zxid) {
            self.acls.release(event.acl);
            self.acls.release(event.parent_acl);
        }
        for (acl, references) in dropped {
            (0..references).for_each(|_| self.acls.release(acl));
        }
        true
    }

    fn shorten_history(&mut self) {
        while let Some(events) = self.history.pop_excess() {
            for event in events {
                self.acls.release(event.acl);
                self.acls.release(event.parent_acl);
            }
        }
    }

    /// The newest rules that any entry followed. All members of the ensemble know them.
    pub fn rules(&self) -> u32 {
        self.rules
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

    /// Whether the kept counts of all subtrees are those found by looking at every znode. For tests.
    #[doc(hidden)]
    pub fn tallies_are_right(&self) -> bool {
        let mut right = true;
        let mut sums: Vec<Sum> = Vec::new();
        let mut depth = 0;
        let Some(root) = self.znodes.get(KeyRef::ROOT) else { return false };
        self.descend("/", root, |path, znode, _| {
            let level = path.matches('/').count() * usize::from(path != "/");
            sums.resize((level + 2).max(sums.len()), Sum::default());
            if level >= depth {
                sums[level + 1] = Sum::default();
            }
            depth = level;
            let below = std::mem::take(&mut sums[level + 1]);
            right &= below == self.below(znode);
            sums[level] = sums[level].plus(below).plus(Sum::of(znode.data.len(), path.len()));
        });
        right
    }

    fn digest_with(&self, parts: [u64; 6]) -> u64 {
        let mut counters = Element::new(b'c');
        counters
            .u64(self.last_zxid)
            .u64(self.time_ms)
            .u64(self.znodes.next_id())
            .u32(self.acls.next())
            .u64(self.history.start());
        // Builds that know only rules 1 hash none.
        if self.rules > 1 {
            counters.u32(self.rules);
        }
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
