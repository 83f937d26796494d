use std::fmt;

use clap::Args;
use coordd_client::{Bytes, Outcome, SessionToken};
use coordd_process::plain;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::session_id::SessionId;

/// Asks for the fate of a numbered write, also after its session has ended (for an hour).
#[derive(Args, Debug)]
pub(crate) struct OutcomeCommand {
    /// The session.
    session_id: SessionId,

    /// The number of the write in the session.
    write_seq: u64,

    /// The session's password: 32 hexadecimal digits. Outcomes are told to nobody else.
    #[arg(long, env = "COORDCTL_SESSION_PASSWORD", hide_env_values = true, value_parser = hex)]
    password: Bytes,
}

#[derive(Serialize)]
struct OutcomeOutput {
    session_id: SessionId,
    write_seq: u64,
    fate: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    zxid: Option<u64>,
    /// Why it was refused, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

impl fmt::Display for OutcomeOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fate)?;
        if let Some(zxid) = self.zxid {
            write!(f, " at zxid {zxid}")?;
        }
        if let Some(refused) = &self.refused {
            write!(f, ", refused: {}", plain(refused))?;
        }
        writeln!(f)
    }
}

impl OutcomeCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let token = SessionToken { session_id: self.session_id.0, password: self.password };
        let outcome = context.answer(context.client().await?.outcome(&token, self.write_seq)).await?;
        let (fate, zxid, refused) = match outcome {
            Outcome::Applied { zxid, result } => {
                ("applied", Some(zxid), result.err().map(|error| error.to_string()))
            }
            Outcome::Acknowledged => ("acknowledged", None, None),
            Outcome::Never => ("never", None, None),
            Outcome::NotYet => ("not-yet", None, None),
            Outcome::Unknown => ("unknown", None, None),
        };
        let (session_id, write_seq) = (self.session_id, self.write_seq);
        context.output().result(&OutcomeOutput { session_id, write_seq, fate, zxid, refused })
    }
}

fn hex(text: &str) -> Result<Bytes, String> {
    let wrong = || "it is not a string of hexadecimal digits".to_owned();
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(wrong());
    }
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong());
    (0..text.len()).step_by(2).map(digits).collect::<Result<Vec<u8>, _>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hexadecimal_digits() {
        assert_eq!(hex("00ff1A").unwrap(), Bytes::from_static(&[0, 0xff, 0x1a]));
        for bad in ["0", "zz", "é0"] {
            assert!(hex(bad).is_err(), "{bad}");
        }
    }
}
