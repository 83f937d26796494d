use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::TaskOptions;
use crate::recipes::Json;
use crate::{Error, ErrorKind};

/// With base64, and what is added later, it stays below the mebibyte that a znode may have.
pub(super) const PAYLOAD_MAX: usize = 700_000;
pub(super) const PRIORITY_MAX: u16 = 999;
/// Of an error's text.
const ERROR_CHARS_MAX: usize = 1_000;
/// How many times the back-off may double.
const DOUBLINGS_MAX: u32 = 20;

/// What stands in a task's znode, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    payload: Payload,
    #[serde(default)]
    pub(super) priority: u16,
    /// How often it was claimed and not completed.
    #[serde(default)]
    pub(super) attempts: u32,
    #[serde(default = "default_max_attempts")]
    pub(super) max_attempts: u32,
    #[serde(default)]
    pub(super) backoff_ms: u64,
    #[serde(default)]
    pub(super) backoff_max_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claim_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
}

fn default_max_attempts() -> u32 {
    TaskOptions::default().max_attempts
}

/// Text where it is text, so that people can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Payload {
    Payload(String),
    PayloadBase64(String),
}

impl Record {
    pub(super) fn new(payload: &[u8], options: &TaskOptions) -> Result<Self, Error> {
        let bad = |message: String| Err(Error::new(ErrorKind::BadArguments, message));
        if payload.len() > PAYLOAD_MAX {
            return bad(format!("the payload has {} bytes, the limit is {PAYLOAD_MAX}", payload.len()));
        }
        if options.priority > PRIORITY_MAX {
            return bad(format!("priority {}; the last is {PRIORITY_MAX}", options.priority));
        }
        if options.max_attempts == 0 {
            return bad("a task needs at least one attempt".into());
        }
        Ok(Self {
            payload: encode(payload),
            priority: options.priority,
            attempts: 0,
            max_attempts: options.max_attempts,
            backoff_ms: millis(options.backoff),
            backoff_max_ms: millis(options.backoff_max),
            claim_timeout_ms: options.claim_timeout.map(millis),
            last_error: None,
        })
    }

    /// `None` for something that no queue has written.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        serde_json::from_slice(data).ok()
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        // Strings and numbers can always be written.
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }

    /// `None` if somebody else's base64 is none.
    pub(super) fn payload(&self) -> Option<Bytes> {
        match &self.payload {
            Payload::Payload(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            Payload::PayloadBase64(text) => BASE64_STANDARD.decode(text).ok().map(Bytes::from),
        }
    }

    /// One more attempt came to nothing.
    pub(super) fn failed(mut self, error: &str) -> Self {
        self.attempts = self.attempts.saturating_add(1);
        self.last_error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
        self
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.attempts >= self.max_attempts
    }

    /// The pause after this many attempts: it doubles each time.
    pub(super) fn backoff(&self) -> Duration {
        let doublings = self.attempts.saturating_sub(1).min(DOUBLINGS_MAX);
        Duration::from_millis(self.backoff_ms.saturating_mul(1 << doublings).min(self.backoff_max_ms))
    }
}

fn encode(payload: &[u8]) -> Payload {
    if let Ok(text) = std::str::from_utf8(payload) {
        let json_len = serde_json::to_string(text).map_or(usize::MAX, |json| json.len());
        // Control characters take six bytes each in JSON.
        if json_len <= payload.len() + payload.len() / 3 + 2 {
            return Payload::Payload(text.to_owned());
        }
    }
    Payload::PayloadBase64(BASE64_STANDARD.encode(payload))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What stands in a claim's znode, as JSON.
pub(super) fn holder(worker: &str, record: &Record, progress: Option<&Json>) -> Bytes {
    #[derive(Serialize)]
    struct Holder<'a> {
        worker: &'a str,
        progress: Option<&'a Json>,
        claim_timeout_ms: Option<u64>,
    }
    let holder = Holder { worker, progress, claim_timeout_ms: record.claim_timeout_ms };
    // Strings, numbers and JSON have a JSON form.
    Bytes::from(serde_json::to_vec(&holder).unwrap_or_default())
}

/// A znode's name among the delayed: when it is due as far as the writer knew, the delay, and the task's id. The first
/// brings them into order; what counts is the server's stamp of the znode and the delay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DelayedName<'a> {
    pub(super) due_ms: u64,
    pub(super) delay_ms: u64,
    pub(super) id: &'a str,
}

impl<'a> DelayedName<'a> {
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.splitn(3, '.');
        let (due_ms, delay_ms) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let id = parts.next().filter(|id| !id.is_empty())?;
        Some(Self { due_ms, delay_ms, id })
    }
}

impl std::fmt::Display for DelayedName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:015}.{}.{}", self.due_ms, self.delay_ms, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_text_where_it_can_be_read_and_comes_back_as_it_was() {
        let record = |payload: &[u8]| Record::new(payload, &TaskOptions::default()).unwrap();
        for (payload, key) in [
            (&b"{\"mail\": \"to me\"}"[..], "payload"),
            (b"", "payload"),
            (b"\xff\x00", "payload_base64"),
            (&[7; 100], "payload_base64"),
        ] {
            let bytes = record(payload).to_bytes();
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert!(json.get(key).is_some(), "{json}");
            assert_eq!(Record::parse(&bytes).unwrap().payload().unwrap(), payload);
        }
    }

    #[test]
    fn the_largest_payload_fits_whatever_it_is() {
        for byte in [0, b'a', b'"', b'\n', 0xff] {
            let record = Record::new(&vec![byte; PAYLOAD_MAX], &TaskOptions::default()).unwrap();
            let failed = record.failed(&"\u{1}".repeat(5_000));
            assert!(failed.to_bytes().len() < 1 << 20, "{byte}: {}", failed.to_bytes().len());
        }
        let error = Record::new(&vec![0; PAYLOAD_MAX + 1], &TaskOptions::default()).unwrap_err();
        assert!(error.message.contains("700001") && error.message.contains("700000"), "{error}");
    }

    #[test]
    fn a_record_of_another_hand_needs_a_payload_only() {
        let record = Record::parse(br#"{"payload": "x", "color": "blue"}"#).unwrap();
        assert_eq!((record.attempts, record.max_attempts), (0, 5));
        for bad in [&b"not json"[..], b"{}", b"[]", b""] {
            assert_eq!(Record::parse(bad), None);
        }
    }

    #[test]
    fn the_pause_doubles_up_to_its_maximum() {
        let options = TaskOptions::new().backoff(Duration::from_secs(1), Duration::from_secs(5));
        let mut record = Record::new(b"", &options.max_attempts(5)).unwrap();
        let mut pauses = Vec::new();
        while !record.is_exhausted() {
            record = record.failed("no");
            pauses.push(record.backoff().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn a_delayed_name_is_read_as_it_is_written() {
        let name = DelayedName { due_ms: 1_763_734_567_890, delay_ms: 30_000, id: "100-p0000000042" };
        assert_eq!(name.to_string(), "001763734567890.30000.100-p0000000042");
        assert_eq!(DelayedName::parse(&name.to_string()), Some(name));
        for alien in ["", "1.2", "1.2.", "x.1.id", "1.y.id"] {
            assert_eq!(DelayedName::parse(alien), None, "{alien}");
        }
    }
}
