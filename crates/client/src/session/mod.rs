//! The machinery of a session.
//!
//! ```text
//!   calls ──submit──► PendingRequests ──Outbound (pulled by the transport)──► ClientFrame
//!                         ▲    │
//!     lost: sent := 0 ────┘    └◄── replies, in the order of the requests ── SessionTask ◄── ServerFrame
//!   watchers ◄── WatchTable ◄────── events, marks, resyncs ─────────────────────┘
//! ```
//!
//! [`Shared`] holds the two pure tables and the marks behind one mutex that is held for short moments and never across
//! an await. [`task::SessionTask`] finds nodes, reads frames and watches for silence; [`outbound::Outbound`] is what
//! the transport pulls frames from, so whatever has queued while the previous frame was written is the next frame.

mod core;
mod lease;
pub(crate) mod limits;
pub(crate) mod outbound;
pub(crate) mod pending;
mod refusal;
pub(crate) mod shared;
pub(crate) mod state;
pub(crate) mod task;
pub(crate) mod watches;
