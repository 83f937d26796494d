use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A session id as people write it: "0x" and hexadecimal digits, or decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId(pub(crate) u64);

impl FromStr for SessionId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.map(SessionId).map_err(|error| format!("{text:?} is not a session id: {error}"))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A string: many readers of JSON take large numbers for floating point.
impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_reads_as_it_prints() {
        let id = SessionId(0x0102_0000_0000_002a);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("42".parse(), Ok(SessionId(42)));
        assert!("0xzz".parse::<SessionId>().is_err());
    }
}
