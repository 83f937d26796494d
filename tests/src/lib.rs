//! What the tests across crates share: ensembles of real `coordd` processes that can be killed, stopped and wiped; load
//! that keeps account of every answer; session streams that are spoken by hand, frame by frame; and clients in processes of
//! their own, which can be killed, stopped and cut off.
//!
//! In the environment: `COORDD_TESTS_BIN_DIR` names programs to test instead of those built from this checkout,
//! `COORDD_TESTS_SEED` repeats a randomized test, `COORDD_TESTS_IDLE_CONNECTIONS` sets how many connections are idle.
//!
//! Everything here fails by panicking, because it runs in tests: a node that does not start is a failed test.

mod attached_to;
mod binaries;
mod black_hole;
mod contender;
mod dns_server;
mod ensemble;
mod eventually;
mod http;
mod load;
mod monotonic;
mod node;
mod options;
mod ports;
mod raw_session;
mod seed;
mod unread;

pub use attached_to::attached_to;
pub use binaries::{contender, coordbench, coordctl, coordd, example};
pub use black_hole::BlackHole;
pub use contender::{Contender, Line};
pub use dns_server::{DnsRecord, DnsServer};
pub use ensemble::Ensemble;
pub use eventually::eventually;
pub use http::http;
pub use load::{Ledger, Load};
pub use monotonic::monotonic;
pub use options::EnsembleOptions;
pub use ports::free_port;
pub use raw_session::{RawSession, channel, code_of, create, get, set};
pub use seed::seed;
pub use unread::UnreadConnection;
