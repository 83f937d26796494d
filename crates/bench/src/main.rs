//! `coordbench`: closed-loop load on a coordd ensemble, through the SDK.
//!
//! Each connection is a session of its own that keeps a fixed number of requests in flight: a request is sent when
//! another is answered. So the figures say what the ensemble does with that much concurrency, and a stall shows as
//! what it is to a client: no answers.

mod handover;
mod load;
mod options;
mod recorder;
mod report;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::options::{Options, OutputFormat};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            eprintln!("coordbench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// False if operations failed.
fn run(options: &Options) -> anyhow::Result<bool> {
    let mut builder = match options.threads {
        // One thread has no wake-ups between threads: the leanest there is, and enough for one machine.
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads.into());
            builder
        }
    };
    let runtime = builder.enable_all().build().context("the runtime does not start")?;
    let report = runtime.block_on(load::run(options))?;
    match options.output {
        OutputFormat::Text => print!("{report}"),
        OutputFormat::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(report.errors.is_empty())
}
