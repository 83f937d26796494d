//! JSON as it is printed: every character that is not printable is escaped, and what stands in a raw value keeps its text.

use std::io;
use std::str::FromStr;

use coordd_client::recipes::Json;
use coordd_process::is_printable;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// In one line.
pub(crate) fn compact<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    written(value, Printable(CompactFormatter))
}

/// In one line, for people: where there is nothing to report a failure to.
pub(crate) fn shown<T: Serialize + ?Sized>(value: &T) -> String {
    compact(value).unwrap_or_default()
}

/// Over several lines, for people.
pub(crate) fn pretty(json: &str) -> serde_json::Result<String> {
    // Members in their order and numbers as they are written: a tree of values keeps neither.
    let mut text = Vec::with_capacity(json.len() * 2);
    let laid_out = layout(&mut PrettyFormatter::new(), &mut text, json.trim());
    laid_out.map_err(serde_json::Error::io)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn written<T: Serialize + ?Sized>(value: &T, formatter: impl Formatter) -> serde_json::Result<String> {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A formatter whose strings, and whose raw values, are printable and in one line.
struct Printable<F>(F);

impl<F: Formatter> Formatter for Printable<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        write_printable(writer, text)
    }

    fn write_raw_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, json: &str) -> io::Result<()> {
        layout(&mut self.0, writer, json)
    }
}

/// Strings of JSON hold no controls below 0x20; the others are escaped as JSON has it, in halves beyond 16 bits.
fn write_printable<W: ?Sized + io::Write>(writer: &mut W, text: &str) -> io::Result<()> {
    if text.chars().all(is_printable) {
        return writer.write_all(text.as_bytes());
    }
    for c in text.chars() {
        let mut units = [0; 2];
        match is_printable(c) {
            true => write!(writer, "{c}")?,
            false => {
                c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?
            }
        }
    }
    Ok(())
}

/// Writes valid JSON with the formatter's white space in the place of its own. Numbers and strings keep their text.
fn layout<W: ?Sized + io::Write>(
    formatter: &mut impl Formatter,
    writer: &mut W,
    json: &str,
) -> io::Result<()> {
    // For each array or object that is open: whether it is an object, and whether something stands in it.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let mut rest = json;
    // The next token is the value of a member.
    let mut after_colon = false;
    while let Some(first) = rest.chars().next() {
        let token = &rest[..token_length(rest)];
        rest = &rest[token.len()..];
        match first {
            ' ' | '\t' | '\n' | '\r' | ',' => continue,
            ':' => {
                after_colon = true;
                formatter.begin_object_value(writer)?;
                continue;
            }
            '}' | ']' => {
                open.pop();
                match first {
                    '}' => formatter.end_object(writer)?,
                    _ => formatter.end_array(writer)?,
                }
            }
            _ => {
                if let (Some((is_object, has_some)), false) = (open.last_mut(), after_colon) {
                    let is_first = !std::mem::replace(has_some, true);
                    match is_object {
                        true => formatter.begin_object_key(writer, is_first)?,
                        false => formatter.begin_array_value(writer, is_first)?,
                    }
                }
                match first {
                    '{' | '[' => {
                        open.push((first == '{', false));
                        after_colon = false;
                        match first {
                            '{' => formatter.begin_object(writer)?,
                            _ => formatter.begin_array(writer)?,
                        }
                        continue;
                    }
                    _ => write_printable(writer, token)?,
                }
            }
        }
        // A value has ended, or a key.
        match open.last() {
            Some((true, _)) if after_colon || matches!(first, '}' | ']') => {
                formatter.end_object_value(writer)?
            }
            Some((false, _)) => formatter.end_array_value(writer)?,
            _ => {}
        }
        after_colon = false;
    }
    Ok(())
}

/// Bytes of the token at the beginning of JSON: a string, a number, a word, or one character.
fn token_length(json: &str) -> usize {
    let bytes = json.as_bytes();
    match bytes[0] {
        b'"' => {
            let mut at = 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(bytes.len())
        }
        first if is_in_word(first) => bytes.iter().position(|byte| !is_in_word(*byte)).unwrap_or(bytes.len()),
        _ => json.chars().next().map_or(1, char::len_utf8),
    }
}

fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// JSON as people write it on a command line, where a text needs no quotes: the text of a JSON value.
///
/// What begins like JSON, or reads as a number or a word of another notation, and is not JSON, is a mistake and not a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonArg(String);

impl JsonArg {
    /// A text, whatever it looks like.
    pub(crate) fn string(text: &str) -> Self {
        Self(Value::from(text).to_string())
    }

    /// The JSON, byte for byte as it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for a recipe.
    pub(crate) fn json(&self) -> Json {
        // It is JSON.
        self.0.parse().unwrap_or_default()
    }
}

impl FromStr for JsonArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let json = text.trim();
        let error = match serde_json::from_str::<Value>(json) {
            Ok(_) => return Ok(Self(json.to_owned())),
            Err(error) => error,
        };
        let is_like_json = json.is_empty() || json.starts_with(['{', '[', '"']);
        let is_like_number = json.parse::<f64>().is_ok();
        let is_like_word = ["true", "false", "null"].iter().any(|word| json.eq_ignore_ascii_case(word));
        if is_like_json || is_like_number || is_like_word {
            return Err(format!("it is not JSON: {error}; a text of this form is written in double quotes"));
        }
        Ok(Self::string(text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;

    /// B6: programs get the characters, a terminal gets escapes.
    #[test]
    fn json_is_printable() {
        let text = "\u{1b}[31m\n\u{9b}\u{7f}\u{202e}é\u{e0041}";
        let shown = compact(&json!({ "a": text })).unwrap();
        assert_eq!(shown, r#"{"a":"\u001b[31m\n\u009b\u007f\u202eé\udb40\udc41"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["a"], text);
    }

    /// E9: a raw value keeps its numbers and the order of its members, in one line and over several.
    #[test]
    fn raw_values_keep_their_text() {
        let raw = "{ \"z\": 1.10,\n \"a\" :[1e10, {}, [ ], {\"b\":\"\u{202e}, :\\\"]\"} ],\"n\":null}";
        let value: Box<RawValue> = serde_json::from_str(raw).unwrap();
        let shown = compact(&value).unwrap();
        assert_eq!(shown, r#"{"z":1.10,"a":[1e10,{},[],{"b":"\u202e, :\"]"}],"n":null}"#);
        assert_eq!(compact(&[&value]).unwrap(), format!("[{shown}]"));
        let lines = pretty(r#"{"z":1.10,"a":[1,{"b":{}},[]],"c":"x"}"#).unwrap();
        let expected = "{\n  \"z\": 1.10,\n  \"a\": [\n    1,\n    {\n      \"b\": {}\n    },\n    []\n  ],\n  \"c\": \"x\"\n}";
        assert_eq!(lines, expected);
        assert_eq!(pretty("123456789012345678901234").unwrap(), "123456789012345678901234");
    }

    /// E9: a value keeps its text, a bare text needs no quotes, and malformed JSON is no text.
    #[test]
    fn malformed_json_is_refused() {
        for (text, json) in [
            ("1.10", "1.10"),
            ("1e10", "1e10"),
            (" [1, -2] ", "[1, -2]"),
            ("\"a\"", "\"a\""),
            ("null", "null"),
            ("hello world", "\"hello world\""),
            ("10s", "\"10s\""),
            ("1.2.3", "\"1.2.3\""),
            ("a\"b", r#""a\"b""#),
        ] {
            assert_eq!(text.parse::<JsonArg>().unwrap().as_str(), json, "{text}");
        }
        for wrong in [
            "{bad", "[1,", "[1,]", "\"a", "{'a':1}", "{}}", "01", "1.", ".5", "+1", "NaN", "True", "NULL",
            "1e999", "", " ",
        ] {
            assert!(wrong.parse::<JsonArg>().is_err(), "{wrong}");
        }
        assert_eq!(JsonArg::string("{bad").as_str(), "\"{bad\"");
    }
}
