use imbl::Vector;

use crate::digest::{Digest, Element};
use crate::{Event, EventKind, Zxid};

/// How much of the past is kept, counted as [`Event::cost`] does.
const BYTES_MAX: u64 = 8 << 20;

/// The latest events, so that a watch can resume from a zxid (G5). Whole commands only: of each zxid, all events are
/// here or none. It is part of the replicated state, so that any node can resume any watch, and equally far back.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    events: Vector<Event>,
    /// The last zxid of which events were dropped.
    start: Zxid,
    bytes: u64,
    digest: Digest,
}

impl History {
    /// As a snapshot says; the events come by [`History::push`].
    pub(crate) fn starting_at(start: Zxid) -> History {
        History { start, ..History::default() }
    }

    pub(crate) fn start(&self) -> Zxid {
        self.start
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        self.events.iter().map(hash).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    pub(crate) fn last(&self) -> Option<&Event> {
        self.events.last()
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += Event::cost(&event.path) as u64;
        self.digest.add(hash(&event));
        self.events.push_back(event);
    }

    /// Takes out the events of the oldest command if there is too much here. The caller asks again until there is
    /// nothing.
    pub(crate) fn pop_excess(&mut self) -> Option<Vec<Event>> {
        if self.bytes <= BYTES_MAX {
            return None;
        }
        self.start = self.events.front()?.zxid;
        let mut popped = Vec::new();
        while self.events.front().is_some_and(|event| event.zxid == self.start) {
            let event = self.events.pop_front()?;
            self.bytes -= Event::cost(&event.path) as u64;
            self.digest.remove(hash(&event));
            popped.push(event);
        }
        Some(popped)
    }

    /// Takes out everything, and begins anew after `zxid`: a command whose events are too many to be kept.
    pub(crate) fn start_after(&mut self, zxid: Zxid) -> impl Iterator<Item = Event> + use<> {
        let past = std::mem::replace(self, History::starting_at(zxid));
        past.events.into_iter()
    }

    /// The events after `from`, or `None` where some of them are gone.
    pub(crate) fn since(&self, from: Zxid) -> Option<impl Iterator<Item = &Event>> {
        if from < self.start {
            return None;
        }
        let first = match self.events.binary_search_by(|event| {
            // Never equal: the search ends between the events up to `from` and those after it.
            if event.zxid <= from { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater }
        }) {
            Ok(index) | Err(index) => index,
        };
        Some(self.events.focus().narrow(first..).into_iter())
    }
}

fn hash(event: &Event) -> u64 {
    let kind = match event.kind {
        EventKind::Created => 0,
        EventKind::Deleted => 1,
        EventKind::DataChanged => 2,
    };
    Element::new(b'e')
        .bytes(event.path.as_bytes())
        .u64(event.zxid)
        .u32(kind)
        .u32(event.acl)
        .u32(event.parent_acl)
        .hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(zxid: Zxid, path: &str) -> Event {
        Event { zxid, kind: EventKind::Created, path: path.into(), acl: 0, parent_acl: 0 }
    }

    #[test]
    fn since_begins_after_the_whole_of_a_command() {
        let mut history = History::default();
        for (zxid, path) in [(2, "/a"), (2, "/b"), (5, "/c"), (6, "/d")] {
            history.push(event(zxid, path));
        }
        let after = |from| history.since(from).unwrap().map(|e| e.path.to_string()).collect::<Vec<_>>();
        assert_eq!(after(0), ["/a", "/b", "/c", "/d"]);
        assert_eq!(after(1), ["/a", "/b", "/c", "/d"]);
        assert_eq!(after(2), ["/c", "/d"]);
        assert_eq!(after(4), ["/c", "/d"]);
        assert_eq!(after(6), [""; 0]);
        assert_eq!(after(9), [""; 0]);
    }

    #[test]
    fn excess_goes_by_whole_commands_and_moves_the_start() {
        let long = format!("/{}", "x".repeat(1 << 20));
        let mut history = History::default();
        for zxid in 1..=8 {
            history.push(event(zxid, &long));
            history.push(event(zxid, "/short"));
        }
        let popped = history.pop_excess().unwrap();
        assert_eq!(popped.iter().map(|e| e.zxid).collect::<Vec<_>>(), [1, 1]);
        assert!(history.pop_excess().is_none());
        assert_eq!(history.start(), 1);
        assert!(history.since(0).is_none());
        assert_eq!(history.since(1).unwrap().count(), 14);
        assert_eq!(history.digest(), history.recompute_digest());
    }
}
