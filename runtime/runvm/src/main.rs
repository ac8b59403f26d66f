//! runvm: an OCI runtime that runs a bundle as a namespaced container or inside a microVM.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod foreground;
mod logger;
mod notify;
mod preserved;
mod waterfall;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::logger::Logger;
use crate::preserved::Preserved;

fn main() -> ExitCode {
    runvm_sandbox::run_hidden_entry();
    let cli = match Cli::try_parse_from(cli::with_double_dashes(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return cli::answer_without_command(&error),
    };
    // Before anything is opened; an error is for the log, which is opened next.
    let preserved = Preserved::find(&cli.command);
    // What the caller forgot to close is no affair of hooks and helper programs.
    if let Err(error) = runvm_sys::inherited::close_on_exec_from(3) {
        eprintln!("runvm: cannot mark the inherited descriptors to be closed: {error}");
        return ExitCode::FAILURE;
    }
    let logger = match Logger::open(&cli.global) {
        Ok(logger) => logger,
        Err(error) => {
            eprintln!("runvm: {}", logger::one_line(&error));
            return ExitCode::FAILURE;
        }
    };
    let failure = cli.command.failure_code();
    match preserved.and_then(|preserved| commands::run(cli, preserved, &logger)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            logger.error(&error);
            ExitCode::from(failure)
        }
    }
}
