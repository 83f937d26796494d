//! The `coordd` process: options, log, run, exit code.

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use coordd_process::{Log, LogForm, print, say, unknown_variable};
use coordd_raft::{EXIT_OUTDATED, StartError};
use coordd_server::options::{GivenOptions, LogFormat, Options};
use coordd_server::{Configuration, Node};
use rustix::fs::Mode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

/// Variables with our prefix that are not for this program: it may have inherited them from `coordctl`, which tells a command
/// what it holds; from scripts/ensemble.sh; or from a test.
const VARIABLES_OF_OTHERS: [&str; 19] = [
    "COORDD_AGENT",
    "COORDD_BASE_PORT",
    "COORDD_BLOB_MIB",
    "COORDD_COPY",
    "COORDD_ENDPOINTS",
    "COORDD_ENSEMBLE_DIR",
    "COORDD_EPOCH",
    "COORDD_GRANT_PATH",
    "COORDD_INSTANCE",
    "COORDD_SERVICE",
    "COORDD_SESSION",
    "COORDD_SMOKE_BASE_PORT",
    "COORDD_TASK_ATTEMPT",
    "COORDD_TASK_ID",
    "COORDD_TASK_MAX_ATTEMPTS",
    "COORDD_TESTS_BIN_DIR",
    "COORDD_TESTS_IDLE_CONNECTIONS",
    "COORDD_TESTS_SEED",
    "COORDD_KILL_ROUNDS",
];

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
        let command = Self::command().mut_args(|option| {
            let value = option.get_env().and_then(std::env::var_os);
            let option = option.global(true);
            match value {
                // An empty variable is an unset one.
                Some(value) if value.is_empty() => option.env(Resettable::Reset),
                _ => option,
            }
        });
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// The variables that are read, and those that are let alone.
    fn variables() -> Vec<&'static str> {
        let command = Self::command();
        let names = command.get_arguments().filter_map(|option| option.get_env()?.to_str());
        // As long as the process, and made once.
        let names = names.map(|name| &*name.to_owned().leak());
        let planted_bug = cfg!(feature = "planted-bugs").then_some("COORDD_PLANTED_BUG");
        names.chain(VARIABLES_OF_OTHERS).chain(planted_bug).collect()
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

/// Takes over SIGHUP, which ends the process until then. Hangups that come before anybody listens are kept
/// for `reload`.
///
/// The handler is the process's and outlives the runtime that installs it.
fn catch_hangups() -> std::io::Result<Signal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    signal(SignalKind::hangup())
}

fn main() -> ExitCode {
    // First: whoever starts this process may send a SIGHUP as soon as it runs.
    let hangups = catch_hangups();
    coordd_server::share_arenas();
    // What this process writes is for its own user only, whatever the umask was: passwords of sessions are in the log.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // A connection is a file. What the hard limit allows is what --connections-max is meant for.
    let files = rlimit::increase_nofile_limit(u64::MAX);
    let command_line = CommandLine::read();
    let is_check = matches!(command_line.command, Some(Command::Config(ConfigCommand::Check)));
    if let Some(unknown) = unknown_variable("COORDD_", &CommandLine::variables(), std::env::vars_os()) {
        say(format_args!("coordd: {unknown}"));
        return ExitCode::from(2);
    }
    let (configuration, options) = match Configuration::read(command_line.options, command_line.config) {
        Ok(read) => read,
        Err(error) => {
            say(format_args!("coordd: {error}"));
            return ExitCode::from(2);
        }
    };
    if is_check {
        for warning in options.warnings() {
            say(format_args!("coordd: warning: {warning}"));
        }
        return match print(configuration.as_toml()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(format_args!("coordd: the options could not be written: {error}"));
                ExitCode::FAILURE
            }
        };
    }
    let is_json = options.log_format == LogFormat::Json;
    match run(configuration, options, hangups, files.err()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = in_one_line(&error);
            match is_json {
                true => tracing::error!("{line}"),
                false => say(format_args!("coordd: {line}")),
            }
            match error.downcast_ref() {
                Some(StartError::Outdated { .. }) => ExitCode::from(EXIT_OUTDATED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(
    configuration: Configuration,
    options: Options,
    hangups: std::io::Result<Signal>,
    files: Option<std::io::Error>,
) -> anyhow::Result<()> {
    let form = match options.log_format {
        LogFormat::Human => LogForm::Human { ansi: std::io::stderr().is_terminal() },
        LogFormat::Json => LogForm::Json,
    };
    let log = Arc::new(Log::begin(&options.log, form).map_err(anyhow::Error::msg).context("--log")?);
    if let Some(error) = files {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let hangups = hangups.context("SIGHUP cannot be caught")?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(reload(hangups, configuration, log.clone()));
        tokio::spawn(write_held(log.clone()));
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
    log.write_held(true);
    outcome
}

/// Reads the configuration again at each SIGHUP, for ever.
async fn reload(mut hangups: Signal, mut configuration: Configuration, log: Arc<Log>) {
    while hangups.recv().await.is_some() {
        if !configuration.has_file() {
            tracing::info!("SIGHUP: there is no file to read again; see --config");
            continue;
        }
        let changes = match configuration.read_again() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "SIGHUP: the configuration is not usable; nothing has changed");
                continue;
            }
        };
        let after_restart = changes.after_restart.join(", ");
        if !after_restart.is_empty() {
            tracing::warn!(
                options = after_restart,
                "SIGHUP: new values of these options count after a restart"
            );
        }
        match changes.log {
            Some(filter) => match log.set_filter(&filter) {
                Ok(()) => tracing::info!(log = filter, "SIGHUP: log lines are written by the new filter"),
                Err(error) => tracing::warn!(error, log = filter, "SIGHUP: the filter of the log stays"),
            },
            None => {
                tracing::info!("SIGHUP: the configuration was read again; there is no new filter of the log")
            }
        }
    }
}

/// Writes log lines that were held back when it is their time.
async fn write_held(log: Arc<Log>) {
    let mut ticks = tokio::time::interval(Log::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        log.write_held(false);
    }
}
