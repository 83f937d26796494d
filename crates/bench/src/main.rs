//! `coordbench`: closed-loop load on a coordd ensemble, through the SDK.
//!
//! Each connection is a session of its own that keeps a fixed number of requests in flight: a request is sent when
//! another is answered. So the figures say what the ensemble does with that much concurrency, and a stall shows as
//! what it is to a client: no answers.

#![deny(clippy::print_stdout, clippy::print_stderr)]

/// Says something on the standard error, without what a terminal would obey; what cannot be written is lost.
macro_rules! note {
    ($($text:tt)*) => {{
        let line = format!("coordbench: {}\n", coordd_process::plain_error(&format!($($text)*)));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }};
}

mod handover;
mod load;
mod options;
mod recorder;
mod report;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use coordd_process::unknown_variable;

use crate::options::{Options, OutputFormat};

fn main() -> ExitCode {
    let options = Options::read();
    if let Some(unknown) = unknown_variable("COORDBENCH_", &Options::variables(), std::env::vars_os()) {
        note!("{unknown}");
        return ExitCode::from(2);
    }
    match run(&options) {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            note!("{error:#}");
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
    let text = match options.output {
        OutputFormat::Text => report.to_string(),
        OutputFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader of the figures has gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context("the report cannot be written")?,
    }
    Ok(report.errors.is_empty())
}
