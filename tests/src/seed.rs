use rand::Rng as _;

/// What a randomized test draws from: `COORDD_TESTS_SEED`, or anew each time. It is printed, so that a failure can be tried
/// again; the processes' timing is not part of it.
pub fn seed() -> u64 {
    let given = std::env::var("COORDD_TESTS_SEED").ok();
    let seed = given
        .map_or_else(|| rand::rng().random(), |seed| seed.parse().expect("COORDD_TESTS_SEED is a number"));
    println!("COORDD_TESTS_SEED={seed}");
    seed
}
