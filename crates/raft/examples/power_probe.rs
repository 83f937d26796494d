//! A process with a data directory, for the test rig that takes its power away (`tests/it/power_loss.rs`).
//!
//! ```text
//! power_probe live DIR SIZES SEED STEPS close|stop   live a node's life on the disk; tell on stdout what is promised
//! power_probe check SIZES                            for each line "DIR" or "DIR again" on stdin: open it, tell what is there
//! ```
//!
//! SIZES is `node` or `small`, see `WalSizes`. The directory is opened as a node opens it: the data directory, the log,
//! the snapshots.

#[path = "power_probe/check.rs"]
mod check;
#[path = "power_probe/life.rs"]
mod life;
#[path = "power_probe/store.rs"]
mod store;

use coordd_raft::storage::WalSizes;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: power_probe live DIR node|small SEED STEPS close|stop, or check node|small";

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["live", dir, sizes, seed, steps, end @ ("close" | "stop")] => {
            life::run(dir, parse_sizes(sizes)?, seed.parse()?, steps.parse()?, end == "close").await
        }
        ["check", sizes] => check::run(parse_sizes(sizes)?).await,
        _ => Err(USAGE.into()),
    }
}

fn parse_sizes(word: &str) -> Result<WalSizes> {
    match word {
        "node" => Ok(WalSizes::default()),
        "small" => Ok(WalSizes::small()),
        _ => Err(USAGE.into()),
    }
}

/// Writes a line in one piece, so that it stands in the order of the system calls where it was told.
fn tell(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let line = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    // A line that the parent cannot take any more means that the parent is gone: then so is the reason to run.
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
