//! `coordctl`: the command line of coordd.

// Output that fails must not end a command with a panic: see `output.rs` and `notes.rs`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod commands;
mod context;
mod durations;
mod everybody;
mod exit;
mod guard;
mod history;
mod interrupt;
mod json_text;
mod notes;
mod output;
mod owner;
mod path_completion;
mod progress;
mod session_id;
mod supervised;
mod table;
mod value;
mod warnings;
mod words;

use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::Failure;

fn main() -> ExitCode {
    if supervised::keeper::is_keeper() {
        return supervised::keeper::main();
    }
    let cli = Cli::read();
    warnings::show();
    let context = Arc::new(Context::new(cli.global));
    // One worker keeps the session alive while the shell waits for a line on the main thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(context.carry_out(cli.command));
            // Whatever still runs (a name being resolved) must not hold up the exit.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::io("starting", error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            context.output().failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
