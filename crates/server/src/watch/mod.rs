//! Watches: what streams wait for, and how events of the tree reach them.

mod table;

pub(crate) use table::{Registration, WatchTable};
