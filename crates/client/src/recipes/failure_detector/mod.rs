//! Notices that nodes of a cluster are lost, and sees to what they leave behind, once for each loss.

mod claims_log;
mod detector;
mod duties;
mod failure;

pub use detector::FailureDetector;
pub use failure::{FailureCause, NodeFailure};
