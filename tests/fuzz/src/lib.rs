//! What all fuzz targets have in common: a bound of the memory that an input may make them take.

use std::alloc::System;
use std::panic;
use std::sync::Once;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What a target may take for itself: buffers of a fixed size, and the tree it sets up.
const FIXED_BYTES: usize = 24 << 20;
/// How much larger than its bytes an input may become. The smallest operation of a multi takes two bytes on the wire and some
/// hundreds in memory, where the limits then find it.
const BYTES_PER_BYTE: usize = 1024;

/// Runs a target. The process ends, and the fuzzer keeps the input, if it panics or takes more memory than its size explains:
/// a length that an attacker has written must not be believed before there are as many bytes.
pub fn bounded(data: &[u8], target: fn(&[u8])) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // To tell where a panic was takes more memory than most targets, and the process hangs if it does not get it.
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            lift();
            tell(info);
        }));
    });
    let limit = ALLOCATOR.allocated() + FIXED_BYTES + BYTES_PER_BYTE * data.len();
    ALLOCATOR.set_limit(limit).unwrap_or_else(|()| unreachable!("the limit is above what is allocated"));
    target(data);
    lift();
}

fn lift() {
    ALLOCATOR.set_limit(usize::MAX).unwrap_or_else(|()| unreachable!("nothing is above this limit"));
}
