use std::sync::Arc;

pub(super) const ITEMS: &str = "items";
pub(super) const WORKERS: &str = "workers";
pub(super) const ASSIGNED: &str = "assigned";
pub(super) const OWNERS: &str = "owners";
pub(super) const SETTINGS: &str = "settings";
pub(super) const PLAN: &str = "plan";
pub(super) const REBALANCE: &str = "rebalance";
const ELECTION: &str = "election";

/// Where a group keeps what, below its root.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: Arc<str>,
}

impl Layout {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.trim_end_matches('/').into() }
    }

    pub(super) fn root(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    /// `items`, `workers`, `assigned` and `owners` are directories; `settings`, `plan` and `rebalance` are znodes.
    pub(super) fn top(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    pub(super) fn node(&self, directory: &str, name: &str) -> String {
        format!("{}/{directory}/{name}", self.root)
    }

    pub(super) fn election(&self) -> String {
        self.top(ELECTION)
    }

    /// The first two elements of a path below the root; the second is empty for what is directly below it. `None` for the
    /// root, and for what is deeper.
    pub(super) fn split<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let below = path.strip_prefix(&*self.root)?.strip_prefix('/').filter(|below| !below.is_empty())?;
        let (directory, name) = below.split_once('/').unwrap_or((below, ""));
        (!name.contains('/')).then_some((directory, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart_as_it_was_made() {
        for root in ["/", "/app/flows", "/app/flows/"] {
            let layout = Layout::new(root);
            assert_eq!(layout.split(&layout.node(ITEMS, "a")), Some((ITEMS, "a")));
            assert_eq!(layout.split(&layout.top(PLAN)), Some((PLAN, "")));
            assert_eq!(layout.split(layout.root()), None);
            assert_eq!(layout.split(&layout.node(OWNERS, "a/b")), None);
        }
    }
}
