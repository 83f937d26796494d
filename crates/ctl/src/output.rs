use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use base64::Engine as _;
use clap::ValueEnum;
use coordd_client::{Bytes, Stat};
use coordd_process::{plain, plain_lines, plain_value};
use serde::Serialize;
use serde_json::json;

use crate::exit::Failure;
use crate::json_text;
use crate::session_id::SessionId;

/// For whom the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: one JSON value; one a line where there can be several.
    Json,
}

/// Writes results to the standard output. Never panics: a reader that has gone away is an error like others. Of what it prints a
/// terminal obeys nothing but newlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// A result: its `Display` for people, its fields for programs.
    pub(crate) fn result<T: Serialize + Display>(self, result: &T) -> Result<(), Failure> {
        write(self.rendered(result)?.as_bytes())
    }

    fn rendered<T: Serialize + Display>(self, result: &T) -> Result<String, Failure> {
        match self.format {
            Format::Text => Ok(plain_lines(&result.to_string()).into_owned()),
            Format::Json => json_line(result),
        }
    }

    /// A result of which people see nothing.
    pub(crate) fn quiet_result<T: Serialize>(self, result: &T) -> Result<(), Failure> {
        if self.is_json() { self.json(result) } else { Ok(()) }
    }

    pub(crate) fn json<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        write(json_line(value)?.as_bytes())
    }

    /// Lines that were made here, of fields that are [`plain`].
    pub(crate) fn line(self, line: impl Display) -> Result<(), Failure> {
        write(format!("{}\n", plain_lines(&line.to_string())).as_bytes())
    }

    /// Bytes of this program's own, as they are.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        write(bytes)
    }

    /// A value: byte for byte for a pipe or a file. On a terminal everything that it would obey is escaped, except newlines and
    /// tabs, and a newline follows where the prompt would otherwise.
    pub(crate) fn value(self, bytes: &[u8]) -> Result<(), Failure> {
        if !std::io::stdout().is_terminal() {
            return write(bytes);
        }
        let mut shown = plain_value(bytes);
        if !shown.is_empty() && !shown.ends_with('\n') {
            shown.push('\n');
        }
        write(shown.as_bytes())
    }

    /// Why a command failed, on the standard error.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text = match self.format {
            Format::Text => format!("coordctl: {}", plain_lines(&failure.to_string())),
            Format::Json => {
                let mut error = json!({
                    "kind": failure.kind(), "message": failure.message(), "exit_code": failure.exit_code(),
                });
                if let Failure::Operation(operation) = failure {
                    error["path"] = json!(operation.path);
                    error["op_index"] = json!(operation.op_index);
                }
                json_text::compact(&json!({ "error": error })).unwrap_or_default()
            }
        };
        // Nothing is left to report a failure of this to.
        let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
    }
}

fn json_line<T: Serialize>(value: &T) -> Result<String, Failure> {
    match json_text::compact(value) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(Failure::io("writing JSON", error.into())),
    }
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::io("writing", error))
}

/// A znode's stat, under ZooKeeper's names.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StatOutput {
    czxid: u64,
    mzxid: u64,
    pzxid: u64,
    ctime: u64,
    mtime: u64,
    version: i32,
    cversion: i32,
    aversion: i32,
    ephemeral_owner: SessionId,
    data_length: u32,
    num_children: u32,
}

impl From<Stat> for StatOutput {
    fn from(stat: Stat) -> Self {
        Self {
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            pzxid: stat.pzxid,
            ctime: stat.ctime,
            mtime: stat.mtime,
            version: stat.version,
            cversion: stat.cversion,
            aversion: stat.aversion,
            ephemeral_owner: SessionId(stat.ephemeral_owner),
            data_length: stat.data_length,
            num_children: stat.num_children,
        }
    }
}

impl Display for StatOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "czxid           {}", self.czxid)?;
        writeln!(f, "mzxid           {}", self.mzxid)?;
        writeln!(f, "pzxid           {}", self.pzxid)?;
        writeln!(f, "ctime           {}", time(self.ctime))?;
        writeln!(f, "mtime           {}", time(self.mtime))?;
        writeln!(f, "version         {}", self.version)?;
        writeln!(f, "cversion        {}", self.cversion)?;
        writeln!(f, "aversion        {}", self.aversion)?;
        writeln!(f, "ephemeralOwner  {}", self.ephemeral_owner)?;
        writeln!(f, "dataLength      {}", self.data_length)?;
        writeln!(f, "numChildren     {}", self.num_children)
    }
}

/// Milliseconds since the Unix epoch as a date in UTC.
pub(crate) fn time(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(unix_ms));
    // Dates that cannot be written (after the year 9999) stay numbers.
    match time.filter(|_| unix_ms < 253_402_300_800_000) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => unix_ms.to_string(),
    }
}

/// A value for programs: text where it is text, base64 where it is not.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ValueOutput {
    Data(String),
    DataBase64(String),
}

impl From<Bytes> for ValueOutput {
    fn from(bytes: Bytes) -> Self {
        match String::from_utf8(bytes.into()) {
            Ok(text) => ValueOutput::Data(text),
            Err(error) => {
                let text = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
                ValueOutput::DataBase64(text)
            }
        }
    }
}

/// A value for people: text, or only its size.
impl Display for ValueOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Quotes and backslashes are escaped too: it stands among other fields.
            ValueOutput::Data(text) => f.write_str(&plain(&text.escape_debug().to_string())),
            ValueOutput::DataBase64(text) => write!(f, "base64:{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_where_it_is_text() {
        let text = serde_json::to_string(&ValueOutput::from(Bytes::from_static(b"a\"b"))).unwrap();
        assert_eq!(text, r#"{"data":"a\"b"}"#);
        let bytes = serde_json::to_string(&ValueOutput::from(Bytes::from_static(&[0xff]))).unwrap();
        assert_eq!(bytes, r#"{"data_base64":"/w=="}"#);
    }

    #[test]
    fn any_number_of_milliseconds_prints() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }
}
