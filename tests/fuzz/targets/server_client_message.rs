//! See `coordd_server::fuzzing::client_message`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| coordd_fuzz::bounded(data, coordd_server::fuzzing::client_message));
