//! The SDK of coordd: a session that survives its servers, and one method per operation.
//!
//! ```no_run
//! # async fn example() -> Result<(), coordd_client::Error> {
//! use coordd_client::{Client, CreateMode, ReadLevel};
//!
//! let client = Client::connect(["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]).await?;
//! let created = client.create("/config", "v1", CreateMode::Persistent).await?;
//! let (data, stat, watcher) = client.get_and_watch("/config", ReadLevel::Local).await?;
//! client.set("/config", "v2", Some(stat.version)).await?;
//! let event = watcher.changed().await?;
//! # Ok(()) }
//! ```
//!
//! The opinions of this crate:
//!
//! * **No retry loops in applications.** A [`Client`] keeps its session on some node, moves when that one fails, and
//!   sends what is unanswered again, in order and with its numbers: a write takes effect exactly once, and its answer
//!   is final. An operation fails because it was refused, or because the session has ended.
//! * **Order is the order of the calls**, not of the awaits: every operation takes its place before its method
//!   returns. A returned [`Call`] that is dropped does not withdraw the request.
//! * **Watchers are values.** A one-shot watcher is consumed by its event, a lasting one is read in a loop, and dropping
//!   either removes the watch. Events never gap: after a reconnect they go on where they stopped, and where the server
//!   no longer has them it says so ([`WatchEvent::Resync`]).
//! * **Freshness is an argument.** Every read names its [`ReadLevel`].
//! * **Time is the server's.** The client never decides by its own clock that its session has ended.
//! * **Waiting is an option.** By default a call waits as long as the session lives. [`Call::timeout`],
//!   [`ConnectOptions::call_timeout`] and [`Client::failing_fast`] end the wait earlier, and
//!   [`Client::outcome`] tells what became of a write. [`Client::connection_failure`] says why no node takes
//!   the session.
//! * **One ensemble a session.** Zxids and epochs are those of one [`Lineage`]. If the nodes turn out to be
//!   of another one, the session ends with [`EndReason::OtherEnsemble`].
//!
//! A session task runs on the tokio runtime on which the client was connected (or on a thread of its own, see
//! [`ConnectOptions::dedicated_thread`]) and keeps the session alive. A program that blocks that runtime for longer
//! than the session timeout loses its session, as it should: it cannot show that it is alive. When that
//! runtime is shut down, the session ends here with [`EndReason::Abandoned`]: calls, made in whatever
//! runtime, fail at once.
//!
//! The SDK prints nothing. What it has to say goes to `tracing`.

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod admin;
mod attempts;
mod call;
mod client;
mod complaint;
mod connector;
mod convert;
mod discovery;
mod error;
mod event;
mod far;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod multi;
mod multi_read;
mod ops;
mod options;
mod outcome;
mod planted;
pub mod recipes;
mod session;
mod types;
mod unary;
mod watcher;

pub use admin::{Admin, MemberInfo, NodeStatus, SessionInfo, SessionRecord};
pub use bytes::Bytes;
pub use call::Call;
pub use client::Client;
pub use discovery::Endpoints;
pub use error::{Error, ErrorKind};
pub use event::{Event, EventType, WatchEvent, WatchMode, WatchOptions};
pub use multi::{Multi, MultiResult};
pub use multi_read::{MultiRead, ReadResult};
pub use options::ConnectOptions;
pub use session::limits::ServerLimits;
pub use session::state::{EndReason, SessionEnd, SessionState};
pub use types::{
    AclEntry, Check, Child, CreateMode, CreateOptions, Created, Credential, EphemeralsPage, Identity,
    Lineage, ListOptions, ListPage, Outcome, Perms, Quota, QuotaUsage, ReadLevel, SessionToken, Stat,
};
pub use watcher::{OneshotWatcher, PersistentWatcher};
