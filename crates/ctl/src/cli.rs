use clap::{Parser, Subcommand};

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
    use clap::CommandFactory as _;

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
