//! See `coordd_tree::fuzzing::commands`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| coordd_fuzz::bounded(data, coordd_tree::fuzzing::commands));
