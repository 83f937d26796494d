use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::view::{CacheView, CachedZnode, PathKey, PathRef, Znodes, relative};
use crate::{Error, ErrorKind, Event, EventType, ListPage, Stat};

/// Values that are read in one request.
const BATCH_ZNODES: usize = 500;
const BATCH_BYTES: usize = 256 << 10;

/// Which znodes a cache has.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) top: Arc<str>,
    pub(super) with_top: bool,
    /// Of the lowest znodes, below the top.
    pub(super) depth_max: usize,
}

impl Scope {
    fn depth(&self, path: &str) -> Option<usize> {
        match relative(&self.top, path) {
            Some(below) => Some(below.split('/').count()),
            None => (path == &*self.top).then_some(0),
        }
    }

    fn covers(&self, path: &str) -> bool {
        let first = usize::from(!self.with_top);
        self.depth(path).is_some_and(|depth| (first..=self.depth_max).contains(&depth))
    }
}

/// What a cache reads to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A page of the children of `path`, with their stats.
    List { path: Arc<str>, after: String },
    /// Data and stat of each.
    Values(Vec<Arc<str>>),
}

/// How a cache becomes and stays a prefix of history, without the waiting: events and answers go in, states come out.
///
/// A recursive watch is armed before the first read, so of every znode either an event tells the newest state, or
/// nothing has changed since the watch was armed and what is read is true, whenever it is read. So an event beats
/// every read, and when all reads are answered and all events up to then are applied, what is here is the tree at one
/// zxid. From then on events are applied zxid by zxid, each only when it is known that all of its events have come.
#[derive(Debug)]
pub(super) struct Mirror {
    scope: Scope,
    znodes: Znodes,
    /// Events that are not applied.
    told: VecDeque<Event>,
    /// All events up to this zxid are applied or in `told`.
    complete: u64,
    /// `znodes` is no state of the tree before all events up to this zxid are applied: some of the reads show it.
    floor: u64,
    /// Znodes whose newest event came without the value because another event follows, and the zxid of that event.
    unknown: BTreeMap<Arc<str>, u64>,
    load: Option<Load>,
}

#[derive(Debug, Default)]
struct Load {
    lists: VecDeque<Ask>,
    /// To be read, and the bytes it had when it was listed.
    values: VecDeque<(Arc<str>, usize)>,
    values_bytes: usize,
    unanswered: usize,
    /// What is there, as far as the listings say.
    listed: HashSet<Arc<str>>,
    /// What events were about.
    told: HashSet<Arc<str>>,
}

impl Load {
    fn push_value(&mut self, path: Arc<str>, bytes: usize) {
        self.values_bytes += bytes;
        self.values.push_back((path, bytes));
    }

    /// A single znode may be larger than a batch.
    fn take_batch(&mut self) -> Vec<Arc<str>> {
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ZNODES
            && batch_bytes < BATCH_BYTES
            && let Some((path, bytes)) = self.values.pop_front()
        {
            batch_bytes += bytes;
            batch.push(path);
        }
        self.values_bytes -= batch_bytes;
        batch
    }
}

impl Mirror {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            znodes: Znodes::new(),
            told: VecDeque::new(),
            complete: 0,
            floor: 0,
            unknown: BTreeMap::new(),
            load: None,
        }
    }

    /// Begins to load: events of all changes from now on will come, and those that were missed will not. What is
    /// unchanged since `last` is not read again.
    pub(super) fn begin_load(&mut self, last: &CacheView) {
        let mut load = Load::default();
        if self.scope.with_top {
            load.push_value(self.scope.top.clone(), 0);
        }
        if self.scope.depth_max > 0 {
            load.lists.push_back(Ask::List { path: self.scope.top.clone(), after: String::new() });
        }
        load.listed.extend(self.scope.with_top.then(|| self.scope.top.clone()));
        let znodes = last.znodes().clone();
        let scope = self.scope.clone();
        *self = Self { znodes, load: Some(load), floor: last.zxid(), ..Self::new(scope) };
    }

    /// The next thing to read. Values are asked for many at a time, so it pays to take this late.
    pub(super) fn next_ask(&mut self) -> Option<Ask> {
        let load = self.load.as_mut()?;
        let is_full = load.values.len() >= BATCH_ZNODES || load.values_bytes >= BATCH_BYTES;
        let ask = match load.lists.pop_front() {
            Some(list) if !is_full => list,
            list => {
                load.lists.extend(list);
                // While listings are under way the batch may still grow.
                let may_grow = load.unanswered > 0 && !is_full;
                if load.values.is_empty() || may_grow {
                    return None;
                }
                Ask::Values(load.take_batch())
            }
        };
        load.unanswered += 1;
        Some(ask)
    }

    /// All reads are answered.
    pub(super) fn is_loaded(&self) -> bool {
        self.load
            .as_ref()
            .is_none_or(|load| load.lists.is_empty() && load.values.is_empty() && load.unanswered == 0)
    }

    /// A page of children was read.
    ///
    /// # Errors
    ///
    /// That of the read, where the cache cannot be without it.
    pub(super) fn on_list(&mut self, path: &Arc<str>, page: Result<ListPage, Error>) -> Result<(), Error> {
        let Some(load) = self.load.as_mut() else { return Ok(()) };
        load.unanswered -= 1;
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.is_passable(path, error),
        };
        if let (true, Some(last)) = (page.more, page.children.last()) {
            load.lists.push_back(Ask::List { path: path.clone(), after: last.name.clone() });
        }
        for child in page.children {
            let stat = child.stat.unwrap_or_default();
            let child = match &**path {
                "/" => format!("/{}", child.name),
                parent => format!("{parent}/{}", child.name),
            };
            self.on_listed(child.into(), &stat);
        }
        Ok(())
    }

    fn on_listed(&mut self, path: Arc<str>, stat: &Stat) {
        let depth = self.scope.depth(&path).unwrap_or(usize::MAX);
        let Some(load) = self.load.as_mut() else { return };
        if stat.num_children > 0 && depth < self.scope.depth_max {
            load.lists.push_back(Ask::List { path: path.clone(), after: String::new() });
        }
        let here = self.znodes.get(&PathRef(&path));
        let is_same =
            here.is_some_and(|znode| (znode.stat.czxid, znode.stat.mzxid) == (stat.czxid, stat.mzxid));
        if !is_same && !load.told.contains(&path) {
            load.push_value(path.clone(), stat.data_length as usize);
        }
        load.listed.insert(path);
    }

    /// The values of these paths were read.
    ///
    /// # Errors
    ///
    /// As [`on_list`](Self::on_list).
    pub(super) fn on_values(
        &mut self,
        answers: impl IntoIterator<Item = (Arc<str>, Result<(Bytes, Stat), Error>)>,
    ) -> Result<(), Error> {
        let Some(load) = self.load.as_mut() else { return Ok(()) };
        load.unanswered -= 1;
        for (path, answer) in answers {
            let is_told = self.load.as_ref().is_some_and(|load| load.told.contains(&path));
            match answer {
                _ if is_told => {}
                Ok((data, stat)) => self.put(&path, &data, stat),
                Err(error) => {
                    self.znodes.remove(&PathRef(&path));
                    self.is_passable(&path, error)?;
                }
            }
        }
        Ok(())
    }

    /// A znode that is gone since it was listed is told by an event. One that may not be read is not part of the cache,
    /// but a cache of nothing would mislead.
    fn is_passable(&self, path: &str, error: Error) -> Result<(), Error> {
        match error.kind {
            ErrorKind::NoNode => Ok(()),
            ErrorKind::NoAuth if path != &*self.scope.top => {
                tracing::warn!(path, "a znode that may not be read is left out of the cache");
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Loading has ended. `seen`: the newest zxid that any of the reads may show.
    pub(super) fn end_load(&mut self, seen: u64) {
        let Some(load) = self.load.take() else { return };
        let is_gone = |path: &Arc<str>| !load.listed.contains(path) && !load.told.contains(path);
        let gone: Vec<_> = self.znodes.keys().filter(|key| is_gone(&key.0)).cloned().collect();
        for key in gone {
            self.znodes.remove(&PathRef(&key.0));
        }
        self.floor = self.floor.max(seen);
    }

    /// The watch told of a change.
    pub(super) fn on_event(&mut self, event: Event) {
        // Events come in order, so there will be none of an earlier zxid.
        self.complete = self.complete.max(event.zxid.saturating_sub(1));
        if !self.scope.covers(&event.path) {
            return;
        }
        match &mut self.load {
            Some(load) => {
                load.told.insert(event.path.as_str().into());
                self.floor = self.floor.max(event.zxid);
                self.apply(event);
            }
            None => self.told.push_back(event),
        }
    }

    /// All events up to `zxid` were passed to [`on_event`](Self::on_event).
    pub(super) fn on_complete(&mut self, zxid: u64) {
        self.complete = self.complete.max(zxid);
    }

    /// Something has come that can be shown only when it is known that it is complete.
    pub(super) fn waits_for_complete(&self) -> bool {
        self.load.is_none() && (!self.told.is_empty() || self.complete < self.floor)
    }

    /// The newest state that is complete, with its zxid.
    pub(super) fn state(&mut self) -> Option<CacheView> {
        while self.told.front().is_some_and(|event| event.zxid <= self.complete) {
            let event = self.told.pop_front()?;
            self.apply(event);
        }
        let is_state = self.load.is_none() && self.complete >= self.floor && self.unknown.is_empty();
        is_state.then(|| CacheView::new(self.complete, self.znodes.clone()))
    }

    /// Values that are missing although every event has come: their znodes may not be read any more, or the event that
    /// was to follow may not be told. To be read, and passed to [`on_found`](Self::on_found) behind all events.
    pub(super) fn missing(&self) -> Vec<(Arc<str>, u64)> {
        if self.load.is_some() || self.waits_for_complete() {
            return Vec::new();
        }
        self.unknown.iter().take(BATCH_ZNODES).map(|(path, zxid)| (path.clone(), *zxid)).collect()
    }

    /// What was found at a path whose value was missing since the event of `zxid`.
    pub(super) fn on_found(&mut self, path: &Arc<str>, zxid: u64, found: Result<(Bytes, Stat), Error>) {
        let is_open = self.unknown.get(path) == Some(&zxid);
        let is_told = self.told.iter().any(|event| event.path == **path);
        let is_it = matches!(&found, Ok((_, stat)) if stat.mzxid == zxid);
        if !is_open || (is_told && !is_it) {
            return;
        }
        self.unknown.remove(path);
        match found {
            Ok((data, stat)) => {
                self.floor = self.floor.max(stat.mzxid);
                self.put(path, &data, stat);
            }
            Err(error) => {
                tracing::warn!(%path, %error, "a znode that cannot be read any more is left out of the cache");
                self.znodes.remove(&PathRef(path));
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let Event { event_type, path, zxid, value } = event;
        let path: Arc<str> = path.into();
        match (event_type, value) {
            (EventType::NodeDeleted, _) => {
                self.unknown.remove(&path);
                self.znodes.remove(&PathRef(&path));
            }
            (EventType::NodeCreated | EventType::NodeDataChanged, Some((data, stat))) => {
                self.unknown.remove(&path);
                self.put(&path, &data, stat);
            }
            (EventType::NodeCreated | EventType::NodeDataChanged, None) => {
                self.unknown.insert(path, zxid);
            }
            // A recursive watch has none.
            (EventType::NodeChildrenChanged, _) => {}
        }
    }

    fn put(&mut self, path: &Arc<str>, data: &Bytes, stat: Stat) {
        // Read again: what differs is only what the stat tells of the children.
        if self.znodes.get(&PathRef(path)).is_some_and(|znode| is_same(&znode.stat, &stat)) {
            return;
        }
        // Copied, because the bytes of an answer keep the whole frame in memory in which they came.
        let znode = CachedZnode { path: path.clone(), data: Bytes::copy_from_slice(data), stat };
        self.znodes.insert(PathKey(path.clone()), Arc::new(znode));
    }
}

/// The data have not changed between the two.
fn is_same(left: &Stat, right: &Stat) -> bool {
    (left.czxid, left.mzxid) == (right.czxid, right.mzxid)
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
