//! Watches: what streams wait for, and how events of the tree reach them.

mod by_path;
mod ids;
mod table;

pub(crate) use ids::{SharedIds, WatchIds};
pub(crate) use table::{Registration, WatchTable};
