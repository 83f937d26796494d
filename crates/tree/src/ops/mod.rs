//! The operations. Each checks everything, in ZooKeeper's order, before it changes anything, so that a refused one
//! has changed nothing. The exception is a multi, which takes back what its operations did before the refused one.

mod check;
mod create;
mod delete;
mod delete_tree;
mod expire;
mod multi;
mod quota;
mod session;
mod set_acl;
mod set_data;
mod write;

pub(crate) use create::TTL_MS_MAX;
pub(crate) use write::UNACKNOWLEDGED_MAX;

use crate::{Auth, SessionId};

/// On whose behalf an operation is done.
#[derive(Clone, Copy, Debug)]
struct Caller<'a> {
    /// 0 outside any session.
    session: SessionId,
    auth: &'a Auth,
}
