use std::borrow::Cow;
use std::io::Write as _;

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use coordd_process::{plain_lines, unknown_variable};

use crate::commands::{
    acl, completions, config, create, delete, elect, get, health, lock, ls, man, members, multi, outcome,
    queue, quota, register, services, session, set, shell, stat, status, supervise, sync, tree, watch,
};
use crate::context::{Context, GlobalOptions};
use crate::exit::{EXIT_CODES, Failure};

/// The command line of coordd.
#[derive(Parser, Debug)]
#[command(name = "coordctl", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalOptions,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a znode.
    Create(create::Create),
    /// Print the data of a znode.
    Get(get::Get),
    /// Replace the data of a znode.
    Set(set::Set),
    /// Delete a znode, or a subtree.
    Delete(delete::Delete),
    /// List the children of a znode.
    Ls(ls::Ls),
    /// Print a subtree.
    Tree(tree::Tree),
    /// Print the stat of a znode.
    Stat(stat::StatCommand),
    /// Print the events of a znode or subtree as they happen.
    Watch(watch::Watch),
    /// Carry out several writes, all or none.
    Multi(multi::Multi),
    /// Run a command only while this candidate leads; print who leads.
    Elect(elect::Elect),
    /// Keep so many copies of a command running across hosts: an agent of this one.
    Supervise(supervise::Supervise),
    /// Read, change and follow a JSON configuration with a history.
    Config(config::Config),
    /// Run a command only while holding a lock; print who holds it and who waits.
    Lock(lock::Lock),
    /// Print or watch the members of a group, or join it.
    Members(members::Members),
    /// Register an instance of a service while it, and a command, works.
    Register(register::Register),
    /// Print the services, or the instances of one.
    Services(services::Services),
    /// Put tasks into a queue, and work at them.
    Queue(queue::Queue),
    /// Print or replace the ACL of a znode.
    Acl(acl::Acl),
    /// Print, set or remove the quota of a subtree.
    Quota(quota::Quota),
    /// List sessions, end one, or ask why one ended.
    Session(session::Session),
    /// Ask for the fate of a numbered write of a session.
    Outcome(outcome::OutcomeCommand),
    /// Print the state of every node.
    Status(status::Status),
    /// Wait until the node shows everything acknowledged so far, anywhere.
    Sync(sync::Sync),
    /// Exit with 0 if the first endpoint takes clients, with 9 if not.
    Health(health::Health),
    /// Commands one after the other, in one session.
    Shell(shell::Shell),
    /// Print the completions for a shell.
    Completions(completions::Completions),
    /// Print the manual page, or write all of them.
    Man(man::Man),
}

impl Cli {
    /// Reads the command line of this program; says what is wrong with it, or what was asked for, and ends the program then.
    pub(crate) fn read() -> Self {
        let mut command = without_empty_variables(Cli::command());
        let matches = command.try_get_matches_from_mut(std::env::args_os());
        let cli =
            matches.and_then(|matches| Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command)));
        let cli = cli.unwrap_or_else(|error| refuse(&with_tip(error, &command)));
        if let Some(unknown) = unknown_variable("COORDCTL_", &variables(&command), std::env::vars_os()) {
            refuse(&command.error(ErrorKind::UnknownArgument, unknown));
        }
        cli
    }
}

/// The variables of the environment that a command or one of its subcommands reads.
fn variables(command: &clap::Command) -> Vec<&str> {
    let options = all_commands(command).flat_map(clap::Command::get_arguments);
    options.filter_map(|option| option.get_env()?.to_str()).collect()
}

/// Says what is wrong. Words of a command line may be names and values of others, too.
fn refuse(error: &Error) -> ! {
    if let Cow::Owned(shown) = plain_lines(&error.to_string()) {
        // Nothing is left to report a failure of this to.
        let _ = std::io::stderr().write_all(shown.as_bytes());
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// A variable of the environment that is empty means what an absent one means.
pub(crate) fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(None),
        _ => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Names the option that was meant where a value of one was written as an option itself: `--ephemeral` for `--mode ephemeral`.
pub(crate) fn with_tip(mut error: Error, command: &clap::Command) -> Error {
    let Some(ContextValue::String(written)) = error.get(ContextKind::InvalidArg) else { return error };
    let Some(name) = written.strip_prefix("--") else { return error };
    if error.kind() != ErrorKind::UnknownArgument || error.get(ContextKind::SuggestedArg).is_some() {
        return error;
    }
    let meant = all_commands(command).find_map(|command| {
        command.get_arguments().find_map(|arg| {
            let long = arg.get_long()?;
            let has_value = arg.get_possible_values().iter().any(|value| value.matches(name, false));
            has_value.then(|| format!("--{long} {name}"))
        })
    });
    if let Some(meant) = meant {
        error.remove(ContextKind::Suggested);
        error.insert(ContextKind::SuggestedArg, ContextValue::String(meant));
    }
    error
}

fn all_commands(command: &clap::Command) -> Box<dyn Iterator<Item = &clap::Command> + '_> {
    Box::new(std::iter::once(command).chain(command.get_subcommands().flat_map(all_commands)))
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Create(command) => command.run(context).await,
            Command::Get(command) => command.run(context).await,
            Command::Set(command) => command.run(context).await,
            Command::Delete(command) => command.run(context).await,
            Command::Ls(command) => command.run(context).await,
            Command::Tree(command) => command.run(context).await,
            Command::Stat(command) => command.run(context).await,
            Command::Watch(command) => command.run(context).await,
            Command::Multi(command) => command.run(context).await,
            Command::Elect(command) => command.run(context).await,
            Command::Supervise(command) => command.run(context).await,
            Command::Config(command) => command.run(context).await,
            Command::Lock(command) => command.run(context).await,
            Command::Members(command) => command.run(context).await,
            Command::Register(command) => command.run(context).await,
            Command::Services(command) => command.run(context).await,
            Command::Queue(command) => command.run(context).await,
            Command::Acl(command) => command.run(context).await,
            Command::Quota(command) => command.run(context).await,
            Command::Session(command) => command.run(context).await,
            Command::Outcome(command) => command.run(context).await,
            Command::Status(command) => command.run(context).await,
            Command::Sync(command) => command.run(context).await,
            Command::Health(command) => command.run(context).await,
            // The shell runs commands, of which it is one: the cycle needs a box.
            Command::Shell(command) => Box::pin(command.run(context)).await,
            Command::Completions(command) => command.run(context),
            Command::Man(command) => command.run(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        let help = Cli::command().render_long_help().to_string();
        for code in ["0   done", "3   NoNode", "10  reading"] {
            assert!(help.contains(code), "{code}");
        }
    }
}
