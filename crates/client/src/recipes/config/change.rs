use serde_json::Value;

use super::key::ConfigKey;
use super::snapshot::Config;

/// From one configuration to a later one.
#[derive(Clone, Debug)]
pub struct ConfigChange<T> {
    /// As it was.
    pub old: Config<T>,
    /// As it is.
    pub new: Config<T>,
}

impl<T> ConfigChange<T> {
    /// What is different, key by key, in the order of the keys. Objects are compared member by member, arrays as a whole.
    /// Empty if the document was written again as it was.
    pub fn keys(&self) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        let (old, new) = (self.old.document(), self.new.document());
        compare(&ConfigKey::default(), Some(old), Some(new), &mut changes);
        changes
    }

    /// What is different at one key; `None` if nothing is.
    pub fn key(&self, key: &ConfigKey) -> Option<KeyChange> {
        let (old, new) = (key.get(self.old.document()), key.get(self.new.document()));
        (old != new).then(|| KeyChange { key: key.clone(), old: old.cloned(), new: new.cloned() })
    }
}

/// What has become of the value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Which one.
    pub key: ConfigKey,
    /// As it was; `None` if it was not there.
    pub old: Option<Value>,
    /// As it is; `None` if it is not there any more.
    pub new: Option<Value>,
}

fn compare(key: &ConfigKey, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<KeyChange>) {
    if old == new {
        return;
    }
    let (Some(Value::Object(before)), Some(Value::Object(after))) = (old, new) else {
        changes.push(KeyChange { key: key.clone(), old: old.cloned(), new: new.cloned() });
        return;
    };
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        compare(&key.child(name), before.get(name), after.get(name), changes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differences(old: Value, new: Value) -> Vec<(String, Option<Value>, Option<Value>)> {
        let config = |document: Value| Config::new(document.clone(), document, None);
        let change = ConfigChange { old: config(old), new: config(new) };
        change.keys().into_iter().map(|change| (change.key.to_string(), change.old, change.new)).collect()
    }

    #[test]
    fn objects_are_compared_member_by_member_and_arrays_as_a_whole() {
        let old = json!({ "same": 1, "gone": 2, "deep": { "x": 1, "y": 2 }, "list": [1, 2] });
        let new = json!({ "same": 1, "new": null, "deep": { "x": 1, "y": 3 }, "list": [1] });
        let expected = [
            ("deep.y".into(), Some(json!(2)), Some(json!(3))),
            ("gone".into(), Some(json!(2)), None),
            ("list".into(), Some(json!([1, 2])), Some(json!([1]))),
            ("new".into(), None, Some(Value::Null)),
        ];
        assert_eq!(differences(old.clone(), new), expected);
        assert_eq!(differences(old.clone(), old), []);
        assert_eq!(differences(json!(1), json!({})), [(String::new(), Some(json!(1)), Some(json!({})))]);
    }
}
