//! Room on the disks and in memory (G9). Each node looks at its own; the leader hears of all of them, and says when nothing may
//! grow any more: then what makes room can still be written.
//!
//! One disk without room is its node's trouble: it waits, and a majority goes on without it, under another leader if need be. Growth
//! is refused when the nodes that have room are no majority any more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use coordd_tree::Tree;
use rustix::fs::StatVfs;

use crate::NodeId;
use crate::observer::Observer;
use crate::replica::Node;

const INTERVAL: Duration = Duration::from_millis(250);
/// A leader without room asks so often for somebody else to lead.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(3);
/// All followers that are there have said how they are by then.
const SETTLED: Duration = Duration::from_secs(3);
/// What a znode and a session take in a snapshot beside their data, about; much less than this, mostly.
const ROW_BYTES: u64 = 256;
/// What a snapshot has beside them: the events that watches may go on from.
const HISTORY_BYTES: u64 = 8 << 20;

/// What there is too little of for anything to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Room on the disks.
    Disk,
    /// Memory.
    Memory,
}

/// What a follower has said of its room.
#[derive(Debug, Default)]
pub(crate) struct FollowerRoom {
    pub(crate) disk_is_low: AtomicBool,
    pub(crate) memory_is_low: AtomicBool,
}

impl FollowerRoom {
    pub(crate) fn said(&self, disk_is_low: bool, memory_is_low: bool) {
        self.disk_is_low.store(disk_is_low, Ordering::Relaxed);
        self.memory_is_low.store(memory_is_low, Ordering::Relaxed);
    }
}

/// What is known of the room on the disks and in memory.
pub(crate) struct DiskRoom {
    dir: PathBuf,
    reserve_bytes: u64,
    free_bytes: AtomicU64,
    is_low: AtomicBool,
    /// The next snapshot is being written: it takes the room that is kept for it.
    is_cutting: AtomicBool,
    /// What the process says of its memory.
    memory_is_low: AtomicBool,
    /// On the leader: what its followers say of theirs, as long as they are connected.
    followers: Mutex<BTreeMap<NodeId, Weak<FollowerRoom>>>,
    /// What the leader has decided.
    growth_refused: AtomicBool,
    /// It is for want of memory.
    for_memory: AtomicBool,
}

impl DiskRoom {
    /// Of the disk that holds `dir`.
    pub(crate) fn new(dir: PathBuf, reserve_bytes: u64) -> Arc<DiskRoom> {
        Arc::new(DiskRoom {
            dir,
            reserve_bytes,
            free_bytes: AtomicU64::new(u64::MAX),
            is_low: AtomicBool::new(false),
            is_cutting: AtomicBool::new(false),
            memory_is_low: AtomicBool::new(false),
            followers: Mutex::default(),
            growth_refused: AtomicBool::new(false),
            for_memory: AtomicBool::new(false),
        })
    }

    /// Looks at the disk: what is left must be enough for the next snapshot, which is what makes room, and for the reserve. A log that
    /// waits for room knows better, where what a user may have is limited for example. Blocks on the disk.
    fn look(&self, snapshot_bytes: u64, log_waits: bool) {
        match rustix::fs::statvfs(&self.dir) {
            Ok(found) => self.found(free_bytes(&found).unwrap_or(u64::MAX), snapshot_bytes, log_waits),
            Err(error) => tracing::warn!(%error, dir = %self.dir.display(), "the disk's room is not known"),
        }
    }

    fn found(&self, free_bytes: u64, snapshot_bytes: u64, log_waits: bool) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let next = if self.is_cutting.load(Ordering::Relaxed) { 0 } else { snapshot_bytes };
        let is_low = log_waits || free_bytes < self.reserve_bytes.saturating_add(next);
        if self.is_low.swap(is_low, Ordering::Relaxed) != is_low {
            match is_low {
                true => {
                    tracing::warn!(free_bytes, snapshot_bytes, "there is little room on this node's disk")
                }
                false => tracing::info!(free_bytes, "there is room on this node's disk again"),
            }
        }
    }

    /// What is left on the disk, as it was a moment ago.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Less is left than the reserve.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// The process has little memory left.
    pub(crate) fn memory_is_low(&self) -> bool {
        self.memory_is_low.load(Ordering::Relaxed)
    }

    /// What the process says of its memory.
    pub(crate) fn set_memory_is_low(&self, is_low: bool) {
        self.memory_is_low.store(is_low, Ordering::Relaxed);
    }

    /// Nothing may be written that makes something larger, for want of this.
    pub(crate) fn growth_refused(&self) -> Option<Shortage> {
        if !self.growth_refused.load(Ordering::Relaxed) {
            return None;
        }
        match self.for_memory.load(Ordering::Relaxed) {
            true => Some(Shortage::Memory),
            false => Some(Shortage::Disk),
        }
    }

    /// What the leader has decided.
    pub(crate) fn refuse_growth(&self, refused: Option<Shortage>) {
        let before = self.growth_refused();
        self.for_memory.store(refused == Some(Shortage::Memory), Ordering::Relaxed);
        self.growth_refused.store(refused.is_some(), Ordering::Relaxed);
        if before != refused {
            match refused {
                Some(Shortage::Disk) => {
                    tracing::warn!("growth is refused: no majority of the nodes has room on its disk");
                }
                Some(Shortage::Memory) => {
                    tracing::warn!(
                        "growth is refused: no majority of the nodes has memory left (--memory-limit)"
                    );
                }
                None => tracing::info!("growth is allowed again"),
            }
        }
    }

    /// A follower says from now on how much room it has, until it drops this.
    pub(crate) fn follower(&self, id: NodeId) -> Arc<FollowerRoom> {
        let room = Arc::new(FollowerRoom::default());
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.insert(id, Arc::downgrade(&room));
        room
    }

    /// The next snapshot is being written until the guard is dropped.
    pub(crate) fn cutting(&self) -> Cutting<'_> {
        self.is_cutting.store(true, Ordering::Relaxed);
        Cutting(self)
    }

    /// On the leader: whether growth is to be refused in an ensemble of so many nodes, and who has room beside this one. Who says
    /// nothing is away, and has no room, if the leader is settled; before, nobody is refused anything because of that.
    fn decide(&self, nodes: usize, is_settled: bool) -> (bool, Vec<NodeId>) {
        self.decide_by(nodes, is_settled, self.is_low(), |room| &room.disk_is_low)
    }

    /// The same of the memory.
    fn decide_of_memory(&self, nodes: usize, is_settled: bool) -> bool {
        self.decide_by(nodes, is_settled, self.memory_is_low(), |room| &room.memory_is_low).0
    }

    fn decide_by(
        &self,
        nodes: usize,
        is_settled: bool,
        own_is_low: bool,
        of: impl Fn(&FollowerRoom) -> &AtomicBool,
    ) -> (bool, Vec<NodeId>) {
        let followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        let low =
            |id: NodeId, room: &Weak<FollowerRoom>| Some((id, of(&*room.upgrade()?).load(Ordering::Relaxed)));
        let (low, with_room): (Vec<_>, Vec<_>) =
            followers.iter().filter_map(|(id, room)| low(*id, room)).partition(|(_, is_low)| *is_low);
        let are_low = low.len() + usize::from(own_is_low);
        let may_have_room = match is_settled {
            true => with_room.len() + usize::from(!own_is_low),
            false => nodes - are_low.min(nodes),
        };
        (are_low > 0 && may_have_room < nodes / 2 + 1, with_room.into_iter().map(|(id, _)| id).collect())
    }
}

/// See [`DiskRoom::cutting`].
pub(crate) struct Cutting<'a>(&'a DiskRoom);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.is_cutting.store(false, Ordering::Relaxed);
    }
}

/// What a process without special rights may still write. `None` of file systems that do not tell their size.
pub(crate) fn free_bytes(disk: &StatVfs) -> Option<u64> {
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What a snapshot of the tree takes on the disk, at most, if names and answers are not very long.
pub(crate) fn snapshot_bytes(tree: &Tree) -> u64 {
    let rows = tree.znode_count().saturating_add(tree.session_count() as u64);
    tree.data_bytes().saturating_add(rows.saturating_mul(ROW_BYTES)).saturating_add(HISTORY_BYTES)
}

/// Looks at the disk, and decides if this node leads, for ever.
pub(crate) async fn run_disk_watch<O: Observer>(node: Arc<Node<O>>) {
    let (mut leads_since, mut handed_over): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let snapshot_bytes = snapshot_bytes(&node.shared.read().tree);
        let log_waits = node.log.waits_for_room().is_some();
        let disk = node.disk.clone();
        // A disk that stands still holds up nothing else.
        if tokio::task::spawn_blocking(move || disk.look(snapshot_bytes, log_waits)).await.is_err() {
            return;
        }
        if node.leadership.borrow().is_own {
            let led = leads_since.get_or_insert_with(Instant::now).elapsed();
            let (nodes, is_settled) = (node.options.members.len(), led >= SETTLED);
            let (refused, with_room) = node.disk.decide(nodes, is_settled);
            let of_memory = node.disk.decide_of_memory(nodes, is_settled).then_some(Shortage::Memory);
            node.disk.refuse_growth(if refused { Some(Shortage::Disk) } else { of_memory });
            let is_due = handed_over.is_none_or(|at| at.elapsed() >= HAND_OVER_INTERVAL);
            if node.disk.is_low() && !refused && !with_room.is_empty() && is_due {
                handed_over = Some(Instant::now());
                let node = node.clone();
                // Beside this: who asks for room needs to know meanwhile how much there is.
                tokio::spawn(async move { node.hand_over(|id| with_room.contains(&id)).await });
            }
        } else {
            leads_since = None;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Arc<DiskRoom> {
        DiskRoom::new("/".into(), 100)
    }

    #[test]
    fn a_disk_is_low_when_the_reserve_and_the_next_snapshot_do_not_fit() {
        let room = room();
        assert!(!room.is_low(), "not known yet");
        for (free, snapshot, is_low) in [(150, 50, false), (149, 50, true), (0, 0, true), (100, 0, false)] {
            room.found(free, snapshot, false);
            assert_eq!((room.is_low(), room.free_bytes()), (is_low, free));
        }
        room.found(u64::MAX, 0, true);
        assert!(room.is_low(), "the log finds none");
        room.look(0, false);
        assert!(room.free_bytes() > 100 && !room.is_low(), "the disk that this test is on");
        room.look(u64::MAX, false);
        assert!(room.is_low());
    }

    #[test]
    fn a_snapshot_takes_the_room_that_was_kept_for_it() {
        let room = room();
        room.found(150, 50, false);
        let cutting = room.cutting();
        room.found(110, 50, false);
        assert!(!room.is_low());
        drop(cutting);
        room.found(110, 50, false);
        assert!(room.is_low());
    }

    #[test]
    fn growth_is_refused_when_those_with_room_are_no_majority() {
        let room = room();
        let (two, three) = (room.follower(2), room.follower(3));
        assert_eq!(room.decide(3, true), (false, vec![2, 3]));
        two.said(true, false);
        assert_eq!(room.decide(3, true), (false, vec![3]), "a majority goes on without it");
        room.found(0, 0, false);
        assert_eq!(room.decide(3, true), (true, vec![3]));
        two.said(false, false);
        assert_eq!(room.decide(3, true), (false, vec![2, 3]), "one of them can lead");
        drop(three);
        assert_eq!(room.decide(3, true), (true, vec![2]), "the low one is needed");
        room.found(100, 0, false);
        drop(two);
        assert_eq!(room.decide(3, true), (false, vec![]), "who is away is not without room");
    }

    #[test]
    fn a_new_leader_refuses_nothing_because_of_nodes_that_it_has_not_heard_of() {
        let room = room();
        room.found(0, 0, false);
        assert_eq!(room.decide(3, false), (false, vec![]));
        assert_eq!(room.decide(1, false), (true, vec![]), "there is no other");
        let two = room.follower(2);
        two.said(true, false);
        assert_eq!(room.decide(3, false), (true, vec![]), "it makes no difference what the third one says");
        assert_eq!(room.decide(5, false), (false, vec![]));
    }

    #[test]
    fn a_follower_that_connects_anew_is_known_by_its_new_connection() {
        let room = room();
        let old = room.follower(2);
        let new = room.follower(2);
        new.said(true, false);
        drop(old);
        room.found(0, 0, false);
        assert_eq!(room.decide(3, true), (true, vec![]));
    }

    #[test]
    fn a_single_node_without_room_refuses_growth() {
        let room = room();
        assert_eq!(room.decide(1, true), (false, vec![]));
        room.found(0, 0, false);
        assert_eq!(room.decide(1, true), (true, vec![]));
    }

    #[test]
    fn growth_is_refused_when_a_majority_has_no_memory() {
        let room = room();
        let (two, three) = (room.follower(2), room.follower(3));
        room.set_memory_is_low(true);
        assert!(!room.decide_of_memory(3, true), "a majority goes on");
        three.said(true, false);
        assert!(!room.decide_of_memory(3, true), "a full disk is another matter");
        two.said(false, true);
        assert!(room.decide_of_memory(3, true) && room.decide_of_memory(3, false));
        assert_eq!(room.decide(3, true), (false, vec![2]));
        room.set_memory_is_low(false);
        assert!(!room.decide_of_memory(3, true));
        assert!(!room.decide_of_memory(1, true));
        room.refuse_growth(Some(Shortage::Memory));
        assert_eq!(room.growth_refused(), Some(Shortage::Memory));
        room.refuse_growth(Some(Shortage::Disk));
        assert_eq!(room.growth_refused(), Some(Shortage::Disk));
        room.refuse_growth(None);
        assert_eq!(room.growth_refused(), None);
    }
}
