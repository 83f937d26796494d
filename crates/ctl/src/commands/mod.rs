//! The commands, one a file: the arguments, what they do, and what they print.

pub(crate) mod acl;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod elect;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod lock;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod members;
pub(crate) mod multi;
pub(crate) mod outcome;
pub(crate) mod queue;
pub(crate) mod quota;
pub(crate) mod register;
pub(crate) mod services;
pub(crate) mod session;
pub(crate) mod set;
pub(crate) mod shell;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod supervise;
pub(crate) mod sync;
pub(crate) mod tree;
pub(crate) mod watch;

use coordd_client::ReadLevel;

/// How fresh a read is.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Freshness {
    /// See everything acknowledged before, by anybody. Without it: what the node of the session has.
    #[arg(short = 'L', long)]
    linearizable: bool,
}

impl Freshness {
    pub(crate) fn level(self) -> ReadLevel {
        if self.linearizable { ReadLevel::Linearizable } else { ReadLevel::Local }
    }
}
