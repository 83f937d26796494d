use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::{Error, ErrorKind};

/// The way to a value within a document: names of members, and numbers of elements of arrays.
///
/// Written with dots, `feature_flags.dark_mode` or `servers.0`, or as a JSON pointer (RFC 6901), `/feature_flags/dark_mode`, for
/// names that have dots in them. The empty key is the whole document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfigKey(Vec<String>);

impl ConfigKey {
    /// The value in a document, if there is one.
    pub fn get<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, name| match value {
            Value::Object(members) => members.get(name),
            Value::Array(elements) => elements.get(index(name)?),
            _ => None,
        })
    }

    /// Puts a value into a document. Objects that are missing on the way, also in the place of a `null`, are made; the number
    /// after an array's last adds an element.
    ///
    /// # Errors
    ///
    /// `BadArguments` if something else is in the way; then nothing was changed.
    pub fn set(&self, document: &mut Value, new: Value) -> Result<(), Error> {
        let Some((last, way)) = self.0.split_last() else {
            *document = new;
            return Ok(());
        };
        // Looked at first, so that a refusal leaves no objects behind.
        let mut at = Some(&*document);
        for name in way {
            at = match at {
                None | Some(Value::Null) => None,
                Some(Value::Object(members)) => members.get(name),
                Some(Value::Array(elements)) => Some(element(elements, name).ok_or_else(|| self.blocked())?),
                Some(_) => return Err(self.blocked()),
            };
        }
        match at {
            None | Some(Value::Null | Value::Object(_)) => {}
            Some(Value::Array(elements)) if index(last).is_some_and(|at| at <= elements.len()) => {}
            Some(_) => return Err(self.blocked()),
        }
        let mut parent = document;
        for name in way {
            parent = match parent {
                Value::Array(elements) => {
                    let at = index(name).ok_or_else(|| self.blocked())?;
                    elements.get_mut(at).ok_or_else(|| self.blocked())?
                }
                other => members(other).entry(name).or_insert(Value::Null),
            };
        }
        match parent {
            Value::Array(elements) => match index(last) {
                Some(at) if at < elements.len() => elements[at] = new,
                _ => elements.push(new),
            },
            other => drop(members(other).insert(last.clone(), new)),
        }
        Ok(())
    }

    /// Takes a value out of a document, if it is there. The whole document becomes `null`.
    pub fn remove(&self, document: &mut Value) -> Option<Value> {
        let Some((last, way)) = self.0.split_last() else {
            return Some(document.take());
        };
        let parent = way.iter().try_fold(document, |value, name| match value {
            Value::Object(members) => members.get_mut(name),
            Value::Array(elements) => elements.get_mut(index(name)?),
            _ => None,
        })?;
        match parent {
            Value::Object(members) => members.remove(last),
            Value::Array(elements) => {
                index(last).filter(|at| *at < elements.len()).map(|at| elements.remove(at))
            }
            _ => None,
        }
    }

    pub(super) fn child(&self, name: &str) -> Self {
        Self(self.0.iter().map(String::as_str).chain([name]).map(Into::into).collect())
    }

    fn blocked(&self) -> Error {
        let message =
            format!("{self} cannot be set: what is on the way to it is no object, or has no such element");
        Error::new(ErrorKind::BadArguments, message)
    }
}

fn index(name: &str) -> Option<usize> {
    // As RFC 6901 has it: no sign, no leading zeros.
    let is_plain = name == "0" || !name.starts_with(['0', '+']);
    name.parse().ok().filter(|_| is_plain)
}

fn element<'a>(elements: &'a [Value], name: &str) -> Option<&'a Value> {
    elements.get(index(name)?)
}

/// Those of an object, which takes the place of anything else.
fn members(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("it was made an object"),
    }
}

impl FromStr for ConfigKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if let Some(pointer) = text.strip_prefix('/') {
            return Ok(Self(
                pointer.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect(),
            ));
        }
        let names: Vec<String> = text.split('.').map(Into::into).collect();
        match names.iter().any(String::is_empty) {
            true => {
                let message = format!("{text:?} is no key: between two dots there has to be a name");
                Err(Error::new(ErrorKind::BadArguments, message))
            }
            false => Ok(Self(names)),
        }
    }
}

/// With dots where that is read as the same key, otherwise as a JSON pointer.
impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |name: &String| !name.is_empty() && !name.contains('.');
        if self.0.iter().all(is_plain) && self.0.first().is_none_or(|name| !name.starts_with('/')) {
            return f.write_str(&self.0.join("."));
        }
        self.0.iter().try_for_each(|name| write!(f, "/{}", name.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(text: &str) -> ConfigKey {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_is_written_with_dots_or_as_a_pointer() {
        let document = json!({ "a": { "b.c": [1, { "d": 2 }], "": 3, "x/y": 4, "~": 5 }, "0": 6 });
        for (text, value) in [
            ("", document.clone()),
            ("a", document["a"].clone()),
            ("/a/b.c/0", json!(1)),
            ("/a/b.c/1/d", json!(2)),
            ("/a/", json!(3)),
            ("/a/x~1y", json!(4)),
            ("a.x/y", json!(4)),
            ("/a/~0", json!(5)),
            ("0", json!(6)),
        ] {
            assert_eq!(key(text).get(&document), Some(&value), "{text}");
            assert_eq!(key(&key(text).to_string()), key(text), "{text}");
        }
        for absent in ["b", "a.b", "/a/b.c/2", "/a/b.c/00", "/a/b.c/-", "0.x"] {
            assert_eq!(key(absent).get(&document), None, "{absent}");
        }
        for wrong in [".", "a.", ".a", "a..b"] {
            assert_eq!(wrong.parse::<ConfigKey>().unwrap_err().kind, ErrorKind::BadArguments, "{wrong}");
        }
    }

    #[test]
    fn a_value_is_put_where_the_key_says_and_objects_are_made() {
        let mut document = Value::Null;
        key("a.b.c").set(&mut document, json!(1)).unwrap();
        key("a.list").set(&mut document, json!([1])).unwrap();
        key("a.list.1").set(&mut document, json!({ "x": null })).unwrap();
        key("a.list.1.x.y").set(&mut document, json!(2)).unwrap();
        key("a.list.0").set(&mut document, json!("first")).unwrap();
        assert_eq!(document, json!({ "a": { "b": { "c": 1 }, "list": ["first", { "x": { "y": 2 } }] } }));
        let before = document.clone();
        for blocked in ["a.b.c.d", "a.list.3", "a.list.x", "a.list.x.y", "a.list.0.x", "a.b.c.d.e"] {
            let error = key(blocked).set(&mut document, json!(0)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadArguments, "{blocked}");
            assert!(error.message.contains(blocked), "{error}");
            assert_eq!(document, before, "{blocked}");
        }
        key("").set(&mut document, json!(7)).unwrap();
        assert_eq!(document, 7);
    }

    #[test]
    fn a_value_is_taken_out_once() {
        let mut document = json!({ "a": { "b": 1, "list": [1, 2] } });
        assert_eq!(key("a.b").remove(&mut document), Some(json!(1)));
        assert_eq!(key("a.b").remove(&mut document), None);
        assert_eq!(key("a.list.0").remove(&mut document), Some(json!(1)));
        assert_eq!(key("a.list.1").remove(&mut document), None);
        assert_eq!(key("a.list.0.x").remove(&mut document), None);
        assert_eq!(document, json!({ "a": { "list": [2] } }));
    }
}
