//! So many copies of a command, kept running by the agents of several hosts. See [`AutoHealer`].

mod agent;
mod copy;
mod healer;
mod layout;
mod leader;
mod plan;
mod process_runner;
mod restarts;
mod runner;
mod spec;
mod status;

pub use agent::{Agent, AgentOptions};
pub use healer::AutoHealer;
pub use process_runner::ProcessRunner;
pub use runner::{Exit, Job, Runner};
pub use spec::HealerSpec;
pub use status::{AgentStatus, CopyState, CopyStatus, HealerStatus};
