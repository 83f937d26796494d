use std::ffi::OsStr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};

/// Puts closed-loop load on a coordd ensemble and says how it fared.
///
/// Exit codes: 0 all operations succeeded, 1 some failed, 2 the run itself failed.
#[derive(Parser, Debug)]
#[command(name = "coordbench", version)]
pub(crate) struct Options {
    /// Where the nodes are: host:port, multicast:GROUP:PORT or file:PATH, separated by commas.
    #[arg(
        long,
        env = ENDPOINTS,
        value_delimiter = ',',
        default_value = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"
    )]
    pub(crate) endpoints: Vec<String>,

    /// What the load consists of.
    #[arg(long, value_enum, default_value_t = Operation::Set)]
    pub(crate) op: Operation,

    /// Sessions, each on a connection of its own.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,

    /// Requests in flight per connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) depth: u32,

    /// Bytes of each value.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) value_bytes: u32,

    /// How long to measure; at most a day.
    #[arg(long, default_value = "10s", value_parser = run_time)]
    pub(crate) duration: Duration,

    /// How long to load before measuring; at most a day.
    #[arg(long, default_value = "2s", value_parser = run_time)]
    pub(crate) warmup: Duration,

    /// Znodes that each connection sets and gets, in turn.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) keys: u32,

    /// With `--op mixed`: how many of a hundred operations are local gets; the rest are sets.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) read_percent: u8,

    /// Under which znode to work. It is created, and deleted with all below it in the end.
    #[arg(long, default_value = "/coordbench")]
    pub(crate) root: String,

    /// Leave the znodes there.
    #[arg(long)]
    pub(crate) keep: bool,

    /// The session timeout.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) session_timeout: Duration,

    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,

    /// Say every second on the standard error how many operations succeeded in it.
    #[arg(long)]
    pub(crate) progress: bool,

    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

/// Each millisecond of a run is counted in memory, for each connection.
const RUN_MAX: Duration = Duration::from_secs(86_400);

fn run_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time <= RUN_MAX {
        true => Ok(time),
        false => Err(format!("{text} is longer than a day")),
    }
}

/// The variable of `--endpoints`.
const ENDPOINTS: &str = "COORDBENCH_ENDPOINTS";

impl Options {
    /// Reads the command line of this program. An empty variable of the environment is an unset one.
    pub(crate) fn read() -> Self {
        let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let command = Self::command().mut_args(|option| match option.get_env() {
            Some(name) if is_empty(name) => option.env(Resettable::Reset),
            _ => option,
        });
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// The variables that are read.
    pub(crate) fn variables() -> [&'static str; 1] {
        [ENDPOINTS]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    /// Replace values of existing znodes.
    Set,
    /// Create znodes.
    Create,
    /// Read values from the node of the connection.
    Get,
    /// Read values linearizably.
    GetLinearizable,
    /// Local gets and sets, see --read-percent.
    Mixed,
    /// Take a lock that all connections want, and give it back at once; the latency is that of the hand-over. --depth,
    /// --keys and --value-bytes do not matter.
    Lock,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Set => "set",
            Operation::Create => "create",
            Operation::Get => "get",
            Operation::GetLinearizable => "get-linearizable",
            Operation::Mixed => "mixed",
            Operation::Lock => "lock",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time that no clock reaches is refused by its option, and does not end the program with a panic.
    #[test]
    fn endless_runs_are_refused() {
        for option in ["--warmup", "--duration"] {
            for time in ["584542046090y", "25h"] {
                let refused = Options::try_parse_from(["coordbench", option, time]).unwrap_err();
                assert!(refused.to_string().contains(option), "{refused}");
            }
            Options::try_parse_from(["coordbench", option, "24h"]).unwrap();
        }
    }
}
