//! A queue of tasks, each done by one worker at a time and completed at most once.

mod claim;
mod keeper;
mod listing;
mod options;
mod queue;
mod record;
mod take_back;
mod tree;
mod work;

pub use claim::Claim;
pub use listing::{TaskEntry, TaskState, TaskStats};
pub use options::{TaskOptions, TaskQueueOptions};
pub use queue::TaskQueue;
pub use work::work;
