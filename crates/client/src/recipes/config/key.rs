use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::text::{Inside, Spot};
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

    /// It is the whole document.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of the value in a document of JSON, byte for byte, if there is one.
    pub fn get_json<'a>(&self, json: &'a str) -> Option<&'a str> {
        let document = Spot::document(json)?;
        let found = self.0.iter().try_fold(document, |spot, name| spot.child(name, index(name)));
        found.map(|spot| spot.json())
    }

    /// A document of JSON with another value, which is JSON too, where [`set`](Self::set) would put it. All else stays byte for
    /// byte: the order of members, white space, and how numbers are written.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a document that is not JSON, and those of [`set`](Self::set).
    pub fn set_json(&self, json: &str, new: &str) -> Result<String, Error> {
        let malformed = || Error::new(ErrorKind::BadArguments, "the document is not JSON");
        let mut spot = Spot::document(json).ok_or_else(malformed)?;
        for (depth, name) in self.0.iter().enumerate() {
            if let Some(child) = spot.child(name, index(name)) {
                spot = child;
                continue;
            }
            // Objects that are missing on the way, from the innermost.
            let nested = |from: usize| {
                self.0[from..]
                    .iter()
                    .rev()
                    .fold(new.to_owned(), |value, name| format!("{{{}:{value}}}", Value::from(name.as_str())))
            };
            return match spot.inside() {
                Inside::Members(_) => Ok(spot.with_member(name, &nested(depth + 1))),
                Inside::Null => Ok(spot.replaced(&nested(depth))),
                Inside::Elements(elements)
                    if depth + 1 == self.0.len() && index(name) == Some(elements.len()) =>
                {
                    Ok(spot.with_element(new))
                }
                Inside::Elements(_) | Inside::Nothing => Err(self.blocked()),
            };
        }
        Ok(spot.replaced(new))
    }

    /// A document of JSON without the value, and otherwise byte for byte as it was; `None` if the value is not there.
    pub fn remove_json(&self, json: &str) -> Option<String> {
        let document = Spot::document(json)?;
        let Some((last, way)) = self.0.split_last() else { return Some(document.replaced("null")) };
        let parent = way.iter().try_fold(document, |spot, name| spot.child(name, index(name)))?;
        parent.without(last, index(last))
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

    /// E9: what a change does not mean stays byte for byte, in every style of writing.
    #[test]
    fn untouched_text_stays() {
        for (way, document, new, expected) in [
            ("b", r#"{"z":1.10,"a":1e10}"#, "x", r#"{"z":1.10,"a":1e10,"b":x}"#),
            ("b", r#"{"z": 1.10, "a": 1e10}"#, "x", r#"{"z": 1.10, "a": 1e10, "b": x}"#),
            ("b", r#"{"z": 123456789012345678901234}"#, "x", r#"{"z": 123456789012345678901234, "b": x}"#),
            ("b", "{\n  \"z\": 1.10\n}\n", "x", "{\n  \"z\": 1.10,\n  \"b\": x\n}\n"),
            ("z", "{\n\t\"z\" : 1.10 ,\n\t\"a\":2}", "x", "{\n\t\"z\" : x ,\n\t\"a\":2}"),
            ("b.c.d", r#"{ "a": [1, 2.0] }"#, "x", r#"{ "a": [1, 2.0], "b": {"c":{"d":x}} }"#),
            ("a.1", r#"{ "a": [1.0, 2.0] }"#, "x", r#"{ "a": [1.0, x] }"#),
            ("a.2", r#"{ "a": [1.0,  2.0] }"#, "x", r#"{ "a": [1.0,  2.0,  x] }"#),
            ("a.1", "[]", "x", ""),
            ("0", " [ ] ", "x", " [x ] "),
            ("1", "[\n  1.0\n]", "x", "[\n  1.0,\n  x\n]"),
            ("a", "{}", "x", r#"{"a":x}"#),
            ("a.b", "null", "x", r#"{"a":{"b":x}}"#),
            ("a.b", r#"{"a": null, "n": 1.50}"#, "x", r#"{"a": {"b":x}, "n": 1.50}"#),
            ("a", r#"{"a":1,"n":2,"\u0061":3}"#, "x", r#"{"a":1,"n":2,"\u0061":x}"#),
            ("q\"", r#"{"a":"}, \"q"}"#, "x", r#"{"a":"}, \"q","q\"":x}"#),
            ("a.b", r#"{"a":1.0}"#, "x", ""),
        ] {
            match key(way).set_json(document, new) {
                Ok(text) => assert_eq!(text, expected, "{way} in {document}"),
                Err(error) => assert!(expected.is_empty(), "{way} in {document}: {error}"),
            }
        }
        for (way, document, expected) in [
            ("a", r#"{"a":1.0,"b":2.0}"#, Some(r#"{"b":2.0}"#)),
            ("b", r#"{"a":1.0,"b":2.0}"#, Some(r#"{"a":1.0}"#)),
            ("a", r#"{ "a": 1.0 }"#, Some("{}")),
            ("b", "{\n  \"a\": 1.0,\n  \"b\": {},\n  \"c\": 3\n}", Some("{\n  \"a\": 1.0,\n  \"c\": 3\n}")),
            ("c", "{\n  \"a\": 1.0,\n  \"c\": 3\n}", Some("{\n  \"a\": 1.0\n}")),
            ("a.0", r#"{"a": [1.0, 2.0]}"#, Some(r#"{"a": [2.0]}"#)),
            ("a.1", r#"{"a": [1.0, 2.0]}"#, Some(r#"{"a": [1.0]}"#)),
            ("a", r#"{"a":1,"b":2,"a":3}"#, Some(r#"{"b":2}"#)),
            ("x", r#"{"a":1}"#, None),
            ("a.x", r#"{"a":1}"#, None),
        ] {
            assert_eq!(key(way).remove_json(document).as_deref(), expected, "{way} in {document}");
        }
        assert_eq!(key("a.1").get_json(r#"{"a": [1, 2.50 ]}"#), Some("2.50"));
        assert_eq!(key("").get_json(" 1.0\n"), Some("1.0"));
    }

    /// The text is changed as the tree of values would be.
    #[test]
    fn texts_change_as_values() {
        let documents = [
            json!(null),
            json!({ "a": { "b": [1, { "c": null }], "": 2 }, "x": "y" }),
            json!([[], {}, "a", null]),
            json!(7),
        ];
        for document in documents {
            for way in [
                "a",
                "a.b",
                "a.b.0",
                "a.b.1",
                "a.b.1.c.d",
                "a.b.2",
                "a.b.9",
                "/a/",
                "x",
                "x.y",
                "0",
                "0.0",
                "1.z",
                "3",
                "4",
                "7",
            ] {
                let way = key(way);
                for text in [document.to_string(), format!("{document:#}")] {
                    let mut changed = document.clone();
                    let set = way.set(&mut changed, json!({ "new": 1 }));
                    let set_text = way.set_json(&text, r#"{"new": 1}"#);
                    assert_eq!(set.is_ok(), set_text.is_ok(), "{way} in {text}");
                    if let Ok(set_text) = set_text {
                        assert_eq!(
                            serde_json::from_str::<Value>(&set_text).unwrap(),
                            changed,
                            "{way} in {text}"
                        );
                    }
                    let removed =
                        way.remove_json(&text).map(|text| serde_json::from_str::<Value>(&text).unwrap());
                    let mut value = document.clone();
                    assert_eq!(removed, way.remove(&mut value).map(|_| value.clone()), "{way} in {text}");
                    let got = way.get_json(&text).map(|text| serde_json::from_str::<Value>(text).unwrap());
                    assert_eq!(got.as_ref(), way.get(&document), "{way} in {text}");
                }
            }
        }
    }
}
