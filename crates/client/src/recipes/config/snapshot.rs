use std::sync::Arc;

use serde_json::Value;

use crate::{Lineage, Stat};

/// A configuration as it is, or was, at one time. It does not change; clones are cheap.
#[derive(Debug)]
pub struct Config<T> {
    /// What programs use.
    pub value: Arc<T>,
    /// The stat of its znode; `None` if there is none, and this is the default.
    pub stat: Option<Stat>,
    document: Arc<Value>,
    json: Option<Arc<str>>,
    /// The lineage that the zxids of the stat belong to.
    lineage: Option<Lineage>,
}

impl<T> Clone for Config<T> {
    fn clone(&self) -> Self {
        let Self { value, stat, document, json, lineage } = self;
        let (document, json, lineage) = (document.clone(), json.clone(), lineage.clone());
        Self { value: value.clone(), stat: *stat, document, json, lineage }
    }
}

impl<T> Config<T> {
    pub(super) fn new(value: T, document: Value, stat: Option<Stat>) -> Self {
        let document = Arc::new(document);
        Self { value: Arc::new(value), stat, document, json: None, lineage: None }
    }

    pub(super) fn in_lineage(self, lineage: Option<Lineage>) -> Self {
        Self { lineage, ..self }
    }

    pub(super) fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }

    pub(super) fn stored_as(mut self, json: Option<&str>) -> Self {
        self.json = json.map(Arc::from);
        self
    }

    /// What is stored, byte for byte, also what `T` does not know. `None`: nothing is, this is the default.
    pub fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }

    /// Its number: 0 for the first, one more with every change. `None`: it is the default.
    pub fn version(&self) -> Option<i32> {
        self.stat.map(|stat| stat.version)
    }

    /// The value as JSON, as `T` writes it: without members that `T` does not know, and with the defaults of those that are
    /// missing in the tree.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// What tells one state of the znode from another. With the times, because zxids of two ensembles may be
    /// equal.
    pub(super) fn identity(&self) -> Option<(u64, u64, u64, u64)> {
        self.stat.map(|stat| (stat.czxid, stat.mzxid, stat.ctime, stat.mtime))
    }
}
