//! See `coordd_raft::fuzzing::wal_recovery`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| coordd_fuzz::bounded(data, coordd_raft::fuzzing::wal_recovery));
