use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use equivalent::{Comparable, Equivalent};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::{Lineage, Stat};

/// A znode as a cache has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedZnode {
    /// Its full path.
    pub path: Arc<str>,
    /// Its data.
    pub data: Bytes,
    /// Its stat when its data last changed. What changes without an event of the znode itself is not kept up: `pzxid`,
    /// `cversion`, `num_children` and `aversion`. [`CacheView::children`] knows the children.
    pub stat: Stat,
}

/// One difference between two states of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheChange {
    /// The znode is there now.
    Added(Arc<CachedZnode>),
    /// The znode's data were replaced. Where several states lie between the two, it may also have been deleted and
    /// created again: then its `czxid` differs.
    Updated {
        /// As it was.
        old: Arc<CachedZnode>,
        /// As it is.
        new: Arc<CachedZnode>,
    },
    /// The znode is gone.
    Removed(Arc<CachedZnode>),
}

impl CacheChange {
    /// Which znode changed.
    pub fn path(&self) -> &str {
        match self {
            CacheChange::Added(znode) | CacheChange::Removed(znode) => &znode.path,
            CacheChange::Updated { new, .. } => &new.path,
        }
    }

    /// The znode as it was; `None` if it was not there.
    pub fn before(&self) -> Option<&Arc<CachedZnode>> {
        match self {
            CacheChange::Added(_) => None,
            CacheChange::Updated { old, .. } | CacheChange::Removed(old) => Some(old),
        }
    }

    /// The znode as it is; `None` if it is gone.
    pub fn after(&self) -> Option<&Arc<CachedZnode>> {
        match self {
            CacheChange::Removed(_) => None,
            CacheChange::Updated { new, .. } | CacheChange::Added(new) => Some(new),
        }
    }
}

/// One state of a cache, which never changes. Clones are cheap, and share what is the same in later states.
#[derive(Clone, Debug, Default)]
pub struct CacheView {
    /// Counts the lineages that the cache has met: zxids of two of them say nothing about each other.
    era: u32,
    /// The lineage of the znodes; `None` if it is not known.
    lineage: Option<Arc<Lineage>>,
    zxid: u64,
    znodes: Znodes,
}

/// The znodes of a subtree, each parent before its children and all of a subtree in a row.
pub(super) type Znodes = OrdMap<PathKey, Arc<CachedZnode>>;

impl CacheView {
    pub(super) fn new(zxid: u64, znodes: Znodes) -> Self {
        Self { era: 0, lineage: None, zxid, znodes }
    }

    pub(super) fn in_era(self, era: u32) -> Self {
        Self { era, ..self }
    }

    pub(super) fn in_lineage(self, lineage: Option<Arc<Lineage>>) -> Self {
        Self { lineage, ..self }
    }

    /// Returns the lineage that the stats of the znodes belong to.
    pub(crate) fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_deref()
    }

    /// What is shown when another lineage begins, until a state of that is complete: the same znodes, at no
    /// zxid.
    pub(super) fn outlived(&self) -> Self {
        Self { era: self.era + 1, lineage: self.lineage.clone(), zxid: 0, znodes: self.znodes.clone() }
    }

    pub(super) fn era(&self) -> u32 {
        self.era
    }

    /// Orders the views of one cache, in which lineages and zxids follow each other.
    pub(crate) fn position(&self) -> (u32, u64) {
        (self.era, self.zxid)
    }

    pub(super) fn znodes(&self) -> &Znodes {
        &self.znodes
    }

    /// The view is what the tree was when this was the newest zxid; 0 before the first state was complete. It grows from
    /// view to view, as long as the ensemble is the same. When it was replaced or restored (see
    /// [`Lineage`](crate::Lineage)), it is 0 until a state of the new one is complete, and grows from there;
    /// compare views with [`is_newer_than`](Self::is_newer_than).
    pub fn zxid(&self) -> u64 {
        self.zxid
    }

    /// Another view of the same cache was shown before this one.
    pub fn is_newer_than(&self, other: &CacheView) -> bool {
        self.position() > other.position()
    }

    /// How many znodes there are.
    pub fn len(&self) -> usize {
        self.znodes.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.znodes.is_empty()
    }

    /// The znode at a path.
    pub fn get(&self, path: &str) -> Option<&Arc<CachedZnode>> {
        self.znodes.get(&PathRef(path))
    }

    /// All znodes; a parent comes before its children.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CachedZnode>> {
        self.znodes.values()
    }

    /// The znode at a path and all below it; a parent comes before its children.
    pub fn subtree<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Arc<CachedZnode>> {
        let range = (Bound::Included(PathRef(path)), Bound::Unbounded);
        self.znodes
            .range(range)
            .map(|(_, znode)| znode)
            .take_while(move |znode| &*znode.path == path || relative(path, &znode.path).is_some())
    }

    /// The children of the znode at a path, in byte order of their names.
    pub fn children<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Arc<CachedZnode>> {
        let mut start = Bound::Excluded(path.to_owned());
        let next_child = move || {
            loop {
                let from = start.as_ref().map(|path| PathRef(path));
                let (_, znode) = self.znodes.range((from, Bound::Unbounded)).next()?;
                let below = relative(path, &znode.path)?;
                let name = below.split('/').next().unwrap_or(below);
                let child = &znode.path[..znode.path.len() - below.len() + name.len()];
                // The least path that is not below the child: control characters do not occur in paths.
                start = Bound::Included(format!("{child}\u{1}"));
                // A child that may not be read is not here, but what is below it may be.
                if name.len() == below.len() {
                    return Some(znode);
                }
            }
        };
        std::iter::from_fn(next_child)
    }

    /// What is different here from `older`: first what is gone, children before their parents, then what is new or
    /// updated, parents before their children. Takes time by what differs, if one is made from the other.
    /// Between views of two ensembles everything is gone, and everything is new.
    pub fn changes_since(&self, older: &CacheView) -> Vec<CacheChange> {
        let (mut removed, mut rest) = (Vec::new(), Vec::new());
        if self.era != older.era {
            removed.extend(older.znodes.values().rev().cloned().map(CacheChange::Removed));
            removed.extend(self.znodes.values().cloned().map(CacheChange::Added));
            return removed;
        }
        for item in older.znodes.diff(&self.znodes) {
            match item {
                DiffItem::Add(_, new) => rest.push(CacheChange::Added(new.clone())),
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    rest.push(CacheChange::Updated { old: old.clone(), new: new.clone() });
                }
                DiffItem::Remove(_, old) => removed.push(CacheChange::Removed(old.clone())),
            }
        }
        removed.reverse();
        removed.append(&mut rest);
        removed
    }
}

/// What follows `top` and a slash in `path`; `None` if it is not below.
pub(super) fn relative<'a>(top: &str, path: &'a str) -> Option<&'a str> {
    let below = match top {
        "/" => path.strip_prefix('/')?,
        _ => path.strip_prefix(top)?.strip_prefix('/')?,
    };
    (!below.is_empty()).then_some(below)
}

/// A path, ordered by its components, so that a subtree is in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathKey(pub(super) Arc<str>);

/// A path to look up.
#[derive(Clone, Copy)]
pub(super) struct PathRef<'a>(pub(super) &'a str);

fn compare(left: &str, right: &str) -> Ordering {
    // A slash comes before whatever else a name can go on with.
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    left.bytes().map(rank).cmp(right.bytes().map(rank))
}

impl Ord for PathKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for PathKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Equivalent<PathKey> for PathRef<'_> {
    fn equivalent(&self, key: &PathKey) -> bool {
        self.0 == &*key.0
    }
}

impl Comparable<PathKey> for PathRef<'_> {
    fn compare(&self, key: &PathKey) -> Ordering {
        compare(self.0, &key.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn view(paths: &[&str]) -> CacheView {
        let mut znodes = Znodes::new();
        for path in paths {
            let znode = CachedZnode { path: (*path).into(), data: Bytes::new(), stat: Stat::default() };
            znodes.insert(PathKey((*path).into()), Arc::new(znode));
        }
        CacheView::new(1, znodes)
    }

    fn paths<'a>(znodes: impl Iterator<Item = &'a Arc<CachedZnode>>) -> Vec<&'a str> {
        znodes.map(|znode| &*znode.path).collect()
    }

    #[test]
    fn children_are_found_between_subtrees_and_names_that_begin_alike() {
        let view =
            view(&["/a", "/a!", "/a!/x", "/a/b", "/a/b!c", "/a/b/c", "/a/b/c/d", "/a/bc", "/ab", "/b"]);
        assert_eq!(paths(view.children("/a")), ["/a/b", "/a/b!c", "/a/bc"]);
        assert_eq!(paths(view.children("/a/b")), ["/a/b/c"]);
        assert_eq!(paths(view.children("/b")), [""; 0]);
        assert_eq!(paths(view.children("/none")), [""; 0]);
        assert_eq!(paths(view.subtree("/a/b")), ["/a/b", "/a/b/c", "/a/b/c/d"]);
        assert_eq!(paths(view.subtree("/ab")), ["/ab"]);
    }

    #[test]
    fn the_root_has_children_and_a_subtree_like_any_other() {
        let view = view(&["/", "/a", "/a/b", "/a!", "/b", "/unreadable/x/y", "/unreadable/z", "/v"]);
        assert_eq!(paths(view.children("/")), ["/a", "/a!", "/b", "/v"]);
        assert_eq!(paths(view.subtree("/")).len(), view.len());
    }

    /// Zxids of two lineages are not compared: equal ones are different znodes, and a smaller one may be
    /// newer.
    #[test]
    fn views_of_two_lineages() {
        let old = view(&["/a", "/a/b"]);
        let begun = old.outlived();
        assert!(begun.is_newer_than(&old) && begun.zxid() == 0 && begun.len() == 2);
        let new = view(&["/a"]).in_era(begun.era());
        assert!(new.is_newer_than(&begun));
        let told: Vec<_> = new
            .changes_since(&old)
            .iter()
            .map(|change| (change.before().is_some(), change.after().is_some(), change.path().to_owned()))
            .collect();
        let change = |before, after, path: &str| (before, after, path.to_owned());
        assert_eq!(told, [change(true, false, "/a/b"), change(true, false, "/a"), change(false, true, "/a")]);
    }

    #[test]
    fn what_is_gone_comes_first_and_children_before_parents() {
        let changes = view(&["/a", "/c", "/c/d"]).changes_since(&view(&["/a", "/b", "/b/x"]));
        let told: Vec<_> = changes.iter().map(|change| (change.after().is_some(), change.path())).collect();
        assert_eq!(told, [(false, "/b/x"), (false, "/b"), (true, "/c"), (true, "/c/d")]);
    }

    proptest! {
        /// Also where one map was made from the other, and the difference is found by what they share.
        #[test]
        fn the_changes_turn_the_older_view_into_the_newer(
            base in proptest::collection::btree_map("/[ab!]{1,2}(/[ab!]{1,2}){0,2}", 0..9u64, 0..200),
            edits in proptest::collection::vec(("/[ab!]{1,2}(/[ab!]{1,2}){0,2}", proptest::option::of(0..9u64)), 0..40),
        ) {
            let insert = |znodes: &mut Znodes, path: &str, mzxid: u64| {
                let stat = Stat { mzxid, ..Stat::default() };
                let znode = CachedZnode { path: path.into(), data: Bytes::new(), stat };
                znodes.insert(PathKey(path.into()), Arc::new(znode));
            };
            let mut older = Znodes::new();
            base.iter().for_each(|(path, mzxid)| insert(&mut older, path, *mzxid));
            let mut newer = older.clone();
            for (path, mzxid) in &edits {
                match mzxid {
                    Some(mzxid) => insert(&mut newer, path, *mzxid),
                    None => drop(newer.remove(&PathRef(path))),
                }
            }
            let content = |znodes: &Znodes| -> BTreeMap<String, u64> {
                znodes.values().map(|znode| (znode.path.to_string(), znode.stat.mzxid)).collect()
            };
            let (older, newer) = (CacheView::new(1, older), CacheView::new(2, newer));
            let mut content_made = content(older.znodes());
            for change in newer.changes_since(&older) {
                let before = content_made.get(change.path()).copied();
                prop_assert_eq!(before, change.before().map(|znode| znode.stat.mzxid));
                match change.after() {
                    Some(new) => drop(content_made.insert(new.path.to_string(), new.stat.mzxid)),
                    None => drop(content_made.remove(change.path())),
                }
            }
            prop_assert_eq!(content_made, content(newer.znodes()));
        }
    }
}
