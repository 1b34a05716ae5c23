//! `cargo xtask bench`.

use std::{path::PathBuf, process::Command};

use claviger_testkit::Result;
use serde::Serialize;

use crate::{
    cargo::{self, target_directory},
    packages::{self, BUILD, SERVERS},
};

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Sign-ons on each user store, with few and with many users
    ///
    /// Runs the real daemon of the release build with the management role and each store's plugin, on
    /// real servers in temporary directories, and asks it for decryptions as a service does: mutual
    /// TLS, HTTP/2, fresh envelopes of random users, made before each measurement. Shows sign-ons per
    /// second, the median and the 99th percentile of their latency, and the processor time of 1,000
    /// of them, for the daemon and for the database server apart.
    ///
    /// Users are made on SQLite and copied to the other stores by `clavigerd store migrate`. Rounds
    /// measure all stores in turn; ratios are made within a round, and the median counts: at least
    /// 0.5 of SQLite's rate on PostgreSQL, and at most 1.2 times the processor time of a sign-on with
    /// the most users, compared to the fewest. It is printed whether each target was met; the exit
    /// code says only whether everything ran.
    ///
    /// With 1,000,000 users it takes a quarter of an hour, 5 GiB below DIR and 2 GiB of memory. DIR must
    /// let other users through to PostgreSQL's files. Idle machines give the best figures.
    Stores(Stores),
}

/// What `cargo xtask bench stores` was asked for.
#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Stores {
    /// Numbers of enrolled users, 1 to 10,000,000 each
    #[arg(long, value_delimiter = ',', default_value = "1000,1000000", value_name = "N,...",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: Vec<u32>,
    /// Stores; redis has `appendfsync always`, redis-everysec may lose the last second in a power cut
    #[arg(long, value_delimiter = ',', default_value = "sqlite,postgres,redis", value_name = "STORE,...")]
    stores: Vec<Store>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests that wait for their answers at any time
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: u32,
    /// HTTP/2 connections that carry them
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Write the results here as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the stores lie meanwhile: on a disk like that of a deployment [default: as $TMPDIR says, or /tmp]
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    directory: Option<PathBuf>,
    /// Measure the build that the tests use: made sooner, and not what anybody deploys
    #[arg(long)]
    #[serde(skip)]
    debug: bool,
}

/// A store, and how its server is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Store {
    Sqlite,
    Postgres,
    Redis,
    RedisEverysec,
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let Bench::Stores(stores) = bench;
    let options = serde_json::to_string(stores).map_err(|error| error.to_string())?;
    start("stores", &options, stores.directory.as_ref(), stores.debug)
}

/// Builds everything and runs one benchmark.
fn start(which: &str, options: &str, temporary: Option<&PathBuf>, debug: bool) -> Result<()> {
    packages::ensure(BUILD)?;
    packages::ensure(SERVERS)?;
    let directory = target_directory().join(if debug { "debug" } else { "release" });
    // In one go: apart, what they have in common would be built twice. Without `--lib` the plugins would be left out.
    let mut build = vec!["build", "--lib", "--bin", "bench", "--bin", "clavigerd"];
    if !debug {
        build.push("--release");
    }
    build.extend(BUILT.iter().flat_map(|package| ["-p", package]));
    cargo::run(&build)?;
    // It ends its servers and removes its directories when it is interrupted; nothing to do here but wait.
    ctrlc::set_handler(|| {}).map_err(|error| error.to_string())?;
    let mut command = Command::new(directory.join("bench"));
    command.arg(which).arg(&directory).arg(options);
    if let Some(temporary) = temporary {
        command.env("TMPDIR", temporary);
    }
    let status = command.status().map_err(|error| format!("bench: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the benchmark did not come to its end ({status})")) }
}

/// What is measured, and what measures it.
const BUILT: [&str; 6] = [
    "claviger-tests",
    "claviger-daemon",
    "claviger-cipher-aws-lc",
    "claviger-store-sqlite",
    "claviger-store-postgres",
    "claviger-store-redis",
];
