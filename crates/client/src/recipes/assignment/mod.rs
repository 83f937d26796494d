//! Items that each belong to one worker at a time: who gets what, and how it changes hands.

mod affinity;
mod by_hash;
mod by_load;
mod coordinator;
mod drains;
mod item;
mod layout;
mod participate;
mod planner;
#[cfg(test)]
mod planner_tests;
mod records;
mod roster;
mod settings;
mod statistics;
mod status;
mod strike_out;
mod table;
mod work_assignment;
mod worker;

pub use item::{AssignedItem, WorkItem};
pub use participate::participate;
pub use planner::{Move, PlanItem, PlanWorker, Planner};
pub use roster::ItemOwner;
pub use settings::AssignmentSettings;
pub use statistics::{Distribution, WorkerShare};
pub use status::{AssignmentStatus, ItemStatus};
pub(crate) use strike_out::strike_out;
pub use work_assignment::WorkAssignment;
pub use worker::{AssignmentChange, AssignmentWorker, WorkerProfile};
