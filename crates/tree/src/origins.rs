use imbl::OrdMap;

use crate::Origin;
use crate::digest::{Digest, Element};

/// How far each node's stream of commands has been taken. One row per node that ever proposed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    by_node: OrdMap<u64, Progress>,
    digest: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) incarnation: u64,
    pub(crate) last_seq: u64,
}

impl Origins {
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        self.iter().map(|(node, progress)| hash(node, progress)).collect()
    }

    pub(crate) fn get(&self, node: u64) -> Option<Progress> {
        self.by_node.get(&node).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_node.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Progress)> {
        self.by_node.iter().map(|(node, progress)| (*node, *progress))
    }

    pub(crate) fn put(&mut self, node: u64, progress: Progress) {
        if let Some(before) = self.by_node.insert(node, progress) {
            self.digest.remove(hash(node, before));
        }
        self.digest.add(hash(node, progress));
    }

    /// Whether the command `seq` of `origin` is the next one of its stream; if so, it is taken.
    pub(crate) fn take(&mut self, origin: Origin, seq: u64) -> bool {
        let is_next = match self.get(origin.node) {
            Some(Progress { incarnation, last_seq }) if incarnation == origin.incarnation => {
                last_seq.checked_add(1) == Some(seq)
            }
            Some(Progress { incarnation, .. }) if incarnation > origin.incarnation => false,
            Some(_) | None => seq == 1,
        };
        if is_next {
            self.put(origin.node, Progress { incarnation: origin.incarnation, last_seq: seq });
        }
        is_next
    }
}

fn hash(node: u64, progress: Progress) -> u64 {
    Element::new(b'o').u64(node).u64(progress.incarnation).u64(progress.last_seq).hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_command_of_the_newest_incarnation_is_taken() {
        let mut origins = Origins::default();
        let mut take = |incarnation, seq| origins.take(Origin { node: 7, incarnation }, seq);
        assert!(!take(3, 2));
        assert!(take(3, 1));
        assert!(!take(3, 1));
        assert!(!take(3, 3));
        assert!(take(3, 2));
        assert!(!take(2, 1), "an older incarnation is over");
        assert!(!take(4, 3), "a newer incarnation starts at 1");
        assert!(take(4, 1));
        assert!(!take(3, 3));
        assert_eq!(origins.get(7), Some(Progress { incarnation: 4, last_seq: 1 }));
        assert_eq!(origins.digest(), origins.recompute_digest());
    }
}
