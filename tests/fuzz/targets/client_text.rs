//! See `coordd_client::fuzzing::text`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| coordd_fuzz::bounded(data, coordd_client::fuzzing::text));
