//! The project's own commands: `cargo xtask --help`.

#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod fuzz;
mod packages;
mod quickstart;
mod test;
mod timing;
mod vectors;
mod verify_protocol;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use claviger_testkit::Result;

use crate::verify_protocol::Tool;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything and show a real sign-on
    ///
    /// Makes an authority, keys and a configuration below target/quickstart, runs the daemon on the
    /// embedded store, enrols a user with the real terminal, signs on, and makes a request that
    /// reaches a sample application with the user's identity. Then it stays up and prints what to try.
    Quickstart {
        /// End after the demonstration
        #[arg(long)]
        once: bool,
        /// Run the two roles as two daemons over mutual TLS
        #[arg(long)]
        split: bool,
    },
    /// Install what the tests need, and run all of them
    ///
    /// Installs Debian packages when it is root, otherwise it names those that are missing.
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Measure whether the time of an answer tells why a sign-on failed
    ///
    /// Times the real management role with the real plugins: an unknown user, a wrong unique key and a
    /// wrong management authentication key, at random. Compares them by dudect's method, and shows
    /// that a difference of some microseconds would be found. Up to three attempts, since noise may
    /// look like a difference once; all are printed.
    Timing(timing::Timing),
    /// Measure the real programs
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check files of test vectors with each cipher plugin
    Vectors {
        /// Files of format idb1-vectors-1 [default: protocol/tests/vectors/*.json]
        files: Vec<PathBuf>,
        /// Make a file of vectors instead: every suite, KEM and kind
        #[arg(long, value_name = "FILE", conflicts_with = "files")]
        generate: Option<PathBuf>,
    },
    /// Fuzz the protocol with libFuzzer
    ///
    /// Builds the targets of tests/fuzz and runs each from the committed corpus. What violates a
    /// property is kept below tests/fuzz/artifacts, and the command that repeats it is shown.
    Fuzz(fuzz::Fuzz),
    /// Check the formal models of the protocol against their expected verdicts
    ///
    /// Runs SPIN (a Debian package), Verifpal (built by cargo below target/tools), and ProVerif
    /// where it is installed; otherwise its recorded verdicts are listed. Models that leave a
    /// defence out must show the attack.
    VerifyProtocol {
        /// Only this tool's models
        #[arg(long)]
        only: Option<Tool>,
        /// Write the results here as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Quickstart { once, split } => quickstart::run(once, split),
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Timing(timing) => timing::run(&timing),
        Command::Bench(bench) => bench::run(&bench),
        Command::Vectors { files, generate } => vectors::run(&files, generate.as_deref()),
        Command::Fuzz(fuzz) => fuzz::run(&fuzz),
        Command::VerifyProtocol { only, json } => verify_protocol::run(only, json.as_deref()),
    }
}
