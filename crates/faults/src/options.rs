use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::attacks::AttackOptions;
use crate::clients::ClientsOptions;

/// Breaks ensembles of coordd, and checks what their clients were told.
///
/// Exit codes: 0 all is as it must be, 1 something was found or a run did not do what it is there for, 2 it could not be run.
#[derive(Parser, Debug)]
#[command(name = "coordfault", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Lists the scenarios.
    List,
    /// Runs a scenario; needs the rights of root, in namespaces of its own.
    Run(RunOptions),
    /// Checks a history again, and draws its timeline.
    Check {
        /// The directory of the history.
        dir: PathBuf,
    },
    /// A process of clients, as `run` starts it.
    #[command(hide = true)]
    Clients(ClientsOptions),
    /// An attack on the nodes, as `run` starts it.
    #[command(hide = true)]
    Attack(AttackOptions),
}

#[derive(Args, Debug)]
pub(crate) struct RunOptions {
    /// Which one; see `coordfault list`.
    pub(crate) scenario: String,

    /// Where random choices begin. The same seed makes the same choices, not the same history. Default: a new one.
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// The most rounds: each is a new ensemble, with a history of its own.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// How long to go on, about; one round is run in any case, and up to three more if something that the scenario is there for has
    /// not happened by then.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) seconds: u64,

    /// Processes of clients, each on a host of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub(crate) clients: u8,

    /// The mean pause between two operations of one of the dozen tasks of a process of clients.
    #[arg(long, default_value = "8ms", value_parser = humantime::parse_duration)]
    pub(crate) pace: Duration,

    /// The coordd to break. Default: the one beside this program.
    #[arg(long)]
    pub(crate) coordd: Option<PathBuf>,

    /// The older coordd that the nodes of `rolling-upgrade` begin with. Default: none, and the scenario cannot be run.
    #[arg(long)]
    pub(crate) old_coordd: Option<PathBuf>,

    /// Runs `greedy-clients` also where the memory of nodes cannot be limited.
    #[arg(long)]
    pub(crate) unlimited_memory: bool,

    /// Where histories, logs and data go. Default: a temporary directory.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,

    /// Keep all of that, not only what belongs to a failure.
    #[arg(long)]
    pub(crate) keep: bool,

    /// A bug that is planted into coordd, if it was built with the feature `planted-bugs`.
    #[arg(long)]
    pub(crate) bug: Option<String>,
}
