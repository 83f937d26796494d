use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a run has really done: counts by name. A scenario says which it needs, and does not pass without.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Coverage {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// It happened so many times more.
    pub(crate) fn add(&self, name: &'static str, count: u64) {
        if count > 0 {
            *self.lock().entry(name).or_default() += count;
        }
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.lock().get(name).copied().unwrap_or(0)
    }

    /// Those of `needed` that did not happen.
    pub(crate) fn missing(&self, needed: &[&'static str]) -> Vec<&'static str> {
        needed.iter().copied().filter(|name| self.count(name) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.lock().iter().map(|(name, count)| format!("{count} {name}")).collect();
        f.write_str(&counts.join(", "))
    }
}
