//! `coordfault`: breaks ensembles of real `coordd` processes in every way it can, and checks what their clients were told.
//!
//! ```text
//! run ─► round: hosts on a switch ─► ensemble ─► scenario breaks it ─► all is healed ─► last look ─► history
//!                     └─► processes of clients, every workload ────────────────────────────────────────┘ │
//!                                                          verdict, timeline ◄─ checkers ◄───────────────┘
//! ```
//!
//! A run counts only if it did what it is there for: each scenario names what must have happened (`coverage.rs`).

// They panic when nobody reads, or the disk is full; coordd-process has what does not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod attacks;
mod checkers;
mod client_process;
mod clients;
mod coverage;
mod ensemble;
mod history;
mod honest;
mod journal;
mod last_look;
mod memory_limit;
mod network;
mod observer;
mod options;
mod recorded_client;
mod report;
mod round;
mod run;
mod sandbox;
mod scenarios;
mod stage;
mod timeline;
mod tracer;
mod volume;
mod workloads;

use std::process::ExitCode;

use clap::Parser as _;
use coordd_process::{print, say, unknown_variable};

use crate::options::{Command, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(unknown) = unknown_variable("COORDFAULT_", &[sandbox::INSIDE], std::env::vars_os()) {
        say(format_args!("coordfault: {unknown}"));
        return ExitCode::from(2);
    }
    match carry_out(options.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(format_args!("coordfault: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// False if something was found that must not be.
fn carry_out(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::List => {
            for scenario in scenarios::all() {
                print(format_args!("{:22} {}\n", scenario.name, scenario.about))?;
            }
            Ok(true)
        }
        Command::Run(options) => {
            sandbox::enter()?;
            runtime()?.block_on(run::run(options))
        }
        Command::Check { dir } => report::check_again(&dir),
        Command::Attack(options) => {
            runtime()?.block_on(attacks::run(options))?;
            Ok(true)
        }
        Command::Clients(options) => {
            runtime()?.block_on(clients::run(options))?;
            Ok(true)
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
