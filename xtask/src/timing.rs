//! `cargo xtask timing`.

use std::{path::PathBuf, process::Command};

use claviger_testkit::Result;

use crate::{
    cargo::{self, target_directory},
    packages::{self, BUILD},
};

/// What `cargo xtask timing` was asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Timing {
    /// Calls to measure, of the three kinds together
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    samples: u32,
    /// Measure the build that the tests use: made sooner, and less exact
    #[arg(long)]
    debug: bool,
    /// Write the results here as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(timing: &Timing) -> Result<()> {
    packages::ensure(BUILD)?;
    // Without `--lib` the plugins would be left out.
    let release = ["build", "--release", "--lib", "--bin", "timing"];
    let packages = ["-p", "claviger-tests", "-p", "claviger-cipher-aws-lc", "-p", "claviger-store-sqlite"];
    let (build, directory) = match timing.debug {
        true => (vec!["build", "--workspace"], "debug"),
        false => ([&release[..], &packages].concat(), "release"),
    };
    cargo::run(&build)?;
    let directory = target_directory().join(directory);
    let mut command = Command::new(directory.join("timing"));
    command.arg(&directory).arg(timing.samples.to_string()).args(&timing.json);
    let status = command.status().map_err(|error| format!("timing: {error}"))?;
    if status.success() { Ok(()) } else { Err("the failures of sign-ons can be told apart by time".into()) }
}
