//! What the tests across crates share: ensembles of real `coordd` processes that can be killed, stopped and wiped; load
//! that keeps account of every answer; and session streams that are spoken by hand, frame by frame.
//!
//! In the environment: `COORDD_TESTS_BIN_DIR` names programs to test instead of those built from this checkout,
//! `COORDD_TESTS_SEED` repeats a randomized test, `COORDD_TESTS_IDLE_CONNECTIONS` sets how many connections are idle.
//!
//! Everything here fails by panicking, because it runs in tests: a node that does not start is a failed test.

mod binaries;
mod ensemble;
mod eventually;
mod load;
mod node;
mod options;
mod ports;
mod raw_session;
mod seed;

pub use binaries::{coordctl, coordd};
pub use ensemble::Ensemble;
pub use eventually::eventually;
pub use load::{Ledger, Load};
pub use options::EnsembleOptions;
pub use ports::free_port;
pub use raw_session::{RawSession, code_of, create, get, set};
pub use seed::seed;
