//! The `coordd` process: options, log, run, exit code.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use coordd_server::Node;
use coordd_server::options::{GivenOptions, LogFormat, OptionError, Options};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A coordination service: a replicated tree of znodes with sessions, ephemerals and watches.
///
/// Alone it is a single node with its data in ./coordd-data. With --id and --ensemble it is a member of an ensemble. Every
/// option can also be given as COORDD_* in the environment, or in the TOML file of --config under the same name; the
/// command line comes first, then the environment, then the file.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct CommandLine {
    /// TOML file with options. [default: none]
    #[arg(long, env = "COORDD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    options: GivenOptions,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Things to do with the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Checks the options without starting; says what is in force. Exit code 0: they are good.
    Check,
}

impl CommandLine {
    /// Options may stand before or behind the subcommand, and come before the environment in both places.
    fn read() -> Self {
        let matches = Self::command().mut_args(|option| option.global(true)).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// An error and its causes, each once: many say their cause themselves.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.ends_with(&cause) {
            let colon = if line.is_empty() { "" } else { ": " };
            line = format!("{line}{colon}{cause}");
        }
    }
    line
}

fn main() -> ExitCode {
    coordd_server::share_arenas();
    // A connection is a file. What the hard limit allows is what --connections-max is meant for.
    let files = rlimit::increase_nofile_limit(u64::MAX);
    let command_line = CommandLine::read();
    let is_check = matches!(command_line.command, Some(Command::Config(ConfigCommand::Check)));
    let options = match resolve(command_line.options, command_line.config) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("coordd: {error}");
            return ExitCode::from(2);
        }
    };
    if is_check {
        println!("{options:#?}");
        return ExitCode::SUCCESS;
    }
    if let Err(error) = files {
        eprintln!("coordd: the limit of open files could not be raised: {error}");
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coordd: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn resolve(given: GivenOptions, config: Option<PathBuf>) -> Result<Options, OptionError> {
    let file = match config {
        Some(path) => GivenOptions::from_file(&path)?,
        None => GivenOptions::default(),
    };
    given.or(file).check()
}

fn run(options: Options) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log).with_context(|| format!("--log: {:?}", options.log))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match options.log_format {
        LogFormat::Human => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::pin!(stop);
        let node = tokio::select! {
            node = Node::start(options) => node?,
            // The ensemble may not be formed for lack of other nodes.
            () = &mut stop => return Ok(()),
        };
        node.run_until(stop).await
    });
    // Work that blocks, such as a snapshot that nobody waits for, must not hold up the end.
    runtime.shutdown_background();
    outcome
}
