//! `claviger`, the terminal's command: enrol once, then use services as the
//! user. [`args`] has the command line, [`commands`] and [`curl`] do the work,
//! [`output`] prints it and decides on the exit status.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod curl;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let json = args.json;
    let quiet = args.command.is_silent();
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(commands::run(args)),
        Err(error) => Err(output::Failure::local(format!("the runtime cannot start: {error}"))),
    };
    output::exit(outcome, json, quiet)
}
