//! Entries that were decoded at the door, until they are applied: a follower decodes each entry once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use coordd_tree::Entry;

/// So much is kept, in encoded bytes. What does not fit is decoded a second time.
const BYTES_MAX: usize = 1 << 20;
/// So many entries are kept.
const ENTRIES_MAX: usize = 256;

/// An entry's encoding and what it says.
pub(crate) type DecodedEntry = (Bytes, Entry);

/// See the module. In the order of the log, mostly.
#[derive(Default)]
pub(crate) struct DecodedEntries {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: VecDeque<DecodedEntry>,
    bytes: usize,
}

impl DecodedEntries {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keeps entries that follow what was kept before; the oldest make room.
    pub(crate) fn keep(&self, entries: Vec<DecodedEntry>) {
        let mut kept = self.lock();
        for entry in entries {
            if entry.0.len() > BYTES_MAX {
                continue;
            }
            kept.bytes += entry.0.len();
            kept.entries.push_back(entry);
            while kept.bytes > BYTES_MAX || kept.entries.len() > ENTRIES_MAX {
                kept.forget_oldest();
            }
        }
    }

    /// What these very bytes say, if that is kept. It is kept no more, nor is what came before it.
    pub(crate) fn take(&self, encoded: &Bytes) -> Option<Entry> {
        let mut kept = self.lock();
        // The same memory: while it is kept nothing else can be there.
        let is_it =
            |(bytes, _): &DecodedEntry| bytes.as_ptr() == encoded.as_ptr() && bytes.len() == encoded.len();
        let before = kept.entries.iter().position(is_it)?;
        (0..before).for_each(|_| kept.forget_oldest());
        let (bytes, entry) = kept.entries.pop_front()?;
        kept.bytes -= bytes.len();
        Some(entry)
    }
}

impl Kept {
    fn forget_oldest(&mut self) {
        if let Some((bytes, _)) = self.entries.pop_front() {
            self.bytes -= bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time_ms: u64, bytes: usize) -> DecodedEntry {
        (vec![0; bytes].into(), Entry { time_ms, ..Entry::default() })
    }

    /// Only the very bytes that were decoded are found, once, and what came before them is forgotten.
    #[test]
    fn entries_are_taken_once() {
        let entries: Vec<DecodedEntry> = (1..=4).map(|time_ms| entry(time_ms, 10)).collect();
        let bytes: Vec<Bytes> = entries.iter().map(|(bytes, _)| bytes.clone()).collect();
        let decoded = DecodedEntries::default();
        decoded.keep(entries);
        assert_eq!(decoded.take(&Bytes::from(vec![0; 10])), None, "equal bytes elsewhere");
        assert_eq!(decoded.take(&bytes[1]).map(|entry| entry.time_ms), Some(2));
        assert_eq!(decoded.take(&bytes[1]), None);
        assert_eq!(decoded.take(&bytes[0]), None);
        assert_eq!(decoded.take(&bytes[3]).map(|entry| entry.time_ms), Some(4));
        let kept = decoded.lock();
        assert_eq!((kept.entries.len(), kept.bytes), (0, 0));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let decoded = DecodedEntries::default();
        decoded.keep((0..1000).map(|time_ms| entry(time_ms, 1)).collect());
        assert_eq!(decoded.lock().entries.len(), ENTRIES_MAX);
        decoded.keep((0..10).map(|time_ms| entry(time_ms, BYTES_MAX / 4)).collect());
        assert_eq!(decoded.lock().bytes, BYTES_MAX);
        decoded.keep(vec![entry(1, BYTES_MAX + 1)]);
        assert_eq!(decoded.lock().entries.len(), 4);
    }
}
