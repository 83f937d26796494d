use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The copies are listed, planned and mirrored as a whole.
const COPIES_MAX: u32 = 1_000;

/// What is kept running: the data of `<path>/spec`, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealerSpec {
    /// How many copies run. 0 to 1,000.
    pub copies: u32,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// How long a copy may take to end when it is asked to, in milliseconds; less if its agent may lose its session before.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u64,
    /// The pause before a copy that has ended is started again, in milliseconds; it doubles with each end in a row.
    #[serde(default = "default_pause_ms")]
    pub pause_ms: u64,
    /// The longest of these pauses, in milliseconds.
    #[serde(default = "default_pause_max_ms")]
    pub pause_max_ms: u64,
    /// After so many ends in a row a copy goes to another agent, if there is one on which it has not failed.
    #[serde(default = "default_failures_max")]
    pub failures_max: u32,
    /// A copy that has run for so long, in milliseconds, has not failed: what went before is forgotten.
    #[serde(default = "default_stable_ms")]
    pub stable_ms: u64,
}

fn default_grace_ms() -> u64 {
    5_000
}

fn default_pause_ms() -> u64 {
    500
}

fn default_pause_max_ms() -> u64 {
    30_000
}

fn default_failures_max() -> u32 {
    3
}

fn default_stable_ms() -> u64 {
    10_000
}

impl HealerSpec {
    /// So many copies of a command.
    pub fn new<I>(copies: u32, command: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            copies,
            command: command.into_iter().map(Into::into).collect(),
            grace_ms: default_grace_ms(),
            pause_ms: default_pause_ms(),
            pause_max_ms: default_pause_max_ms(),
            failures_max: default_failures_max(),
            stable_ms: default_stable_ms(),
        }
    }

    /// Why it cannot be carried out, if it cannot.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.copies > COPIES_MAX {
            return Err(format!("{} copies; the limit is {COPIES_MAX}", self.copies));
        }
        match self.command.first() {
            Some(program) if !program.is_empty() => Ok(()),
            _ => Err("there is no command".into()),
        }
    }

    /// What a znode holds; `None` for something that cannot be carried out.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(data).ok().filter(|spec| spec.validate().is_ok())
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_copies_and_a_command_and_has_defaults_for_the_rest() {
        let spec = HealerSpec::parse(br#"{"copies": 3, "command": ["web", "--port", "0"]}"#).unwrap();
        assert_eq!(spec, HealerSpec::new(3, ["web", "--port", "0"]));
        for bad in [
            r#"{"copies": 3}"#,
            r#"{"copies": 3, "command": []}"#,
            r#"{"copies": 1001, "command": ["x"]}"#,
            "",
        ] {
            assert_eq!(HealerSpec::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
