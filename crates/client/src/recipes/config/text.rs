//! Changes in the text of a document: what they do not mean stays byte for byte, the order of members, white space, and how numbers
//! are written. serde_json finds where things stand; a tree of values would keep none of that.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// What stands in an object or an array, in its order.
pub(super) enum Inside {
    /// Names and where their values stand. A name may occur more than once; the last one counts.
    Members(Vec<(String, Range<usize>)>),
    Elements(Vec<Range<usize>>),
    /// It is `null`.
    Null,
    /// It is something else.
    Nothing,
}

/// A part of a text of JSON that is a value.
#[derive(Clone, Debug)]
pub(super) struct Spot<'a> {
    pub(super) text: &'a str,
    pub(super) at: Range<usize>,
}

impl<'a> Spot<'a> {
    /// The whole document, without white space around it. `None` if the text is not JSON.
    pub(super) fn document(text: &'a str) -> Option<Self> {
        // What a tree of values cannot be made of (it is too deep) is not changed either.
        serde_json::from_str::<Value>(text).ok()?;
        let value: &RawValue = serde_json::from_str(text).ok()?;
        Some(Self { text, at: range(text, value) })
    }

    pub(super) fn json(&self) -> &'a str {
        &self.text[self.at.clone()]
    }

    pub(super) fn inside(&self) -> Inside {
        match self.json().as_bytes().first() {
            Some(b'{') => Inside::Members(self.members()),
            Some(b'[') => {
                let elements: Vec<&RawValue> = serde_json::from_str(self.json()).unwrap_or_default();
                Inside::Elements(elements.into_iter().map(|element| range(self.text, element)).collect())
            }
            Some(b'n') => Inside::Null,
            _ => Inside::Nothing,
        }
    }

    fn members(&self) -> Vec<(String, Range<usize>)> {
        let mut json = serde_json::Deserializer::from_str(self.json());
        let members = json.deserialize_map(Members).unwrap_or_default();
        members.into_iter().map(|(name, value)| (name, range(self.text, value))).collect()
    }

    fn at(&self, at: &Range<usize>) -> Self {
        Self { text: self.text, at: at.clone() }
    }

    /// The member or element of this name.
    pub(super) fn child(&self, name: &str, index: Option<usize>) -> Option<Self> {
        match self.inside() {
            Inside::Members(members) => {
                members.iter().rev().find(|(other, _)| other == name).map(|(_, at)| self.at(at))
            }
            Inside::Elements(elements) => elements.get(index?).map(|at| self.at(at)),
            Inside::Null | Inside::Nothing => None,
        }
    }

    /// The text with another value in this place.
    pub(super) fn replaced(&self, json: &str) -> String {
        self.spliced(self.at.clone(), json)
    }

    fn spliced(&self, at: Range<usize>, new: &str) -> String {
        format!("{}{new}{}", &self.text[..at.start], &self.text[at.end..])
    }

    /// The text with one more member at the end of this object, which has none of this name.
    pub(super) fn with_member(&self, name: &str, json: &str) -> String {
        let name = Value::from(name);
        let members = self.members();
        let Some((_, last)) = members.last() else { return self.with_first(&format!("{name}:{json}")) };
        // Written as the one before.
        let colon = self.colon_before(last.start);
        let places: Vec<Range<usize>> = members.iter().map(|(_, at)| at.clone()).collect();
        let separator = self.separator(&places, colon.ends_with(' '));
        self.spliced(last.end..last.end, &format!("{separator}{name}{colon}{json}"))
    }

    /// The text with one more element at the end of this array.
    pub(super) fn with_element(&self, json: &str) -> String {
        let Inside::Elements(elements) = self.inside() else { return self.text.to_owned() };
        let Some(last) = elements.last() else { return self.with_first(json) };
        let separator = self.separator(&elements, false);
        self.spliced(last.end..last.end, &format!("{separator}{json}"))
    }

    fn with_first(&self, new: &str) -> String {
        self.spliced(self.at.start + 1..self.at.start + 1, new)
    }

    /// What stands between two members or elements, as far as that can be seen. `values`: where their values stand.
    fn separator(&self, values: &[Range<usize>], is_spaced: bool) -> String {
        if let [.., before, _] = values {
            return self.text[before.end..self.start_after(before.end)].to_owned();
        }
        let indent = &self.text[self.at.start + 1..self.start_after(self.at.start + 1)];
        match indent.is_empty() && is_spaced {
            true => ", ".to_owned(),
            false => format!(",{indent}"),
        }
    }

    /// Where the next member or element begins, behind white space and a comma.
    fn start_after(&self, at: usize) -> usize {
        let rest = &self.text[at..];
        at + rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', ',']).len()
    }

    /// What stands between the name of a member and its value.
    fn colon_before(&self, value: usize) -> &'a str {
        let before = &self.text[..value];
        &before[before.trim_end_matches([' ', '\t', '\n', '\r', ':']).len()..]
    }

    /// The text without the member or element of this name; `None` if there is none.
    pub(super) fn without(&self, name: &str, index: Option<usize>) -> Option<String> {
        let (values, removed): (Vec<Range<usize>>, usize) = match self.inside() {
            Inside::Members(members) => {
                let removed = members.iter().position(|(other, _)| other == name)?;
                (members.into_iter().map(|(_, at)| at).collect(), removed)
            }
            Inside::Elements(elements) => {
                let removed = index.filter(|index| *index < elements.len())?;
                (elements, removed)
            }
            Inside::Null | Inside::Nothing => return None,
        };
        let cut = match (removed.checked_sub(1).map(|before| values[before].end), values.len() == removed + 1)
        {
            // The only one.
            (None, true) => self.at.start + 1..self.at.end - 1,
            (before, false) => {
                let start = self.start_after(before.unwrap_or(self.at.start + 1));
                start..self.start_after(values[removed].end)
            }
            (Some(before), true) => before..values[removed].end,
        };
        let text = self.spliced(cut.clone(), "");
        // One that was written twice would come back.
        let rest = Spot { text: &text, at: self.at.start..self.at.end - cut.len() };
        match rest.inside() {
            Inside::Members(_) => Some(rest.without(name, index).unwrap_or_else(|| text.clone())),
            _ => Some(text),
        }
    }
}

/// Where a value stands that was read out of the text.
fn range(text: &str, value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + value.get().len()
}

/// Members in their order, all of them.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}
