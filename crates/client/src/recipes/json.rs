use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Error, ErrorKind};

/// A JSON value that keeps the text in which it was written: digits of numbers, order of members, white
/// space.
///
/// Made of a text with [`str::parse`], or of anything that is a [`Value`]. Two are equal if their texts are.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The text, byte for byte.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// The value, for programs that look into it; numbers are rounded to what a [`Value`] holds. `null` where
    /// no [`Value`] holds it: more than 127 levels, or a number beyond the range of `f64`.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.as_str()).unwrap_or_default()
    }
}

impl FromStr for Json {
    type Err = Error;

    /// # Errors
    ///
    /// `BadArguments` for what is not JSON.
    fn from_str(text: &str) -> Result<Self, Error> {
        // Raw values are not looked into; a text that no `Value` holds could not be read by most programs.
        let read = serde_json::from_str::<Value>(text).and_then(|_| serde_json::from_str(text));
        read.map(Self).map_err(|error| Error::new(ErrorKind::BadArguments, format!("not JSON: {error}")))
    }
}

impl<T: Into<Value>> From<T> for Json {
    fn from(value: T) -> Self {
        let text = value.into().to_string();
        // The text of a value is JSON.
        Self(RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl Default for Json {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::recipes::Owner;

    const TEXT: &str = r#"{ "z": 1.10, "a":[1e10, 123456789012345678901234], "\u00e9":"x" }"#;

    /// E9: what somebody wrote into a participant's znode comes out as it was written, and goes back so.
    #[test]
    fn text_is_kept() {
        let owner = Owner::new("a").data(TEXT.parse::<Json>().unwrap());
        let bytes = owner.to_bytes().unwrap();
        assert_eq!(bytes, format!(r#"{{"id":"a","address":"","data":{TEXT}}}"#));
        let read = Owner::parse(&bytes);
        assert_eq!((read.data.as_str(), &read), (TEXT, &owner));
        assert_eq!(read.data.value()["z"], 1.1);
    }

    #[test]
    fn values_become_text() {
        assert_eq!(Json::from("a").as_str(), "\"a\"");
        assert_eq!(Json::from(json!({ "a": 7 })).as_str(), r#"{"a":7}"#);
        assert!(Json::default().is_null() && Json::from(Value::Null).is_null());
        assert_eq!(Owner::parse(b"{}").data, Json::default());
        assert_eq!(Owner::parse(b"somebody else's"), Owner::default());
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in ["", "{", "1.", "1 2", "'a'", "1e999"] {
            let error = text.parse::<Json>().unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadArguments, "{text}");
        }
    }
}
